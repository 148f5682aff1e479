"""Published ports of the cluster: who has which, and what a start claims, from the records alone.

Theory of operation. `-p 8080:80` of a container on a cluster network is answered by every host. So the port is one
claim for all hosts, made when the container starts, as Docker does:

    asked                     claim                             free means
    8080:80                   ports/*/tcp/8080                  no host has it, and neither has the cluster
    8000-8010:80              the first free one                the same
    80 (any port), -P         the one it had before, else       the same
                              the first free from FIRST_ANY
    127.0.0.1:8080:80         ports/<its host>/tcp/8080         neither that host nor the cluster has it
    label drover.publish=host none here: its engine publishes   (`decide.fit`)

A claim is kept while the container is stopped, and anybody may take it over then. Containers of one service share
a port that is given as one number: the hosts balance it over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import AddressValueError, IPv4Address

import msgspec

from drover.decide.claims import addresses_of, ports_of
from drover.decide.overlay import is_internal, is_overlay
from drover.decide.sentences import container_name
from drover.decide.services import Draft, service_of
from drover.decide.views import EVERY_HOST, holds_resources
from drover.errors import EngineError, Invalid
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.records import Address, Container, Port, key
from drover.model.spec import PublishedPort, Spec, parse_spec

FIRST_ANY = 49153
LAST_ANY = 65535
ALL_ADDRESSES = frozenset({"", "0.0.0.0"})

Exposed = Iterable[tuple[int, str]]


def answering_address(cluster: Cluster, container: str) -> Address | None:
    """The claim that a container's published ports lead to: on the first by name of its overlay networks that are not
    internal, which is where its engine puts its default route. None if there is none."""
    claims = [
        (network.name, claim)
        for claim in addresses_of(cluster, container)
        if (network := cluster.networks.get(claim.network)) and is_overlay(network) and not is_internal(network)
    ]
    return min(claims, key=lambda pair: pair[0])[1] if claims else None


def is_published_by_cluster(cluster: Cluster, container: Container) -> bool:
    """Whether Drover, and not the container's engine, publishes its ports."""
    return not parse_spec(container.body).publishes_on_host and answering_address(cluster, container.id) is not None


def published(cluster: Cluster, container: Container) -> list[Port]:
    """The ports that the cluster answers for a container, each with the container's own number: its own claims, and
    those that its service shares. In the order of port numbers."""
    if not is_published_by_cluster(cluster, container):
        return []
    own = [claim for claim in ports_of(cluster, container.id) if claim.container_port]
    shared = [claim for port in parse_spec(container.body).ports for claim in _shared(cluster, container, port)]
    return sorted({*own, *shared}, key=lambda claim: (claim.container_port, claim.protocol, claim.port))


def _shared(cluster: Cluster, container: Container, port: PublishedPort) -> Iterator[Port]:
    """The claim of another container of the service to a port given as one number."""
    claim = cluster.ports.get(f"{EVERY_HOST}/{port.protocol}/{port.first}")
    service = service_of(parse_spec(container.body).labels)
    if claim and claim.service and claim.container != container.id and _is_one(port) and claim.service == service:
        yield msgspec.structs.replace(claim, container_port=port.container_port)


def port_claims(cluster: Cluster, container: Container, exposed: Exposed = ()) -> Draft:
    """What a start claims. `exposed`: the ports of container and image, for `-P`. Raises Docker's own refusal, with
    the holder's name, if a port is taken."""
    if not is_published_by_cluster(cluster, container):
        return Draft()
    spec = parse_spec(container.body)
    changes: dict[str, Change] = {}
    for port in wanted_ports(spec, exposed):
        claim = _claim(cluster, container, spec, port, changes)
        if claim is not None:
            change = put(key("ports", claim.host, claim.protocol, str(claim.port)), claim)
            changes[change.key] = change
    return Draft(tuple(changes.values()), {name: cluster.version(name) for name in changes})


def wanted_ports(spec: Spec, exposed: Exposed) -> Sequence[PublishedPort]:
    """The ports to publish; with `-P` any port of the host for each exposed one that has no binding."""
    bound = {(port.container_port, port.protocol) for port in spec.ports}
    every = [PublishedPort(number, protocol) for number, protocol in exposed if (number, protocol) not in bound]
    return [*spec.ports, *(every if spec.publish_all else ())]


