"""What leaves a host that is to be emptied: which moves begin now, what waits and why, what cannot leave. Pure.

Theory of operation. A host is emptied when it drains (`drover host drain`) and when it shuts down in order (`drover
host shutdown`). The leader asks again and again; each thing that is still there gets the first row that matches:

    the thing                                                 draining              shutting down
    is on its way                                             moving                moving
    is a container that does not run                          as below              stays, and is there after the boot
    is a volume that no container uses                        as below              stays: other hosts have copies
    was tried less than RETRY_S ago, and that failed          waits, says why       stuck: there is no time for it
    of whose service another one moves, or too few would run  waits, says which     (as below)
    finds PARALLEL moves from its host under way              waits                 (as below)
    is tied to the host, or fits nowhere else                 stuck, says why       stuck, says why
    otherwise                                                 a move begins         a move; at most GRACE_S to stop

Too few would run: more of its service than the label `drover.max_unavailable` says (1 if there is none) would not run
during the move. A move prepares everything at its target first (image, network, engine container, copies of volumes),
so that what is between the stop here and the start there is only the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from drover.decide.index import containers_on
from drover.decide.kept_views import kept
from drover.decide.moves import ENDED, Asked, Commit, active, begin_container, begin_volume, volume_key
from drover.decide.schedule import place
from drover.decide.spare_images import image_hosts
from drover.decide.views import HostViews
from drover.decide.wanted import Wanted, family_of, wanted_again
from drover.errors import DroverError
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import Spec, VolumeUse, parse_spec

MAX_UNAVAILABLE_LABEL = "drover.max_unavailable"
EMPTIED = ("drain", "shutdown")
PARALLEL = 4
RETRY_S = 15.0
GRACE_S = 2
"""How long a container may take to stop when its host shuts down; the machine does not wait much longer."""
State = Literal["moving", "waiting", "stuck"]


class Item(msgspec.Struct, frozen=True):
    """One thing that is still on the host. `says` continues its name; empty for nothing to add."""

    key: str
    name: str
    kind: Literal["container", "volume"]
    state: State
    says: str = ""
    target: str = ""


class Evacuation(msgspec.Struct, frozen=True):
    """What is still there, and the moves to begin now: each commit is one of its own."""

    items: tuple[Item, ...] = ()
    begin: tuple[Commit, ...] = ()

    @property
    def in_progress(self) -> bool:
        """Whether something will still leave by itself."""
        return bool(self.begin) or any(item.state != "stuck" for item in self.items)


def emptied_hosts(cluster: Cluster) -> list[str]:
    """The hosts that are to be emptied and can take part in that."""
    return [host.name for host in cluster.hosts.values() if host.scheduling in EMPTIED and host.name in cluster.alive]


def evacuation(cluster: Cluster, host: str, now: float) -> Evacuation:
    """The verdicts on all that is on `host`, none if it is not to be emptied; `now` in seconds since the Unix epoch."""
    if cluster.hosts[host].scheduling not in EMPTIED:
        return Evacuation()
    return _Emptying(cluster, host, now).run()


class _Emptying:
    """One pass over what is on one host. What it begins is applied to its own picture, so that the next thing is
    decided with it."""

    def __init__(self, cluster: Cluster, host: str, now: float) -> None:
        self.cluster = cluster
        self.host = host
        self.now = now
        self.urgent = cluster.hosts[host].scheduling == "shutdown"
        self.because = f"{host} {'shuts down' if self.urgent else 'is drained'}"
        self.views = with_moves(cluster, kept(cluster))
        self.members = families(cluster)
        self.under_way = sum(move.source == host for _, move in active(cluster))
        self.begin: list[Commit] = []

    def run(self) -> Evacuation:
        items = [self._container(one) for one in self._containers()] + [self._volume(one) for one in self._volumes()]
        return Evacuation(tuple(items), tuple(self.begin))

    def _containers(self) -> list[r.Container]:
        leaving = [one for one in containers_on(self.cluster, self.host) if one.desired == "running" or not self.urgent]
        return sorted(leaving, key=lambda one: (one.created_at, one.id))

    def _volumes(self) -> list[r.Volume]:
        """Those that no container takes along."""
        if self.urgent:
            return []
        taken = {name for one in self.cluster.containers.values() for name in parse_spec(one.body).volume_names}
        here = (volume for volume in self.cluster.volumes.values() if volume.host == self.host and not volume.removed)
        return sorted((one for one in here if one.name not in taken), key=lambda one: one.name)

    def _container(self, container: r.Container) -> Item:
        wanted = wanted_again(self.cluster, container)
        item = Item(container.id, container.name, "container", "waiting")
        return self._verdict(item, wanted, lambda asked: begin_container(self.cluster, container, asked, self.now))

    def _volume(self, volume: r.Volume) -> Item:
        spec = Spec(volumes=(VolumeUse(volume.name, "/"),))
        wanted = Wanted(id=volume_key(volume.name), name=volume.name, spec=spec)
        item = Item(volume_key(volume.name), volume.name, "volume", "waiting")
        return self._verdict(item, wanted, lambda asked: begin_volume(self.cluster, volume.name, asked, self.now))

    def _verdict(self, item: Item, wanted: Wanted, begin: Callable[[Asked], Commit]) -> Item:
        """The module's table, first match."""
        move = self.cluster.moves.get(item.key)
        if move is not None and move.phase not in ENDED:
            return msgspec.structs.replace(
                item, state="moving", says=f"on its way to {move.target}", target=move.target
            )
        failed = self._failed(move)
        if failed is not None:
            return msgspec.structs.replace(item, state="stuck" if self.urgent else "waiting", says=failed)
        waits = "" if self.urgent else self._waits(item, wanted)
        if waits:
            return msgspec.structs.replace(item, says=waits)
        try:
            return self._begun(item, wanted, begin)
        except DroverError as error:
            return msgspec.structs.replace(item, state="stuck", says=error.message)

    def _failed(self, move: r.Move | None) -> str | None:
        """Why the last try ended, if that was a moment ago."""
        lately = move is not None and move.source == self.host and move.phase == "aborted"
        if move is None or not lately or self.now - move.ended_at >= RETRY_S:
            return None
        return f"could not be moved to {move.target}: {move.why}"

    def _waits(self, item: Item, wanted: Wanted) -> str:
        if self.under_way >= PARALLEL:
            return f"waits: {PARALLEL} others are on their way"
        if item.kind == "volume":
            return ""
        others = [one for one in self.members.get(wanted.family, ()) if one != item.key]
        down = [one for one in others if not available(self.cluster, one)]
        return (
            "" if len(down) < max_unavailable(wanted.spec) else f"waits until {self._names(down)} of its service runs"
        )

    def _names(self, containers: Sequence[str]) -> str:
        return self.cluster.containers[containers[0]].name

    def _begun(self, item: Item, wanted: Wanted, begin: Callable[[Asked], Commit]) -> Item:
        """Raises why it cannot be moved."""
        container = self.cluster.containers.get(item.key)
        images = image_hosts(self.cluster, {container.image_id}) if container is not None else {}
        having = images.get(container.image_id, frozenset()) if container is not None else frozenset()
        chosen = place(self.cluster, wanted, image_hosts=having, views=self.views, bring_volumes=True)
        commit = begin(Asked(target=chosen.host, grace_s=self._grace_s(wanted), because=self.because))
        self.cluster = self.cluster.apply(self.cluster.revision, commit.changes)
        self.views = self.views.with_container(chosen.host, item.key, item.name, wanted.spec)
        self.begin.append(commit)
        self.under_way += 1
        return msgspec.structs.replace(item, state="moving", says=f"goes to {chosen.host}", target=chosen.host)

    def _grace_s(self, wanted: Wanted) -> int:
        """How long its stop may take: its own time (-1), in a hurry no more than GRACE_S."""
        own_s = wanted.spec.stop_timeout_s
        return -1 if not self.urgent or 0 <= own_s < GRACE_S else GRACE_S


