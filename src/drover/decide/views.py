"""`HostViews`: what placing needs to know of each host, added up once and kept up to date container by container.

Theory of operation. `HostViews.of(cluster)` is one pass over hosts, placements and port claims. `with_container`
gives the views after one more placement without looking at anything else, so that many placements in a row cost one
pass and not one pass each. A container holds its memory, cores and ports from its creation until its engine shows it
exited or dead after the last order; a start order to a container does not ask for a host again, so it may then
exceed what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from drover.decide.health import Health, host_state
from drover.decide.wanted import Slot, family_of, slot_of
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import Spec, parse_spec

PortKey = tuple[str, int]
"""(protocol, port)"""
EVERY_HOST = "*"
"""In the key of a port claim: the port is claimed on all hosts."""
NANO = 1_000_000_000


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """One host as placing sees it. `containers`, `memory_bytes`, `nano_cpus`, `families` and `ports` add up the
    containers that hold resources; `ports` says which container has a port."""

    name: str
    labels: Mapping[str, str]
    taints: Mapping[str, str] = {}
    health: Health
    facts: r.HostFacts | None = None
    containers: int = 0
    memory_bytes: int = 0
    nano_cpus: int = 0
    families: Mapping[str, int] = {}
    ports: Mapping[PortKey, str] = {}

    @property
    def free_memory_bytes(self) -> int:
        return (self.facts.memory_bytes if self.facts else 0) - self.memory_bytes

    @property
    def free_nano_cpus(self) -> int:
        return (self.facts.cpus * NANO if self.facts else 0) - self.nano_cpus

    def plus(self, container: str, name: str, spec: Spec) -> HostView:
        """With one more container that holds resources."""
        family = family_of(name, spec.labels)
        return msgspec.structs.replace(
            self,
            containers=self.containers + 1,
            memory_bytes=self.memory_bytes + spec.memory_bytes,
            nano_cpus=self.nano_cpus + nano_cpus(spec),
            families={**self.families, family: self.families.get(family, 0) + 1},
            ports={**dict.fromkeys(fixed_ports(spec), container), **self.ports},
        )

    def minus(self, container: str, name: str, spec: Spec) -> HostView:
        """Without a container that held resources."""
        family = family_of(name, spec.labels)
        families = {**self.families, family: self.families.get(family, 0) - 1}
        return msgspec.structs.replace(
            self,
            containers=self.containers - 1,
            memory_bytes=self.memory_bytes - spec.memory_bytes,
            nano_cpus=self.nano_cpus - nano_cpus(spec),
            families={one: number for one, number in families.items() if number},
            ports={port: holder for port, holder in self.ports.items() if holder != container},
        )


class HostViews(msgspec.Struct, frozen=True):
    """`hosts` by name; `shared_ports` are claimed on every host; `slots` says which container has a Compose slot."""

    hosts: Mapping[str, HostView]
    shared_ports: Mapping[PortKey, str] = {}
    slots: Mapping[Slot, str] = {}

    @staticmethod
    def of(cluster: Cluster) -> HostViews:
        """All views, in one pass."""
        claims, shared = port_claims(cluster)
        views = {name: empty_view(cluster, host, claims.get(name, {})) for name, host in cluster.hosts.items()}
        slots: dict[Slot, str] = {}
        for host, container, spec in _placed(cluster):
            slot = slot_of(spec.labels)
            if slot is not None:
                slots[slot] = container.id
            if host in views and holds_resources(cluster, container):
                views[host] = views[host].plus(container.id, container.name, spec)
        return HostViews(views, shared, slots)

    def with_container(self, host: str, container: str, name: str, spec: Spec) -> HostViews:
        """The views after a container was placed on `host`."""
        return HostViews(
            {**self.hosts, host: self.hosts[host].plus(container, name, spec)}, self.shared_ports, self.slots
        )

    def without(self, cluster: Cluster, container: str) -> HostViews:
        """The views as if a placed container were gone; itself where it is not placed or holds nothing."""
        record, host = cluster.containers.get(container), cluster.host_of(container)
        if record is None or host is None or host not in self.hosts or not holds_resources(cluster, record):
            return self
        view = self.hosts[host].minus(container, record.name, parse_spec(record.body))
        shared = {port: holder for port, holder in self.shared_ports.items() if holder != container}
        return HostViews({**self.hosts, host: view}, shared, self.slots)


def holds_resources(cluster: Cluster, container: r.Container) -> bool:
    """Whether it counts: false once its engine, having carried out the last order, shows it exited or dead."""
    facts = cluster.facts_of(container.id)
    over = facts is not None and facts.state in ("exited", "dead") and facts.answer.number >= container.order.number
    return not over


def nano_cpus(spec: Spec) -> int:
    return round(spec.cpus * NANO)


def fixed_ports(spec: Spec) -> list[PortKey]:
    """The ports it must have of its host: those that the engine publishes, as one given number."""
    if not spec.publishes_on_host:
        return []
    return [(port.protocol, port.first) for port in spec.ports if port.first and port.first == port.last]


def _placed(cluster: Cluster) -> Iterable[tuple[str, r.Container, Spec]]:
    for identity, placement in cluster.placements.items():
        container = cluster.containers.get(identity)
        if container is not None:
            yield placement.host, container, parse_spec(container.body)


def host_view(cluster: Cluster, host: r.Host) -> HostView:
    """A host by itself: what it is and how it is, without what runs there."""
    return empty_view(cluster, host, {})


def empty_view(cluster: Cluster, host: r.Host, ports: Mapping[PortKey, str]) -> HostView:
    facts = cluster.host_facts.get(host.name)
    health = host_state(cluster, host.name)
    return HostView(name=host.name, labels=host.labels, taints=host.taints, health=health, facts=facts, ports=ports)


def port_claims(cluster: Cluster) -> tuple[dict[str, dict[PortKey, str]], dict[PortKey, str]]:
    """The port claims of containers that hold resources: by host, and those on every host."""
    claims: dict[str, dict[PortKey, str]] = {}
    for claim in cluster.ports.values():
        holder = cluster.containers.get(claim.container)
        if holder is None or holds_resources(cluster, holder):
            claims.setdefault(claim.host, {})[claim.protocol, claim.port] = claim.container
    return claims, claims.pop(EVERY_HOST, {})