def released(cluster: Cluster, container: str) -> Draft:
    """The removal of a container's claims, after a start that its engine refused."""
    keys = [key("ports", claim.host, claim.protocol, str(claim.port)) for claim in ports_of(cluster, container)]
    return Draft(tuple(map(delete, keys)), {name: cluster.version(name) for name in keys})


def heir(cluster: Cluster, claim: Port) -> Port | None:
    """The claim as another container of the same service takes it over; None if there is nobody to take it."""
    if not claim.service:
        return None
    for other in cluster.containers.values():
        spec = parse_spec(other.body)
        if other.id != claim.container and service_of(spec.labels) == claim.service:
            for port in spec.ports:
                if (port.protocol, port.first) == (claim.protocol, claim.port) and _is_one(port):
                    return msgspec.structs.replace(claim, container=other.id, container_port=port.container_port)
    return None


def _claim(
    cluster: Cluster, container: Container, spec: Spec, port: PublishedPort, taken: dict[str, Change]
) -> Port | None:
    """The claim for one port; None where the container's service has it already. `taken`: by this same start."""
    host_ip = _host_ip(port)
    where = (cluster.host_of(container.id) or EVERY_HOST) if host_ip else EVERY_HOST
    service = service_of(spec.labels) if _is_one(port) and not host_ip else ""
    blocker: Port | None = None
    for number in _candidates(cluster, container, port, host_ip):
        blocker = _blocker(cluster, container, where, port.protocol, number)
        if blocker is not None and service and blocker.service == service:
            return None
        if blocker is None and key("ports", where, port.protocol, str(number)) not in taken:
            return Port(
                host=where,
                protocol=port.protocol,
                port=number,
                container=container.id,
                container_port=port.container_port,
                host_ip=host_ip,
                service=service,
            )
    raise _refusal(cluster, container, port, blocker)


def _host_ip(port: PublishedPort) -> str:
    """The one address of its host that shall answer; empty for all. Raises `Invalid`."""
    if port.host_ip in ALL_ADDRESSES:
        return ""
    try:
        return str(IPv4Address(port.host_ip))
    except AddressValueError as error:
        raise Invalid(
            f"port {port.container_port}/{port.protocol} cannot be published on {port.host_ip}: only on IPv4 addresses",
            hint="leave the address out, or have the engine publish it: label drover.publish=host",
        ) from error


def _is_one(port: PublishedPort) -> bool:
    return not port.any and port.first == port.last


def _candidates(cluster: Cluster, container: Container, port: PublishedPort, host_ip: str) -> Iterator[int]:
    """The port numbers that will do, best first."""
    if not port.any:
        yield from range(port.first, port.last + 1)
        return
    for claim in ports_of(cluster, container.id):
        if (claim.container_port, claim.protocol, claim.host_ip) == (port.container_port, port.protocol, host_ip):
            yield claim.port
    yield from range(FIRST_ANY, LAST_ANY + 1)


def _blocker(cluster: Cluster, container: Container, where: str, protocol: str, number: int) -> Port | None:
    """Somebody else's claim that stands in the way: one of a container that is not over."""
    hosts = (EVERY_HOST, *cluster.hosts) if where == EVERY_HOST else (EVERY_HOST, where)
    for host in hosts:
        claim = cluster.ports.get(f"{host}/{protocol}/{number}")
        holder = cluster.containers.get(claim.container) if claim else None
        if holder is not None and holder.id != container.id and holds_resources(cluster, holder):
            return claim
    return None


def _refusal(cluster: Cluster, container: Container, port: PublishedPort, blocker: Port | None) -> EngineError:
    asked = str(port.first) if _is_one(port) else f"{port.first}-{port.last}"
    holder = f" (container {container_name(cluster, blocker.container)} has it)" if blocker else ""
    return EngineError(
        500,
        f"driver failed programming external connectivity on endpoint {container.name} ({container.id}): "
        f"Bind for {port.host_ip or '0.0.0.0'}:{asked} failed: port is already allocated{holder}",
    )
