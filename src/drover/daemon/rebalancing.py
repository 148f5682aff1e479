"""Making the load even again: asked for (`drover rebalance`), or by the leader itself where the setting says so.

method and path        body                 answer
POST /rebalance        {dry_run, limit}     {proposals: [{name, source, target, why}], moving}: without `dry_run` at
                                            most AT_ONCE of them are begun, one per service; call again for the rest
GET, PUT /rebalance    {automatic: bool}    {automatic}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog
from aiohttp import web

from drover.api.app import CONTEXT, body_of, commit, json_answer
from drover.api.membership import Decision
from drover.daemon.evacuation import begun
from drover.decide.moves import active
from drover.decide.rebalance import AUTOMATIC, Proposal, automatic, proposals
from drover.model import records as r
from drover.model.cluster import Cluster, put
from drover.store.mirror import Mirror
from drover.store.port import Store

log = structlog.get_logger("drover.daemon.rebalancing")

AT_ONCE = 2
LIMIT = 50
REACH_S = 2.0
KEY = r.key("settings", AUTOMATIC)


class RebalanceBody(msgspec.Struct, frozen=True):
    dry_run: bool = False
    limit: int = LIMIT


class AutomaticBody(msgspec.Struct, frozen=True):
    automatic: bool


class Rebalancer:
    def __init__(self, store: Store, mirror: Mirror, now: Callable[[], float]) -> None:
        """`now()` is in seconds since the Unix epoch."""
        self._store = store
        self._mirror = mirror
        self._now = now

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/rebalance", self._post),
            web.get("/rebalance", self._get),
            web.put("/rebalance", self._put),
        ]

    async def by_itself(self) -> None:
        """A leader's duty: one move, if that is wanted and all is quiet."""
        found = automatic(self._mirror.cluster, self._now())
        if found is not None:
            await self._begin([found])

    async def _begin(self, chosen: Sequence[Proposal]) -> None:
        for one in chosen:
            log.info("a container moves to make the load even", name=one.name, to=one.target, why=one.why)
        revisions = [await begun(self._store, one.commit) for one in chosen]
        await self._mirror.reached(max(revisions, default=0), REACH_S)

    async def _post(self, request: web.Request) -> web.Response:
        body, cluster = await body_of(request, RebalanceBody), self._mirror.cluster
        moving = sum(True for _ in active(cluster))
        found = list(proposals(cluster, self._now(), min(body.limit, LIMIT)))
        if not body.dry_run:
            await self._begin(found[: max(0, AT_ONCE - moving)])
        return json_answer({"proposals": [_view(one) for one in found], "moving": moving})

    async def _get(self, request: web.Request) -> web.Response:
        return json_answer({"automatic": _is_automatic(self._mirror.cluster)})

    async def _put(self, request: web.Request) -> web.Response:
        body = await body_of(request, AutomaticBody)
        setting = r.Setting(value="auto" if body.automatic else "off")
        await commit(request.app[CONTEXT], lambda now: Decision((put(KEY, setting),), {KEY: now.version(KEY)}))
        return await self._get(request)


def _is_automatic(cluster: Cluster) -> bool:
    setting = cluster.rows("settings", r.Setting).get(AUTOMATIC)
    return setting is not None and setting.value == "auto"


def _view(one: Proposal) -> dict[str, Any]:
    return {"name": one.name, "source": one.source, "target": one.target, "why": one.why}
