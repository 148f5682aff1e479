"""The promises about one writer and one holder, as checks on what really runs: for the simulation and for tests.

check        of                                      says
violations   all processes that run at one instant   P1: two hosts run a container that holds claims, or write one
                                                     volume; P2: two hosts answer for one address
steps_back   a picture of the records and the next   an epoch fell, or a host changed without the next epoch
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import msgspec

from drover.decide.sentences import container_name
from drover.model import records as r
from drover.model.cluster import Cluster


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """A container's process that runs on a host. `exclusive`: it holds claims; `volumes`: those it may write;
    `addresses`: (network id, ip), those it has; `heard`: packets from it reach other hosts."""

    host: str
    container: str
    exclusive: bool = False
    volumes: frozenset[str] = frozenset()
    addresses: frozenset[tuple[str, str]] = frozenset()
    heard: bool = True


def violations(live: Sequence[Live]) -> list[str]:
    """One sentence per promise that is broken at this instant."""
    found = ((live[one], live[other]) for one, other in _meeting(live))
    return [sentence for one, other in found if one.host != other.host for sentence in _between(one, other)]


def _meeting(live: Sequence[Live]) -> list[tuple[int, int]]:
    """The pairs that have anything in common at all; of thousands of processes, all pairs are too many to look at."""
    by_thing: dict[object, list[int]] = {}
    for index, one in enumerate(live):
        for thing in (one.container, *one.volumes, *one.addresses):
            by_thing.setdefault(thing, []).append(index)
    return sorted({pair for many in by_thing.values() if len(many) > 1 for pair in combinations(many, 2)})


def _between(one: Live, other: Live) -> Iterator[str]:
    where = f"on {one.host} and on {other.host}"
    if one.container == other.container and (one.exclusive or other.exclusive):
        yield f"P1: container {one.container[:12]} holds claims and runs {where}"
    for volume in sorted(one.volumes & other.volumes):
        yield f"P1: volume {volume} is written {where}"
    if one.heard and other.heard:
        for _, ip in sorted(one.addresses & other.addresses):
            yield f"P2: address {ip} answers {where}"


def steps_back(before: Cluster, after: Cluster) -> list[str]:
    """What must not happen between two pictures, the second the later one."""
    return [*_placements_back(before, after), *_claims_back(before, after)]


def _placements_back(before: Cluster, after: Cluster) -> Iterator[str]:
    if before.placements is after.placements:
        return
    for container, new in after.placements.items():
        old = before.placements.get(container)
        if old is not None and (new.epoch < old.epoch or (new.host != old.host and new.epoch == old.epoch)):
            name = container_name(after, container)
            yield f"{name} went from {old.host} (epoch {old.epoch}) to {new.host} (epoch {new.epoch})"


def _claims_back(before: Cluster, after: Cluster) -> Iterable[str]:
    rows: list[tuple[str, r.Address | r.Volume, r.Address | r.Volume | None]] = []
    if before.addresses is not after.addresses:
        rows += ((key, new, before.addresses.get(key)) for key, new in after.addresses.items())
    if before.volumes is not after.volumes:
        rows += ((key, new, before.volumes.get(key)) for key, new in after.volumes.items())
    for key, new, old in rows:
        if old is not None and new.epoch < old.epoch and _same_owner(old, new):
            yield f"the claim to {key} fell from epoch {old.epoch} to {new.epoch}"


def _same_owner(old: r.Address | r.Volume, new: r.Address | r.Volume) -> bool:
    """An address given to another container begins anew."""
    if isinstance(old, r.Address) and isinstance(new, r.Address):
        return old.container == new.container
    return True
