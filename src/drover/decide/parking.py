"""Which addresses' new connections are parked while a container stands still between two hosts.

Theory of operation. From just before its container stops until it listens on the other host, nobody answers for an
address: a connection attempt would be refused, or lost for a second. Both hosts of the move hold such attempts back,
and let them go when it is over. Every attempt comes to one of the two, whatever the other hosts have learned by then:

    phase                   at the source    at the target
    copying                 -                -
    stopping .. handed      parked           parked
    aborting                parked           -
    done, aborted           let go           let go
"""

from __future__ import annotations

import msgspec

from drover.decide.moves import active
from drover.decide.overlay import is_overlay
from drover.model.cluster import Cluster
from drover.model.records import Move

AT_BOTH = ("stopping", "stopped", "handed")


class Parked(msgspec.Struct, frozen=True, order=True):
    """New TCP connections to `ip` by way of this bridge wait."""

    bridge: str
    ip: str


def parked(cluster: Cluster, host: str) -> frozenset[Parked]:
    """What `host` parks."""
    standing = {move.container for _, move in active(cluster) if move.container and _parks(move, host)}
    return frozenset(_of(cluster, standing)) if standing else frozenset()


def _parks(move: Move, host: str) -> bool:
    if move.phase == "aborting":
        return host == move.source
    return move.phase in AT_BOTH and host in (move.source, move.target)


def _of(cluster: Cluster, containers: set[str]) -> list[Parked]:
    found = []
    for claim in cluster.addresses.values():
        network = cluster.networks.get(claim.network)
        if claim.container in containers and network is not None and is_overlay(network):
            found.append(Parked(f"dv{network.vni}", claim.ip))
    return found
