"""Withdrawal: before a container ends on order, every host has stopped sending new connections to it.

Theory of operation. An order that ends a container takes it out of the tables of all hosts, at the revision of that
order (`services.backends`); but a host that is busy learns of it late, and what it sends until then would be refused.
So the container's own host asks the senders whether their tables are at that revision, and only then has the engine
end it. Where nobody else answers for the service, waiting would help nobody.

    container                                       waits for
    of no service, or the last one that answers     nobody
    of a service with a published port              all other hosts that are alive: each answers the port
    any other of a service                          those with a container on a network of its own

    order                       longest wait for tables       then, for connections that are open
    stop, restart, remove       DEADLINE_S                    at most LINGER_S
    kill                        KILL_DEADLINE_S               none: who kills does not ask
"""

from __future__ import annotations

import msgspec

from drover.decide.claims import addresses_of, claims_by_network
from drover.decide.overlay import placed
from drover.decide.services import LEAVING, is_answering, is_leaving, service_of_container
from drover.decide.tables import networks_everywhere
from drover.model.cluster import Cluster
from drover.model.records import Order, key

DEADLINE_S = 5.0
"""Longer than a lease: a host that says nothing for so long is not alive any more, and is not waited for."""
KILL_DEADLINE_S = 1.0
LINGER_S = 0.5
"""Most connections are short. Those that are kept open end with the container, as on one engine."""


class Withdrawal(msgspec.Struct, frozen=True):
    """`senders`, and this host itself, must have tables at `revision` before the container ends."""

    revision: int
    senders: frozenset[str]
    deadline_s: float
    linger_s: float


def withdrawal(cluster: Cluster, host: str, container: str, order: Order) -> Withdrawal | None:
    """What must come before `host` performs an order about a container; None if nothing."""
    if order.verb not in LEAVING or not is_answering(cluster, container) or not _others_answer(cluster, container):
        return None
    kills = order.verb == "kill"
    return Withdrawal(
        revision=cluster.version(key("containers", container)),
        senders=_senders(cluster, container) - {host},
        deadline_s=KILL_DEADLINE_S if kills else DEADLINE_S,
        linger_s=0.0 if kills else LINGER_S,
    )


def _others_answer(cluster: Cluster, container: str) -> bool:
    """Whether its service has another container, on a network of its own, that goes on."""
    record = cluster.containers.get(container)
    service = service_of_container(record) if record is not None else ""
    if not service:
        return False
    networks = {claim.network for claim in addresses_of(cluster, container)}
    claims = claims_by_network(cluster)
    near = {claim.container for network in networks for claim in claims.get(network, ())} - {container}
    return any(
        is_answering(cluster, other) and not is_leaving(cluster, other)
        for other in near
        if (sibling := cluster.containers.get(other)) is not None and service_of_container(sibling) == service
    )


def _senders(cluster: Cluster, container: str) -> frozenset[str]:
    """The hosts whose tables may have it: none that has lost its lease, which is cut off from the networks."""
    networks = {claim.network for claim in addresses_of(cluster, container)}
    if networks & networks_everywhere(cluster):
        return frozenset(cluster.alive) & cluster.hosts.keys()
    claims = claims_by_network(cluster)
    homes = {home.name for network in networks for _, home in placed(cluster, claims.get(network, ()))}
    return frozenset(homes & cluster.alive.keys())
