"""A watched picture of the cluster that stays up to date, with waits on it.

Theory of operation. One task follows the store for ever. It takes a snapshot, makes it the picture, and applies each
batch of the watch. Whatever ends the watch, the next round begins with a snapshot, and what differs from the last
picture is delivered as one batch; so readers need not know that there was a gap.

    the watch ends with     picture         healthy        next round
    Compacted               kept            stays true     at once
    any other error         kept (stale)    false          after a pause that doubles up to `MAX_PAUSE_S`
    (snapshot succeeds)     replaced        true

Waiters (`until`) name the keys or tables that their predicate reads; only those are looked at when a batch comes.
A waiter without keys is looked at with every batch.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from drover.errors import DeadlineExceeded, DroverError
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.records import Record, table_of
from drover.store.port import Batch, Compacted, Store

T = TypeVar("T")
OnBatch = Callable[[Batch], None]

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0
NOT_ASKED = "the store was not asked yet"
ANY = ""
"""The key under which waiters without keys are filed."""

log = structlog.get_logger("drover.store.mirror")


class _Waiter:
    """One `until` call: its predicate, and the future that ends it."""

    def __init__(self, predicate: Callable[[Cluster], Any], keys: frozenset[str]) -> None:
        self.predicate = predicate
        self.keys = keys
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def look(self, cluster: Cluster) -> None:
        """End the wait if the predicate is true, or with its error if it raises."""
        if self.future.done():
            return
        try:
            result = self.predicate(cluster)
        except Exception as error:
            self.future.set_exception(error)
        else:
            if result:
                self.future.set_result(result)


class _Waiters:
    """The waiters by the keys and tables they watch, in the order in which they came."""

    def __init__(self) -> None:
        self._by_key: defaultdict[str, dict[_Waiter, None]] = defaultdict(dict)

    def add(self, waiter: _Waiter) -> None:
        for key in waiter.keys:
            self._by_key[key][waiter] = None

    def remove(self, waiter: _Waiter) -> None:
        for key in waiter.keys:
            self._by_key[key].pop(waiter, None)
            if not self._by_key[key]:
                del self._by_key[key]

    def touched(self, batch: Batch) -> Iterable[_Waiter]:
        """Each once, in an order that depends on nothing but the order in which they began to wait."""
        keys = [ANY]
        for change in batch.changes:
            keys += change.key, table_of(change.key)
        return {waiter: None for key in keys if key in self._by_key for waiter in self._by_key[key]}


class _Subscription:
    """Changes that a subscriber has not read yet, merged: at most one per key, whatever its pace."""

    def __init__(self) -> None:
        self._changes: dict[str, Change] = {}
        self._revision = 0
        self._ready = asyncio.Event()

    def add(self, batch: Batch) -> None:
        self._changes.update((change.key, change) for change in batch.changes)
        self._revision = batch.revision
        self._ready.set()

    async def take(self) -> Batch:
        await self._ready.wait()
        self._ready.clear()
        changes, self._changes = self._changes, {}
        return Batch(self._revision, tuple(changes[key] for key in sorted(changes)))


class Mirror:
    """Keeps `cluster` up to date with `store`. One per daemon; everything in it runs on one event loop."""

    def __init__(self, store: Store) -> None:
        self.cluster = Cluster()
        self.healthy = False
        self.stale_since: float | None = None
        """The loop's time since when the picture may be old (or is missing); None while it is fresh."""
        self.trouble = NOT_ASKED
        """Why it is not healthy, as a sentence; empty while it is."""
        self._store = store
        self._task: asyncio.Task[None] | None = None
        self._waiters = _Waiters()
        self._callbacks: list[OnBatch] = []

    async def start(self, deadline_s: float = 10.0) -> bool:
        """Begin to follow the store, for ever. Returns when the first picture is there (True), or after
        `deadline_s` without it (False; it goes on trying)."""
        if self._task is None:
            self.stale_since = asyncio.get_running_loop().time()
            self._task = asyncio.create_task(self._follow(), name="mirror")
        try:
            await self.until(lambda _: self.healthy, deadline_s, "the first picture of the cluster")
        except DeadlineExceeded:
            return False
        return True

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def until(
        self, predicate: Callable[[Cluster], T], deadline_s: float, missing: str, keys: Iterable[str] = ()
    ) -> T:
        """The first truthy `predicate(cluster)`, now or after a batch.

        `keys` (records' keys, or table names) are all that the predicate reads: it is asked again only when one of
        them changes. Raises `DeadlineExceeded` naming what was `missing`, and whatever the predicate raises.
        """
        if result := predicate(self.cluster):
            return result
        waiter = _Waiter(predicate, frozenset(keys) or frozenset((ANY,)))
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(deadline_s):
                found: T = await waiter.future
                return found
        except TimeoutError:
            raise DeadlineExceeded(self._missed(missing, deadline_s), hint=self._hint()) from None
        finally:
            self._waiters.remove(waiter)

    async def reached(self, revision: int, deadline_s: float) -> Cluster:
        """The picture, once it is at `revision` or later: read your own writes after a commit."""
        what = f"revision {revision} of the store to reach this host"
        await self.until(lambda now: now.revision >= revision, deadline_s, what)
        return self.cluster

    async def overtaken(self, expect: Mapping[str, int], deadline_s: float) -> None:
        """After a conflict: return when the picture shows that an expectation fails, so that the next decision is
        another one. A change that was undone at once is never seen: then return after `deadline_s`."""

        def look(now: Cluster) -> bool:
            return any(now.version(key) != version for key, version in expect.items())

        with suppress(DeadlineExceeded):
            await self.until(look, deadline_s, "the change that somebody else made", keys=expect)

    def on_batch(self, callback: OnBatch) -> Callable[[], None]:
        """Call `callback(batch)` after each batch, in order, when `cluster` already shows it; it must not block and not
        raise. Returns the function that ends it."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def subscribe(self) -> AsyncIterator[Batch]:
        """For ever: all that changed since the last item, merged into one batch (the last change of each key).
        Begins with what changes after the first item is asked for."""
        subscription = _Subscription()
        end = self.on_batch(subscription.add)
        try:
            while True:
                yield await subscription.take()
        finally:
            end()

    async def _follow(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await self._round()
            except Compacted:
                log.info("the store's history was compacted; taking a new snapshot", revision=self.cluster.revision)
                continue
            except Exception as error:
                # A round that reached the store begins the pauses anew.
                pause_s = FIRST_PAUSE_S if self.healthy else min(pause_s * 2, MAX_PAUSE_S)
                self._now_stale(error)
            await asyncio.sleep(pause_s)

    async def _round(self) -> None:
        """One snapshot and the watch after it; ends only by an error."""
        picture = await self._store.snapshot()
        self._now_healthy()
        self._show(picture, Batch(picture.revision, difference(self.cluster, picture)))
        async for batch in self._store.watch(picture.revision):
            self._show(self.cluster.apply(batch.revision, batch.changes), batch)

    def _show(self, cluster: Cluster, batch: Batch) -> None:
        self.cluster = cluster
        for waiter in self._waiters.touched(batch):
            waiter.look(cluster)
        for callback in tuple(self._callbacks):
            _call(callback, batch)

    def _now_healthy(self) -> None:
        if not self.healthy:
            log.info("the store answers", was=self.trouble)
        self.healthy, self.stale_since, self.trouble = True, None, ""

    def _now_stale(self, error: Exception) -> None:
        """Remember and tell it once per change of state. An error outside Drover's tree is a fault of Drover's own;
        it gets a traceback, and the mirror goes on: a host without a picture would be worse."""
        if self.healthy:
            self.stale_since = asyncio.get_running_loop().time()
        if self.healthy or self.trouble == NOT_ASKED:
            fault = None if isinstance(error, DroverError) else error
            log.warning("the store cannot be read; keeping the last picture", why=str(error), exc_info=fault)
        self.healthy, self.trouble = False, str(error)

    def _missed(self, missing: str, deadline_s: float) -> str:
        sentence = f"waited {deadline_s:g} s for {missing}"
        return sentence if self.healthy else f"{sentence}; meanwhile the store could not be read: {self.trouble}"

    def _hint(self) -> str:
        return "" if self.healthy else "check that most of the hosts that run the store are up: drover host ls"


def difference(old: Cluster, new: Cluster) -> tuple[Change, ...]:
    """The changes that lead from one picture to another, in key order."""
    written = [put(key, _at(new, key)) for key, version in new.versions.items() if old.version(key) != version]
    gone = [delete(key) for key in old.versions if key not in new.versions]
    return tuple(sorted(written + gone, key=lambda change: change.key))


def _at(cluster: Cluster, key: str) -> Record:
    table, _, rest = key.partition("/")
    found: Record = cluster.tables[table][rest]
    return found


def _call(callback: OnBatch, batch: Batch) -> None:
    """One subscriber's fault must not end the mirror for all."""
    try:
        callback(batch)
    except Exception:
        log.exception("a subscriber of the mirror failed")
