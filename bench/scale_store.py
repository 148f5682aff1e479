"""What the store itself costs: the processor time of one etcd per commit, per renewal of a lease, per delivery.

Theory of operation. One member on this machine, TLS as always, records as they are. COUNT commits are made without
watchers and with as many as WATCHERS; what a watcher adds, divided by what it was sent, is a delivery. Processor time
is the member's own, user and system, read before and after; the clients' is theirs. A member of three does the same
and tells the others: about a third more for a commit on the one that leads.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from drover.model.cluster import put
from drover.model.records import Answer, ContainerFacts, key
from drover.store.etcd import EtcdStore

COUNT, RENEWALS_COUNT = 600, 600
WATCHERS = 50
DEADLINE_S = 60.0


class StoreCost(msgspec.Struct, frozen=True):
    """Seconds of processor time."""

    commit_s: float
    renewal_s: float
    delivery_s: float

    def table(self) -> str:
        rows = ["| the store's processor time for | us |", "|---|--:|"]
        named = {"a commit of one record": self.commit_s, "a renewal of a lease": self.renewal_s,
                 "a delivery to one watcher": self.delivery_s}  # fmt: skip
        return "\n".join([*rows, *(f"| {name} | {seconds * 1e6:.0f} |" for name, seconds in named.items())])


def store_cost(directory: Path) -> StoreCost:
    """Needs the etcd binary, and the tests' helper that makes members."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "contract"))
    members: Any = importlib.import_module("etcd_cluster")
    tls = members.make_tls(directory / "tls")
    config = members.member_config(directory, "one", tls.files)
    process = members.start_plainly(config)

    async def measured() -> StoreCost:
        store = EtcdStore([config.client_url], tls.client)
        await members.ready(store)
        try:
            return await _measured(store, lambda: EtcdStore([config.client_url], tls.client), process.pid)
        finally:
            await store.close()

    try:
        return asyncio.run(measured())
    finally:
        process.kill()
        process.wait()


async def _measured(store: EtcdStore, opened: Callable[[], EtcdStore], pid: int) -> StoreCost:
    await _commits(store, 100)  # warm
    begin = _processor_s(pid)
    await _commits(store, COUNT)
    commit_s = (_processor_s(pid) - begin) / COUNT
    lease = await store.grant(60)
    begin = _processor_s(pid)
    for _ in range(RENEWALS_COUNT):
        await lease.renew()
    renewal_s = (_processor_s(pid) - begin) / RENEWALS_COUNT
    with_watchers_s = await _watched(opened, store, pid)
    return StoreCost(commit_s, renewal_s, max(0.0, with_watchers_s - commit_s) / WATCHERS)


async def _watched(opened: Callable[[], EtcdStore], store: EtcdStore, pid: int) -> float:
    """A commit's cost while WATCHERS daemons watch, each on a connection of its own."""
    revision = (await store.snapshot()).revision
    stores = [opened() for _ in range(WATCHERS)]
    seen = [0] * WATCHERS

    async def watch(number: int) -> None:
        async for batch in stores[number].watch(revision):
            seen[number] += len(batch.changes)

    tasks = [asyncio.create_task(watch(number)) for number in range(WATCHERS)]
    try:
        await _commits(store, 1)
        await _until(lambda: min(seen) >= 1)
        begin = _processor_s(pid)
        await _commits(store, COUNT)
        await _until(lambda: min(seen) > COUNT)
        return (_processor_s(pid) - begin) / COUNT
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(one.close() for one in stores))


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():  # noqa: ASYNC110 - the watchers' counts
            await asyncio.sleep(0.02)


async def _commits(store: EtcdStore, count: int) -> None:
    for number in range(count):
        ident = f"{number:064x}"
        facts = ContainerFacts(
            container=ident, host="h1", engine_id=ident, state="running", epoch=1, answer=Answer(number=number)
        )
        await store.commit([put(key("container_facts", "h1", ident), facts)])


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
