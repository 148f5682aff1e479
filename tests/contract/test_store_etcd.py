"""The store in etcd: the contract on one member with TLS; then three members that are killed, hung and revived."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import msgspec
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from etcd_cluster import Tls, make_tls, member_config, member_configs, ready, start_plainly
from store_contract import PATIENCE_S, StoreContract, Stores, setting, values
from tests.chaos import forget

from drover.daemon.etcd_process import EtcdProcess
from drover.errors import DroverError, Unavailable
from drover.store.etcd import EtcdStore
from drover.store.etcd_codec import PREFIX, PREFIX_END, text
from drover.store.mirror import Mirror
from drover.store.port import AnswerLost, Batch, Compacted

pytestmark = pytest.mark.etcd

SHORT_S = 1.5
"""A deadline for calls that must fail."""


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, tls: Tls) -> Iterator[str]:
    """One member that all tests of the contract share."""
    config = member_config(tmp_path_factory.mktemp("one"), "one", tls.files)
    process = start_plainly(config)
    yield config.client_url
    process.kill()
    process.wait()


async def healthy(endpoint: str, tls: Tls) -> None:
    """Until the member itself says that it works, which does not involve its JSON gateway."""
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as session:
        while True:
            with suppress(aiohttp.ClientError):
                async with session.get(f"{endpoint}/health", ssl=tls.client) as response:
                    if msgspec.json.decode(await response.read()) == {"health": "true"}:
                        return


class TestEtcd(StoreContract):
    @pytest.fixture
    async def stores(self, endpoint: str, tls: Tls) -> AsyncIterator[Stores]:
        store = EtcdStore([endpoint], tls.client)
        await ready(store)
        everything = {"key": text(PREFIX), "range_end": text(PREFIX_END)}
        await store.http.call("/v3/kv/deleterange", everything)

        async def compact(revision: int) -> None:
            await store.http.call("/v3/kv/compaction", {"revision": str(revision), "physical": True})

        yield Stores(open=lambda: EtcdStore([endpoint], tls.client), compact=compact, shortest_ttl_s=1)
        await store.close()


class Three:
    """Three members, each a child of the test."""

    def __init__(self, directory: Path, tls: Tls) -> None:
        self.tls = tls
        self.members = [EtcdProcess(config) for config in member_configs(directory, ["h1", "h2", "h3"], tls.files)]

    def open(self, deadline_s: float = 4.0) -> EtcdStore:
        return EtcdStore([member.config.client_url for member in self.members], self.tls.client, deadline_s)

    async def leader(self, store: EtcdStore) -> EtcdProcess:
        """The member that leads now."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for member in self.members:
                    with suppress(DroverError):
                        status = await store.http.call_at(member.config.client_url, "/v3/maintenance/status", {})
                        if status.get("leader", "0") == status["header"]["member_id"]:
                            return member


async def kill(member: EtcdProcess) -> None:
    """At once, as a power cut does, and for good."""
    if member.pid is not None:
        os.kill(member.pid, signal.SIGKILL)
    await member.stop()


@pytest.fixture
async def three(tmp_path: Path, tls: Tls) -> AsyncIterator[Three]:
    cluster = Three(tmp_path, tls)
    await asyncio.gather(*(member.start() for member in cluster.members))
    yield cluster
    await asyncio.gather(*(kill(member) for member in cluster.members))


@pytest.fixture
async def store(three: Three) -> AsyncIterator[EtcdStore]:
    store = three.open()
    await ready(store)
    yield store
    await store.close()


