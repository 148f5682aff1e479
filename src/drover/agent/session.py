"""`Session`: this host's lease, and with it the record that says the host is alive.

The lease is renewed every third of its time. `last_good` is the monotonic time at which the last successful renewal was
SENT: the store cannot have counted from earlier, so whoever must stop before the lease ends counts from there.
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

RETRY_S = 0.3


class Session:
    def __init__(self, host: str, name: str, store: Store, ttl_s: float, now: Callable[[], float]) -> None:
        """`name` is this start of the daemon, different at each start; `ttl_s` the lease's time."""
        self._host = host
        self._name = name
        self._store = store
        self._ttl_s = ttl_s
        self._now = now
        self.lease: Lease | None = None
        self.last_good: float | None = None
        self.held = asyncio.Event()

    async def run(self) -> None:
        """Hold a lease for ever; a lost one is taken anew. Ends the lease when cancelled."""
        try:
            while True:
                try:
                    await self._keep(await self._begin())
                except NotFound:
                    log.warning("the lease was lost: taking a new one", host=self._host)
                except DroverError as error:
                    log.warning("the lease cannot be taken yet", error=error.message)
                    await asyncio.sleep(RETRY_S)
                self.held.clear()
        finally:
            self.held.clear()

    async def end(self) -> None:
        """Give the lease back: the host leaves in order, and nobody has to wait for its expiry."""
        if self.lease is not None:
            await self.lease.revoke()

    async def _begin(self) -> Lease:
        sent = asyncio.get_running_loop().time()
        lease = await self._store.grant(self._ttl_s)
        alive = r.Alive(host=self._host, session=self._name, since=self._now())
        await self._store.commit([put(r.key("alive", self._host), alive)], lease=lease)
        self.lease, self.last_good = lease, sent
        self.held.set()
        return lease

    async def _keep(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            try:
                self.last_good = await lease.renew()
            except NotFound:
                raise
            except DroverError as error:
                log.warning("the lease was not renewed", error=error.message)
                await asyncio.sleep(RETRY_S)
