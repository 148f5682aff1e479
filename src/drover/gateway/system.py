"""Calls about the whole: `_ping`, `version`, `info`, `system/df`, and those that any engine can answer.

call        answered by                                          edited
_ping       an engine that speaks the version all share          nothing: clients read that version from its head
version     the same                                             MinAPIVersion, where another engine's is higher
info        all engines: this host's is the base                 counts, cores and memory added up; the hosts listed
system/df   all engines                                          merged
the rest    `relay_front`: this host's engine, else another's    ids
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from drover.decide.health import host_state
from drover.decide.sentences import size
from drover.errors import Unavailable
from drover.gateway.call import Call, Outcome, Relay
from drover.gateway.context import Context, decoded, json_reply, succeeded, target_of
from drover.gateway.merge import merge_images, once_each, total
from drover.gateway.volumes import shape, usage_of
from drover.model.cluster import Cluster

SUMMED = ("Containers", "ContainersRunning", "ContainersPaused", "ContainersStopped", "NCPU", "MemTotal")
DF_DEADLINE_S = 60.0
_MIN_VERSION = re.compile(rb'("MinAPIVersion":\s*")[0-9.]*"')


async def relay_front(ctx: Context, call: Call) -> Outcome:
    """To this host's engine; if that is down, to another."""
    return Relay(host=ctx.front(), edit=ctx.ids.to_cluster)


async def relay_front_raw(ctx: Context, call: Call) -> Outcome:
    """The same for streams and upgrades, where nothing is edited."""
    return Relay(host=ctx.front())


async def ping(ctx: Context, call: Call) -> Outcome:
    return Relay(host=_speaker(ctx))


async def version(ctx: Context, call: Call) -> Outcome:
    lowest, _ = ctx.shared_versions
    return Relay(host=_speaker(ctx), edit=lambda body: _MIN_VERSION.sub(rb"\g<1>" + lowest.encode() + b'"', body, 1))


def _speaker(ctx: Context) -> str:
    """A host whose engine's newest version is the one that all share; this host if it is one."""
    _, highest = ctx.shared_versions
    able = ctx.usable()
    speakers = [host for host in able if highest in ("", _api_version(ctx.cluster, host))]
    if not able:
        raise Unavailable("no Docker engine of this cluster answers", hint="drover host ls")
    return (speakers or able)[0]


def _api_version(cluster: Cluster, host: str) -> str:
    facts = cluster.host_facts.get(host)
    return facts.api_version if facts is not None else ""


async def info(ctx: Context, call: Call) -> Outcome:
    answers = succeeded(await ctx.ask_all("GET", target_of(call, "/info")))
    infos = {host: decoded(answer.body, dict[str, Any]) for host, answer in answers.items()}
    return json_reply(merged_info(ctx.cluster, infos, await _image_count(ctx, infos)))


async def _image_count(ctx: Context, infos: Mapping[str, dict[str, Any]]) -> int:
    """How many images the cluster has: each counts once, however many hosts have it."""
    if len(infos) == 1:
        return int(next(iter(infos.values())).get("Images", 0))
    lists = await ctx.ask_all("GET", "/images/json?all=1", infos)
    return len({image.id for answer in lists.values() if answer.status == 200 for image in _images(answer.body)})


class _Image(msgspec.Struct, rename="pascal"):
    id: str


def _images(body: bytes) -> list[_Image]:
    return decoded(body, list[_Image])


def merged_info(cluster: Cluster, infos: Mapping[str, dict[str, Any]], images: int) -> dict[str, Any]:
    """The first host's info with the cluster's sums, and the hosts as classic Swarm listed its nodes."""
    host, base = next(iter(infos.items()))
    sums = {name: total(infos.values(), name) for name in SUMMED if name in base}
    nodes = host_rows(cluster)
    return {
        **base,
        **sums,
        "Name": host,
        "Images": images,
        "Labels": [*(base.get("Labels") or []), *(f"{k}={v}" for k, v in sorted(_labels(cluster, host).items()))],
        "DriverStatus": [*(base.get("DriverStatus") or []), *nodes],
        "SystemStatus": nodes,
    }


def _labels(cluster: Cluster, host: str) -> Mapping[str, str]:
    record = cluster.hosts.get(host)
    return record.labels if record is not None else {}


def host_rows(cluster: Cluster) -> list[list[str]]:
    """`[["Nodes", "3"], [" h1", "10.0.0.1"], ["  └ Status", "ready"], …]`."""
    rows = [["Nodes", str(len(cluster.hosts))]]
    for name, host in sorted(cluster.hosts.items()):
        facts = cluster.host_facts.get(name)
        placed = sum(placement.host == name for placement in cluster.placements.values())
        rows += [
            [f" {name}", host.address],
            ["  └ Status", host_state(cluster, name).says],
            ["  └ Containers", str(placed)],
            ["  └ CPUs", str(facts.cpus) if facts else "unknown"],
            ["  └ Memory", size(facts.memory_bytes) if facts else "unknown"],
            ["  └ Labels", ", ".join(f"{k}={v}" for k, v in sorted(host.labels.items()))],
        ]
    return rows


async def disk_usage(ctx: Context, call: Call) -> Outcome:
    answers = succeeded(await ctx.ask_all("GET", target_of(call, "/system/df"), deadline_s=DF_DEADLINE_S))
    usages = [decoded(ctx.ids.to_cluster(answer.body), dict[str, Any]) for answer in answers.values()]
    return json_reply(with_cluster_volumes(ctx.cluster, merged_usage(usages), ctx.clock()))


def with_cluster_volumes(cluster: Cluster, usage: dict[str, Any], now: float) -> dict[str, Any]:
    """Each cluster volume once, with the size its host measured: an engine counts what it binds as nothing."""
    if usage.get("Volumes") is None:
        return usage
    seen = {item["Name"]: item for item in usage["Volumes"]}
    ours = [
        {**shape(cluster, volume, now, seen.get(name)), "UsageData": usage_of(cluster, volume)}
        for name, volume in cluster.volumes.items()
    ]
    return {**usage, "Volumes": [*ours, *(item for name, item in seen.items() if name not in cluster.volumes)]}


def merged_usage(usages: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums of sizes; each image, volume and cache record once; containers of the cluster only."""
    merged: dict[str, Any] = dict(usages[0])
    for name in ("LayersSize", "BuilderSize"):
        if name in merged:
            merged[name] = total(usages, name)
    if merged.get("Images") is not None:
        merged["Images"] = merge_images([image for one in usages for image in one.get("Images") or []])
    if merged.get("Containers") is not None:
        every = [container for one in usages for container in one.get("Containers") or []]
        merged["Containers"] = [container for container in every if "drover.host" in (container.get("Labels") or {})]
    for name, identity in (("Volumes", "Name"), ("BuildCache", "ID")):
        if any(one.get(name) is not None for one in usages):
            merged[name] = once_each([item for one in usages for item in one.get(name) or []], identity)
    return merged
