"""`Session`: this host's lease, and with it the record that says the host is alive.

Theory of operation. The lease is renewed ten times in its time. `last_good` is the monotonic time at which the last
successful renewal was SENT: the store cannot have counted from earlier, so whoever must stop before the lease ends
counts from there (`fence_at`).

    what happens                         the lease                       fence_at
    taken, or renewed                    runs anew                       sent + self_fence_s
    a renewal fails                      runs on                         stays: it comes nearer
    the store says that it is over       is taken anew                   at once (-inf): others may take over already
    `pause`: the daemon ends in order    one of `pause_s` takes over     sent + pause_s - (ttl_s - self_fence_s)
    `end`: nothing here needs a lease    is given back                   never (inf)
    `retire`: the host goes down         is given back, for good         never (inf)

`revision` is that of the commit that said "alive" under this lease: claims that passed while the host had none were
committed before it, so a picture at `revision` or later shows all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from drover.errors import DroverError, NotFound
from drover.model import records as r
from drover.model.cluster import put
from drover.store.port import Lease, Store

log = structlog.get_logger()

RETRY_S = 0.1
RENEWALS = 10
"""How many renewals a lease's time holds: often enough that an election of the store's leader fits in between."""
SELF_FENCE_S = 2.5
ANNOUNCE_S = 1.0
NEVER, AT_ONCE = float("inf"), float("-inf")


class Session:
    def __init__(
        self,
        host: str,
        name: str,
        store: Store,
        ttl_s: float,
        now: Callable[[], float],
        self_fence_s: float = SELF_FENCE_S,
    ) -> None:
        """`name` is this start of the daemon, different at each start; `ttl_s` the lease's time, of which the host
        uses `self_fence_s` itself: what is left is for stopping."""
        self._host = host
        self._name = name
        self._store = store
        self._ttl_s = ttl_s
        self.self_fence_s = self_fence_s
        self._now = now
        self.lease: Lease | None = None
        self.last_good: float | None = None
        self.fence_at = AT_ONCE
        self.revision = 0
        self.held = asyncio.Event()
        self._retired = False
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change of `fence_at`; it must not block and not raise."""

    async def run(self) -> None:
        """Hold a lease for ever; a lost one is taken anew."""
        try:
            while True:
                try:
                    await self._keep(await self._begin())
                except NotFound:
                    log.warning("the lease was lost: taking a new one", host=self._host)
                    self._fence_from(None, 0.0)
                except DroverError as error:
                    log.warning("the lease cannot be taken yet", error=error.message)
                    await asyncio.sleep(RETRY_S)
                self.held.clear()
                if self._retired:
                    await asyncio.Event().wait()
        finally:
            self.held.clear()

    async def end(self) -> None:
        """Give the lease back: nothing here needs it, and nobody has to wait for its expiry."""
        if self.lease is not None:
            await self.lease.revoke()
        self.fence_at = NEVER
        self.on_change()

    async def retire(self) -> None:
        """Give the lease back and take none any more: this host goes down, and nothing that needs a lease runs."""
        self._retired = True
        self.held.clear()
        await self.end()

    async def announce_rest(self) -> None:
        """Say that this daemon ends in order, before its doors close: its successor is to be waited for. A store that
        does not answer soon is not waited for: then this looks like a death for a moment."""
        if self.lease is None or not self.held.is_set():
            return
        alive = r.Alive(host=self._host, session=self._name, since=self._now(), resting=True)
        try:
            async with asyncio.timeout(ANNOUNCE_S):
                await self._store.commit([put(r.key("alive", self._host), alive)], lease=self.lease)
        except (DroverError, TimeoutError) as error:
            log.info("the end of this daemon could not be announced", error=str(error))

    async def pause(self, pause_s: float) -> None:
        """Have the lease last for `pause_s` without renewals: the daemon ends in order and another one is to follow.
        If the store cannot be told, the lease ends when it ends."""
        try:
            lease, _, sent = await self._take(pause_s, resting=True)
        except DroverError as error:
            log.warning("the lease could not be prolonged", error=error.message)
            return
        self.lease = lease
        self._fence_from(sent, pause_s - (self._ttl_s - self.self_fence_s))

    async def _begin(self) -> Lease:
        lease, revision, sent = await self._take(self._ttl_s)
        self.lease, self.revision = lease, revision
        self._fence_from(sent, self.self_fence_s)
        self.held.set()
        return lease

    async def _take(self, ttl_s: float, resting: bool = False) -> tuple[Lease, int, float]:
        """A new lease with the record attached to it, the revision that says so, and when it was asked for."""
        sent = asyncio.get_running_loop().time()
        lease = await self._store.grant(ttl_s)
        alive = r.Alive(host=self._host, session=self._name, since=self._now(), resting=resting)
        revision = await self._store.commit([put(r.key("alive", self._host), alive)], lease=lease)
        return lease, revision, sent

    async def _keep(self, lease: Lease) -> None:
        pause_s = self._ttl_s / RENEWALS
        while True:
            await asyncio.sleep(pause_s)
            try:
                self._fence_from(await lease.renew(), self.self_fence_s)
                pause_s = self._ttl_s / RENEWALS
            except NotFound:
                raise
            except DroverError as error:
                log.warning("the lease was not renewed", error=error.message)
                pause_s = RETRY_S

    def _fence_from(self, sent: float | None, good_s: float) -> None:
        """What was sent at `sent` is good for `good_s`; None: nothing is."""
        self.last_good = sent
        self.fence_at = AT_ONCE if sent is None else sent + good_s
        self.on_change()
