"""The API's routes about volumes and moves: reads from the mirror, writes as one conditional commit.

    method and path                    body                              answer
    GET /volumes, GET /volumes/NAME                                      `volume_view`
    GET /doctor/volumes                                                  {volumes: {NAME: […]}, hosts: {NAME: […]}}
    POST /volumes/NAME/options         {options: {NAME: VALUE}}          the volume
    POST /volumes/NAME/move            MoveBody                          the move
    POST /containers/REF/move          MoveBody                          the move
    GET /moves, GET /moves/KEY                                           `move_view`
    DELETE /moves/KEY                                                    the move, which is being aborted

A move's KEY is the container's cluster id, or `volume:NAME`. The answer to a POST comes at once: who wants to wait asks
for the move again until its phase is `done` or `aborted`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from drover.api.app import CONTEXT, body_of, commit, json_answer
from drover.api.membership import Decision
from drover.decide import moves
from drover.decide.backups import last_backup
from drover.decide.resolve import resolve_container
from drover.decide.volume_health import left_behind, pool_doubts, refuse_sync, volume_doubts
from drover.errors import Invalid, NotFound
from drover.model import records as r
from drover.model.cluster import Cluster, put
from drover.model.snapshots import taken_at
from drover.model.spec import parse_spec
from drover.model.volume_options import VolumeOptions, parse_options


class MoveBody(msgspec.Struct, frozen=True):
    """`limit_bytes_s` 0: as fast as it goes. `leave`: what of a container's own files stays behind."""

    target: str
    limit_bytes_s: int = 0
    compress: bool = False
    leave: tuple[r.Part, ...] = ()


class OptionsBody(msgspec.Struct, frozen=True):
    options: dict[str, str]


def volume_api_routes() -> list[web.RouteDef]:
    """The routes, for `ApiServer`."""
    return [
        web.get("/volumes", get_volumes),
        web.get("/doctor/volumes", get_doubts),
        web.get("/volumes/{name}", get_volume),
        web.post("/volumes/{name}/options", post_options),
        web.post("/volumes/{name}/move", post_volume_move),
        web.post("/containers/{ref:.+}/move", post_container_move),
        web.get("/moves", get_moves),
        web.get("/moves/{key}", get_move),
        web.delete("/moves/{key}", delete_move),
    ]


# -- volumes ---------------------------------------------------------------------------------------------------------


async def get_volumes(request: web.Request) -> web.Response:
    cluster = request.app[CONTEXT].mirror.cluster
    now = request.app[CONTEXT].clock()
    return json_answer([volume_view(cluster, volume, now) for _, volume in sorted(cluster.volumes.items())])


