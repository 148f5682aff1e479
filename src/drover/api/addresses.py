"""The API's routes about addresses: who has which, for whom others are kept, and giving one up.

method and path                    answer
GET /addresses                     list of `AddressView`, by network and number
DELETE /addresses/IP?network=REF   {released}; refused for one that a container has
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Literal

import msgspec
from aiohttp import web

from drover.api.app import CONTEXT, commit, json_answer
from drover.api.membership import Decision
from drover.decide.grace import GRACE_S, release
from drover.decide.overlay import mac_of
from drover.model import records as r
from drover.model.cluster import Cluster

State = Literal["held", "kept", "orphaned", "service"]


class AddressView(msgspec.Struct, frozen=True, kw_only=True):
    """One address. `holder`: the container's name, that for which it is kept, or the service. `epoch` counts how often
    it went to another host or container. `kept_at`, `until`: seconds since the Unix epoch, 0 unless it is kept."""

    network: str
    network_name: str
    ip: str
    state: State
    mac: str = ""
    holder: str = ""
    container: str = ""
    host: str = ""
    epoch: int = 0
    kept_at: float = 0.0
    until: float = 0.0


def address_routes() -> list[web.RouteDef]:
    """The routes, for `ApiServer`."""
    return [web.get("/addresses", get_addresses), web.delete("/addresses/{ip}", delete_address)]


async def get_addresses(request: web.Request) -> web.Response:
    return json_answer(addresses_view(request.app[CONTEXT].mirror.cluster))


async def delete_address(request: web.Request) -> web.Response:
    ip, network = request.match_info["ip"], request.query.get("network", "")

    def decide(cluster: Cluster) -> Decision:
        draft = release(cluster, ip, network)
        return Decision(draft.changes, draft.expect)

    await commit(request.app[CONTEXT], decide)
    return json_answer({"released": ip})


def addresses_view(cluster: Cluster) -> list[AddressView]:
    """All addresses that are not free, service addresses too, in the order of network names and of numbers."""
    found = [*_held(cluster), *_kept(cluster), *_virtual(cluster)]
    return sorted(found, key=lambda one: (one.network_name, one.state == "service", IPv4Address(one.ip)))


def _held(cluster: Cluster) -> Iterator[AddressView]:
    for claim in cluster.addresses.values():
        holder = cluster.containers.get(claim.container)
        yield AddressView(
            network=claim.network,
            network_name=_network_name(cluster, claim.network),
            ip=claim.ip,
            state="held" if holder is not None and claim.network in cluster.networks else "orphaned",
            mac=claim.mac or mac_of(claim.ip),
            holder=holder.name if holder is not None else "",
            container=claim.container,
            host=cluster.host_of(claim.container) or "",
            epoch=claim.epoch,
        )


def _kept(cluster: Cluster) -> Iterator[AddressView]:
    for kept in cluster.kept_addresses.values():
        yield AddressView(
            network=kept.network,
            network_name=_network_name(cluster, kept.network),
            ip=kept.ip,
            state="kept",
            mac=kept.mac or mac_of(kept.ip),
            holder=kept.name,
            container=kept.container,
            epoch=kept.epoch,
            kept_at=kept.at,
            until=kept.at + GRACE_S,
        )


def _virtual(cluster: Cluster) -> Iterator[AddressView]:
    for claim in cluster.service_addresses.values():
        network = _network_name(cluster, claim.network)
        yield AddressView(
            network=claim.network, network_name=network, ip=claim.ip, state="service", holder=claim.service.strip("/")
        )


def _network_name(cluster: Cluster, network: str) -> str:
    record: r.Network | None = cluster.networks.get(network)
    return record.name if record is not None else network[:12]
