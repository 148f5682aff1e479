"""What resolves on a network, from the records alone.

Theory of operation. A container answers to these names on each network it has an address on, while it runs:

    name                          example             from
    name.network                  web.app             its name and the network's
    name                          web                 its name
    alias, alias.network          db, db.app          the endpoint settings of its create call or `network connect`;
                                                      Compose puts the service's name there
    short id                      3f2a9c81b0de        the first 12 digits of its cluster id
    service, service.network      web                 its service: the virtual address (`decide.services`), if any
    tasks.service                 tasks.web           its service: the addresses of all that run

A name that several containers share (a service's) has all their addresses. Names are lower-case. A paused container
keeps its names, as on one engine; what is not known to run has none, so that a name never leads to nothing for long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from drover.decide.claims import claims_by_network
from drover.decide.overlay import is_overlay
from drover.decide.services import is_answering, members, service_name, virtual_addresses
from drover.model.cluster import Cluster
from drover.model.records import Address, Container, Network
from drover.model.spec import parse_spec

SHORT_ID = 12


class _EndpointSettings(msgspec.Struct, rename="pascal"):
    aliases: list[str] | None = None
    links: list[str] | None = None


_decode = msgspec.json.Decoder(_EndpointSettings | None).decode


def names(cluster: Cluster, network_id: str) -> dict[str, tuple[str, ...]]:
    """Name to addresses (in address order) on one network; empty if there is no such network.

    The `name.network` of all containers come before all other names: a reverse look-up gives the first of an address.
    """
    network = cluster.networks.get(network_id)
    if network is None:
        return {}
    found: dict[str, list[str]] = {}
    answering = list(_answering(cluster, network_id))
    for names_of in (_own_name, _other_names):
        for claim, container in answering:
            for name in names_of(container, network):
                found.setdefault(name.lower(), []).append(claim.ip)
    _add_services(cluster, network, found)
    return {name: tuple(addresses) if len(addresses) == 1 else _sorted(addresses) for name, addresses in found.items()}


def _add_services(cluster: Cluster, network: Network, found: dict[str, list[str]]) -> None:
    """The names of services that run; one with a virtual address answers with it alone, and not as an alias does."""
    virtual = virtual_addresses(cluster, network.id)
    replaced: set[str] = set()
    for service, claims in members(cluster, network.id).items():
        name = service_name(service).lower()
        running = [claim.ip for claim in claims if is_answering(cluster, claim.container)]
        if not running:
            continue
        found.setdefault(f"tasks.{name}", []).extend(running)
        answer = [virtual[service]] if service in virtual else running
        for asked in (name, f"{name}.{network.name.lower()}"):
            if service in virtual and asked not in replaced and not _is_container(cluster, asked):
                found[asked] = []
                replaced.add(asked)
            found.setdefault(asked, []).extend(answer)


def _is_container(cluster: Cluster, name: str) -> bool:
    """Whether a container's own name is meant, which a service's must not hide."""
    return name in cluster.names


def shared(cluster: Cluster, network_id: str) -> dict[str, tuple[str, ...]]:
    """Address on this network to the other networks of the container that has it, for those that have others.

    Whoever asks from such an address may be told the names of those networks, too.
    """
    others: dict[str, list[str]] = {}
    for other, claims in claims_by_network(cluster).items():
        if other != network_id and other in cluster.networks:
            for claim in claims:
                others.setdefault(claim.container, []).append(other)
    here = claims_by_network(cluster).get(network_id, ())
    return {claim.ip: tuple(sorted(others[claim.container])) for claim in here if claim.container in others}


def links(cluster: Cluster, network_id: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Address on this network to the names that its container alone uses for others there: the aliases of its links."""
    network = cluster.networks.get(network_id)
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    claims = claims_by_network(cluster).get(network_id, ()) if network is not None else ()
    addresses = {claim.container: claim.ip for claim in claims}
    for claim in claims:
        container = cluster.containers.get(claim.container)
        if network is not None and container is not None and (own := _links(cluster, container, network, addresses)):
            found[claim.ip] = own
    return found


def _links(
    cluster: Cluster, container: Container, network: Network, addresses: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for link in asked_links(container, network):
        ref, _, alias = link.partition(":")
        name = cluster.names.get(ref.removeprefix("/"))
        linked = name.id if name is not None else ref
        if linked in addresses:
            found[(alias or ref).lower()] = (addresses[linked],)
    return found


def asked_links(container: Container, network: Network) -> list[str]:
    """The links that a container asks for on a network, `REF` or `REF:ALIAS`."""
    asked = parse_spec(container.body).networks
    created = [link for ref in (network.name, network.id) if ref in asked for link in asked[ref].links]
    joined = _decode(container.attachments.get(network.id) or "{}") or _EndpointSettings()
    return created + (joined.links or [])


def servers(cluster: Cluster, network_id: str) -> dict[str, tuple[str, ...]]:
    """Address on this network to the name servers that its container asks for names outside, where it has its own
    (`--dns`)."""
    found = {}
    for claim in claims_by_network(cluster).get(network_id, ()):
        container = cluster.containers.get(claim.container)
        if container is not None and (own := parse_spec(container.body).dns):
            found[claim.ip] = own
    return found


def resolvers(cluster: Cluster, container_id: str) -> tuple[str, ...]:
    """The name servers of a container: the gateways of the overlay networks it has an address on, in network order.

    Each answers for all of them (`shared`). Empty for a container that is on none, which keeps its engine's servers.
    """
    networks = {claim.network for claim in cluster.addresses.values() if claim.container == container_id}
    found = (cluster.networks.get(network) for network in sorted(networks))
    return tuple(network.gateway for network in found if network and network.gateway and is_overlay(network))


def _answering(cluster: Cluster, network_id: str) -> Iterator[tuple[Address, Container]]:
    """The claims on a network whose containers are known to run, with those containers."""
    containers = cluster.containers
    for claim in claims_by_network(cluster).get(network_id, ()):
        container = containers.get(claim.container)
        if container and is_answering(cluster, claim.container):
            yield claim, container


def own_name(container: Container, network: Network) -> str:
    """The name that a reverse look-up gives."""
    return f"{container.name}.{network.name}".lower()


def _own_name(container: Container, network: Network) -> Iterator[str]:
    yield own_name(container, network)


def _other_names(container: Container, network: Network) -> Iterator[str]:
    yield container.name
    for alias in _aliases(container, network):
        yield alias
        yield f"{alias}.{network.name}"
    yield container.id[:SHORT_ID]


def _aliases(container: Container, network: Network) -> tuple[str, ...]:
    """The aliases asked for on a network, in the create call (by the network's name or id) and when joined later."""
    asked = parse_spec(container.body).networks
    created = tuple(alias for ref in (network.name, network.id) if ref in asked for alias in asked[ref].aliases)
    joined = _decode(container.attachments.get(network.id) or "{}") or _EndpointSettings()
    return created + tuple(joined.aliases or ())


def _sorted(addresses: list[str]) -> tuple[str, ...]:
    """Each address once, in numeric order."""
    return tuple(sorted(set(addresses), key=lambda ip: [int(part) for part in ip.split(".")]))