async def commit_surely(store: EtcdStore, name: str) -> None:
    """Commit as a caller should: after a lost answer or absence look, then decide again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(Unavailable):
                if name in values(await store.snapshot()):
                    return
                await store.commit([setting(name)], {f"settings/{name}": 0})
                return


async def collect(watch: AsyncIterator[Batch], last: str) -> list[Batch]:
    """All batches up to the one that writes `last`."""
    found: list[Batch] = []
    async with asyncio.timeout(2 * PATIENCE_S):
        async for batch in watch:
            found.append(batch)
            if setting(last) in batch.changes:
                break
    return found


def assert_all_once(batches: list[Batch], names: list[str]) -> None:
    assert [change for batch in batches for change in batch.changes] == [setting(name) for name in names]
    assert [batch.revision for batch in batches] == sorted({batch.revision for batch in batches})


async def test_the_leader_is_killed_and_everything_goes_on(three: Three, store: EtcdStore) -> None:
    names = [f"n{number:02}" for number in range(30)]
    start = (await store.snapshot()).revision
    watching = asyncio.create_task(collect(store.watch(start), names[-1]))
    for number, name in enumerate(names):
        await commit_surely(store, name)
        if number == 10:
            await kill(await three.leader(store))
    assert_all_once(await watching, names)


async def test_a_member_that_hangs_is_left_for_another(three: Three, store: EtcdStore) -> None:
    """Its kernel still answers, so only its silence tells."""
    start = (await store.snapshot()).revision
    first = three.members[0]
    lonely = EtcdStore([member.config.client_url for member in three.members], three.tls.client)
    watching = asyncio.create_task(collect(lonely.watch(start), "after"))
    await commit_surely(store, "before")
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)
    try:
        await commit_surely(store, "after")
        assert_all_once(await watching, ["before", "after"])
    finally:
        os.kill(first.pid, signal.SIGCONT)
        await lonely.close()


async def test_without_a_majority_calls_fail_in_time_and_with_it_they_work_again(
    three: Three, store: EtcdStore
) -> None:
    mirror = Mirror(store)
    assert await mirror.start()
    revision = await store.commit([setting("a")])
    await mirror.reached(revision, PATIENCE_S)
    await asyncio.gather(*(kill(member) for member in three.members[:2]))

    short = three.open(SHORT_S)
    async with asyncio.timeout(PATIENCE_S):
        for call in (short.snapshot(), short.commit([setting("b")]), short.grant(4)):
            with pytest.raises(Unavailable):
                await call
        while mirror.healthy:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert values(mirror.cluster) == {"a": "x"}

    await asyncio.gather(*(member.start() for member in three.members[:2]))
    await commit_surely(store, "c")
    await mirror.until(lambda now: mirror.healthy and "c" in values(now), PATIENCE_S, "c")
    assert "a" in values(mirror.cluster)
    await mirror.stop()
    await short.close()


async def test_a_lease_outlives_the_leader(three: Three, store: EtcdStore) -> None:
    lease = await store.grant(4)
    await store.commit([setting("held")], lease=lease)
    await kill(await three.leader(store))
    loop = asyncio.get_running_loop()
    end = loop.time() + lease.ttl_s + 1
    while loop.time() < end:
        with suppress(Unavailable):
            await lease.renew()
        await asyncio.sleep(0.3)
    assert "held" in values(await store.snapshot())


async def test_a_member_that_ends_is_started_again_and_is_the_same(tmp_path: Path, tls: Tls) -> None:
    member = EtcdProcess(member_config(tmp_path, "h1", tls.files))
    await member.start()
    store = EtcdStore([member.config.client_url], tls.client)
    await ready(store)
    await store.commit([setting("a")])
    assert member.pid is not None
    os.kill(member.pid, signal.SIGKILL)
    await ready(store)
    assert values(await store.snapshot()) == {"a": "x"}
    assert member.starts >= 2
    await member.stop()
    assert member.pid is None
    await store.close()


async def test_an_answer_that_is_lost_is_not_repeated(three: Three, store: EtcdStore) -> None:
    """The member hangs while it has the commit: the store does not try another one."""
    short = three.open(SHORT_S)
    pids = [member.pid for member in three.members if member.pid]
    await short.snapshot()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(AnswerLost):
            await short.commit([setting("once")])
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        await short.close()


async def test_the_gateway_needs_a_certificate_that_is_a_clients_too(tmp_path: Path) -> None:
    """Why every host's certificate carries clientAuth: etcd's JSON gateway presents it to etcd itself."""
    tls = make_tls(tmp_path / "tls", (ExtendedKeyUsageOID.SERVER_AUTH,))
    member = EtcdProcess(member_config(tmp_path, "h1", tls.files))
    await member.start()
    store = EtcdStore([member.config.client_url], tls.client, SHORT_S)
    await healthy(member.config.client_url, tls)
    with pytest.raises(Unavailable):
        await store.snapshot()
    await member.stop()
    await store.close()


async def test_a_client_without_a_certificate_is_refused(endpoint: str, tls: Tls) -> None:
    store = EtcdStore([endpoint], ssl.create_default_context(cafile=str(tls.files.ca)), SHORT_S)
    with pytest.raises(Unavailable):
        await store.snapshot()
    await store.close()


async def test_what_chaos_has_a_member_forget_is_gone_for_a_watch_that_was_cut(
    endpoint: str, tls: Tls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, beside = EtcdStore([endpoint], tls.client), tls.files.ca.parent
    seen = await store.commit([setting("seen")])
    missed = await store.commit([setting("missed")])
    for name, file in {"ca.crt": "ca.crt", "host.crt": "client.crt", "host.key": "client.key"}.items():
        (tmp_path / name).symlink_to(beside / file)
    await asyncio.to_thread(forget.main, str(tmp_path), ["https://127.0.0.1:1", endpoint], ["\n", "\n"])
    ready, forgotten, again = capsys.readouterr().out.split()
    assert (ready, again) == ("ready", "0")
    assert int(forgotten) >= missed
    with pytest.raises(Compacted):
        await collect(store.watch(seen), "missed")
    assert {"seen", "missed"} <= set(values(await store.snapshot()))
    await store.close()
