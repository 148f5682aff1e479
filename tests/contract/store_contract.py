"""What every store must do, whatever holds the records. A test module derives `StoreContract` and gives `stores`.

`stores` is a `Stores`: it opens client handles onto one fresh store and can compact its history.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import msgspec
import pytest

from drover.errors import Invalid, NotFound
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.records import Alive, Setting
from drover.store.port import Batch, CommitConflict, Compacted, Store

PATIENCE_S = 20.0
"""How long a test waits for what must come; nothing asserts that it came fast."""


class Stores(msgspec.Struct, frozen=True):
    """`open()` makes a client handle; `compact(revision)` forgets history up to it; `shortest_ttl_s` of a lease."""

    open: Callable[[], Store]
    compact: Callable[[int], Awaitable[None]]
    shortest_ttl_s: float


def setting(name: str, value: str = "x") -> Change:
    return put(f"settings/{name}", Setting(value=value))


def alive(host: str) -> Change:
    return put(f"alive/{host}", Alive(host=host, session="s"))


def without(name: str) -> Change:
    return delete(f"settings/{name}")


def values(cluster: Cluster) -> dict[str, str]:
    return {name: row.value for name, row in cluster.rows("settings", Setting).items()}


async def take(watch: AsyncIterator[Batch], count: int) -> list[Batch]:
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(watch) for _ in range(count)]


async def until_key_gone(watch: AsyncIterator[Batch], key: str) -> Batch:
    """The batch that removes `key`."""
    async with asyncio.timeout(PATIENCE_S):
        async for batch in watch:
            if any(change.key == key and change.record is None for change in batch.changes):
                return batch
    raise AssertionError("the watch ended")


async def increment(store: Store, name: str) -> None:
    """Read, add one, write if unchanged, else again."""
    while True:
        now = await store.snapshot()
        following = str(int(values(now).get(name, "0")) + 1)
        try:
            await store.commit([setting(name, following)], {f"settings/{name}": now.version(f"settings/{name}")})
        except CommitConflict:
            continue
        return


class StoreContract:
    """Derive it in a test module that defines the fixture `stores`."""

    @pytest.fixture
    async def store(self, stores: Stores) -> AsyncIterator[Store]:
        store = stores.open()
        yield store
        await store.close()

    async def test_a_new_store_is_empty(self, store: Store) -> None:
        assert values(await store.snapshot()) == {}

    async def test_a_commit_is_read_back_with_its_revision(self, store: Store) -> None:
        revision = await store.commit([setting("a", "1")])
        cluster = await store.snapshot()
        assert values(cluster) == {"a": "1"}
        assert cluster.revision == cluster.version("settings/a") == revision

    async def test_revisions_grow(self, store: Store) -> None:
        revisions = [await store.commit([setting("a", str(n))]) for n in range(5)]
        assert revisions == sorted(set(revisions))

    async def test_all_clients_see_a_commit(self, store: Store, stores: Stores) -> None:
        other = stores.open()
        await store.commit([setting("a")])
        assert values(await other.snapshot()) == {"a": "x"}
        await other.close()

    async def test_create_only_if_absent(self, store: Store) -> None:
        await store.commit([setting("a", "1")], {"settings/a": 0})
        with pytest.raises(CommitConflict) as conflict:
            await store.commit([setting("a", "2")], {"settings/a": 0})
        assert conflict.value.keys == ("settings/a",)
        assert values(await store.snapshot()) == {"a": "1"}

    async def test_put_only_if_unchanged(self, store: Store) -> None:
        first = await store.commit([setting("a", "1")])
        second = await store.commit([setting("a", "2")], {"settings/a": first})
        with pytest.raises(CommitConflict):
            await store.commit([setting("a", "3")], {"settings/a": first})
        await store.commit([setting("a", "4")], {"settings/a": second})
        assert values(await store.snapshot()) == {"a": "4"}

    async def test_delete_only_if_unchanged(self, store: Store) -> None:
        first = await store.commit([setting("a", "1")])
        second = await store.commit([setting("a", "2")])
        with pytest.raises(CommitConflict):
            await store.commit([without("a")], {"settings/a": first})
        await store.commit([without("a")], {"settings/a": second})
        cluster = await store.snapshot()
        assert values(cluster) == {}
        assert cluster.version("settings/a") == 0

    async def test_an_expectation_may_be_about_a_key_that_is_not_written(self, store: Store) -> None:
        first = await store.commit([setting("guard")])
        await store.commit([setting("a", "1")], {"settings/guard": first})
        await store.commit([setting("guard", "changed")])
        with pytest.raises(CommitConflict) as conflict:
            await store.commit([setting("a", "2")], {"settings/guard": first, "settings/none": 0})
        assert conflict.value.keys == ("settings/guard",)

    async def test_a_refused_commit_writes_nothing(self, store: Store) -> None:
        await store.commit([setting("a"), setting("b")])
        with pytest.raises(CommitConflict):
            await store.commit([setting("c"), without("b"), setting("a", "2")], {"settings/a": 0})
        assert values(await store.snapshot()) == {"a": "x", "b": "x"}

    async def test_a_commit_of_many_records_has_one_revision(self, store: Store) -> None:
        revision = await store.commit([setting(f"n{number:03}") for number in range(400)])
        cluster = await store.snapshot()
        assert {cluster.version(f"settings/n{number:03}") for number in range(400)} == {revision}

    async def test_a_commit_that_changes_nothing_makes_no_batch(self, store: Store) -> None:
        first = await store.commit([setting("a")])
        assert await store.commit([], {"settings/a": first}) == first
        assert await store.commit([without("absent")]) == first
        with pytest.raises(CommitConflict):
            await store.commit([], {"settings/a": 0})
        last = await store.commit([setting("b")])
        async with aclosing(store.watch(first)) as watch:
            assert [batch.revision for batch in await take(watch, 1)] == [last]

    async def test_a_key_twice_in_a_commit_is_refused(self, store: Store) -> None:
        with pytest.raises(Invalid):
            await store.commit([setting("a", "1"), setting("a", "2")])
        assert values(await store.snapshot()) == {}

    async def test_a_watch_gives_one_sorted_batch_per_commit(self, store: Store) -> None:
        start = (await store.snapshot()).revision
        first = await store.commit([setting("b"), setting("a")])
        second = await store.commit([without("a"), setting("c")])
        async with aclosing(store.watch(start)) as watch:
            assert await take(watch, 2) == [
                Batch(first, (setting("a"), setting("b"))),
                Batch(second, (without("a"), setting("c"))),
            ]

    async def test_a_watch_delivers_what_comes_later(self, store: Store) -> None:
        start = (await store.snapshot()).revision
        async with aclosing(store.watch(start)) as watch:
            coming = asyncio.create_task(take(watch, 1))
            await asyncio.sleep(0.05)
            revision = await store.commit([setting("a")])
            assert await coming == [Batch(revision, (setting("a"),))]

    async def test_a_watch_from_an_old_revision_has_no_gaps_or_repeats(self, store: Store, stores: Stores) -> None:
        start = (await store.snapshot()).revision
        for number in range(20):
            await store.commit([setting("n", str(number)), setting(f"at{number}")])
        other = stores.open()

        async def more() -> None:
            for number in range(20, 60):
                await other.commit([setting("n", str(number)), setting(f"at{number}")])

        async with aclosing(store.watch(start)) as watch:
            _, batches = await asyncio.gather(more(), take(watch, 60))
        await other.close()
        assert [batch.changes[-1] for batch in batches] == [setting("n", str(number)) for number in range(60)]
        assert all(len(batch.changes) == 2 for batch in batches)

    async def test_snapshot_and_watch_meet_exactly(self, store: Store, stores: Stores) -> None:
        """Pictures taken at any moment, each followed by its watch, all end at the same picture."""
        other = stores.open()

        async def write() -> None:
            for number in range(40):
                await other.commit([setting(f"k{number % 7}", str(number)), without(f"k{(number + 3) % 7}")])
            await other.commit([setting("end")])

        async def follow() -> Cluster:
            cluster = await store.snapshot()
            async with asyncio.timeout(PATIENCE_S), aclosing(store.watch(cluster.revision)) as watch:
                while "end" not in values(cluster):
                    batch = await anext(watch)
                    cluster = cluster.apply(batch.revision, batch.changes)
            return cluster

        _, *pictures = await asyncio.gather(write(), *(follow() for _ in range(5)))
        await other.close()
        assert pictures == [await store.snapshot()] * 5

    async def test_a_watch_is_resumed_where_it_ended(self, store: Store) -> None:
        start = (await store.snapshot()).revision
        revisions = [await store.commit([setting("n", str(number))]) for number in range(6)]
        async with aclosing(store.watch(start)) as watch:
            head = [batch.revision for batch in await take(watch, 3)]
        async with aclosing(store.watch(head[-1])) as watch:
            tail = [batch.revision for batch in await take(watch, 3)]
        assert head + tail == revisions

    async def test_a_watch_of_compacted_history_says_so(self, store: Store, stores: Stores) -> None:
        start = (await store.snapshot()).revision
        revisions = [await store.commit([setting("n", str(number))]) for number in range(6)]
        await stores.compact(revisions[3])
        with pytest.raises(Compacted):
            await take(store.watch(start), 1)
        with pytest.raises(Compacted):
            await take(store.watch(revisions[2]), 1)
        async with aclosing(store.watch(revisions[3])) as watch:
            assert [batch.revision for batch in await take(watch, 2)] == revisions[4:]

    async def test_a_removal_at_the_compacted_revision_is_not_lost(self, store: Store, stores: Stores) -> None:
        await store.commit([setting("a")])
        before = await store.commit([setting("b")])
        removal = await store.commit([without("a")])
        await stores.compact(removal)
        with pytest.raises(Compacted):
            await take(store.watch(before), 1)

    async def test_a_snapshot_survives_compaction(self, store: Store, stores: Stores) -> None:
        revision = await store.commit([setting("a")])
        await stores.compact(revision)
        assert values(await store.snapshot()) == {"a": "x"}

    async def test_a_snapshot_of_thousands_is_complete(self, store: Store) -> None:
        names = [f"n{number:05}" for number in range(2500)]
        for at in range(0, len(names), 500):
            await store.commit([setting(name) for name in names[at : at + 500]])
        cluster = await store.snapshot()
        assert sorted(values(cluster)) == names
        assert cluster.revision == max(cluster.versions.values())

    async def test_concurrent_increments_lose_nothing(self, store: Store, stores: Stores) -> None:
        others = [stores.open() for _ in range(4)]

        async def several(one: Store) -> None:
            for _ in range(5):
                await increment(one, "n")

        await asyncio.gather(*(several(one) for one in others))
        assert values(await store.snapshot()) == {"n": "20"}
        await asyncio.gather(*(one.close() for one in others))

    async def test_an_expired_lease_takes_its_keys_in_one_batch(self, store: Store, stores: Stores) -> None:
        lease = await store.grant(stores.shortest_ttl_s)
        await store.commit([alive("h1"), alive("h2")], lease=lease)
        revision = await store.commit([setting("a")])
        async with aclosing(store.watch(revision)) as watch:
            batch = await until_key_gone(watch, "alive/h1")
        assert batch.changes == (delete("alive/h1"), delete("alive/h2"))
        assert set((await store.snapshot()).versions) == {"settings/a"}

    async def test_a_renewed_lease_keeps_its_keys(self, store: Store, stores: Stores) -> None:
        loop = asyncio.get_running_loop()
        lease = await store.grant(stores.shortest_ttl_s)
        await store.commit([alive("h1")], lease=lease)
        end = loop.time() + 2 * lease.ttl_s
        sent = loop.time()
        while sent < end:
            before = loop.time()
            sent = await lease.renew()
            assert before <= sent <= loop.time()
            await asyncio.sleep(lease.ttl_s / 8)
        assert "h1" in (await store.snapshot()).alive

    async def test_a_revoked_lease_takes_its_keys(self, store: Store) -> None:
        lease = await store.grant(30)
        revision = await store.commit([alive("h1")], lease=lease)
        await lease.revoke()
        async with aclosing(store.watch(revision)) as watch:
            assert [batch.changes for batch in await take(watch, 1)] == [(delete("alive/h1"),)]

    async def test_a_lease_that_is_over_is_refused(self, store: Store) -> None:
        lease = await store.grant(30)
        await lease.revoke()
        with pytest.raises(NotFound):
            await lease.renew()
        with pytest.raises(NotFound):
            await store.commit([setting("a"), alive("h1")], lease=lease)
        assert values(await store.snapshot()) == {}
        await lease.revoke()

    async def test_a_key_written_again_leaves_its_lease(self, store: Store) -> None:
        lease = await store.grant(30)
        await store.commit([alive("h1"), alive("h2")], lease=lease)
        await store.commit([alive("h1")])
        await lease.revoke()
        assert set((await store.snapshot()).alive) == {"h1"}
