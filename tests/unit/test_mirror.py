"""The mirror: stays up to date through compaction and absence, and its waits end or say what was missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.errors import DeadlineExceeded, Unavailable
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.records import Setting
from drover.store.memory import MemoryCluster, MemoryStore
from drover.store.mirror import Mirror, difference
from drover.store.port import Batch

PATIENCE_S = 10.0


def setting(name: str, value: str = "x") -> Change:
    return put(f"settings/{name}", Setting(value=value))


def values(cluster: Cluster) -> dict[str, str]:
    return {name: row.value for name, row in cluster.rows("settings", Setting).items()}


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


@pytest.fixture
def shared() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
def client(shared: MemoryCluster) -> MemoryStore:
    """The mirror's own handle."""
    return shared.client(deadline_s=0.02)


@pytest.fixture
def other(shared: MemoryCluster) -> MemoryStore:
    return shared.client()


@pytest.fixture
async def mirror(client: MemoryStore) -> AsyncIterator[Mirror]:
    mirror = Mirror(client)
    assert await mirror.start()
    yield mirror
    await mirror.stop()


async def test_it_begins_with_what_is_there_and_follows(other: MemoryStore, client: MemoryStore) -> None:
    await other.commit([setting("a")])
    mirror = Mirror(client)
    assert await mirror.start()
    assert values(mirror.cluster) == {"a": "x"}
    revision = await other.commit([setting("b")])
    assert values(await mirror.reached(revision, PATIENCE_S)) == {"a": "x", "b": "x"}
    assert mirror.cluster == await other.snapshot()
    await mirror.stop()


async def test_until_gives_the_first_truthy_answer(mirror: Mirror, other: MemoryStore) -> None:
    waiting = asyncio.create_task(mirror.until(lambda now: values(now).get("a"), PATIENCE_S, "a"))
    await asyncio.sleep(0)
    await other.commit([setting("b")])
    await other.commit([setting("a", "found")])
    assert await waiting == "found"
    assert await mirror.until(lambda now: values(now).get("a"), 0.0, "a") == "found"


async def test_until_says_what_was_missing(mirror: Mirror) -> None:
    with pytest.raises(DeadlineExceeded, match=r"waited 0.01 s for container web to be created$"):
        await mirror.until(lambda _: False, 0.01, "container web to be created")


async def test_until_gives_up_with_what_its_predicate_raises(mirror: Mirror, other: MemoryStore) -> None:
    def look(now: Cluster) -> bool:
        if "lost" in values(now):
            raise Unavailable("the host is lost")
        return False

    waiting = asyncio.create_task(mirror.until(look, PATIENCE_S, "an answer"))
    await asyncio.sleep(0)
    await other.commit([setting("lost")])
    with pytest.raises(Unavailable, match="the host is lost"):
        await waiting


async def test_a_waiter_is_asked_only_when_its_keys_change(mirror: Mirror, other: MemoryStore) -> None:
    asked = {"key": 0, "table": 0, "other table": 0}

    def counting(name: str) -> asyncio.Task[object]:
        def look(now: Cluster) -> bool:
            asked[name] += 1
            return "end" in values(now)

        keys = {"key": ["settings/end"], "table": ["settings"], "other table": ["hosts"]}[name]
        return asyncio.create_task(mirror.until(look, 0.2, name, keys=keys))

    waiting = [counting(name) for name in asked]
    await asyncio.sleep(0)
    for number in range(5):
        await mirror.reached(await other.commit([setting(f"n{number}")]), PATIENCE_S)
    await other.commit([setting("end")])
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert asked == {"key": 2, "table": 7, "other table": 1}
    assert results[:2] == [True, True]
    assert isinstance(results[2], DeadlineExceeded)


async def test_hundreds_of_waiters_each_get_their_own(mirror: Mirror, other: MemoryStore) -> None:
    async def one(number: int) -> str | None:
        name = f"n{number}"
        return await mirror.until(lambda now: values(now).get(name), PATIENCE_S, name, keys=[f"settings/{name}"])

    waiting = [asyncio.create_task(one(number)) for number in range(500)]
    await asyncio.sleep(0)
    for number in range(500):
        await other.commit([setting(f"n{number}", str(number))])
    assert await asyncio.gather(*waiting) == [str(number) for number in range(500)]


