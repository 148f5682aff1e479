"""Which containers should change hosts so that the load is even again: few moves, each worth it. Pure.

Theory of operation. The evenness of a cluster is a pair of sums over its hosts: of the squares of how many containers
of each service are there, and of the squares of how many containers there are at all. A move is proposed only if

    it makes the pair smaller (the first number, or the second while the first does not grow)
    by at least what the move is worth: the two hosts differ by WORTH, or by WORTH_WITH_DATA if data has to travel
    the target fits (the same filters as for a new container), leaves no more wishes unmet and no zone more crowded,
    and both hosts are ready
    the container can be moved, no other of its service is down or on its way, and it has been there for SETTLED_S

Each proposal makes the pair smaller, and it is a pair of whole numbers, so there is an end; and where no move is worth
it, none is proposed, so a balanced cluster stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from drover.decide.evacuate import available, families, with_moves
from drover.decide.fit import Question, question, refusal
from drover.decide.kept_views import kept
from drover.decide.moves import Asked, Commit, active, begin_container
from drover.decide.rank import unmet
from drover.decide.sentences import count
from drover.decide.views import HostView, HostViews, holds_resources
from drover.decide.wanted import family_of, wanted_again
from drover.errors import DroverError
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import parse_spec

WORTH = 2
WORTH_WITH_DATA = 4
SETTLED_S = 60.0
AUTOMATIC = "rebalance"
"""The setting: `auto` lets the leader do it by itself, one move at a time."""
QUIET_S = 60.0
"""For so long nothing may have happened before the leader moves something by itself."""


class Proposal(msgspec.Struct, frozen=True):
    """One move and why; `commit` begins it."""

    name: str
    source: str
    target: str
    why: str
    commit: Commit
    container: str


def proposals(cluster: Cluster, now: float, limit: int) -> Iterator[Proposal]:
    """At most `limit` moves, the most useful first, each decided with those before it made."""
    views, known = with_moves(cluster, kept(cluster)), _Known(cluster)
    for _ in range(limit):
        found = _best(cluster, views, now, known)
        if found is None:
            return
        yield found
        known.moved.add(found.container)
        record = cluster.containers[found.container]
        views = views.without(cluster, record.id).with_container(
            found.target, record.id, record.name, parse_spec(record.body)
        )


def automatic(cluster: Cluster, now: float) -> Proposal | None:
    """The next move that the leader makes by itself; None unless that is wanted, nothing moves, and all is quiet."""
    setting = cluster.rows("settings", r.Setting).get(AUTOMATIC)
    if setting is None or setting.value != "auto" or any(True for _ in active(cluster)):
        return None
    unwell = any(host.name not in cluster.alive for host in cluster.hosts.values())
    since = [alive.since for alive in cluster.alive.values()] + [one.at for one in cluster.placements.values()]
    if unwell or now - max(since, default=0.0) < QUIET_S:
        return None
    return next(proposals(cluster, now, 1), None)


class _Known:
    """What is the same for all moves that are proposed on one picture, worked out once."""

    def __init__(self, cluster: Cluster) -> None:
        self.moved: set[str] = set()
        self.here = _by_host(cluster)
        self._cluster = cluster
        self._members = families(cluster)
        self._all_serve: dict[str, bool] = {}

    def all_serve(self, family: str) -> bool:
        """Whether no container of a service is down or on its way."""
        if family not in self._all_serve:
            members = self._members.get(family, ())
            self._all_serve[family] = all(available(self._cluster, one) for one in members)
        return self._all_serve[family]


class _Least:
    """The least that any host has: more cannot be gained by a move to whichever host."""

    def __init__(self, ready: Sequence[HostView]) -> None:
        self._ready = ready
        self._containers = min((view.containers for view in ready), default=0)
        self._of_family: dict[str, int] = {}

    def may_gain(self, container: r.Container, source: HostView) -> bool:
        """False: no target is worth it (see `_gain`)."""
        family, worth = _family(container), _worth(container)
        fuller = source.containers - self._containers >= worth
        if not fuller and source.families.get(family, 0) < worth:
            return False
        if family not in self._of_family:
            self._of_family[family] = min(view.families.get(family, 0) for view in self._ready)
        more = source.families.get(family, 0) - self._of_family[family]
        return more >= (1 if fuller else worth)


def _best(cluster: Cluster, views: HostViews, now: float, known: _Known) -> Proposal | None:
    """The first move that is worth it, from the fullest host on."""
    ready = [view for view in views.hosts.values() if view.health.state == "ready"]
    least, targets = _Least(ready), sorted(ready, key=lambda view: (view.containers, view.name))
    for source in sorted(ready, key=lambda view: (-view.containers, view.name)):
        for container in known.here.get(source.name, ()):
            if not least.may_gain(container, source) or not _may_move(cluster, container, known, now):
                continue
            found = _to_one_of(cluster, views, container, source, targets, now)
            if found is not None:
                return found
    return None


def _by_host(cluster: Cluster) -> Mapping[str, Sequence[r.Container]]:
    """What runs where, cheapest to move first: without volumes, then the youngest."""
    found: dict[str, list[r.Container]] = {}
    for identity, placement in cluster.placements.items():
        record = cluster.containers.get(identity)
        if record is None or record.desired != "running":
            continue
        if holds_resources(cluster, record):
            found.setdefault(placement.host, []).append(record)
    for containers in found.values():
        containers.sort(key=lambda one: (bool(parse_spec(one.body).volume_names), -one.created_at, one.id))
    return found


def _may_move(cluster: Cluster, container: r.Container, known: _Known, now: float) -> bool:
    settled = now - cluster.placements[container.id].at >= SETTLED_S
    return settled and container.id not in known.moved and known.all_serve(_family(container))


def _to_one_of(
    cluster: Cluster,
    views: HostViews,
    container: r.Container,
    source: HostView,
    targets: Iterable[HostView],
    now: float,
) -> Proposal | None:
    asked: Question | None = None
    for target in targets:
        why = _gain(container, source, target)
        if why:
            asked = asked or question(cluster, views, wanted_again(cluster, container), frozenset(), bring_volumes=True)
            made = _proposed(cluster, asked, container, source, target, why, now)
            if made is not None:
                return made
    return None


def _gain(container: r.Container, source: HostView, target: HostView) -> str:
    """Why the move is worth it, as a sentence; empty if it is not."""
    worth, family = _worth(container), _family(container)
    of_family = source.families.get(family, 0) - target.families.get(family, 0)
    if of_family >= worth:
        return (
            f"{source.name} runs {source.families[family]} of {family}, {target.name} {target.families.get(family, 0)}"
        )
    if of_family >= 1 and source.containers - target.containers >= worth:
        return f"{source.name} runs {count(source.containers, 'container')}, {target.name} {target.containers}"
    return ""


def _worth(container: r.Container) -> int:
    return WORTH_WITH_DATA if parse_spec(container.body).volume_names else WORTH


def _family(container: r.Container) -> str:
    return family_of(container.name, parse_spec(container.body).labels)


def _proposed(
    cluster: Cluster,
    asked: Question,
    container: r.Container,
    source: HostView,
    target: HostView,
    why: str,
    now: float,
) -> Proposal | None:
    there, here = asked.views.hosts[target.name], asked.views.hosts[source.name]
    worse = unmet(there, asked) > unmet(here, asked) or asked.crowds.get(there.name, 0) > asked.crowds.get(here.name, 0)
    if asked.packed or worse or refusal(there, asked) is not None:
        return None
    try:
        commit = begin_container(cluster, container, Asked(target=target.name, because=f"to balance: {why}"), now)
    except DroverError:
        return None
    return Proposal(container.name, source.name, target.name, why, commit, container.id)
