"""The API's routes about a volume's life: any host takes the call, and the host that has the data does it.

    method and path                    body or query                            answer             done by
    GET /volumes/NAME/snapshots                                                 [snapshot_view]    any host
    POST /volumes/NAME/snapshots       {label}                                  {snapshot}         the claim's holder
    DELETE /volumes/NAME/snapshots/ID                                           {removed}          all that have it
    POST /volumes/NAME/rollback        {snapshot}                               the volume         any host
    POST /volumes/NAME/clone           {name, snapshot, host, read_only}        the new volume     the host asked for
    GET /volumes/NAME/export           ?snapshot=ID                             a tar archive      a host that has it
    POST /volumes/NAME/import          a tar archive                            the volume         this host
    POST /volumes/NAME/backup          {repository, every_s, keep, now, off}    the volume         any host
    GET /volumes/NAME/backups          ?repository=…                            [Kept]             this host
    POST /volumes/NAME/restore         {repository, backup, source}             the volume         its host, or this one

What takes long is answered at once: a volume whose `filling` is not empty is not ready yet (`GET /volumes/NAME`).
A call that another host has to do is passed on to its daemon as it is; that one never passes it on again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from drover.agent.act import Actor
from drover.agent.volumes import Wanted
from drover.api.app import CONTEXT, body_of, commit, json_answer
from drover.api.membership import Decision
from drover.api.volumes import named, volume_view
from drover.daemon.volumes import PASSED_ON, PeerVolumes
from drover.decide import fills, moves
from drover.drivers.backups.port import Backups
from drover.drivers.backups.restic import check_repository
from drover.errors import Conflict, Invalid, NotFound, Unavailable
from drover.model import records as r
from drover.model.cluster import Cluster, put
from drover.model.snapshots import is_id, label_of, taken_at

TAR = "application/x-tar"
PIECE_BYTES = 1024 * 1024


class LabelBody(msgspec.Struct, frozen=True):
    label: str = "snapshot"


class SnapshotBody(msgspec.Struct, frozen=True):
    snapshot: str


class CloneBody(msgspec.Struct, frozen=True):
    """`host` empty: the one that holds the volume."""

    name: str
    snapshot: str = ""
    host: str = ""
    read_only: bool = False


class BackupBody(msgspec.Struct, frozen=True):
    """`repository` empty: the one it has. `off`: no more backups of this volume."""

    repository: str = ""
    every_s: float | None = None
    keep: int | None = None
    now: bool = True
    off: bool = False


class RestoreBody(msgspec.Struct, frozen=True):
    """`source`: the volume that was backed up (empty: of the same name); `backup` empty: the newest."""

    repository: str = ""
    backup: str = ""
    source: str = ""


class LifeRoutes:
    """`host`: this host's name."""

    def __init__(self, host: str, actor: Actor, peers: PeerVolumes, backups: Backups) -> None:
        self._host = host
        self._keeper = actor.keeper
        self._life = actor.life
        self._peers = peers
        self._backups = backups

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/volumes/{name}/snapshots", self.list),
            web.post("/volumes/{name}/snapshots", self.take),
            web.delete("/volumes/{name}/snapshots/{id}", self.remove),
            web.post("/volumes/{name}/rollback", self.rollback),
            web.post("/volumes/{name}/clone", self.clone),
            web.get("/volumes/{name}/export", self.export),
            web.post("/volumes/{name}/import", self.take_in),
            web.post("/volumes/{name}/backup", self.back_up),
            web.get("/volumes/{name}/backups", self.backups),
            web.post("/volumes/{name}/restore", self.restore),
        ]

    # -- snapshots -----------------------------------------------------------------------------------------------

    async def list(self, request: web.Request) -> web.Response:
        cluster = _cluster(request)
        return json_answer(snapshot_views(cluster, named(cluster, request.match_info["name"]).name))

    async def take(self, request: web.Request) -> web.Response:
        body = await body_of(request, LabelBody)
        volume = fills.existing(_cluster(request), request.match_info["name"])
        if not self._mine(request, volume.host):
            return json_answer(await self._passed(request, volume.host))
        return json_answer({"snapshot": await self._life.snapshot(volume.name, body.label)})

    async def remove(self, request: web.Request) -> web.Response:
        cluster, snapshot = _cluster(request), request.match_info["id"]
        name = named(cluster, request.match_info["name"]).name
        if not is_id(snapshot):
            raise Invalid(f"{snapshot!r} is no snapshot id", hint=fills.see_snapshots(name))
        having = sorted(one.host for one in cluster.volume_facts.values() if _has(one, name, snapshot))
        for host in having:
            if host != self._host and PASSED_ON not in request.headers:
                await self._passed(request, host)
        if self._host in having:
            await self._life.forget(name, snapshot)
        return json_answer({"removed": snapshot})

    # -- made anew -----------------------------------------------------------------------------------------------

    async def rollback(self, request: web.Request) -> web.Response:
        name, body = request.match_info["name"], await body_of(request, SnapshotBody)
        now = request.app[CONTEXT].clock()
        return await _committed(request, name, lambda cluster: fills.rollback(cluster, name, body.snapshot, now))

    async def clone(self, request: web.Request) -> web.Response:
        """Where the snapshot is not there yet, the host of the clone gets it first."""
        name, body = request.match_info["name"], await body_of(request, CloneBody)
        cluster, now = _cluster(request), request.app[CONTEXT].clock()
        volume = fills.existing(cluster, name)
        host = body.host or volume.host
        if body.name in cluster.volumes:
            raise Conflict(f"a volume named {body.name} already exists", hint="choose another name")
        if host not in cluster.alive:
            raise Unavailable(f"host {host} is down, or there is none of that name", hint="see drover host ls")
        snapshot = body.snapshot or await self._snapshot_now(volume)
        if not self._mine(request, host):
            asked = msgspec.structs.replace(body, snapshot=snapshot, host=host)
            return json_answer(await self._peers.pass_on(host, "POST", request.path, msgspec.json.encode(asked)))
        await self._have(volume, snapshot)
        return await _committed(
            request,
            body.name,
            lambda now_: fills.clone(now_, name, body.name, snapshot, host, body.read_only, now),
        )

    async def _snapshot_now(self, volume: r.Volume) -> str:
        """A snapshot of a volume as it is, taken by its holder; where there are none of live files, the newest."""
        path, body = f"/volumes/{volume.name}/snapshots", msgspec.json.encode(LabelBody(label=""))
        if volume.host != self._host:
            return str((await self._peers.pass_on(volume.host, "POST", path, body))["snapshot"])
        return await self._life.snapshot(volume.name, "")

    async def _have(self, volume: r.Volume, snapshot: str) -> None:
        if volume.host != self._host and snapshot not in await self._keeper.driver(volume).snapshots(volume.name):
            wanted = Wanted(volume=volume.name, epoch=volume.epoch, snapshot=snapshot)
            await self._keeper.receive(self._peers, volume.host, wanted, lambda _: None)
        await self._keeper.look(volume.name)
        await self._keeper.told(volume.name)

    async def take_in(self, request: web.Request) -> web.Response:
        name, now = request.match_info["name"], request.app[CONTEXT].clock()
        await _committed(request, name, lambda cluster: fills.imported(cluster, name, self._host, now))
        await self._life.take_in(name, _body(request))
        return _shown(request, name)

    # -- archives ------------------------------------------------------------------------------------------------

    async def export(self, request: web.Request) -> web.StreamResponse:
        cluster, snapshot = _cluster(request), request.query.get("snapshot", "")
        volume = named(cluster, request.match_info["name"])
        if not snapshot:
            fills.existing(cluster, volume.name)
        host = self._host_with(cluster, volume, snapshot)
        here = self._mine(request, host)
        pieces = self._life.export(volume.name, snapshot) if here else self._peers.read(host, request.path_qs)
        async with aclosing(pieces):
            first = await anext(pieces, b"")
            response = web.StreamResponse(headers={"Content-Type": TAR})
            response.enable_chunked_encoding()
            await response.prepare(request)
            try:
                await response.write(first)
                async for piece in pieces:
                    await response.write(piece)
            except Exception:
                if request.transport is not None:  # it must not look finished
                    request.transport.abort()
                raise
            await response.write_eof()
            return response

    def _host_with(self, cluster: Cluster, volume: r.Volume, snapshot: str) -> str:
        """Where to read: here if it is here, else at the holder or another host that has it."""
        having = [one.host for one in cluster.volume_facts.values() if _has(one, volume.name, snapshot)]
        best = [host for host in (self._host, volume.host, *having) if host in having and host in cluster.alive]
        if snapshot and not best:
            raise NotFound(f"no host that is up has snapshot {snapshot} of {volume.name}")
        return best[0] if snapshot else volume.host

    # -- backups -------------------------------------------------------------------------------------------------

    async def back_up(self, request: web.Request) -> web.Response:
        name, body = request.match_info["name"], await body_of(request, BackupBody)
        if body.repository:
            check_repository(body.repository)
        return await _committed(request, name, lambda cluster: _planned(cluster, name, body))

    async def backups(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        repository = _repository(_cluster(request), name, request.query.get("repository", ""))
        return json_answer(await self._backups.kept(repository, name))

    async def restore(self, request: web.Request) -> web.Response:
        name, body = request.match_info["name"], await body_of(request, RestoreBody)
        cluster, now = _cluster(request), request.app[CONTEXT].clock()
        volume = cluster.volumes.get(name)
        if volume is not None and volume.host and not self._mine(request, volume.host):
            return json_answer(await self._passed(request, volume.host))
        source = body.source or name
        repository = _repository(cluster, source, body.repository)
        found = [one.id for one in await self._backups.kept(repository, source) if one.id.startswith(body.backup)]
        if not found:
            raise NotFound(
                f"{repository} has no backup {body.backup or 'at all'} of volume {source}",
                hint=f"`drover volume backups {source} --from {repository}` lists them",
            )
        fill = r.Fill(kind="restore", repository=repository, source=source, snapshot=found[-1])
        return await _committed(request, name, lambda seen: fills.restore(seen, name, fill, self._host, now))

    # -- who does it ---------------------------------------------------------------------------------------------

    def _mine(self, request: web.Request, host: str) -> bool:
        return host == self._host or PASSED_ON in request.headers

    async def _passed(self, request: web.Request, host: str) -> Any:
        return await self._peers.pass_on(host, request.method, request.path, await request.read())


def _cluster(request: web.Request) -> Cluster:
    return request.app[CONTEXT].mirror.cluster


async def _committed(request: web.Request, name: str, decide: Callable[[Cluster], moves.Commit]) -> web.Response:
    """Commit a decision about a volume; the volume as it is then."""
    await commit(request.app[CONTEXT], lambda cluster: _decision(decide(cluster)))
    return _shown(request, name)


def _shown(request: web.Request, name: str) -> web.Response:
    context = request.app[CONTEXT]
    return json_answer(volume_view(context.mirror.cluster, named(context.mirror.cluster, name), context.clock()))


def _decision(made: moves.Commit) -> Decision:
    return Decision(made.changes, made.expect)


def _has(facts: r.VolumeFacts, name: str, snapshot: str) -> bool:
    return facts.volume == name and snapshot in facts.snapshots


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    """What the client sends, to its end. Raises `Unavailable` if it breaks off."""
    try:
        async for piece in request.content.iter_chunked(PIECE_BYTES):
            yield piece
    except (ConnectionError, web.RequestPayloadError) as error:
        raise Unavailable("the archive broke off: nothing was imported", hint="send it again") from error


def _planned(cluster: Cluster, name: str, body: BackupBody) -> moves.Commit:
    """The volume's record with what is to be backed up when."""
    volume = fills.existing(cluster, name)
    old = volume.backup or r.Backup(repository="")
    plan = r.Backup(
        repository=body.repository or old.repository,
        every_s=old.every_s if body.every_s is None else body.every_s,
        keep=old.keep if body.keep is None else body.keep,
        asked=old.asked + body.now,
    )
    if not plan.repository and not body.off:
        raise Invalid(f"volume {name} has no place for backups yet", hint="name one with --to")
    key = r.key("volumes", name)
    changed = msgspec.structs.replace(volume, backup=None if body.off else plan)
    return moves.Commit((put(key, changed),), {key: cluster.version(key)})


def _repository(cluster: Cluster, name: str, asked: str) -> str:
    volume = cluster.volumes.get(name)
    found = asked or (volume.backup.repository if volume is not None and volume.backup is not None else "")
    if not found:
        raise Invalid(f"where the backups of volume {name} are is not known", hint="name the place with --from")
    return check_repository(found)


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
