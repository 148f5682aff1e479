"""What one host's kernel must know to balance: published ports and virtual addresses, from the records alone.

Theory of operation. A pure picture, `Tables`; `drivers.network.services` makes it so. Every host has the same answers:
a client may come to any of them.

    table     key                            leads to
    mesh      protocol, port                 the container that has the port, or all backends of its service
    bound     address, protocol, port        the same, on the container's own host only
    virtual   bridge, virtual address        the backends of the service on that network
    local     address                        nothing: the containers here, which may see the client's own address
    alive     address                        nothing: what runs anywhere, backend or not: its connections stay

Only backends that a host can send to are in: the network is realised here, and where the backend is on another host
this one has an address on the network, which replies can come back to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache

import msgspec

from drover.decide.claims import addresses_of, claims_by_network
from drover.decide.moves import expected_here, just_left
from drover.decide.overlay import DEFAULT_NETWORK, RealNetwork, realised
from drover.decide.ports import answering_address
from drover.decide.services import (
    ANSWERING,
    Draft,
    address_changes,
    backends,
    is_answering,
    members,
    service_of_container,
    virtual_addresses,
)
from drover.decide.views import EVERY_HOST
from drover.model.cluster import Cluster
from drover.model.records import Address, Container, Port
from drover.model.spec import parse_spec

Target = tuple[str, int]
"""(address, port)"""
ByService = Mapping[str, list[Container]]
KEPT = 16_384
"""How many sets of a port's backends are kept."""


