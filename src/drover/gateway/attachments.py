"""`network connect` and `disconnect`: a container's record gains or loses a network, by an order to its host.

    call                                         commit with the order       after the answer
    POST /networks/N/connect                     attachment, address claim   refused: both go again
    POST /networks/N/disconnect                  nothing                     done: both go; that N was left is noted
    either, N one of bridge, host, none          nothing                     whether N was left is noted
    either, N is bridge, and the container is    as for other networks: the default network is shown as `bridge`
    on the default network, or was made for it

An address is given up only after the engine took it from the container: one live holder.
"""

from __future__ import annotations

from typing import Any

import msgspec

from drover.decide.attached import created_on
from drover.decide.claims import addresses_of
from drover.decide.grace import Wanted, claim, given_up
from drover.decide.overlay import is_overlay
from drover.errors import EngineError, Forbidden
from drover.gateway.call import Call, Outcome, Reply
from drover.gateway.commits import Draft, commit_decided
from drover.gateway.context import Context, decoded, json_text
from drover.gateway.create import is_predefined
from drover.gateway.networks import default_for, members_of, predefined_name
from drover.gateway.orders import Ask, no_more, reply_to, submit
from drover.model import records as r
from drover.model.cluster import Cluster, put


class _Ipam(msgspec.Struct, rename="pascal"):
    ipv4: str | None = msgspec.field(name="IPv4Address", default=None)
    ipv6: str | None = msgspec.field(name="IPv6Address", default=None)


class _Endpoint(msgspec.Struct, rename="pascal"):
    ipam: _Ipam | None = msgspec.field(name="IPAMConfig", default=None)
    mac_address: str | None = None


class _Connect(msgspec.Struct, rename="pascal"):
    container: str = ""
    endpoint_config: dict[str, Any] | None = None


class _Disconnect(msgspec.Struct, rename="pascal"):
    container: str = ""
    force: bool = False


async def connect(ctx: Context, call: Call) -> Outcome:
    asked = decoded(await json_text(call), _Connect)
    ref = call.params["name"]
    endpoint = asked.endpoint_config or {}
    record = ctx.container(asked.container)
    default = default_for(ctx.cluster, record, ref)
    if default is None and is_predefined(ctx.cluster, ref):
        own = predefined_name(ctx.cluster, ref)
        reply = await _order(ctx, asked.container, "connect", {"network": own, "endpoint": endpoint})
        return await _noted(ctx, record.id, own, reply, left=False)
    network = default or ctx.network(ref)
    ctx.host_of(record)
    text = msgspec.json.encode(endpoint).decode()

    def amend(cluster: Cluster, current: r.Container) -> tuple[r.Container, Draft]:
        return joined(cluster, current, network, text)

    body = msgspec.json.encode({"network": network.id, "endpoint": endpoint}).decode()
    answer = await submit(ctx, record.id, Ask(verb="connect", body=body), amend)
    if answer.status >= 400:
        await _forget(ctx, record.id, network.id)
    return reply_to(ctx, answer)


def joined(cluster: Cluster, record: r.Container, network: r.Network, text: str) -> tuple[r.Container, Draft]:
    """The record with the network, and the claim to an address on it. Raises Docker's `Forbidden` if it is on it."""
    if record in members_of(cluster, network):
        raise Forbidden(f"endpoint with name {record.name} already exists in network {network.name}")
    attached = msgspec.structs.replace(record, attachments={**record.attachments, network.id: text})
    network_key = r.key("networks", network.id)
    expect = {network_key: cluster.version(network_key)}
    if not is_overlay(network):
        return attached, Draft([], expect)
    endpoint = decoded(text, _Endpoint)
    ipam = endpoint.ipam or _Ipam()
    asked = {"ip": ipam.ipv4 or "", "mac": endpoint.mac_address or "", "ipv6": ipam.ipv6 or ""}
    wanted = Wanted(container=record.id, name=record.name, **asked)
    claimed = claim(cluster, network, wanted)
    return attached, Draft(list(claimed.changes), {**expect, **claimed.expect})


async def disconnect(ctx: Context, call: Call) -> Outcome:
    asked = decoded(await json_text(call), _Disconnect)
    ref = call.params["name"]
    record = ctx.container(asked.container)
    default = default_for(ctx.cluster, record, ref)
    if default is None and is_predefined(ctx.cluster, ref):
        own = predefined_name(ctx.cluster, ref)
        reply = await _order(ctx, asked.container, "disconnect", {"network": own, "force": asked.force})
        return await _noted(ctx, record.id, own, reply, left=True)
    network = default or ctx.network(ref)
    if record not in members_of(ctx.cluster, network):
        raise EngineError(500, f"container {record.id} is not connected to network {network.name}")
    reply = await _order(ctx, asked.container, "disconnect", {"network": network.id, "force": asked.force})
    if reply.status < 400:
        await _forget(ctx, record.id, network.id)
    return reply


async def _order(ctx: Context, ref: str, verb: r.Verb, body: dict[str, Any]) -> Reply:
    record = ctx.container(ref)
    ctx.host_of(record)
    text = msgspec.json.encode(body).decode()
    return reply_to(ctx, await submit(ctx, record.id, Ask(verb=verb, body=text), no_more))


async def _noted(ctx: Context, container: str, network: str, reply: Reply, *, left: bool) -> Reply:
    """Note of an engine's own network, which the create call named, whether the container is on it: made anew, it
    shall be as it is now."""
    key = r.key("containers", container)

    def decide(cluster: Cluster) -> Draft:
        record = cluster.containers.get(container)
        if record is None or not created_on(cluster, record, network):
            return Draft([], {})
        others = tuple(one for one in record.left if one != network)
        changed = msgspec.structs.replace(record, left=(*others, network) if left else others)
        return Draft([put(key, changed)], {key: cluster.version(key)})

    if reply.status < 400:
        await commit_decided(ctx, decide)
    return reply


async def _forget(ctx: Context, container: str, network: str) -> None:
    """The container is not on the network: its attachment and its claims go."""
    key = r.key("containers", container)

    def decide(cluster: Cluster) -> Draft:
        record = cluster.containers.get(container)
        if record is None:
            return Draft([], {})
        rest = {other: text for other, text in record.attachments.items() if other != network}
        left = {*record.left, *([network] if created_on(cluster, record, network) else [])}
        changes = [put(key, msgspec.structs.replace(record, attachments=rest, left=tuple(sorted(left))))]
        claims = [one for one in addresses_of(cluster, container) if one.network == network]
        return Draft([*changes, *given_up(cluster, claims, ctx.clock())], {key: cluster.version(key)})

    await commit_decided(ctx, decide)
