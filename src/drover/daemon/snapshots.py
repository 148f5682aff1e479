"""The API's routes about a volume's snapshots: any host takes the call, and the host that has the data does it.

    method and path                         body                   answer                   done by
    GET /volumes/NAME/snapshots                                    [snapshot_view]          any host
    POST /volumes/NAME/snapshots            {label}                {snapshot}               the claim's holder
    POST /volumes/NAME/rollback             {snapshot}             {aside}                  the claim's holder
    POST /volumes/NAME/clone                {name, snapshot}       {name}                   the claim's holder
    DELETE /volumes/NAME/snapshots/ID                              {removed}                every host that has it

A call that another host has to do is passed on to its daemon as it is; that one never passes it on again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from drover.agent.volumes import VolumeKeeper
from drover.api.app import body_of, json_answer
from drover.daemon.volumes import PeerVolumes
from drover.errors import Conflict, Invalid
from drover.model.cluster import Cluster
from drover.model.snapshots import is_id, label_of, taken_at
from drover.store.mirror import Mirror

PASSED_ON = "Drover-Passed-On"


class LabelBody(msgspec.Struct, frozen=True):
    label: str = "snapshot"


class SnapshotBody(msgspec.Struct, frozen=True):
    snapshot: str


class CloneBody(msgspec.Struct, frozen=True):
    name: str
    snapshot: str = ""


class SnapshotRoutes:
    """`host`: this host's name."""

    def __init__(self, host: str, mirror: Mirror, keeper: VolumeKeeper, peers: PeerVolumes) -> None:
        self._host = host
        self._mirror = mirror
        self._keeper = keeper
        self._peers = peers

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/volumes/{name}/snapshots", self.list),
            web.post("/volumes/{name}/snapshots", self.take),
            web.post("/volumes/{name}/rollback", self.rollback),
            web.post("/volumes/{name}/clone", self.clone),
            web.delete("/volumes/{name}/snapshots/{id}", self.remove),
        ]

    async def list(self, request: web.Request) -> web.Response:
        name = self._keeper.record(request.match_info["name"]).name
        return json_answer(snapshot_views(self._mirror.cluster, name))

    async def take(self, request: web.Request) -> web.Response:
        body = await body_of(request, LabelBody)

        async def here(name: str) -> dict[str, Any]:
            return {"snapshot": await self._keeper.snapshot(name, body.label)}

        return await self._at_holder(request, here)

    async def rollback(self, request: web.Request) -> web.Response:
        body = await body_of(request, SnapshotBody)

        async def here(name: str) -> dict[str, Any]:
            return {"aside": await self._keeper.rollback(name, body.snapshot)}

        return await self._at_holder(request, here)

    async def clone(self, request: web.Request) -> web.Response:
        body = await body_of(request, CloneBody)
        if body.name in self._mirror.cluster.volumes:
            raise Conflict(f"a volume named {body.name} already exists", hint="choose another name")

        async def here(name: str) -> dict[str, Any]:
            snapshot = body.snapshot or await self._keeper.snapshot(name, "clone")
            await self._keeper.clone(name, body.name, snapshot)
            if not body.snapshot:
                await self._keeper.forget(name, snapshot)
            return {"name": body.name}

        return await self._at_holder(request, here)

    async def remove(self, request: web.Request) -> web.Response:
        name, snapshot = self._keeper.record(request.match_info["name"]).name, request.match_info["id"]
        if not is_id(snapshot):
            raise Invalid(f"{snapshot!r} is no snapshot id", hint=f"`drover volume snapshots {name}` lists them")
        facts = [one for one in self._mirror.cluster.volume_facts.values() if one.volume == name]
        for host in sorted(one.host for one in facts if snapshot in one.snapshots and one.host != self._host):
            if PASSED_ON not in request.headers:
                await self._peers.pass_on(host, request.method, request.path, b"")
        if any(one.host == self._host and snapshot in one.snapshots for one in facts):
            await self._keeper.forget(name, snapshot)
        return json_answer({"removed": snapshot})

    async def _at_holder(self, request: web.Request, here: Callable[[str], Awaitable[dict[str, Any]]]) -> web.Response:
        """Do it here if this host holds the claim, else have the holder do it."""
        volume = self._keeper.record(request.match_info["name"])
        if not volume.host:
            raise Conflict(f"volume {volume.name} has never been used: it has no data yet")
        if volume.host == self._host or PASSED_ON in request.headers:
            return json_answer(await here(volume.name))
        return json_answer(await self._peers.pass_on(volume.host, request.method, request.path, await request.read()))


def snapshot_views(cluster: Cluster, volume: str) -> list[dict[str, Any]]:
    """Every snapshot of a volume, oldest first, with the hosts that have it. Times are seconds since the epoch."""
    hosts: dict[str, list[str]] = {}
    for facts in cluster.volume_facts.values():
        for snapshot in facts.snapshots if facts.volume == volume else ():
            hosts.setdefault(snapshot, []).append(facts.host)
    return [
        {"id": one, "name": label_of(one), "taken_at": taken_at(one), "hosts": sorted(hosts[one])}
        for one in sorted(hosts)
    ]