async def test_a_cancelled_wait_leaves_nothing_behind(mirror: Mirror, other: MemoryStore) -> None:
    asked = []
    waiting = asyncio.create_task(mirror.until(lambda now: asked.append(now), PATIENCE_S, "nothing"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await mirror.reached(await other.commit([setting("a")]), PATIENCE_S)
    assert len(asked) == 1


async def test_an_absent_store_leaves_the_last_picture_and_says_so(
    mirror: Mirror, client: MemoryStore, other: MemoryStore
) -> None:
    await mirror.reached(await other.commit([setting("a"), setting("b")]), PATIENCE_S)
    client.cut = True
    await eventually(lambda: not mirror.healthy)
    assert values(mirror.cluster) == {"a": "x", "b": "x"}
    assert mirror.stale_since is not None
    assert mirror.stale_since <= asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded, match=r"for news; meanwhile the store could not be read: .*did not answer"):
        await mirror.until(lambda _: False, 0.01, "news")

    revision = await other.commit([setting("b", "new"), delete("settings/a")])
    seen: list[Batch] = []
    mirror.on_batch(seen.append)
    client.cut = False
    assert values(await mirror.reached(revision, PATIENCE_S)) == {"b": "new"}
    assert (mirror.healthy, mirror.stale_since, mirror.trouble) == (True, None, "")
    assert seen == [Batch(revision, (delete("settings/a"), setting("b", "new")))]


async def test_it_starts_without_a_store_and_goes_on_trying(client: MemoryStore, other: MemoryStore) -> None:
    await other.commit([setting("a")])
    client.cut = True
    mirror = Mirror(client)
    assert not await mirror.start(deadline_s=0.05)
    assert mirror.stale_since is not None
    client.cut = False
    assert await mirror.start(deadline_s=PATIENCE_S)
    assert values(mirror.cluster) == {"a": "x"}
    await mirror.stop()


async def test_compaction_is_bridged_by_a_new_snapshot(
    mirror: Mirror, client: MemoryStore, other: MemoryStore, shared: MemoryCluster
) -> None:
    client.cut = True
    for number in range(5):
        await other.commit([setting("n", str(number))])
    shared.compact(shared.cluster.revision)
    client.cut = False
    assert values(await mirror.reached(shared.cluster.revision, PATIENCE_S)) == {"n": "4"}


async def test_a_watch_that_is_compacted_is_taken_up_by_a_snapshot(shared: MemoryCluster) -> None:
    """History goes between the snapshot and its watch: the mirror never becomes unhealthy."""

    class Late(MemoryStore):
        watches = 0

        async def watch(self, revision: int) -> AsyncIterator[Batch]:
            self.watches += 1
            if self.watches == 1:
                shared.commit([setting("a")], {}, None)
                shared.compact(shared.cluster.revision)
            async with aclosing(super().watch(revision)) as batches:
                async for batch in batches:
                    yield batch

    store = Late(shared, deadline_s=0.02)
    mirror = Mirror(store)
    await mirror.start()
    assert await mirror.until(lambda now: values(now).get("a"), PATIENCE_S, "a") == "x"
    assert store.watches == 2 or mirror.healthy
    await mirror.stop()


async def test_a_slow_subscriber_gets_the_last_change_of_each_key(mirror: Mirror, other: MemoryStore) -> None:
    async with aclosing(mirror.subscribe()) as batches:
        first = asyncio.create_task(anext(batches))
        await asyncio.sleep(0)
        await mirror.reached(await other.commit([setting("a", "0")]), PATIENCE_S)
        assert (await first).changes == (setting("a", "0"),)
        for number in range(10):
            revision = await other.commit([setting("a", str(number)), setting(f"b{number % 2}")])
        await mirror.reached(await other.commit([delete("settings/b0")]), PATIENCE_S)
        merged = await anext(batches)
    assert merged == Batch(revision + 1, (setting("a", "9"), delete("settings/b0"), setting("b1")))


async def test_callbacks_come_in_order_and_a_faulty_one_harms_nobody(mirror: Mirror, other: MemoryStore) -> None:
    seen: list[int] = []

    def faulty(batch: Batch) -> None:
        raise ValueError("a fault of the subscriber")

    mirror.on_batch(faulty)
    end = mirror.on_batch(lambda batch: seen.append(batch.revision))
    revisions = [await other.commit([setting("a", str(number))]) for number in range(3)]
    await mirror.reached(revisions[-1], PATIENCE_S)
    assert seen == revisions
    end()
    await mirror.reached(await other.commit([setting("b")]), PATIENCE_S)
    assert seen == revisions


pictures = st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xy"), max_size=4), max_size=4)


@given(pictures)
def test_applying_a_difference_gives_the_new_picture(contents: list[dict[str, str]]) -> None:
    """Whatever was written in between."""
    old = Cluster(revision=1)
    for revision, wanted in enumerate(contents, 2):
        gone = [delete(key) for key in old.versions if key.split("/")[1] not in wanted]
        new = old.apply(revision, [*gone, *(setting(name, value) for name, value in wanted.items())])
        bridged = old.apply(revision, difference(old, new))
        assert bridged.tables.get("settings", {}) == new.tables.get("settings", {})
        assert bridged.versions == new.versions
        old = new
