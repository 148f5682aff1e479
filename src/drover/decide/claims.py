"""The claims of a cluster, grouped: what the overlay, the names and the published ports all start from.

A picture shares the tables that did not change with the one before it, so grouping 5,000 claims again is needed only
when one of them changed: the last grouping is kept, and known by the identity of its table. Those of a few rows are
kept apart, some of them: pictures of a few containers (`decide.parts`) must not drive out that of the cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from drover.model.cluster import Cluster
from drover.model.records import Address, Port, ServiceAddress

C = TypeVar("C", Address, Port, ServiceAddress)
Claims = Mapping[str, Sequence[Address]]
FEW = 64
KEPT = 32
"""How many groupings of a few rows are kept."""


class _Grouping(Generic[C]):
    """Groups a table's records by one of their fields; the last answer is kept."""

    def __init__(self, by: Callable[[C], str]) -> None:
        self._by: Callable[[C], str] = by
        self._last: tuple[Mapping[str, C], Mapping[str, Sequence[C]]] = ({}, {})
        self._small: dict[int, tuple[Mapping[str, C], Mapping[str, Sequence[C]]]] = {}
        """By the identity of the table, which therefore is kept, too."""

    def of(self, table: Mapping[str, C]) -> Mapping[str, Sequence[C]]:
        if not table:
            return {}
        known = self._small.get(id(table), self._last)
        if known[0] is table:
            return known[1]
        made: dict[str, list[C]] = {}
        for claim in table.values():
            made.setdefault(self._by(claim), []).append(claim)
        if len(table) > FEW:
            self._last = (table, made)
        else:
            self._keep(table, made)
        return made

    def _keep(self, table: Mapping[str, C], made: Mapping[str, Sequence[C]]) -> None:
        if len(self._small) >= KEPT:
            self._small.clear()
        self._small[id(table)] = (table, made)


_addresses_by_network: _Grouping[Address] = _Grouping(lambda claim: claim.network)
_addresses_by_container: _Grouping[Address] = _Grouping(lambda claim: claim.container)
_ports_by_container: _Grouping[Port] = _Grouping(lambda claim: claim.container)
_ports_by_service: _Grouping[Port] = _Grouping(lambda claim: claim.service)
_virtual_by_service: _Grouping[ServiceAddress] = _Grouping(lambda claim: claim.service)


def claims_by_network(cluster: Cluster) -> Claims:
    """Network id to the claims of its addresses, in no particular order. Not to be changed by the caller."""
    return _addresses_by_network.of(cluster.addresses)


def addresses_of(cluster: Cluster, container: str) -> Sequence[Address]:
    """The address claims of a container (an id)."""
    return _addresses_by_container.of(cluster.addresses).get(container, ())


def ports_of(cluster: Cluster, container: str) -> Sequence[Port]:
    """The port claims of a container (an id), those that its engine publishes too."""
    return _ports_by_container.of(cluster.ports).get(container, ())


def ports_of_service(cluster: Cluster, service: str) -> Sequence[Port]:
    """The port claims that containers of a service (`project/name`) share."""
    return _ports_by_service.of(cluster.ports).get(service, ())


def virtual_of_service(cluster: Cluster, service: str) -> Sequence[ServiceAddress]:
    """The virtual addresses of a service, on whatever network."""
    return _virtual_by_service.of(cluster.service_addresses).get(service, ())
