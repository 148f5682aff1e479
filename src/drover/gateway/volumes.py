"""Volumes: named ones are records of the cluster; anonymous ones belong to the engine whose container made them.

    volume                          known by           inspect, list            rm
    created, or used by its name    a record           the record; mountpoint   the record is marked; the host that
                                                       from its host's engine   has the data removes it and the record
    made by an engine (anonymous)   the engine         that engine's words      that engine
    of another driver               this host's engine that engine's words      that engine

A volume is in use while a container's record names it, whether that container runs or not, as in Docker.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from drover.decide.health import down_sentence
from drover.decide.moves import driver_of, volume_record
from drover.decide.replicas import lag_s
from drover.decide.volume_health import refuse_sync, volume_doubts
from drover.errors import Conflict, Invalid, NotFound, Unavailable
from drover.gateway.call import Call, EngineResponse, Outcome, Relay, Reply
from drover.gateway.commits import Draft, commit_decided
from drover.gateway.context import Context, decoded, json_reply, json_text, query_of, succeeded, target_of
from drover.gateway.filters import (
    Filters,
    filters_text,
    flag_value,
    label_filters_match,
    parse_filters,
    refuse_unknown,
    text_matches,
)
from drover.gateway.networks import rfc3339
from drover.gateway.versions import version_of
from drover.model import records as r
from drover.model.cluster import Cluster, delete, put
from drover.model.spec import parse_spec
from drover.model.volume_options import options_of

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
REMOVE_DEADLINE_S = 60.0
LIST_FILTERS = frozenset({"dangling", "driver", "label", "name"})
PRUNE_FILTERS = frozenset({"label", "label!", "all"})
ANONYMOUS_ONLY_SINCE = (1, 42)
"""From this API version on, `prune` spares named volumes unless asked for `all`."""
ANONYMOUS = re.compile(r"[0-9a-f]{64}")


class Asked(msgspec.Struct, rename="pascal"):
    """What a volume's create body says; kept verbatim in the record."""

    name: str | None = None
    driver: str | None = None
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None


async def create(ctx: Context, call: Call) -> Outcome:
    body = await json_text(call)
    asked = decoded(body, Asked)
    if asked.driver not in (None, "", "local"):
        return Relay(host=ctx.front(), body=body.encode())
    name = asked.name or ctx.new_id()
    refuse_name(name)
    now = ctx.clock()
    await commit_decided(ctx, lambda cluster: draft(cluster, name, body, now))
    return json_reply(shape(ctx.cluster, ctx.cluster.volumes[name], now), 201)


def refuse_name(name: str) -> None:
    """Raise the engine's `Invalid` for what cannot be a volume's name."""
    if len(name) == 1:
        raise Invalid(f"create {name}: volume name is too short, names should be at least two alphanumeric characters")
    if not NAME.fullmatch(name):
        raise Invalid(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )


def draft(cluster: Cluster, name: str, body: str, now: float) -> Draft:
    """The record of a new volume; nothing if there is one, which `create` answers with, as an engine does."""
    key = r.key("volumes", name)
    known = cluster.volumes.get(name)
    if known is not None and known.removed:
        raise Conflict(f"volume {name} is being removed", hint="try again in a moment")
    if known is not None:
        return Draft([], {})
    record = volume_record(name, body, now)
    refuse_sync(cluster, record.sync, record.driver)
    return Draft([put(key, record)], {key: 0})


