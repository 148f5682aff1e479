"""Which host keeps a spare copy of which image, so that a dead host's containers can start elsewhere at once.

Theory of operation. An image that only one host has dies with it. Every image that a container should be running on is
wanted on `COPIES` hosts that are alive. Hosts that have a container of it have the image; where those are too few, the
missing ones are chosen by rendezvous: each (image, host) pair has a fixed random-looking weight, the lowest weights
win. So every host comes to the same choice alone, and the choice for an image changes only if a chosen host goes.

    hosts alive with a container of it    spares
    three or more                         none
    fewer                                 as many of the others as are missing, those with the lowest weights

Three, so that two are left when one dies: what ran there is brought back at once by those that have the image, and one
host alone would get all of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import msgspec

from drover.decide.health import host_state
from drover.decide.remembered import remembered
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import parse_spec

COPIES = 3


class Spare(msgspec.Struct, frozen=True):
    """An image to keep: its id, and the name under which `container` asked for it."""

    image_id: str
    ref: str
    container: str


@remembered("containers", "placements", "container_facts", "hosts", "alive", "host_facts", "lost", "suspects")
def spares(cluster: Cluster, host: str) -> tuple[Spare, ...]:
    """The images that `host` keeps though no container of its own needs them, in image order."""
    able = _able(cluster)
    users = _users(cluster)
    wanted = [image for image in users if host in _chosen(_havers(cluster, users[image]), image, able)]
    return tuple(_spare(users[image][0], image) for image in sorted(wanted))


def image_hosts(cluster: Cluster, images: Collection[str]) -> dict[str, frozenset[str]]:
    """Image id to the hosts that can be used and should have it by now: those with a container of it, and those that
    kept a spare while the hosts that are lost now were there. A preference: nobody was asked."""
    able = _able(cluster)
    before = able | {name for name in cluster.hosts if name not in cluster.alive}
    users: dict[str, list[r.Container]] = {image: [] for image in images}
    for container in cluster.containers.values():
        if container.image_id in users:
            users[container.image_id].append(container)
    havers = {image: _havers(cluster, using) for image, using in users.items()}
    return {image: (have | _chosen(have, image, before)) & able for image, have in havers.items()}


def _able(cluster: Cluster) -> frozenset[str]:
    return frozenset(name for name in cluster.hosts if host_state(cluster, name).state == "ready")


def _users(cluster: Cluster) -> Mapping[str, list[r.Container]]:
    """Image id to the containers that should run on it."""
    found: dict[str, list[r.Container]] = {}
    for container in cluster.containers.values():
        if container.image_id and container.desired == "running":
            found.setdefault(container.image_id, []).append(container)
    return found


def _havers(cluster: Cluster, users: list[r.Container]) -> frozenset[str]:
    """The hosts whose engine has made one of the containers: it had the image then."""
    seen = (cluster.facts_of(container.id) for container in users)
    return frozenset(facts.host for facts in seen if facts is not None and facts.engine_id)


def _chosen(havers: frozenset[str], image: str, able: frozenset[str]) -> frozenset[str]:
    """The hosts that keep spares: as many as are missing, by weight."""
    have = havers & able
    if len(have) >= COPIES:
        return frozenset()
    others = sorted(able - have, key=lambda host: _weight(image, host))
    return frozenset(others[: COPIES - len(have)])


def _weight(image: str, host: str) -> bytes:
    return hashlib.sha256(f"{image}/{host}".encode()).digest()


def _spare(container: r.Container, image: str) -> Spare:
    return Spare(image, parse_spec(container.body).image, container.id)
