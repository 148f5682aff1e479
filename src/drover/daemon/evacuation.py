"""The leader's duties to move containers off hosts: those that drain or shut down (`decide.evacuate`), and those where
a container is unhealthy whatever is done there (`decide.unhealthy`), committed move by move.

Each move is a conditional commit of its own: one that conflicts, or whose answer is lost, is decided again in the next
round, which begins by looking.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from drover.decide.evacuate import emptied_hosts, evacuation
from drover.decide.moves import Commit
from drover.decide.unhealthy import moves_of_unhealthy
from drover.store.mirror import Mirror
from drover.store.port import CommitConflict, Store

log = structlog.get_logger("drover.daemon.evacuation")

REACH_S = 2.0


class Evacuator:
    def __init__(self, store: Store, mirror: Mirror, now: Callable[[], float]) -> None:
        """`now()` is in seconds since the Unix epoch."""
        self._store = store
        self._mirror = mirror
        self._now = now

    async def evacuate(self) -> None:
        """One look, and the moves that begin now. Raises what the store raises: call it again."""
        for host in emptied_hosts(self._mirror.cluster):
            begin = evacuation(self._mirror.cluster, host, self._now()).begin
            revisions = [await begun(self._store, commit) for commit in begin]
            if revisions:
                await self._mirror.reached(max(revisions), REACH_S)

    async def heal(self) -> None:
        """Unhealthy containers that restarts did not help try another host."""
        found = list(moves_of_unhealthy(self._mirror.cluster, self._now()))
        for name, commit in found:
            log.info("an unhealthy container moves", name=name)
            await self._mirror.reached(await begun(self._store, commit), REACH_S)


async def begun(store: Store, commit: Commit) -> int:
    """Write a move's record; its revision, or 0 if others changed what it rests on meanwhile."""
    try:
        return await store.commit(list(commit.changes), commit.expect)
    except CommitConflict as conflict:
        log.info("a move is decided again: the records changed meanwhile", keys=conflict.keys)
        return 0
