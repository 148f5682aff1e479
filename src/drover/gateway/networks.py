"""Networks: records of the cluster, realised by agents where a container needs them; shown in Docker's shape.

    network                          known by              calls
    bridge, host, none               every engine          shown once, as this host's engine has them
    driver bridge, overlay or none   a record with a VNI   made, listed and removed here; engines follow
    other drivers (macvlan, …)       a record, no VNI      the same; each engine makes its own from the client's body

Names are unique in the cluster (an engine of its own allows two networks of one name). A network is in use while a
running container is on it, as in Docker; stopped ones lose their addresses when it goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec

from drover.decide.addresses import next_vni, subnet_for
from drover.decide.attached import networks_of
from drover.decide.default_network import (
    ALLOCATION,
    PREDEFINED,
    SHOWN_AS,
    asks_default,
    is_on_default,
    predefined_ids,
)
from drover.decide.overlay import DEFAULT_NETWORK, OVERLAY_DRIVERS, is_broadcast, is_overlay
from drover.errors import Conflict, DeadlineExceeded, EngineError, Forbidden, NotFound
from drover.gateway.call import Call, Edit, Outcome, Relay, Reply
from drover.gateway.commits import Draft, commit_decided
from drover.gateway.context import Context, decoded, json_reply, json_text, query_of, target_of
from drover.gateway.filters import (
    Filters,
    filters_text,
    flag_value,
    label_filters_match,
    parse_filters,
    parse_when,
    refuse_unknown,
    text_matches,
)
from drover.model import records as r
from drover.model.cluster import Cluster, delete, put
from drover.model.spec import parse_spec

SHORT_ID = 12
LIST_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
PRUNE_FILTERS = frozenset({"label", "label!", "until"})
REMOVED_DEADLINE_S = 10.0
ACTIVE = ("running", "paused", "restarting")


class Asked(msgspec.Struct, rename="pascal"):
    """What a network's create body says; kept verbatim in the record."""

    name: str = ""
    driver: str | None = None
    enable_ipv6: bool | None = msgspec.field(name="EnableIPv6", default=None)
    ipam: dict[str, Any] | None = msgspec.field(name="IPAM", default=None)
    internal: bool | None = None
    attachable: bool | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


async def create(ctx: Context, call: Call) -> Outcome:
    body = await json_text(call)
    asked = decoded(body, Asked)
    _refuse_name(asked.name)
    driver = asked.driver or "bridge"
    if driver not in OVERLAY_DRIVERS:
        await _refuse_driver(ctx, driver)
    network_id, now = ctx.new_id(), ctx.clock()
    async with ctx.choosing:
        await commit_decided(ctx, lambda cluster: draft(cluster, network_id, asked.name, driver, body, now))
    return json_reply({"Id": network_id, "Warning": ""}, 201)


def _refuse_name(name: str) -> None:
    if not name:
        raise EngineError(500, "invalid name: ")
    if name in PREDEFINED or name == "default":
        raise Forbidden(f"operation is not permitted on predefined {name} network ")


async def _refuse_driver(ctx: Context, driver: str) -> None:
    """Raise as the engine does for a driver that it does not have, or that allows no second network."""
    if driver in ("host", "null"):
        raise Forbidden(f'only one instance of "{driver}" network is allowed')
    answer = await ctx.links.request(ctx.front(), "GET", "/info")
    plugins = decoded(answer.body, dict[str, Any]).get("Plugins") or {}
    if driver not in (plugins.get("Network") or []):
        raise NotFound(f'plugin "{driver}" not found')


def draft(cluster: Cluster, network_id: str, name: str, driver: str, body: str, now: float) -> Draft:
    """The records of a new network. Raises `Conflict` if the name is taken, and what the addresses refuse."""
    if name in cluster.network_names:
        raise Conflict(f"network with name {name} already exists")
    overlay = driver in OVERLAY_DRIVERS
    if overlay:
        is_broadcast(body)  # raises for what is neither yes nor no
    subnet, gateway = subnet_for(cluster, name, body) if overlay else ("", "")
    record = r.Network(
        id=network_id,
        name=name,
        body=body,
        driver=driver,
        subnet=subnet,
        gateway=gateway,
        vni=next_vni(cluster) if overlay else 0,
        created_at=now,
    )
    changes = [
        put(r.key("networks", network_id), record),
        put(r.key("network_names", name), r.Name(id=network_id)),
        put(ALLOCATION, r.Setting(value=network_id)),
    ]
    return Draft(changes, {change.key: cluster.version(change.key) for change in changes})


async def list_networks(ctx: Context, call: Call) -> Outcome:
    filters = parse_filters(call.query("filters"))
    refuse_unknown(filters, LIST_FILTERS)
    _refuse_type(filters)
    shown = [(shape(network), network) for network in ctx.cluster.networks.values() if network.id != DEFAULT_NETWORK]
    ours = [item for item, network in shown if _matches(ctx.cluster, item, network, filters)]
    return json_reply([*await _builtin(ctx, call, filters), *ours])


