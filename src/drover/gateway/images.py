"""Images: each host's engine keeps its own; the cluster shows their union.

call                                        goes to
list                                        all hosts; merged by id
inspect, history, push, get (one or many)   a host that has it (all of them), this one first
tag, rm                                     every host that has it; the answers merged
pull, import, load, search, …               this host's engine (`system.relay_front`); others fetch it at first use
build                                       this host's engine, its base images with it (`buildbases`)
build with a cluster network                a host that has the network, under the network's name
prune, build prune                          all hosts; merged
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

from drover.errors import EngineError
from drover.gateway.buildbases import bases_of
from drover.gateway.call import Call, EngineResponse, Outcome, Relay, Reply
from drover.gateway.context import Context, decoded, json_reply, message_of, succeeded, target_of
from drover.gateway.imagehosts import ask_for_image, hosts_with
from drover.gateway.merge import merge_images, merged_lists, total
from drover.model import records as r
from drover.model.cluster import Cluster

CHANGE_DEADLINE_S = 60.0
PRUNE_DEADLINE_S = 300.0


async def list_images(ctx: Context, call: Call) -> Outcome:
    answers = succeeded(await ctx.ask_all("GET", target_of(call, "/images/json")))
    if len(answers) == 1:
        return Reply(body=next(iter(answers.values())).body)
    lists = [decoded(answer.body, list[dict[str, Any]]) for answer in answers.values()]
    return json_reply(merge_images([image for images in lists for image in images]))


async def relay_to_holder(ctx: Context, call: Call) -> Outcome:
    """To a host that has the image; where none has, this host's engine says so in its own words."""
    return Relay(host=await _holder(ctx, [call.params["name"]]), edit=ctx.ids.to_cluster)


async def stream_to_holder(ctx: Context, call: Call) -> Outcome:
    """The same for what streams: archives, and a push's progress."""
    return Relay(host=await _holder(ctx, [call.params["name"]]))


async def save_many(ctx: Context, call: Call) -> Outcome:
    return Relay(host=await _holder(ctx, parse_qs(call.query_string).get("names", [])))


async def _holder(ctx: Context, names: list[str]) -> str:
    """The first host that has all the images, else the first host: what it lacks, it names."""
    able = dict.fromkeys(ctx.usable(), True)
    for name in names:
        answers = await ask_for_image(ctx, name)
        able = {host: True for host in able if host in answers and answers[host].status == 200}
    return next(iter(able), "") or ctx.front()


async def tag(ctx: Context, call: Call) -> Outcome:
    hosts = await hosts_with(ctx, call.params["name"])
    answers = await ctx.ask_all("POST", target_of(call, call.path), hosts, deadline_s=CHANGE_DEADLINE_S)
    return _first(ctx, succeeded(answers))


def _first(ctx: Context, answers: Mapping[str, EngineResponse]) -> Reply:
    answer = next(iter(answers.values()))
    return Reply(status=answer.status, body=ctx.ids.to_cluster(answer.body))


async def remove(ctx: Context, call: Call) -> Outcome:
    hosts = await hosts_with(ctx, call.params["name"])
    answers = await ctx.ask_all("DELETE", target_of(call, call.path), hosts, deadline_s=CHANGE_DEADLINE_S)
    for answer in answers.values():
        if answer.status >= 400 and answer.status != 404:
            raise EngineError(answer.status, message_of(ctx.ids.to_cluster(answer.body)))
    lists = [decoded(answer.body, list[dict[str, str]]) for answer in succeeded(answers).values()]
    return json_reply(each_once(merged_lists(lists) or []))


def each_once(items: list[Any]) -> list[Any]:
    """What several hosts deleted or untagged alike (objects with one key, or ids), once, in order."""
    return list({str(item): item for item in items}.values())


async def build(ctx: Context, call: Call) -> Outcome:
    network = _network(ctx.cluster, call.query("networkmode"))
    if network is None:
        front = ctx.front()
        return Relay(host=front, inspect=bases_of(ctx, call, front))
    pairs = parse_qsl(call.query_string, keep_blank_values=True)
    query = urlencode([(name, network.name if name == "networkmode" else value) for name, value in pairs])
    having = [host for host in ctx.usable() if f"{host}/{network.id}" in ctx.cluster.network_facts]
    host = having[0] if having else ctx.front()
    return Relay(host=host, target=target_of(call, call.path, query), inspect=bases_of(ctx, call, host))


def _network(cluster: Cluster, ref: str) -> r.Network | None:
    named = cluster.network_names.get(ref)
    return cluster.networks.get(named.id if named is not None else ref)


async def prune(ctx: Context, call: Call) -> Outcome:
    return json_reply(_merged_prune(await _pruned(ctx, call), "ImagesDeleted"))


async def prune_builds(ctx: Context, call: Call) -> Outcome:
    return json_reply(_merged_prune(await _pruned(ctx, call), "CachesDeleted"))


async def _pruned(ctx: Context, call: Call) -> list[dict[str, Any]]:
    answers = succeeded(await ctx.ask_all("POST", target_of(call, call.path), deadline_s=PRUNE_DEADLINE_S))
    return [decoded(answer.body, dict[str, Any]) for answer in answers.values()]


def _merged_prune(answers: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """One list of what was deleted, and the space in bytes that all hosts gained."""
    deleted = merged_lists([answer.get(name) for answer in answers])
    return {name: deleted and each_once(deleted), "SpaceReclaimed": total(answers, "SpaceReclaimed")}
