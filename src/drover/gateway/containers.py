"""Calls that read or talk to one container: passed to the engine that has it, under the engine's own id.

call                                                    response
json, logs, top, changes, pause, unpause, resize,       as the engine gave it, with cluster ids where it is JSON
attach, attach/ws, archive, export                      (streams and tunnels are never edited; what cannot be copied is
                                                        said of the container as the client called it)
stats, wait                                             each line with cluster ids, at once
wait?condition=removed                                  when the records are gone too: what was its own is free then
POST /commit?container=X                                the query names the engine's id
"""

from __future__ import annotations

from contextlib import suppress
from functools import reduce
from urllib.parse import parse_qsl, urlencode

import msgspec

from drover.decide.default_network import DEFAULT_MODE, PREDEFINED_IDS, SHOWN_AS
from drover.errors import DeadlineExceeded
from drover.gateway.call import Call, Edit, Outcome, Relay
from drover.gateway.context import Context, target_of
from drover.gateway.restarts import needs_own_policy, own_policy
from drover.gateway.shown import inspected, needs_showing
from drover.model import records as r
from drover.model.spec import ENGINE_NETWORKS, Spec, parse_spec

FORGOTTEN_DEADLINE_S = 10.0
NAMELESS = frozenset((DEFAULT_MODE, *ENGINE_NETWORKS))
"""Networks that nobody removes."""
_PREFIX = "/containers/"


def target_at_engine(ctx: Context, call: Call) -> tuple[str, str]:
    """(host, target) of a call about the container `params["name"]`: the path with the engine's id."""
    ref = call.params["name"]
    host, engine_id = ctx.engine_of(ctx.container(ref))
    rest = call.path[len(_PREFIX) + len(ref) :]
    return host, target_of(call, _PREFIX + engine_id + rest)


async def relay(ctx: Context, call: Call) -> Outcome:
    host, target = target_at_engine(ctx, call)
    return Relay(host=host, target=target, edit=ctx.ids.to_cluster)


async def archive(ctx: Context, call: Call) -> Outcome:
    """As `relay`; where the engine repeats what it was asked for, it says the client's own word."""
    ref, identity = call.params["name"], ctx.container(call.params["name"]).id
    host, target = target_at_engine(ctx, call)
    return Relay(
        host=host, target=target, edit=lambda body: ctx.ids.to_cluster(body).replace(identity.encode(), ref.encode())
    )


async def inspect(ctx: Context, call: Call) -> Outcome:
    """As `relay`, with what Drover carries in the engine's place put back (`shown`)."""
    record = ctx.container(call.params["name"])
    host, target = target_at_engine(ctx, call)
    basis = (ctx.cluster, ctx.ids.state)
    edit = _inspect_edit(ctx, record)
    return Relay(host=host, target=target, edit=lambda body: ctx.repeats.show(record.id, basis, body, edit))


def _inspect_edit(ctx: Context, record: r.Container) -> Edit:
    edits: list[Edit] = [ctx.ids.to_cluster]
    if needs_showing(ctx.cluster, record):
        edits.append(inspected(ctx.cluster, record, PREDEFINED_IDS[SHOWN_AS]))
    if needs_own_policy(ctx.cluster, record):
        edits.append(own_policy(record))
    return lambda body: reduce(lambda text, edit: edit(text), edits, body)


async def relay_lines(ctx: Context, call: Call) -> Outcome:
    """For responses that come line by line."""
    host, target = target_at_engine(ctx, call)
    return Relay(host=host, target=target, edit=ctx.ids.to_cluster, edit_lines=ctx.ids.to_cluster)


async def wait(ctx: Context, call: Call) -> Outcome:
    """As `relay_lines`. Once a client has read that a container is removed (the end of `docker run --rm`), its volumes,
    ports and networks are free on an engine; so if it has any, the answer comes when its host has told the cluster. Its
    name is free before: who creates one of that name sees that this one is over."""
    record = ctx.container(call.params["name"])
    host, target = target_at_engine(ctx, call)
    relayed = Relay(host=host, target=target, edit=ctx.ids.to_cluster, edit_lines=ctx.ids.to_cluster)
    if call.query("condition") != "removed" or not _holds(parse_spec(record.body)):
        return relayed
    return msgspec.structs.replace(relayed, settled=lambda: _forgotten(ctx, record.id))


def _holds(spec: Spec) -> bool:
    """Whether a client can ask for something by name that only this container's end makes free."""
    return bool(spec.volume_names or spec.volumes_from or spec.ports or set(spec.network_refs) - NAMELESS)


async def _forgotten(ctx: Context, container: str) -> None:
    """The record's end, or `FORGOTTEN_DEADLINE_S`: the engine has spoken, and its word is not withheld for ever."""
    key = r.key("containers", container)
    missing = f"the end of container {container[:12]} in the records"
    with suppress(DeadlineExceeded):
        await ctx.mirror.until(lambda now: container not in now.containers, FORGOTTEN_DEADLINE_S, missing, keys=(key,))


async def commit(ctx: Context, call: Call) -> Outcome:
    host, engine_id = ctx.engine_of(ctx.container(call.query("container")))
    pairs = parse_qsl(call.query_string, keep_blank_values=True)
    query = urlencode([(name, engine_id if name == "container" else value) for name, value in pairs])
    return Relay(host=host, target=target_of(call, "/commit", query), edit=ctx.ids.to_cluster)