def _refuse_type(filters: Filters) -> None:
    for kind in filters.get("type", []):
        if kind not in ("custom", "builtin"):
            raise EngineError(500, f"invalid filter: 'type'='{kind}'")


async def _builtin(ctx: Context, call: Call, filters: Filters) -> list[msgspec.Raw]:
    """The predefined networks that match, as this host's engine shows them, with the cluster's ids."""
    if "custom" in filters.get("type", []):
        return []
    asked = {name: values for name, values in filters.items() if name != "id"}
    query = query_of(filters=filters_text({**asked, "type": ["builtin"]}))
    answer = await ctx.links.request(ctx.front(), "GET", target_of(call, "/networks", query))
    if answer.status >= 400:
        raise EngineError(answer.status, answer.body.decode("utf-8", "replace"))
    shown = decoded(ctx.ids.to_cluster(answer.body), list[msgspec.Raw])
    return [one for one in shown if text_matches(filters.get("id"), decoded(bytes(one), _Identified).id)]


class _Identified(msgspec.Struct, rename="pascal"):
    id: str = ""


def _matches(cluster: Cluster, item: Mapping[str, Any], network: r.Network, filters: Filters) -> bool:
    dangling = "dangling" not in filters or flag_value(filters, "dangling", False) != bool(active_on(cluster, network))
    return (
        dangling
        and text_matches(filters.get("name"), network.name)
        and text_matches(filters.get("id"), network.id)
        and filters.get("driver", [item["Driver"]]).count(item["Driver"]) > 0
        and "local" in filters.get("scope", ["local"])
        and "custom" in filters.get("type", ["custom"])
        and label_filters_match(filters, item["Labels"])
    )


