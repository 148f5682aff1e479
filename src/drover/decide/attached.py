"""Which networks a container is on, and a host needs: by the create call, and what was joined and left since."""

from __future__ import annotations

from drover.decide.index import containers_on
from drover.decide.moves import expected_here, just_left
from drover.decide.overlay import DEFAULT_NETWORK
from drover.decide.remembered import remembered
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import Spec, parse_spec


def networks_of(cluster: Cluster, container: r.Container, spec: Spec) -> list[str]:
    """Ids of the cluster networks a container is on: those of its create call that it has not left, and those joined
    later."""
    asked = [network_id(cluster, ref) for ref in spec.network_refs]
    kept = [network for network in asked if network is not None and network not in container.left]
    joined = [network for network in container.attachments if network in cluster.networks]
    return list(dict.fromkeys(kept + joined))


def created_on(cluster: Cluster, container: r.Container, network: str) -> bool:
    """Whether the create call names a network: one of ours by id, or an engine's own by name."""
    refs = parse_spec(container.body).network_refs
    return network in {network_id(cluster, ref) or own_network(ref) for ref in refs}


def own_network(ref: str) -> str:
    """The name of an engine's own network as it is meant: `default` is its bridge."""
    return "bridge" if ref == "default" else ref


def left_all(cluster: Cluster, container: r.Container) -> bool:
    """Whether it has left every network of its create call."""
    refs = parse_spec(container.body).network_refs
    return bool(refs) and all((network_id(cluster, ref) or own_network(ref)) in container.left for ref in refs)


def network_id(cluster: Cluster, ref: str) -> str | None:
    """The cluster id of a network given by name or full id (`default` is the cluster's own); None for an engine's own
    (bridge, host, none)."""
    if ref == "default":
        return DEFAULT_NETWORK if DEFAULT_NETWORK in cluster.networks else None
    named = cluster.network_names.get(ref)
    if named is not None:
        return named.id
    return ref if ref in cluster.networks else None


@remembered("containers", "placements", "moves", "suspects", "networks", "network_names")
def networks_used(cluster: Cluster, host: str) -> frozenset[str]:
    """Ids of the cluster networks that containers placed on `host`, about to come there, or just gone from there, are
    on; and the default one, kept for the next."""
    used: set[str] = {DEFAULT_NETWORK} if DEFAULT_NETWORK in cluster.networks else set()
    moving = [container for container, _ in expected_here(cluster, host)]
    for container in (*containers_on(cluster, host), *moving, *just_left(cluster, host)):
        used.update(networks_of(cluster, container, parse_spec(container.body)))
    return frozenset(used)