def shape(cluster: Cluster, volume: r.Volume, now: float, seen: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A volume as the engine shows it; `seen`: what the engine that has it says. `Status`, which is the driver's to
    fill, says what only a cluster has."""
    asked = decoded(volume.body or "{}", Asked)
    status = {} if options_of(volume.body).engines else {"Status": status_of(cluster, volume, now)}
    return {
        **status,
        "CreatedAt": rfc3339(volume.created_at),
        "Driver": "local",
        "Labels": asked.labels,
        "Mountpoint": (seen or {}).get("Mountpoint", ""),
        "Name": volume.name,
        "Options": asked.driver_opts,
        "Scope": "local",
    }


def status_of(cluster: Cluster, volume: r.Volume, now: float) -> dict[str, Any]:
    """Host, driver, size and limit in bytes, copies with their lag in seconds, and what is wrong."""
    facts = {one.host: one for one in cluster.volume_facts.values() if one.volume == volume.name}
    copies = {host: round(lag_s(one, now), 1) for host, one in sorted(facts.items()) if one.snapshots}
    copies.pop(volume.host, None)
    return {
        "Host": volume.host,
        "Driver": driver_of(cluster, volume),
        "Size": facts[volume.host].size_bytes if volume.host in facts else 0,
        "SizeLimit": volume.size_bytes,
        "Replicas": copies,
        "Lag": min(copies.values(), default=None),
        "Doubts": volume_doubts(cluster, volume, now),
    }


def usage_of(cluster: Cluster, volume: r.Volume) -> dict[str, int]:
    """What `docker system df -v` shows of a cluster volume: its size (-1: not known), how many containers use it."""
    facts = cluster.volume_facts.get(f"{volume.host}/{volume.name}")
    size_bytes = facts.size_bytes if facts is not None and facts.size_bytes else -1
    return {"Size": size_bytes, "RefCount": len(users_of(cluster, volume.name))}


async def inspect(ctx: Context, call: Call) -> Outcome:
    name = call.params["name"]
    volume = ctx.cluster.volumes.get(name)
    if volume is None:
        host = await _host_with(ctx, name)
        return Relay(host=host, edit=ctx.ids.to_cluster)
    return json_reply(shape(ctx.cluster, volume, ctx.clock(), await _seen(ctx, volume)))


async def _seen(ctx: Context, volume: r.Volume) -> dict[str, Any] | None:
    """What the engine of the volume's host says of it; None if it cannot say now."""
    if not volume.host or down_sentence(ctx.cluster, volume.host):
        return None
    answer = await ctx.ask(volume.host, "GET", _path(volume.name))
    return decoded(answer.body, dict[str, Any]) if answer is not None and answer.status == 200 else None


def _path(name: str) -> str:
    return f"/volumes/{quote(name, safe='')}"


async def _host_with(ctx: Context, name: str) -> str:
    """A host whose engine has a volume without a record. Raises `NotFound` in Docker's words."""
    for host, answer in (await ctx.ask_all("GET", _path(name))).items():
        if answer.status == 200:
            return host
    raise NotFound(f"get {name}: no such volume")


async def list_volumes(ctx: Context, call: Call) -> Outcome:
    filters = parse_filters(call.query("filters"))
    refuse_unknown(filters, LIST_FILTERS)
    flag_value(filters, "dangling", False)
    query = query_of(filters=filters_text(filters))
    every = succeeded(await ctx.ask_all("GET", target_of(call, "/volumes")))
    matching = succeeded(await ctx.ask_all("GET", target_of(call, "/volumes", query))) if query else every
    seen = _engines_words(every)
    cluster, now = ctx.cluster, ctx.clock()
    found = [shape(cluster, volume, now, seen.get(volume.name)) for volume in cluster.volumes.values()]
    ours = [item for item in found if _matches(ctx.cluster, item, filters)]
    theirs = [item for name, item in _engines_words(matching).items() if name not in ctx.cluster.volumes]
    return json_reply({"Volumes": [*ours, *theirs], "Warnings": None})


def _engines_words(answers: Mapping[str, EngineResponse]) -> dict[str, dict[str, Any]]:
    """Volume names to what the engines say of them."""
    lists = [decoded(answer.body, dict[str, Any]).get("Volumes") or [] for answer in answers.values()]
    return {item["Name"]: item for items in lists for item in items}


def _matches(cluster: Cluster, item: Mapping[str, Any], filters: Filters) -> bool:
    used = bool(users_of(cluster, item["Name"]))
    return (
        ("dangling" not in filters or flag_value(filters, "dangling", False) != used)
        and text_matches(filters.get("name"), item["Name"])
        and "local" in filters.get("driver", ["local"])
        and label_filters_match(filters, item["Labels"] or {})
    )


def users_of(cluster: Cluster, name: str) -> list[str]:
    """The ids of the containers whose records name a volume."""
    containers = cluster.containers.values()
    return [container.id for container in containers if name in parse_spec(container.body).volume_names]


async def remove(ctx: Context, call: Call) -> Outcome:
    name = call.params["name"]
    if name in ctx.cluster.volumes:
        await remove_volume(ctx, name)
        return Reply(status=204)
    try:
        return Relay(host=await _host_with(ctx, name), edit=ctx.ids.to_cluster)
    except NotFound:
        if call.flag("force"):
            return Reply(status=204)
        raise


async def remove_volume(ctx: Context, name: str) -> None:
    """Remove a cluster volume: at once if no host has data of it, else by the host that has."""
    volume = ctx.cluster.volumes[name]
    if volume.host and (down := down_sentence(ctx.cluster, volume.host)):
        raise Unavailable(f"volume {name} cannot be removed: {down}")
    await commit_decided(ctx, lambda cluster: removal(cluster, name))
    key = r.key("volumes", name)
    missing = f"host {volume.host} to remove volume {name}"
    await ctx.mirror.until(lambda now: name not in now.volumes, REMOVE_DEADLINE_S, missing, keys=(key,))


def removal(cluster: Cluster, name: str) -> Draft:
    """The record's mark, or its end. Raises Docker's `Conflict` while a container names the volume."""
    volume = cluster.volumes.get(name)
    if volume is None:
        raise NotFound(f"get {name}: no such volume")
    users = users_of(cluster, name)
    if users:
        raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
    key = r.key("volumes", name)
    marked = put(key, msgspec.structs.replace(volume, removed=True)) if volume.host else delete(key)
    return Draft([marked], {key: cluster.version(key)})


async def prune(ctx: Context, call: Call) -> Outcome:
    """Cluster volumes that nobody names, and the engines' own as each engine prunes them."""
    filters = parse_filters(call.query("filters"))
    refuse_unknown(filters, PRUNE_FILTERS)
    deleted = []
    for name, volume in list(ctx.cluster.volumes.items()):
        if _prunable(ctx.cluster, volume, filters, call.version):
            await remove_volume(ctx, name)
            deleted.append(name)
    foreign = await _dangling_foreign(ctx, call, filters)
    for host, name in foreign:
        answer = await ctx.ask(host, "DELETE", _path(name))
        if answer is not None and answer.status == 204:
            deleted.append(name)
    return json_reply({"VolumesDeleted": deleted, "SpaceReclaimed": 0})


def _prunable(cluster: Cluster, volume: r.Volume, filters: Filters, version: str) -> bool:
    labels = decoded(volume.body or "{}", Asked).labels or {}
    named = not ANONYMOUS.fullmatch(volume.name)
    spared = named and version_of(version) >= ANONYMOUS_ONLY_SINCE and not flag_value(filters, "all", False)
    reachable = not volume.host or down_sentence(cluster, volume.host) is None
    return not spared and reachable and label_filters_match(filters, labels) and not users_of(cluster, volume.name)


async def _dangling_foreign(ctx: Context, call: Call, filters: Filters) -> list[tuple[str, str]]:
    """(host, name) of the engines' own volumes that nothing uses and that match."""
    query = query_of(filters=filters_text({"dangling": ["true"]}))
    answers = await ctx.ask_all("GET", target_of(call, "/volumes", query))
    found = []
    for host, answer in answers.items():
        for name, item in _engines_words({host: answer}).items():
            if name not in ctx.cluster.volumes and label_filters_match(filters, item.get("Labels") or {}):
                found.append((host, name))
    return found