class Tables(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The module's table. `networks` are those realised on the host; targets are in the order of their addresses."""

    networks: tuple[RealNetwork, ...] = ()
    mesh: Mapping[tuple[str, int], tuple[Target, ...]] = {}
    bound: Mapping[tuple[str, str, int], tuple[Target, ...]] = {}
    virtual: Mapping[tuple[str, str], tuple[str, ...]] = {}
    local: frozenset[str] = frozenset()
    alive: frozenset[str] = frozenset()

    def addresses(self) -> frozenset[str]:
        """Every backend's address."""
        return self._addresses

    def sharing(self) -> frozenset[str]:
        """The addresses of backends that have others beside them."""
        return self._by_company[0]

    @cached_property
    def _addresses(self) -> frozenset[str]:
        sharing, alone = self._by_company
        return sharing | alone

    @cached_property
    def _by_company(self) -> tuple[frozenset[str], frozenset[str]]:
        """Backends with others beside them, and those without; one may be both. A change of one service asks this of
        all of them: the sets of those that did not change are kept, and put together without a look at each address."""
        tables = (*self.mesh.values(), *self.bound.values())
        sharing = [_ips(targets) for targets in tables if len(targets) > 1]
        alone = [_ips(targets) for targets in tables if len(targets) == 1]
        virtual = self.virtual.values()
        return (
            frozenset().union(*sharing, *(ips for ips in virtual if len(ips) > 1)),
            frozenset().union(*alone, *(ips for ips in virtual if len(ips) == 1)),
        )

    def ended(self, backends: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
        """Of the addresses that were backends some time before: those whose connections must be forgotten, and those to
        ask about again. A backend that is told to stop goes on running for a while, and its connections with it; what
        was sent to it after its end, before this host heard of either, must not wait for it."""
        left = backends - self.addresses()
        return left - self.alive, left & self.alive


@lru_cache(maxsize=KEPT)
def _ips(targets: tuple[Target, ...]) -> frozenset[str]:
    return frozenset(ip for ip, _ in targets)


def networks_everywhere(cluster: Cluster) -> frozenset[str]:
    """Networks that every host must have: the default one, and those that published ports lead to."""
    return led_to(cluster) | {DEFAULT_NETWORK}


def led_to(cluster: Cluster) -> frozenset[str]:
    """The networks that ports lead to which every host answers."""
    claims = [claim for claim in cluster.ports.values() if claim.container_port and claim.host == EVERY_HOST]
    return frozenset(found.network for claim in claims if (found := answering_address(cluster, claim.container)))


def networks_moving(cluster: Cluster, host: str) -> frozenset[str]:
    """Networks of the containers that are about to move to a host, which makes their engine's containers before; and of
    those that have just left it: it sends on what still comes for them."""
    moving = [container.id for container, _ in expected_here(cluster, host)]
    moving += [container.id for container in just_left(cluster, host)]
    return frozenset(claim.network for container in moving for claim in addresses_of(cluster, container))


def host_networks(
    cluster: Cluster, host: str, mtu_bytes: int, also: frozenset[str] = frozenset()
) -> dict[str, RealNetwork]:
    """Network id to what a host must have of it, for its own containers, those that come or have just left, and those
    whose ports it answers; and of the networks `also`."""
    moving = networks_moving(cluster, host) | also
    return realised(cluster, host, mtu_bytes=mtu_bytes, everywhere=networks_everywhere(cluster), coming=moving)


def tables(cluster: Cluster, host: str, networks: Mapping[str, RealNetwork]) -> Tables:
    """What `host` must balance, with `networks` realised there."""
    view = _View(cluster, host, networks)
    mesh: dict[tuple[str, int], tuple[Target, ...]] = {}
    bound: dict[tuple[str, str, int], tuple[Target, ...]] = {}
    for claim in cluster.ports.values():
        if claim.container_port and (targets := view.targets(claim)):
            if claim.host == EVERY_HOST:
                mesh[claim.protocol, claim.port] = targets
            elif cluster.host_of(claim.container) == host:
                bound[claim.host_ip, claim.protocol, claim.port] = targets
    return Tables(
        networks=tuple(networks.values()),
        mesh=mesh,
        bound=bound,
        virtual=view.virtual(),
        local=frozenset(one.ip for one in view.claims() if view.is_here(one)),
        alive=frozenset(one.ip for one in view.claims() if is_answering(cluster, one.container)),
    )


def starts(cluster: Cluster, host: str, network: str) -> frozenset[tuple[str, str]]:
    """The containers of a host on a network that run, each with when it started."""
    claims = claims_by_network(cluster).get(network, ())
    facts = (cluster.container_facts.get(f"{host}/{claim.container}") for claim in claims)
    return frozenset((one.container, one.started_at) for one in facts if one and one.state in ANSWERING)


def wanted_addresses(cluster: Cluster) -> Draft:
    """What the leader writes about virtual addresses."""
    return address_changes(cluster, [n for n in claims_by_network(cluster) if n in cluster.networks])


class _View:
    """One host's look at the records, while its tables are made."""

    def __init__(self, cluster: Cluster, host: str, networks: Mapping[str, RealNetwork]) -> None:
        self._cluster = cluster
        self._host = host
        self._networks = networks
        self._by_service = _group(cluster.containers.values())

    def targets(self, claim: Port) -> tuple[Target, ...]:
        """Where a published port leads now; empty while none of its containers runs."""
        holder = self._cluster.containers.get(claim.container)
        sharing = self._by_service.get(claim.service, []) if claim.service else [holder] if holder else []
        numbers = {one.id: number for one in sharing if (number := _leads_to(one, claim))}
        found = [address for one in numbers if (address := answering_address(self._cluster, one))]
        return tuple((one.ip, numbers[one.container]) for one in backends(self._cluster, self._within_reach(found)))

    def virtual(self) -> dict[tuple[str, str], tuple[str, ...]]:
        found = {}
        for network, real in self._networks.items():
            claims = virtual_addresses(self._cluster, network)
            members_of = members(self._cluster, network, virtual=True) if claims else {}
            for service, ip in claims.items():
                reached = self._within_reach(members_of.get(service, ()))
                targets = tuple(one.ip for one in backends(self._cluster, reached))
                if targets:
                    found[real.bridge, ip] = targets
        return found

    def claims(self) -> Iterator[Address]:
        """All address claims on the networks of this host."""
        by_network = claims_by_network(self._cluster)
        return (claim for network in self._networks for claim in by_network.get(network, ()))

    def _within_reach(self, claims: Iterable[Address]) -> list[Address]:
        networks = self._networks
        return [
            one for one in claims if one.network in networks and (networks[one.network].host_ip or self.is_here(one))
        ]

    def is_here(self, claim: Address) -> bool:
        return self._cluster.host_of(claim.container) == self._host


def _group(containers: Iterable[Container]) -> ByService:
    groups: dict[str, list[Container]] = {}
    for container in containers:
        groups.setdefault(service_of_container(container), []).append(container)
    return groups


def _leads_to(container: Container, claim: Port) -> int:
    """The container's own port that a claim of it or of its service leads to; 0 if it does not publish that port."""
    if container.id == claim.container:
        return claim.container_port
    same = (p for p in parse_spec(container.body).ports if (p.protocol, p.first, p.last) == _asked(claim))
    return next((port.container_port for port in same), 0)


def _asked(claim: Port) -> tuple[str, int, int]:
    return claim.protocol, claim.port, claim.port
