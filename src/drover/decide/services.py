"""Services: containers that answer together under one name and one virtual address, from the records alone.

Theory of operation. A container belongs to a service by its labels; nobody declares services.

    label                                       makes it one of
    drover.service=NAME                         service NAME of its Compose project (or of none)
    com.docker.compose.project and .service     that service of that project
    drover.endpoint_mode=dnsrr                  no virtual address: its name has all addresses

A service has one virtual address on each overlay network that its containers are on. The leader claims it
(`service_addresses/<ip>`, lowest free one of POOL) when the first container comes, and gives it up after the last. The
address is in no network's subnet, so containers send to it through their gateway, which is their own host; there
the kernel chooses a backend. Only containers of that network reach it: the claim names the network.

    backends of a service       containers that run, are not told to stop, and whose health check, if any, passes
    none of them is healthy     all that run: a check that asks for the service by its name must be able to pass
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network

import msgspec

from drover.decide.claims import claims_by_network
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.records import Address, Container, ContainerFacts, ServiceAddress, key
from drover.model.spec import parse_spec

SERVICE_LABEL = "drover.service"
MODE_LABEL = "drover.endpoint_mode"
DNS_ROUND_ROBIN = "dnsrr"
COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_SERVICE = "com.docker.compose.service"
POOL = IPv4Network("10.127.0.0/16")
ANSWERING = frozenset({"running", "paused"})
BETWEEN_HOSTS = frozenset({"stopping", "stopped", "handed", "aborting"})
"""Phases of a move in which new connections are parked (`decide.parking`)."""
LEAVING = frozenset({"stop", "kill", "restart", "remove"})

Members = Mapping[str, Sequence[Address]]
"""Service to the address claims of its containers on one network."""


class Draft(msgspec.Struct, frozen=True):
    """Changes, and the versions they rest on."""

    changes: tuple[Change, ...] = ()
    expect: Mapping[str, int] = {}


def service_of(labels: Mapping[str, str]) -> str:
    """`project/name` (`/name` without a project); empty for a container of no service."""
    name = labels.get(SERVICE_LABEL) or labels.get(COMPOSE_SERVICE, "")
    return f"{labels.get(COMPOSE_PROJECT, '')}/{name}" if name else ""


def service_name(service: str) -> str:
    """The name alone, as containers ask for it."""
    return service.rpartition("/")[2]


def service_of_container(container: Container) -> str:
    return service_of(parse_spec(container.body).labels)


def members(cluster: Cluster, network: str, *, virtual: bool = False) -> Members:
    """The services on a network, with the claims of their containers whatever their state. `virtual`: only those that
    want a virtual address."""
    found: dict[str, list[Address]] = {}
    for claim in claims_by_network(cluster).get(network, ()):
        container = cluster.containers.get(claim.container)
        labels = parse_spec(container.body).labels if container else {}
        service = service_of(labels)
        if service and not (virtual and labels.get(MODE_LABEL) == DNS_ROUND_ROBIN):
            found.setdefault(service, []).append(claim)
    return found


def backends(cluster: Cluster, claims: Iterable[Address]) -> list[Address]:
    """Those of the claims whose containers should be sent to now, in the order of their addresses. One that is on its
    way to another host is sent to only if there is no other."""
    running = [one for one in claims if is_answering(cluster, one.container)]
    staying = [one for one in running if not is_leaving(cluster, one.container)]
    staying = [one for one in staying if not is_between_hosts(cluster, one.container)] or staying
    healthy = [one for one in staying if _is_healthy(cluster.facts_of(one.container))]
    return sorted(healthy or staying, key=lambda claim: ip_order(claim.ip))


def is_answering(cluster: Cluster, container: str) -> bool:
    """Whether its host last reported that it runs, or it will go on in a moment elsewhere."""
    facts = cluster.facts_of(container)
    return (facts is not None and facts.state in ANSWERING) or is_between_hosts(cluster, container)


def is_between_hosts(cluster: Cluster, container: str) -> bool:
    """Whether it stands still only because it is being moved: its clients wait for it, and need its name and ports."""
    move, record = cluster.moves.get(container), cluster.containers.get(container)
    return move is not None and move.phase in BETWEEN_HOSTS and record is not None and record.desired == "running"


def is_leaving(cluster: Cluster, container: str) -> bool:
    """Whether it has been told to end, and has not yet."""
    record, facts = cluster.containers.get(container), cluster.facts_of(container)
    if record is None or record.desired == "removed":
        return True
    pending = record.order.number > (facts.answer.number if facts else 0)
    return pending and record.order.verb in LEAVING


def _is_healthy(facts: ContainerFacts | None) -> bool:
    return facts is not None and facts.health in ("", "none", "healthy")


def ip_order(ip: str) -> tuple[int, ...]:
    """Sorts addresses by number."""
    return tuple(int(part) for part in ip.split("."))


def virtual_addresses(cluster: Cluster, network: str) -> dict[str, str]:
    """Service to its virtual address on a network."""
    claims = cluster.service_addresses.values()
    return {claim.service: claim.ip for claim in claims if claim.network == network}


def address_changes(cluster: Cluster, networks: Iterable[str]) -> Draft:
    """What the leader writes: an address for each service that wants one and has none, on each of the overlay networks
    `networks`; and the removal of those that nobody needs any more. Services that find the pool empty get none, and
    their names have all addresses."""
    wanted = {(network, service) for network in networks for service in members(cluster, network, virtual=True)}
    have = {(claim.network, claim.service): ip for ip, claim in cluster.service_addresses.items()}
    free = (ip for ip in map(str, POOL.hosts()) if ip not in cluster.service_addresses)
    made = [
        put(key("service_addresses", ip), ServiceAddress(ip=ip, network=network, service=service))
        for (network, service), ip in zip(sorted(wanted - have.keys()), free, strict=False)
    ]
    gone = [delete(key("service_addresses", ip)) for needed, ip in sorted(have.items()) if needed not in wanted]
    changes = (*made, *gone)
    return Draft(changes, {change.key: cluster.version(change.key) for change in changes})
