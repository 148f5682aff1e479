"""What the records themselves say that cannot be right, about addresses and ports: sentences, from one picture.

claim to            is wrong if
an address          its network is gone, or its container; or its container has two on one network
a port              its container is gone, or has no address to lead to
a virtual address   its network is gone
(kept)              the address is claimed, too
(a host)            it has no key, and the cluster encrypts
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from drover.decide.encryption import hosts_without_key
from drover.decide.ports import answering_address
from drover.decide.sentences import container_name
from drover.model.cluster import Cluster


def record_doubts(cluster: Cluster) -> list[str]:
    """One sentence per wrong claim; empty if all are right."""
    found = [*_addresses(cluster), *_kept(cluster), *_ports(cluster), *_virtual(cluster)]
    return found + [f"host {one} cannot encrypt: nothing is sent to it" for one in hosts_without_key(cluster)]


def _addresses(cluster: Cluster) -> Iterator[str]:
    for claim in cluster.addresses.values():
        if claim.network not in cluster.networks:
            yield f"address {claim.ip} is claimed on network {claim.network[:12]}, which is gone"
        elif claim.container not in cluster.containers:
            yield f"address {claim.ip} is claimed by container {claim.container[:12]}, which is gone"
    held = Counter((claim.container, claim.network) for claim in cluster.addresses.values())
    for (container, network), number in held.items():
        if number > 1:
            yield f"{container_name(cluster, container)} claims {number} addresses on network {network[:12]}"


def _kept(cluster: Cluster) -> Iterator[str]:
    for rest, one in cluster.kept_addresses.items():
        if rest in cluster.addresses:
            holder = container_name(cluster, cluster.addresses[rest].container)
            yield f"address {one.ip} is kept for the name {one.name}, and {holder} claims it"


def _ports(cluster: Cluster) -> Iterator[str]:
    for claim in cluster.ports.values():
        port = f"port {claim.port}/{claim.protocol}"
        if claim.container not in cluster.containers:
            yield f"{port} is claimed by container {claim.container[:12]}, which is gone"
        elif claim.container_port and answering_address(cluster, claim.container) is None:
            yield f"{port} leads to {container_name(cluster, claim.container)}, which has no address"


def _virtual(cluster: Cluster) -> Iterator[str]:
    for claim in cluster.service_addresses.values():
        if claim.network not in cluster.networks:
            yield f"service address {claim.ip} of {claim.service} is for network {claim.network[:12]}, which is gone"
