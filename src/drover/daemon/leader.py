"""`Leadership`: one host at a time does what only one may do, and any host can be it.

The leader is whoever has made the key `settings/leader` first; the key is attached to the host's lease, so it vanishes
with the leader. A leader that was cut off may believe for a moment that it still leads: everything it does is a
conditional commit, which then fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from drover.agent.session import Session
from drover.errors import DroverError
from drover.model import records as r
from drover.model.cluster import put
from drover.store.mirror import Mirror
from drover.store.port import Batch, CommitConflict, Store
from drover.store.waking import woken

log = structlog.get_logger("drover.daemon.leader")

LEADER_KEY = r.key("settings", "leader")
ROUND_S = 1.0
FOLLOWED = frozenset(
    (
        "settings",
        "alive",
        "hosts",
        "members",
        "lost",
        "suspects",
        "host_facts",
        "placements",
        "volumes",
        "addresses",
        "moves",
    )
)
Duty = Callable[[], Awaitable[None]]


class Leadership:
    def __init__(self, host: str, store: Store, mirror: Mirror, session: Session, duties: Sequence[Duty]) -> None:
        """`duties` are called again and again while this host leads; each looks, and does at most one thing."""
        self._host = host
        self._store = store
        self._mirror = mirror
        self._session = session
        self._duties = duties
        self._wake = asyncio.Event()

    @property
    def leader(self) -> str:
        """The host that leads; empty if none does now."""
        found = self._mirror.cluster.rows("settings", r.Setting).get("leader")
        return found.value if found else ""

    async def run(self) -> None:
        self._mirror.on_batch(self._on_batch)
        while True:
            await self._session.held.wait()
            if self._mirror.healthy:
                await self._round()
            await woken(self._wake, self._pause_s())

    def _pause_s(self) -> float | None:
        """While another host leads there is nothing to do until the records say that it does no more."""
        return ROUND_S if self.leader in ("", self._host) else None

    def _on_batch(self, batch: Batch) -> None:
        if any(change.key.split("/", 1)[0] in FOLLOWED for change in batch.changes):
            self._wake.set()

    async def _round(self) -> None:
        if not self.leader:
            await self._claim()
        if self.leader != self._host:
            return
        for duty in self._duties:
            try:
                await duty()
            except DroverError as error:
                log.warning("a leader's duty failed; tried again", error=error.message)

    async def _claim(self) -> None:
        lease = self._session.lease
        if lease is None:
            return
        try:
            revision = await self._store.commit(
                [put(LEADER_KEY, r.Setting(value=self._host))], expect={LEADER_KEY: 0}, lease=lease
            )
            await self._mirror.reached(revision, ROUND_S)
            log.info("this host leads", host=self._host)
        except CommitConflict:
            return
        except DroverError as error:
            log.warning("leadership could not be claimed", error=error.message)