def shape(network: r.Network, containers: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A network as the engine shows it."""
    asked = decoded(network.body, Asked)
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created_at),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv6": bool(asked.enable_ipv6),
        "IPAM": _ipam(network, asked),
        "Internal": bool(asked.internal),
        "Attachable": bool(asked.attachable),
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": dict(containers or {}),
        "Options": asked.options or {},
        "Labels": asked.labels or {},
    }


def _ipam(network: r.Network, asked: Asked) -> dict[str, Any]:
    """As asked; without a pool, the one chosen."""
    ipam = asked.ipam or {}
    chosen = [{"Subnet": network.subnet, "Gateway": network.gateway}] if network.subnet else []
    config = [{k: v for k, v in pool.items() if v} for pool in ipam.get("Config") or []]
    return {"Driver": ipam.get("Driver") or "default", "Options": ipam.get("Options"), "Config": config or chosen}


def rfc3339(at_s: float) -> str:
    """Seconds since the epoch as Go writes a time: `2026-01-31T12:03:04.123456Z`."""
    return datetime.fromtimestamp(at_s, tz=UTC).isoformat().replace("+00:00", "Z")


async def inspect(ctx: Context, call: Call) -> Outcome:
    ref = call.params["name"]
    own = predefined(ctx, ref)
    if own is not None:
        return Relay(host=own[0], target=target_of(call, f"/networks/{own[1]}"), edit=_with_default(ctx))
    network = ctx.network(ref)
    return json_reply(shape(network, endpoints(ctx.cluster, network)))


def _with_default(ctx: Context) -> Edit:
    """The edit that adds what is on the cluster's default network to an engine's `bridge`, which it is shown as."""
    network = ctx.cluster.networks.get(DEFAULT_NETWORK)
    if network is None:
        return ctx.ids.to_cluster
    ours, pool = endpoints(ctx.cluster, network), {"Subnet": network.subnet, "Gateway": network.gateway}

    def edit(body: bytes) -> bytes:
        shown = decoded(ctx.ids.to_cluster(body), dict[str, Any])
        if shown.get("Name") != SHOWN_AS or "Containers" not in shown:
            return ctx.ids.to_cluster(body)
        ipam = shown["IPAM"]
        config = [pool, *(ipam.get("Config") or ())]
        both = {**(shown["Containers"] or {}), **ours}
        return msgspec.json.encode({**shown, "IPAM": {**ipam, "Config": config}, "Containers": both}) + b"\n"

    return edit


def predefined(ctx: Context, ref: str) -> tuple[str, str] | None:
    """(host, name) of a predefined network given by name, or by its id in the cluster or on some host's engine."""
    name = predefined_name(ctx.cluster, ref)
    return (ctx.front(), name) if name in PREDEFINED else None


def default_for(cluster: Cluster, record: r.Container, ref: str) -> r.Network | None:
    """The default network where a client that names `bridge` means it: the container is on it, shown as on `bridge`, or
    was made to be."""
    means = predefined_name(cluster, ref) == SHOWN_AS
    belongs = is_on_default(cluster, record.id) or asks_default(parse_spec(record.body))
    return cluster.networks.get(DEFAULT_NETWORK) if means and belongs else None


def endpoints(cluster: Cluster, network: r.Network) -> dict[str, Any]:
    """The running containers on a network, by id, as the engine shows them."""
    length = network.subnet.partition("/")[2]
    active = {container.id: container for container in active_on(cluster, network)}
    return {
        claim.container: {
            "Name": active[claim.container].name,
            "EndpointID": sha256(f"{network.id}/{claim.container}".encode()).hexdigest(),
            "MacAddress": claim.mac,
            "IPv4Address": f"{claim.ip}/{length}",
            "IPv6Address": "",
        }
        for claim in cluster.addresses.values()
        if claim.network == network.id and claim.container in active
    }


def active_on(cluster: Cluster, network: r.Network) -> list[r.Container]:
    """The containers on a network that run, as far as their hosts reported."""
    return [container for container in members_of(cluster, network) if _is_active(cluster, container)]


def members_of(cluster: Cluster, network: r.Network) -> list[r.Container]:
    """The containers on a network: on the cluster's own those that hold an address there (a create body may name one
    that its container has left since), on others those that asked for it."""
    if is_overlay(network):
        claims = [claim for claim in cluster.addresses.values() if claim.network == network.id]
        return [cluster.containers[claim.container] for claim in claims if claim.container in cluster.containers]
    every = cluster.containers.values()
    return [one for one in every if network.id in networks_of(cluster, one, parse_spec(one.body))]


def _is_active(cluster: Cluster, container: r.Container) -> bool:
    facts = cluster.facts_of(container.id)
    return facts is not None and facts.state in ACTIVE


async def remove(ctx: Context, call: Call) -> Outcome:
    ref = call.params["name"]
    if predefined(ctx, ref) is not None:
        raise Forbidden(f"{predefined_name(ctx.cluster, ref)} is a pre-defined network and cannot be removed")
    network = ctx.network(ref)
    if network.id == DEFAULT_NETWORK:
        raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
    await remove_network(ctx, network)
    return Reply(status=204)


def predefined_name(cluster: Cluster, ref: str) -> str:
    """The name of a predefined network given by it, or by an id or its beginning; any other reference as it is."""
    known = predefined_ids(cluster).items() if len(ref) >= SHORT_ID else ()
    return next((name for identity, name in known if identity.startswith(ref)), ref)


async def remove_network(ctx: Context, network: r.Network) -> None:
    """Remove a network that no running container uses, and wait (shortly) until the engines have done the same."""
    await commit_decided(ctx, lambda cluster: removal(cluster, network))
    try:
        await ctx.mirror.until(
            lambda now: not _realised(now, network.id, ctx.usable()),
            REMOVED_DEADLINE_S,
            f"the hosts to remove network {network.name}",
            keys=("network_facts", "alive", "host_facts"),
        )
    except DeadlineExceeded:
        return  # the records are gone, which is what was asked; a slow engine follows when it can


def _realised(cluster: Cluster, network: str, hosts: Iterable[str]) -> bool:
    return any(f"{host}/{network}" in cluster.network_facts for host in hosts)


def removal(cluster: Cluster, network: r.Network) -> Draft:
    """The changes that remove a network's records. Raises `Forbidden` in Docker's words while it is in use."""
    if network.id not in cluster.networks:
        raise NotFound(f"network {network.name} not found")
    if active_on(cluster, network):
        raise Forbidden(f"error while removing network: network {network.name} id {network.id} has active endpoints")
    claims = [r.key("addresses", key) for key, claim in cluster.addresses.items() if claim.network == network.id]
    own = [r.key("networks", network.id), r.key("network_names", network.name)]
    return Draft([delete(key) for key in own + claims], {key: cluster.version(key) for key in own})


async def prune(ctx: Context, call: Call) -> Outcome:
    filters = parse_filters(call.query("filters"))
    refuse_unknown(filters, PRUNE_FILTERS)
    deleted = []
    for network in list(ctx.cluster.networks.values()):
        if _prunable(ctx, network, filters):
            await remove_network(ctx, network)
            deleted.append(network.name)
    return json_reply({"NetworksDeleted": deleted or None})


def _prunable(ctx: Context, network: r.Network, filters: Filters) -> bool:
    labels = decoded(network.body, Asked).labels or {}
    until = [parse_when(text, ctx.clock()) for text in filters.get("until", [])]
    old = all(network.created_at < limit for limit in until)
    return (
        network.id != DEFAULT_NETWORK
        and old
        and label_filters_match(filters, labels)
        and not active_on(ctx.cluster, network)
    )
