"""The store in memory, against the contract, and the faults it can play."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from store_contract import StoreContract, Stores, setting, take, values

from drover.errors import Unavailable
from drover.store.memory import MemoryCluster
from drover.store.port import AnswerLost, Compacted


class TestMemory(StoreContract):
    @pytest.fixture
    def stores(self) -> Stores:
        shared = MemoryCluster()

        async def compact(revision: int) -> None:
            shared.compact(revision)

        return Stores(open=shared.client, compact=compact, shortest_ttl_s=0.1)


async def test_a_cut_client_fails_within_its_deadline_and_others_go_on() -> None:
    shared = MemoryCluster()
    cut, other = shared.client(deadline_s=0.02), shared.client()
    cut.cut = True
    for call in (cut.snapshot(), cut.commit([setting("a")]), cut.grant(1)):
        with pytest.raises(Unavailable):
            await call
    revision = await other.commit([setting("b")])
    cut.cut = False
    assert (await cut.snapshot()).revision == revision
    assert values(await cut.snapshot()) == {"b": "x"}


async def test_a_cut_ends_a_watch_and_delivers_nothing_meanwhile() -> None:
    shared = MemoryCluster()
    client, other = shared.client(deadline_s=0.02), shared.client()
    start = (await client.snapshot()).revision
    async with aclosing(client.watch(start)) as watch:
        coming = asyncio.create_task(take(watch, 1))
        await asyncio.sleep(0)
        client.cut = True
        await other.commit([setting("a")])
        with pytest.raises(Unavailable):
            await coming


async def test_a_cut_client_cannot_renew_so_its_lease_ends() -> None:
    shared = MemoryCluster()
    client, other = shared.client(deadline_s=0.02), shared.client()
    lease = await client.grant(0.1)
    revision = await client.commit([setting("a")], lease=lease)
    client.cut = True
    with pytest.raises(Unavailable):
        await lease.renew()
    await lease.revoke()
    assert values(await other.snapshot()) == {"a": "x"}
    await take(other.watch(revision), 1)
    assert values(await other.snapshot()) == {}


async def test_a_lost_answer_leaves_the_commit_made() -> None:
    client = MemoryCluster().client(deadline_s=0.02)
    client.lose_answers = True
    with pytest.raises(AnswerLost):
        await client.commit([setting("a")])
    assert values(await client.snapshot()) == {"a": "x"}


async def test_only_so_much_history_is_kept() -> None:
    client = MemoryCluster(keep=3).client()
    revisions = [await client.commit([setting("n", str(number))]) for number in range(5)]
    with pytest.raises(Compacted):
        await take(client.watch(revisions[0]), 1)
    batches = await take(client.watch(revisions[1]), 3)
    assert [batch.revision for batch in batches] == revisions[2:]