async def get_doubts(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    cluster, now = context.mirror.cluster, context.clock()
    volumes = {name: volume_doubts(cluster, volume, now) for name, volume in sorted(cluster.volumes.items())}
    return json_answer({"volumes": volumes, "hosts": pool_doubts(cluster)})


async def get_volume(request: web.Request) -> web.Response:
    return _volume_answer(request)


async def post_options(request: web.Request) -> web.Response:
    name, body = request.match_info["name"], await body_of(request, OptionsBody)
    await commit(request.app[CONTEXT], lambda cluster: _changed_options(cluster, name, body.options))
    return _volume_answer(request)


def _changed_options(cluster: Cluster, name: str, options: dict[str, str]) -> Decision:
    volume = named(cluster, name)
    was = VolumeOptions(volume.driver, volume.replicas, volume.interval_s, False, volume.size_bytes, volume.sync)
    wanted = parse_options(options, was)
    if wanted.engines:
        raise Invalid("these are no options of Drover's", hint="replicas, interval, size and sync are")
    refuse_sync(cluster, wanted.sync, moves.driver_of(cluster, volume))
    if wanted.driver != volume.driver:
        raise Invalid(
            f"the driver of volume {name} cannot be changed", hint="export it, and import it into one of that driver"
        )
    key = r.key("volumes", name)
    changed = msgspec.structs.replace(
        volume,
        replicas=wanted.replicas,
        interval_s=wanted.interval_s,
        size_bytes=wanted.size_bytes,
        sync=wanted.sync,
    )
    return Decision((put(key, changed),), {key: cluster.version(key)})


def named(cluster: Cluster, name: str) -> r.Volume:
    volume = cluster.volumes.get(name)
    if volume is None:
        raise NotFound(f"get {name}: no such volume", hint="`drover volume ls` lists them")
    return volume


def _volume_answer(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    volume = named(context.mirror.cluster, request.match_info["name"])
    return json_answer(volume_view(context.mirror.cluster, volume, context.clock()))


def _backup_view(cluster: Cluster, volume: r.Volume) -> dict[str, Any] | None:
    """Where and how often it is backed up, and how the last one went."""
    if volume.backup is None:
        return None
    plan, last = volume.backup, last_backup(cluster, volume)
    return {
        "repository": plan.repository,
        "every_s": plan.every_s,
        "keep": plan.keep,
        "due": plan.asked > last.asked,
        "at": last.at,
        "id": last.id,
        "failure": last.failure,
        "progress": last.progress,
    }


def volume_view(cluster: Cluster, volume: r.Volume, now: float) -> dict[str, Any]:
    """A volume's record, who uses it, and what each host has of it."""
    facts = {f.host: f for f in cluster.volume_facts.values() if f.volume == volume.name}
    holder = facts.get(volume.host)
    return {
        "name": volume.name,
        "host": volume.host,
        "epoch": volume.epoch,
        "driver": moves.driver_of(cluster, volume),
        "size_bytes": holder.size_bytes if holder else 0,
        "live": holder is not None and holder.epoch == volume.epoch,
        "size_wanted_bytes": volume.size_bytes,
        "size_limit_bytes": holder.limit_bytes if holder else 0,
        "replicas_wanted": volume.replicas,
        "interval_s": volume.interval_s,
        "sync": volume.sync,
        "read_only": volume.read_only,
        "filling": volume.filling.kind if volume.filling else "",
        "backup": _backup_view(cluster, volume),
        "leftovers": [
            {"host": host, "snapshot": one, "taken_at": taken_at(one)} for host, one in left_behind(cluster, volume)
        ],
        "doubts": volume_doubts(cluster, volume, now),
        "created_at": volume.created_at,
        "used_by": [
            one.name for one in cluster.containers.values() if volume.name in parse_spec(one.body).volume_names
        ],
        "copies": [_copy_view(one) for host, one in sorted(facts.items()) if host != volume.host and one.snapshots],
        "snapshots": list(holder.snapshots) if holder else [],
        "message": volume.note or (holder.message if holder else ""),
    }


def _copy_view(facts: r.VolumeFacts) -> dict[str, Any]:
    """What a host that does not hold the claim has. Times are seconds since the Unix epoch."""
    newest = facts.snapshots[-1]
    return {"host": facts.host, "snapshot": newest, "taken_at": taken_at(newest), "synced_at": facts.synced_at}


# -- moves -----------------------------------------------------------------------------------------------------------


async def post_volume_move(request: web.Request) -> web.Response:
    name, asked = request.match_info["name"], await _asked(request)
    return await _begin(request, lambda cluster, now: moves.begin_volume(cluster, name, asked, now))


async def post_container_move(request: web.Request) -> web.Response:
    ref, asked = request.match_info["ref"], await _asked(request)
    return await _begin(
        request, lambda cluster, now: moves.begin_container(cluster, resolve_container(cluster, ref), asked, now)
    )


async def _asked(request: web.Request) -> moves.Asked:
    body = await body_of(request, MoveBody)
    if body.limit_bytes_s < 0:
        raise Invalid("a bandwidth limit below nothing", hint="0 means none")
    return moves.Asked(target=body.target, limit_bytes_s=body.limit_bytes_s, compress=body.compress, leave=body.leave)


async def _begin(request: web.Request, begin: Callable[[Cluster, float], moves.Commit]) -> web.Response:
    context = request.app[CONTEXT]
    decision = await commit(context, lambda cluster: _decision(begin(cluster, context.clock())))
    key = next(change.key for change in decision.changes if change.key.startswith("moves/"))
    return _move_answer(context.mirror.cluster, key.partition("/")[2], 202)


def _decision(made: moves.Commit) -> Decision:
    return Decision(made.changes, made.expect)


async def get_moves(request: web.Request) -> web.Response:
    cluster = request.app[CONTEXT].mirror.cluster
    return json_answer([move_view(cluster, key, move) for key, move in sorted(cluster.moves.items())])


async def get_move(request: web.Request) -> web.Response:
    return _move_answer(request.app[CONTEXT].mirror.cluster, request.match_info["key"])


async def delete_move(request: web.Request) -> web.Response:
    context, key = request.app[CONTEXT], request.match_info["key"]
    await commit(context, lambda cluster: _decision(moves.cancelled(cluster, key, "it was cancelled")))
    return _move_answer(context.mirror.cluster, key)


def _move_answer(cluster: Cluster, key: str, status: int = 200) -> web.Response:
    move = cluster.moves.get(key)
    if move is None:
        raise NotFound("nothing is being moved under this key", hint="`drover volume ls` shows where things are")
    return json_answer(move_view(cluster, key, move), status)


def move_view(cluster: Cluster, key: str, move: r.Move) -> dict[str, Any]:
    """A move with how its copying goes; times are seconds since the Unix epoch, 0 for what has not happened."""
    facts = cluster.move_facts.get(f"{move.target}/{key}")
    if facts is None or facts.number != move.number:
        facts = r.MoveFacts(host=move.target)
    container = cluster.containers.get(move.container)
    return {
        "key": key,
        "name": container.name if container else ", ".join(move.volumes),
        **{field: getattr(move, field) for field in ("container", "source", "target", "number", "phase", "why")},
        "volumes": list(move.volumes),
        "leave": list(move.leave),
        "started_at": move.started_at,
        "stopping_at": move.stopping_at,
        "stopped_at": move.stopped_at,
        "handed_at": move.handed_at,
        "ended_at": move.ended_at,
        "rounds": facts.rounds,
        "moved_bytes": facts.moved_bytes,
        "last_bytes": facts.last_bytes,
        "rate_bytes_s": facts.rate_bytes_s,
        "left_s": facts.left_s,
        "message": facts.message,
    }
