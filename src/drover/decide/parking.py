"""Which addresses' new connections are parked while a container stands still between two hosts.

Theory of operation. From just before its container stops until it listens on the other host, nobody answers for an
address: a connection attempt would be refused, or lost for a second. Both hosts of the move hold such attempts back,
and let them go when it is over. Every attempt comes to one of the two, whatever the other hosts have learned by then.
Once the claims have passed, the source sends on to the target what it has and what still comes: so all wait there, and
the target alone lets them in, as soon as the container is ready.

    phase                   at the source    at the target
    copying                 -                -
    stopping, stopped       parked           parked
    handed                  sent on          parked, until the container is ready
    aborting                parked           -
    done, aborted           let go           let go
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from drover.decide.moves import active
from drover.decide.overlay import is_overlay
from drover.model.cluster import Cluster
from drover.model.records import Move

AT_BOTH = ("stopping", "stopped", "handed")


class Parked(msgspec.Struct, frozen=True, order=True):
    """New TCP connections to `ip` by way of this bridge wait; `passing`: they are sent on, as the entries are now."""

    bridge: str
    ip: str
    passing: bool = False


def parked(cluster: Cluster, host: str, only: str = "") -> frozenset[Parked]:
    """What `host` parks: all of it, or for `only` one container."""
    standing = {move.container: move for _, move in active(cluster) if move.container and _parks(move, host)}
    if only:
        standing = {only: standing[only]} if only in standing else {}
    return frozenset(_of(cluster, host, standing)) if standing else frozenset()


def _parks(move: Move, host: str) -> bool:
    if move.phase == "aborting":
        return host == move.source
    return move.phase in AT_BOTH and host in (move.source, move.target)


def _of(cluster: Cluster, host: str, standing: Mapping[str, Move]) -> list[Parked]:
    found = []
    for claim in cluster.addresses.values():
        network, move = cluster.networks.get(claim.network), standing.get(claim.container)
        if move is not None and network is not None and is_overlay(network):
            passing = move.phase == "handed" and host == move.source
            found.append(Parked(f"dv{network.vni}", claim.ip, passing))
    return found
