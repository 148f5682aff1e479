"""`EventLog`: the cluster's own events: noticed by every daemon, written down by the one that leads.

Theory of operation. `decide.happenings` reads events off each batch of changes. Every daemon remembers the last
`REMEMBERED` it noticed; the leader writes what is not in the store yet. When the leader dies, the next one has noticed
the same events under the same keys, and writes those that are missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from drover.decide.happenings import happenings, written
from drover.model import records as r
from drover.store.mirror import Mirror
from drover.store.port import Batch, Store

REMEMBERED = 256
REACH_S = 2.0


class EventLog:
    def __init__(self, store: Store, mirror: Mirror, now: Callable[[], float]) -> None:
        """`now()` is in seconds since the Unix epoch."""
        self._store = store
        self._mirror = mirror
        self._now = now
        self._before = mirror.cluster
        self._pending: deque[tuple[str, r.Event]] = deque(maxlen=REMEMBERED)

    def follow(self) -> None:
        """Begin to notice: what is in the picture already is no news."""
        self._before = self._mirror.cluster
        self._mirror.on_batch(self._notice)

    def _notice(self, batch: Batch) -> None:
        after = self._mirror.cluster
        if self._before.revision:
            self._pending.extend(happenings(self._before, after, batch.changes, self._now()).items())
        self._before = after

    async def write(self) -> None:
        """A leader's duty. Raises what the store raises: call it again."""
        changes = written(self._mirror.cluster, dict(self._pending))
        if changes:
            await self._mirror.reached(await self._store.commit(changes), REACH_S)
        self._pending.clear()
