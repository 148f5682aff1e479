"""The leader's duty to bring lost hosts' containers back elsewhere: `decide.recover`, committed; and to replace at once
what holds nothing on suspect hosts (`decide.suspicion`).

the commit of a batch     then
is made                   the mirror is awaited, so that the next look sees it
conflicts                 each relocation of the batch is tried alone: one record that somebody keeps writing
                          must not hold up the others
conflicts alone           left for the next round, which decides it again
its answer is lost        left for the next round: it looks first, and the epochs tell
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from drover.decide.recover import Relocation, Successor, batches, merged, no_replica, relocations
from drover.decide.suspicion import replacements
from drover.store.mirror import Mirror
from drover.store.port import CommitConflict, Store

log = structlog.get_logger("drover.daemon.recovery")

REACH_S = 2.0


class Recoverer:
    def __init__(
        self, store: Store, mirror: Mirror, now: Callable[[], float], successor: Successor = no_replica
    ) -> None:
        """`now()` is in seconds since the Unix epoch."""
        self._store = store
        self._mirror = mirror
        self._now = now
        self._successor = successor
        self._told: frozenset[str] = frozenset()

    async def recover(self) -> None:
        """One look, and the commits that follow from it. Raises what the store raises: call it again."""
        cluster, now = self._mirror.cluster, self._now()
        recovery = relocations(cluster, now, self._successor)
        for group in batches([*recovery.relocations, *replacements(cluster, now, self._successor)]):
            await self._commit(group)
        waiting = frozenset(f"{wait.object}: {wait.sentence}" for wait in recovery.waits)
        for sentence in sorted(waiting - self._told):
            log.info("a container of a lost host is not moved", why=sentence)
        self._told = waiting

    async def _commit(self, group: Sequence[Relocation]) -> None:
        try:
            revision = await self._store.commit(*merged(group))
        except CommitConflict as conflict:
            if len(group) == 1:
                log.info("decided again: the records changed meanwhile", container=group[0].name, keys=conflict.keys)
                return
            for one in group:
                await self._commit([one])
            return
        for one in group:
            log.warning(
                "a container moves off a host that is lost or suspect", name=one.name, lost=one.source, to=one.target
            )
        await self._mirror.reached(revision, REACH_S)
