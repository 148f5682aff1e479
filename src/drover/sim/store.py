"""The store as one host has it: the memory store, at the end of a link that may fail in its own ways.

    switch          effect
    `cut`           nothing arrives there: calls fail after their deadline
    `lose_answers`  calls are carried out there, and no answer arrives here: a link that works one way
    `slow_s`        each way takes that long
    `watch_slow_s`  each batch of a watch comes that much later
    `deaf`          the watch falls silent, and ends by itself after SILENCE_S
    `drift`         how much faster than here time goes by at the store: leases end earlier
    election        nobody is answered, and no lease ends; after it every lease begins anew

A daemon that is stopped (SIGSTOP) gets no further than to its next effect, here and in `parts`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from drover.errors import DroverError, Unavailable
from drover.model.cluster import Change, Cluster
from drover.store.memory import MemoryCluster, MemoryLease, MemoryStore
from drover.store.port import AnswerLost, Batch, Lease, lease_over

T = TypeVar("T")
DEADLINE_S = 0.5
SILENCE_S = 3.0
FAR_S = 1e9


class Running:
    """Whether a host's daemon may do anything: while it is stopped, every effect waits. `on_effect` is called on either
    side of each: before it is carried out, and before the daemon hears of it."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.event.set()
        self.on_effect: Callable[[], None] | None = None

    async def passed(self) -> None:
        if self.on_effect is not None:
            self.on_effect()
        while not self.event.is_set():
            await self.event.wait()


class SharedPicture(Cluster, frozen=True):
    """A picture whose successor is made once for all hosts: each of them would come to an equal one."""

    successors: list[tuple[object, Cluster]] = msgspec.field(default_factory=list)

    def apply(self, revision: int, changes: Iterable[Change]) -> Cluster:
        for known, after in self.successors:
            if known is changes:
                return after
        made = super().apply(revision, changes)
        after = SharedPicture(made.revision, made.tables, made.versions)
        self.successors.append((changes, after))
        return after


class SimCluster(MemoryCluster):
    """The shared state, with elections."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = SharedPicture(self.cluster.revision)
        self.electing = False
        self._ttls_s: dict[str, float] = {}

    def start_lease(self, lease: str, ttl_s: float) -> None:
        self._ttls_s[lease] = ttl_s
        super().start_lease(lease, ttl_s)

    def end_lease(self, lease: str) -> None:
        self._ttls_s.pop(lease, None)
        super().end_lease(lease)

    def begin_election(self) -> None:
        """From here on nobody is answered, and no lease ends."""
        self.electing = True
        loop = asyncio.get_running_loop()
        for lease in self._ttls_s:
            self.leases.restart(lease, loop.call_later(FAR_S, self.end_lease, lease))

    def end_election(self) -> None:
        """The new leader counts every lease from its own beginning."""
        self.electing = False
        for lease, ttl_s in list(self._ttls_s.items()):
            self.start_lease(lease, ttl_s)


class SimLease(MemoryLease):
    """A lease held over such a link. `on_renewed` hears when a renewal was sent that is known to have arrived."""

    def __init__(self, store: SimStore, lease: str, ttl_s: float) -> None:
        super().__init__(store, lease, ttl_s)
        self._link = store

    async def renew(self) -> float:
        sent = asyncio.get_running_loop().time()
        await self._link.asked(self._renewed)
        self._link.on_renewed(sent)
        return sent

    def _renewed(self) -> None:
        shared = self._link.shared
        if not shared.leases.holds(self.id):
            raise lease_over(self.id)
        shared.start_lease(self.id, self.ttl_s * (1 - self._link.drift))


class SimStore(MemoryStore):
    """One daemon's handle on the store, see the module's table."""

    def __init__(self, shared: SimCluster, running: Running) -> None:
        super().__init__(shared, deadline_s=DEADLINE_S)
        self._cluster = shared
        self._running = running
        self.slow_s = 0.0
        self.watch_slow_s = 0.0
        self.deaf = False
        self.drift = 0.0
        self.on_renewed: Callable[[float], None] = lambda sent: None

    async def reach(self) -> None:
        await self._running.passed()
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        if self._cluster.electing:
            await asyncio.sleep(self._deadline_s)
            raise Unavailable("the store has no leader")
        await super().reach()
        await self._running.passed()

    async def asked(self, what: Callable[[], T]) -> T:
        """Carry out `what` there and bring back what came of it, an error too. Raises `Unavailable` if it did not get
        there, `AnswerLost` if nothing came back."""
        await self.reach()
        try:
            done = what()
        except DroverError:
            await self._back()
            raise
        await self._back()
        return done

    async def _back(self) -> None:
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        if self.lose_answers or self._cut or self._cluster.electing:
            await asyncio.sleep(self._deadline_s)
            raise AnswerLost(f"the store did not answer to a call within {self._deadline_s:g} s")
        await self._running.passed()

    async def snapshot(self) -> Cluster:
        return await self.asked(lambda: self.shared.cluster)

    async def commit(
        self, changes: Sequence[Change], expect: Mapping[str, int] | None = None, lease: Lease | None = None
    ) -> int:
        return await self.asked(lambda: self.shared.commit(changes, expect or {}, lease.id if lease else None))

    async def grant(self, ttl_s: float) -> MemoryLease:
        lease = self.shared.leases.new_id()
        sent = asyncio.get_running_loop().time()
        await self.asked(lambda: self.shared.start_lease(lease, ttl_s * (1 - self.drift)))
        self.on_renewed(sent)
        return SimLease(self, lease, ttl_s)

    async def watch(self, revision: int) -> AsyncIterator[Batch]:
        seen = revision
        while True:
            await self.reach()
            for batch in self.shared.since(seen):
                await self._brought()
                yield batch
                seen = batch.revision
            if not self._cut and seen >= self.shared.cluster.revision:
                await self.shared.bell.wait()

    async def _brought(self) -> None:
        """The way of one batch to here."""
        if self.watch_slow_s:
            await asyncio.sleep(self.watch_slow_s)
        if self.deaf or self.lose_answers:
            await asyncio.sleep(SILENCE_S)
            raise Unavailable(f"the store's watch was silent for {SILENCE_S:g} s")
        await self._running.passed()
