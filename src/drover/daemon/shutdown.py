"""This host goes down in order: what runs here goes on elsewhere first, then the lease is given back.

Theory of operation. A daemon that merely ends (SIGTERM: a restart, an upgrade) stops no container. That the whole
machine goes down is another thing, and somebody has to say so: `drover host shutdown`, which the unit
`drover-shutdown.service` runs before systemd stops anything.

    state       what happens                                                    then
    serving     -                                                               moving, when asked
    moving      the host's record says `shutdown`: the leader moves what runs   stopping, when nothing is left that
                here, all at once, in two phases each (`decide.evacuate`)       moves, or at the deadline
    stopping    what is exclusive and still here is stopped for good; then the  gone
                lease is given back: what could not be moved is recovered by
                others at once, and not a lease's time later
    gone        nothing is started here any more; the API answers until the     serving, by the next daemon
                daemon ends
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import structlog
from aiohttp import web

from drover.agent.fence import Fence
from drover.agent.session import Session
from drover.api.app import json_answer
from drover.api.views import evacuation_view
from drover.decide.evacuate import evacuation
from drover.errors import DeadlineExceeded, DroverError
from drover.model import records as r
from drover.model.cluster import Cluster, put
from drover.store.mirror import Mirror
from drover.store.port import CommitConflict, Store

log = structlog.get_logger("drover.daemon.shutdown")

DEADLINE_S = 30.0
RETRY_S = 0.5
STOP_S = 10.0
State = Literal["serving", "moving", "stopping", "gone"]


class HostShutdown:
    def __init__(
        self, host: str, store: Store, mirror: Mirror, session: Session, fence: Fence, now: Callable[[], float]
    ) -> None:
        """`now()` is in seconds since the Unix epoch."""
        self._host = host
        self._store = store
        self._mirror = mirror
        self._session = session
        self._fence = fence
        self._now = now
        self._task: asyncio.Task[None] | None = None
        self.state: State = "serving"

    def routes(self) -> list[web.RouteDef]:
        """POST /shutdown begins it, GET /shutdown tells how far it is: `{state, items}`."""
        return [web.post("/shutdown", self._post), web.get("/shutdown", self._get)]

    async def _post(self, request: web.Request) -> web.Response:
        deadline_s = float(request.query.get("deadline_s", DEADLINE_S))
        if self._task is None:
            self._task = asyncio.create_task(self.hand_over(deadline_s), name="shutdown")
        return json_answer(self._view(), 202)

    async def _get(self, request: web.Request) -> web.Response:
        return json_answer(self._view())

    def _view(self) -> dict[str, Any]:
        return {"state": self.state, **evacuation_view(self._mirror.cluster, self._host, self._now())}

    async def hand_over(self, deadline_s: float = DEADLINE_S) -> None:
        """Move what can be moved within `deadline_s`, stop what is exclusive, give the lease back. Raises nothing: the
        machine goes down whatever happens, and a lease that could not be given back ends by itself."""
        self.state = "moving"
        with contextlib.suppress(DroverError):
            await self._mark("shutdown")
            await self._moved(deadline_s)
        self.state = "stopping"
        log.info("this host shuts down: what is exclusive stops, then the lease is given back", host=self._host)
        if await self._fence.retire(STOP_S):
            await self._session.retire()
        self.state = "gone"

    async def _moved(self, deadline_s: float) -> None:
        def empty(cluster: Cluster) -> bool:
            return self._host not in cluster.hosts or not evacuation(cluster, self._host, self._now()).in_progress

        try:
            await self._mirror.until(empty, deadline_s, "the containers to leave", ("hosts", "placements", "moves"))
        except DeadlineExceeded:
            log.warning("not everything has left in time", after_s=deadline_s)

    async def _mark(self, scheduling: r.Scheduling) -> None:
        """Write it into the host's record, over whatever it says now. Raises what the store raises."""
        while (host := self._mirror.cluster.hosts.get(self._host)) and host.scheduling != scheduling:
            key = r.key("hosts", self._host)
            changed = msgspec.structs.replace(host, scheduling=scheduling)
            with contextlib.suppress(CommitConflict):
                revision = await self._store.commit([put(key, changed)], {key: self._mirror.cluster.version(key)})
                await self._mirror.reached(revision, RETRY_S)

    async def return_to_service(self) -> None:
        """A daemon that starts takes the mark of its predecessor away; then this task has nothing to do any more."""
        await self._session.held.wait()
        while self.state == "serving":
            host = self._mirror.cluster.hosts.get(self._host)
            try:
                if self._mirror.healthy and host is not None:
                    await (self._mark("active") if host.scheduling == "shutdown" else asyncio.sleep(0))
                    break
            except DroverError as error:
                log.warning("the mark of the shutdown is not taken away yet", error=error.message)
            await asyncio.sleep(RETRY_S)
        await asyncio.Event().wait()
