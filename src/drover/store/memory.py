"""The store in memory: the reference that says what the port means; used by tests and the simulation.

Theory of operation. A `MemoryCluster` is the one shared state; each `client()` is a `MemoryStore`, as one daemon
holds one. Time is the running loop's (`loop.time()`), so leases expire in virtual time too. One commit is one
synchronous function without an await: it happens whole or not at all.

    what                 how
    revision             starts at 1; each commit or expiry that changes something adds 1
    history              the last `keep` batches; older ones are compacted (also by `compact`)
    lease                a timer per lease; when it fires, its keys go in ONE batch
    a client's faults    `cut`: every call and watch fails with `Unavailable` after `deadline_s`;
                         `lose_answers`: commits are made, then fail with `AnswerLost` after `deadline_s`
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping, Sequence

from drover.errors import Unavailable
from drover.model.cluster import Change, Cluster, delete
from drover.store.port import AnswerLost, Batch, CommitConflict, Compacted, Lease, lease_over, refuse_twice

FIRST_REVISION = 1


class _Bell:
    """Wakes everybody who waits, each time it rings, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}

    def ring(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            await future
        finally:
            self._waiting.pop(future, None)


class _Leases:
    """Which lease holds which keys, and the timer that ends each lease."""

    def __init__(self) -> None:
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._owner: dict[str, str] = {}
        self._last = 0

    def new_id(self) -> str:
        self._last += 1
        return str(self._last)

    def holds(self, lease: str) -> bool:
        return lease in self._timers

    def restart(self, lease: str, timer: asyncio.TimerHandle) -> None:
        if lease in self._timers:
            self._timers[lease].cancel()
        self._timers[lease] = timer

    def end(self, lease: str) -> list[str]:
        """Forget the lease; returns its keys in order (none if it was over)."""
        timer = self._timers.pop(lease, None)
        if timer is not None:
            timer.cancel()
        return sorted(key for key, owner in self._owner.items() if owner == lease)

    def attach(self, key: str, lease: str | None) -> None:
        if lease is None:
            self._owner.pop(key, None)
        else:
            self._owner[key] = lease


class MemoryCluster:
    """The shared state. `keep` is the number of batches of history kept for watchers."""

    def __init__(self, keep: int = 10_000) -> None:
        self.cluster = Cluster(revision=FIRST_REVISION)
        self.compacted = 0
        self.bell = _Bell()
        self.leases = _Leases()
        self._history: list[Batch] = []
        self._keep = keep

    def client(self, deadline_s: float = 4.0) -> MemoryStore:
        """One more handle, as another daemon would hold; its calls take at most `deadline_s` when it is cut."""
        return MemoryStore(self, deadline_s)

    def compact(self, revision: int) -> None:
        """Forget the history up to and including `revision`."""
        del self._history[: self._after(revision)]
        self.compacted = max(self.compacted, min(revision, self.cluster.revision))

    def since(self, revision: int) -> list[Batch]:
        """The batches after `revision`; raises `Compacted` if some of them are gone."""
        if revision < self.compacted:
            raise Compacted(
                f"the history after revision {revision} is gone (compacted up to {self.compacted})",
                hint="take a new snapshot and watch from its revision",
            )
        return self._history[self._after(revision) :]

    def _after(self, revision: int) -> int:
        """Where in the history the batches after `revision` begin."""
        return bisect_right(self._history, revision, key=lambda batch: batch.revision)

    def commit(self, changes: Sequence[Change], expect: Mapping[str, int], lease: str | None) -> int:
        """One commit, synchronously: checks first, then writes all."""
        refuse_twice(changes)
        wrong = sorted(key for key, version in expect.items() if self.cluster.version(key) != version)
        if wrong:
            raise CommitConflict(wrong)
        if lease is not None and not self.leases.holds(lease):
            raise lease_over(lease)
        self._write(changes, lease)
        return self.cluster.revision

    def start_lease(self, lease: str, ttl_s: float) -> None:
        """Start the lease, or start its time anew."""
        loop = asyncio.get_running_loop()
        self.leases.restart(lease, loop.call_later(ttl_s, self.end_lease, lease))

    def end_lease(self, lease: str) -> None:
        self._write([delete(key) for key in self.leases.end(lease)], None)

    def _write(self, changes: Sequence[Change], lease: str | None) -> None:
        """Write what really changes something, as one batch with the next revision."""
        effective = [c for c in changes if c.record is not None or self.cluster.version(c.key)]
        if not effective:
            return
        batch = Batch(self.cluster.revision + 1, tuple(sorted(effective, key=lambda c: c.key)))
        for change in effective:
            self.leases.attach(change.key, lease if change.record is not None else None)
        self.cluster = self.cluster.apply(batch.revision, batch.changes)
        self._history.append(batch)
        if len(self._history) > self._keep:
            self.compact(self._history[0].revision)
        self.bell.ring()


class MemoryLease:
    """A lease held by one client."""

    def __init__(self, store: MemoryStore, lease: str, ttl_s: float) -> None:
        self._store = store
        self.id = lease
        self.ttl_s = ttl_s

    async def renew(self) -> float:
        """See `Lease.renew`; the time is the running loop's."""
        sent = asyncio.get_running_loop().time()
        await self._store.reach()
        if not self._store.shared.leases.holds(self.id):
            raise lease_over(self.id)
        self._store.shared.start_lease(self.id, self.ttl_s)
        return sent

    async def revoke(self) -> None:
        try:
            await self._store.reach()
        except Unavailable:
            return
        self._store.shared.end_lease(self.id)


class MemoryStore:
    """One client's handle; see `Store`. `cut` and `lose_answers` are switches for tests and the simulation."""

    def __init__(self, shared: MemoryCluster, deadline_s: float) -> None:
        self.shared = shared
        self.lose_answers = False
        self._deadline_s = deadline_s
        self._cut = False

    @property
    def cut(self) -> bool:
        return self._cut

    @cut.setter
    def cut(self, cut: bool) -> None:
        self._cut = cut
        self.shared.bell.ring()

    async def reach(self) -> None:
        """Pass if the store can be reached, else raise `Unavailable` when the deadline has passed."""
        if not self._cut:
            await asyncio.sleep(0)
        if self._cut:
            await asyncio.sleep(self._deadline_s)
            raise Unavailable(f"the store did not answer within {self._deadline_s:g} s")

    async def snapshot(self) -> Cluster:
        await self.reach()
        return self.shared.cluster

    async def watch(self, revision: int) -> AsyncIterator[Batch]:
        seen = revision
        while True:
            await self.reach()
            batches = self.shared.since(seen)
            for batch in batches:
                yield batch
                seen = batch.revision
            if not self._cut and seen >= self.shared.cluster.revision:
                await self.shared.bell.wait()

    async def commit(
        self, changes: Sequence[Change], expect: Mapping[str, int] | None = None, lease: Lease | None = None
    ) -> int:
        await self.reach()
        revision = self.shared.commit(changes, expect or {}, lease.id if lease else None)
        if self.lose_answers:
            await asyncio.sleep(self._deadline_s)
            raise AnswerLost(f"the store did not answer to a commit within {self._deadline_s:g} s")
        return revision

    async def grant(self, ttl_s: float) -> MemoryLease:
        await self.reach()
        lease = self.shared.leases.new_id()
        self.shared.start_lease(lease, ttl_s)
        return MemoryLease(self, lease, ttl_s)

    async def close(self) -> None:
        """Nothing to close: the shared state lives on."""