def with_moves(cluster: Cluster, views: HostViews) -> HostViews:
    """The views with each container that is on its way counted at its target too."""
    for key, move in active(cluster):
        container = cluster.containers.get(key)
        if container is not None and move.target in views.hosts and cluster.host_of(key) != move.target:
            views = views.with_container(move.target, key, container.name, parse_spec(container.body))
    return views


def families(cluster: Cluster) -> Mapping[str, Sequence[str]]:
    """The containers that should run, by what is spread apart: a service's, or those of one name but for a number."""
    found: dict[str, list[str]] = {}
    for container in cluster.containers.values():
        if container.desired == "running":
            found.setdefault(family_of(container.name, parse_spec(container.body).labels), []).append(container.id)
    return found


def available(cluster: Cluster, container: str) -> bool:
    """Whether a container serves now, as far as its host reported; one that is on its way does not count."""
    facts, move = cluster.facts_of(container), cluster.moves.get(container)
    if move is not None and move.phase not in ENDED:
        return False
    return facts is not None and facts.state == "running" and facts.health not in ("unhealthy", "starting")


def max_unavailable(spec: Spec) -> int:
    """How many containers of its service may be down for a move, itself included; at least one."""
    text = spec.labels.get(MAX_UNAVAILABLE_LABEL, "1")
    return max(1, int(text)) if text.isdigit() else 1
