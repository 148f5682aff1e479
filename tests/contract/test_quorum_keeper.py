"""The store's members grow and are replaced on real etcd processes, while somebody commits all the time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from etcd_cluster import LOOPBACKS, Tls, free_ports, make_tls, ready
from store_contract import PATIENCE_S, setting, values

from drover.daemon.etcd_process import EtcdConfig, EtcdProcess
from drover.daemon.quorum_keeper import endpoints, keep_quorum
from drover.decide.quorum import Nothing
from drover.errors import Conflict, DroverError, Unavailable
from drover.model.cluster import Cluster, delete, put
from drover.model.records import Alive, Host
from drover.store.etcd import EtcdStore
from drover.store.etcd_members import member_status, members
from drover.store.mirror import Mirror

pytestmark = pytest.mark.etcd


class Hosts:
    """Hosts on loopback addresses; each runs a member when its record says so, as a daemon does."""

    def __init__(self, directory: Path, tls: Tls) -> None:
        self.directory = directory
        self.tls = tls
        self.client_port, self.peer_port = free_ports(2)
        self.processes: dict[str, EtcdProcess] = {}
        self.store = EtcdStore([f"https://{LOOPBACKS[0]}:{self.client_port}"], tls.client)
        self.mirror = Mirror(self.store)

    async def found(self) -> None:
        await self.run_member("h1", "", founding=True)
        await ready(self.store)
        assert await self.mirror.start()
        self.mirror.on_batch(lambda _: self.follow_endpoints())
        await self.join("h1")

    def follow_endpoints(self) -> None:
        found = endpoints(self.mirror.cluster)
        if found and set(found) != set(self.store.http.endpoints):
            self.store.http.endpoints = found

    async def join(self, name: str) -> None:
        number = int(name[1:])
        host = Host(name=name, id=f"id-{name}", index=number, address=LOOPBACKS[number - 1])
        joined = [put(f"hosts/{name}", host), put(f"alive/{name}", Alive(host=name, session="s"))]
        await self.mirror.reached(await self.store.commit(joined), PATIENCE_S)

    async def remove(self, name: str) -> None:
        await self.store.commit([delete(f"hosts/{name}"), delete(f"alive/{name}")])

    async def run_member(self, name: str, initial_cluster: str, founding: bool = False) -> None:
        home = self.directory / name
        config = EtcdConfig(
            name=name,
            address=LOOPBACKS[int(name[1:]) - 1],
            data_dir=home / "etcd",
            log_file=home / "etcd.log",
            tls=self.tls.files,
            initial_cluster=dict(part.split("=", 1) for part in initial_cluster.split(",") if part),
            state="new" if founding else "existing",
            client_port=self.client_port,
            peer_port=self.peer_port,
        )
        self.processes[name] = EtcdProcess(config)
        await self.processes[name].start()

    async def settle(self, wanted: set[str]) -> None:
        """Passes of the keeper, and hosts that follow their records, until `wanted` are the voters."""
        async with asyncio.timeout(2 * PATIENCE_S):
            while voters(self.mirror.cluster) != wanted:
                with suppress(Unavailable, Conflict):
                    await keep_quorum(self.store, self.mirror, self.client_port, self.peer_port)
                for name, row in self.mirror.cluster.members.items():
                    if name not in self.processes:
                        await self.run_member(name, row.initial_cluster)
                await asyncio.sleep(0.2)

    async def power_off(self, name: str) -> None:
        process = self.processes.pop(name)
        if process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
        await process.stop()

    async def close(self) -> None:
        await self.mirror.stop()
        await self.store.close()
        await asyncio.gather(*(process.stop(0.0) for process in self.processes.values()))


def voters(cluster: Cluster) -> set[str]:
    return {name for name, row in cluster.members.items() if row.state == "voter"}


class Committer:
    """Commits one new record after the other, and remembers which were acknowledged."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.acknowledged: list[str] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        number = 0
        while True:
            number += 1
            with suppress(DroverError):
                await self.hosts.store.commit([setting(f"n{number}")], {f"settings/n{number}": 0})
                self.acknowledged.append(f"n{number}")
            await asyncio.sleep(0.01)

    async def more(self) -> None:
        """Until ten more were acknowledged."""
        goal = len(self.acknowledged) + 10
        async with asyncio.timeout(PATIENCE_S):
            while len(self.acknowledged) < goal:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def assert_nothing_lost(self) -> None:
        kept = values(await self.hosts.store.snapshot())
        assert [name for name in self.acknowledged if name not in kept] == []


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    hosts = Hosts(tmp_path, make_tls(tmp_path / "tls"))
    await hosts.found()
    yield hosts
    await hosts.close()


@pytest.fixture
async def committer(hosts: Hosts) -> AsyncIterator[Committer]:
    committer = Committer(hosts)
    yield committer
    await committer.stop()


async def test_from_one_to_three_then_one_dies_and_is_replaced(hosts: Hosts, committer: Committer) -> None:
    await hosts.settle({"h1"})
    await hosts.join("h2")
    await hosts.join("h3")
    await hosts.settle({"h1", "h2", "h3"})
    assert all(row.initial_cluster == "" and row.host_id for row in hosts.mirror.cluster.members.values())

    await hosts.power_off("h1")
    await committer.more()
    await hosts.remove("h1")
    await hosts.join("h4")
    await hosts.settle({"h2", "h3", "h4"})
    assert sorted(one.name for one in await members(hosts.store.http)) == ["h2", "h3", "h4"]

    await hosts.power_off("h2")
    await committer.more()
    await committer.stop()
    await committer.assert_nothing_lost()


async def test_a_lone_member_has_nothing_to_do_and_says_what_it_is(hosts: Hosts) -> None:
    step = await keep_quorum(hosts.store, hosts.mirror, hosts.client_port, hosts.peer_port)
    assert step == Nothing("1 of 1 wanted voters")
    (row,) = hosts.mirror.cluster.members.values()
    status = await member_status(hosts.store.http, row.client_url)
    assert status.member_id == status.leader_id == row.member_id
    assert not status.learner


async def test_a_mirror_that_lags_removes_nobody(hosts: Hosts) -> None:
    """It shows a cluster in which a host is gone that in truth is there."""
    await hosts.join("h2")
    await hosts.join("h3")
    await hosts.settle({"h1", "h2", "h3"})
    await hosts.mirror.stop()
    hosts.mirror.cluster = hosts.mirror.cluster.apply(hosts.mirror.cluster.revision, [delete("hosts/h3")])
    step = await keep_quorum(hosts.store, hosts.mirror, hosts.client_port, hosts.peer_port)
    assert step == Nothing("this host's picture of the cluster is not the newest; looking again")
    assert len(await members(hosts.store.http)) == 3
