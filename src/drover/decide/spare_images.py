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
from collections import Counter
from collections.abc import Collection, Iterator
from functools import lru_cache
from heapq import nsmallest
from itertools import islice

import msgspec

from drover.decide.health import host_state
from drover.decide.remembered import remembered
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import parse_spec
from drover.model.table import changed

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
    short = _images.short(cluster, able)
    wanted = [image for image, have in short if host in _chosen(have, image, able)]
    return tuple(_spare(cluster.containers[_images.first_user(image)], image) for image in sorted(wanted))


def image_hosts(cluster: Cluster, images: Collection[str]) -> dict[str, frozenset[str]]:
    """Image id to the hosts that can be used and should have it by now: those with a container of it, and those that
    kept a spare while the hosts that are lost now were there. A preference: nobody was asked."""
    if not images:
        return {}
    able = _able(cluster)
    before = able | {name for name in cluster.hosts if name not in cluster.alive}
    users: dict[str, list[r.Container]] = {image: [] for image in images}
    for container in cluster.containers.values():
        if container.image_id in users:
            users[container.image_id].append(container)
    havers = {image: _havers(cluster, using) for image, using in users.items()}
    return {image: (have | _chosen(have, image, before)) & able for image, have in havers.items()}


@remembered("hosts", "alive", "host_facts", "lost", "suspects")
def _able(cluster: Cluster) -> frozenset[str]:
    return frozenset(name for name in cluster.hosts if host_state(cluster, name).state == "ready")


class _Use(msgspec.Struct, frozen=True):
    """What one container that should run uses, and the host whose engine has made it (empty: none)."""

    image: str
    host: str


class _Images:
    """Who uses which image, and which hosts have it; of the next picture only what changed is looked at."""

    def __init__(self) -> None:
        self._seen = Cluster()
        self._uses: dict[str, _Use] = {}
        self._users: dict[str, dict[str, None]] = {}
        self._havers: dict[str, Counter[str]] = {}
        """How many of its containers have been made on each host."""

    def short(self, cluster: Cluster, able: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
        """The images that fewer than COPIES of the hosts that can be used have, and which ones."""
        self._follow(cluster)
        for image in self._users:
            have = list(islice((host for host in self._havers.get(image, ()) if host in able), COPIES))
            if len(have) < COPIES:
                yield image, frozenset(have)

    def first_user(self, image: str) -> str:
        return min(self._users[image])

    def _follow(self, cluster: Cluster) -> None:
        seen, self._seen = self._seen, cluster
        tables = ("containers", "placements", "container_facts")
        keys = [key for name in tables for key in changed(seen.rows(name, r.Record), cluster.rows(name, r.Record))]
        for identity in dict.fromkeys(key.rpartition("/")[2] for key in keys):
            self._forget(identity, self._uses.pop(identity, None))
            self._learn(identity, _use(cluster, identity))

    def _forget(self, identity: str, use: _Use | None) -> None:
        if use is None:
            return
        del self._users[use.image][identity]
        if not self._users[use.image]:
            del self._users[use.image]
        if use.host:
            havers = self._havers[use.image]
            havers[use.host] -= 1
            if not havers[use.host]:
                del havers[use.host]

    def _learn(self, identity: str, use: _Use | None) -> None:
        if use is None:
            return
        self._uses[identity] = use
        self._users.setdefault(use.image, {})[identity] = None
        if use.host:
            self._havers.setdefault(use.image, Counter())[use.host] += 1


_images = _Images()


def _use(cluster: Cluster, identity: str) -> _Use | None:
    container = cluster.containers.get(identity)
    if container is None or not container.image_id or container.desired != "running":
        return None
    facts = cluster.facts_of(identity)
    return _Use(container.image_id, facts.host if facts is not None and facts.engine_id else "")


def _havers(cluster: Cluster, users: list[r.Container]) -> frozenset[str]:
    """The hosts whose engine has made one of the containers: it had the image then."""
    seen = (cluster.facts_of(container.id) for container in users)
    return frozenset(facts.host for facts in seen if facts is not None and facts.engine_id)


def _chosen(havers: frozenset[str], image: str, able: frozenset[str]) -> frozenset[str]:
    """The hosts that keep spares: as many as are missing, by weight."""
    have = havers & able
    return frozenset() if len(have) >= COPIES else _spared(image, have, able)


@lru_cache(maxsize=4_096)
def _spared(image: str, have: frozenset[str], able: frozenset[str]) -> frozenset[str]:
    return frozenset(nsmallest(COPIES - len(have), able - have, key=lambda host: _weight(image, host)))


def _weight(image: str, host: str) -> bytes:
    return hashlib.sha256(f"{image}/{host}".encode()).digest()


def _spare(container: r.Container, image: str) -> Spare:
    return Spare(image, parse_spec(container.body).image, container.id)
