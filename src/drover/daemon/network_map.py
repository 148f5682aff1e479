"""What `drover network` asks: the cluster's networks, and for one of them who is where.

method and path              answer
GET /networks                list of `NetworkView`, by name, without hosts
GET /networks/REF            `NetworkView`; each host that is alive looks at its kernel, and says what it has
GET /networks/REF?here=1     `HostPart`: this host alone
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import msgspec
from aiohttp import web

from drover.api.addresses import AddressView, addresses_view
from drover.api.app import CONTEXT, json_answer
from drover.daemon.asking import ask_hosts, others_alive
from drover.decide.overlay import is_broadcast, is_internal, is_overlay
from drover.decide.resolve import resolve_network
from drover.drivers.network.port import SeenNetwork
from drover.errors import DroverError, Unavailable
from drover.model.cluster import Cluster
from drover.model.records import Network
from drover.wire.nesting import MALFORMED

Seen = Callable[[str], Awaitable[SeenNetwork | None]]
"""A network as this host's kernel has it; None if it has nothing of it."""


class HostPart(msgspec.Struct, frozen=True, kw_only=True):
    """A network on one host. `state`: `up`, `incomplete`, `none` (nothing there needs it), or `unknown`, and then
    `message` says why. `entries`: addresses elsewhere that it forwards to; the counters are of its VXLAN device."""

    host: str
    state: str = "none"
    bridge: str = ""
    mtu_bytes: int = 0
    entries: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    dropped_packets: int = 0
    message: str = ""


class NetworkView(msgspec.Struct, frozen=True, kw_only=True):
    """A network of the cluster. `vni` is 0 for one that Drover does not carry between hosts."""

    id: str
    name: str
    driver: str
    vni: int
    subnet: str
    gateway: str
    internal: bool
    broadcast: bool
    addresses: list[AddressView] = []
    hosts: list[HostPart] = []


def network_routes(seen: Seen, client_tls: ssl.SSLContext) -> list[web.RouteDef]:
    """The routes of the module's table."""

    async def everything(request: web.Request) -> web.Response:
        cluster = request.app[CONTEXT].mirror.cluster
        found = sorted(cluster.networks.values(), key=lambda network: network.name)
        return json_answer([network_view(cluster, network, []) for network in found])

    async def one(request: web.Request) -> web.Response:
        host, cluster = request.app[CONTEXT].host, request.app[CONTEXT].mirror.cluster
        network = resolve_network(cluster, request.match_info["ref"])
        here = await _here(host, network, seen)
        if request.query.get("here"):
            return json_answer(here)
        path = f"/networks/{quote(network.id, safe='')}?here=1"
        answers = await ask_hosts(others_alive(cluster, host), path, client_tls)
        parts = [here, *(_part(name, answer) for name, answer in answers.items())]
        return json_answer(network_view(cluster, network, sorted(parts, key=lambda part: part.host)))

    return [web.get("/networks", everything), web.get("/networks/{ref}", one)]


def network_view(cluster: Cluster, network: Network, hosts: list[HostPart]) -> NetworkView:
    """One network as people read it."""
    return NetworkView(
        id=network.id,
        name=network.name,
        driver=network.driver,
        vni=network.vni if is_overlay(network) else 0,
        subnet=network.subnet,
        gateway=network.gateway,
        internal=is_internal(network),
        broadcast=is_broadcast(network.body),
        addresses=[one for one in addresses_view(cluster) if one.network == network.id],
        hosts=hosts,
    )


async def _here(host: str, network: Network, seen: Seen) -> HostPart:
    try:
        found = await seen(network.id)
    except DroverError as error:
        return HostPart(host=host, state="unknown", message=error.message)
    return HostPart(host=host) if found is None else part_of(host, found)


def part_of(host: str, seen: SeenNetwork) -> HostPart:
    return HostPart(
        host=host,
        state="up" if seen.complete else "incomplete",
        bridge=f"dv{seen.vni}",
        mtu_bytes=seen.mtu_bytes,
        entries=len(seen.remotes),
        received_bytes=seen.traffic.received_bytes,
        sent_bytes=seen.traffic.sent_bytes,
        dropped_packets=seen.traffic.dropped_packets,
    )


def _part(host: str, answer: bytes | Unavailable) -> HostPart:
    if isinstance(answer, Unavailable):
        return HostPart(host=host, state="unknown", message=answer.message)
    try:
        return msgspec.json.decode(answer, type=HostPart)
    except MALFORMED as error:
        return HostPart(host=host, state="unknown", message=f"its daemon's answer cannot be read: {error}")
