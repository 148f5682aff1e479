"""`Board`: places containers one after the other on a large cluster, each at the cost of a look at a few hosts.

Theory of operation. `schedule.place` is what placing means: it asks every host and ranks those that fit. A board gives
the same answer, word for word (`tests/unit/test_board.py` plays both), from hosts that it keeps in order:

    hosts that differ for this container    asked one by one, with all filters and criteria: those of its volumes, of
    (`_special`)                            what it must be near, of what it replaces, of its image if they are few
    all others                              come in order from the `Field` of its shape; the first two that the other
                                            filters do not refuse are enough for the best, and for its nearest rival

Where a container must be near something, or an affinity asks for something, no other host needs to be asked. If none
takes it, each is asked for its reason. After each placement `put` changes the one host, and fields look at it when they
are asked next. `board(cluster)` is the board of a picture; the last one is kept, and follows what changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice

import msgspec

from drover.decide.choice import Chosen, choice, nowhere, reasoned
from drover.decide.field import Crowds, Field, Shape, shape_of
from drover.decide.fit import (
    ZONE,
    Filter,
    Question,
    bare_question,
    live_filters,
    refusal,
    spread_keys,
    spread_over,
    zone_of,
)
from drover.decide.rank import live_criteria, score
from drover.decide.views import HostView, HostViews
from drover.decide.wanted import Wanted
from drover.model.cluster import Cluster
from drover.model.spec import Spec
from drover.model.table import changed

Sums = dict[str, dict[str | None, int]]
FIELDS = 32
"""So many shapes are kept at a time."""
LOG = 100_000
FEW = 64
"""So many hosts that have an image are asked one by one."""


class Board:
    def __init__(self, views: HostViews) -> None:
        self._hosts: dict[str, HostView] = {}
        self._views = HostViews(self._hosts)
        self._followed: Mapping[str, HostView] = self._hosts
        self._put: set[str] = set()
        self._names: list[str] = []
        self._zoned = self._tainted = 0
        self._sums: dict[str, Sums] = {}
        """Label and family to how many containers of the family run where the label is what; of labels asked for."""
        self._fields: dict[Shape, Field] = {}
        self._log: list[str] = []
        self.follow(views)

    def follow(self, views: HostViews) -> None:
        """Take over other views. What was answered before goes on reading the hosts of its time."""
        names = {*changed(self._followed, views.hosts), *self._put}
        self._hosts, self._followed = dict(self._hosts), views.hosts
        self._put.clear()
        for name in sorted(names):
            self._set(name, views.hosts.get(name))
        if len(self._names) != len(self._hosts) or any(name not in self._hosts for name in names):
            self._names = sorted(self._hosts)
        self._views = HostViews(self._hosts, views.shared_ports, views.slots)

    def put(self, host: str, container: str, name: str, spec: Spec) -> None:
        """A container was placed."""
        self._set(host, self._hosts[host].plus(container, name, spec))
        self._put.add(host)

    def part(self, hosts: Collection[str]) -> Board:
        """A board of some of its hosts, as they are now."""
        views = {name: view for name in hosts if (view := self._hosts.get(name))}
        return Board(HostViews(views, self._views.shared_ports, self._views.slots))

    def first(self, host: str) -> list[str]:
        """The hosts that get a reason if `host` is taken."""
        return reasoned(self._names, host)

    def __contains__(self, host: str) -> bool:
        return host in self._hosts

    def _set(self, name: str, new: HostView | None) -> None:
        old = self._hosts.pop(name, None) if new is None else self._hosts.get(name)
        if new is not None:
            self._hosts[name] = new
        for view, sign in ((old, -1), (new, 1)):
            self._zoned += sign * (view is not None and ZONE in view.labels)
            self._tainted += sign * (view is not None and bool(view.taints))
        for key, sums in self._sums.items():
            _sum_up(sums, old, key, -1)
            _sum_up(sums, new, key, 1)
        self._log.append(name)

    def place(
        self,
        cluster: Cluster,
        wanted: Wanted,
        *,
        image_hosts: frozenset[str] = frozenset(),
        bring_volumes: bool = False,
    ) -> Chosen:
        """What `schedule.place` says with the same views. `cluster`: what else there is, as volumes and settings."""
        asked = self._question(cluster, wanted, image_hosts, bring_volumes)
        filters, criteria, hosts = live_filters(asked), live_criteria(asked), asked.views.hosts
        fits = [score(hosts[name], asked, criteria) for name in self._finalists(asked, filters)]
        if not fits:
            raise nowhere(wanted, {name: refusal(view, asked, filters) or "" for name, view in hosts.items()})
        return choice(fits, self._names, asked, filters, criteria)

    def _question(self, cluster: Cluster, wanted: Wanted, image_hosts: frozenset[str], bring_volumes: bool) -> Question:
        asked = bare_question(cluster, self._views, wanted, image_hosts, bring_volumes)
        spread = spread_over(wanted, self._zoned > 0)
        return msgspec.structs.replace(
            asked,
            spread=spread,
            crowds=Crowds(asked.views.hosts, spread_keys(spread), self._sums_of(asked, spread_keys(spread))),
            tainted=self._tainted > 0,
        )

    def _sums_of(self, asked: Question, keys: Sequence[str]) -> list[Mapping[str | None, int]]:
        """How many of its family run where a label is what now, for each label; those that count as gone left out."""
        found: list[Mapping[str | None, int]] = []
        for key in keys:
            if key not in self._sums:
                self._sums[key] = {}
                for view in self._hosts.values():
                    _sum_up(self._sums[key], view, key, 1)
            found.append(dict(self._sums[key].get(asked.family, {})))
        less = [name for name in self._gone(asked) if self._of_family(asked, name)]
        for name in less:
            for at, key in enumerate(keys):
                zone = zone_of(self._hosts[name], key)
                found[at] = {**found[at], zone: found[at][zone] - self._of_family(asked, name)}
        return found

    def _of_family(self, asked: Question, name: str) -> int:
        """How many of its family count as gone from a host."""
        here, left = self._hosts[name].families, asked.views.hosts[name].families
        return here.get(asked.family, 0) - left.get(asked.family, 0)

    def _gone(self, asked: Question) -> set[str]:
        """The hosts on which something counts as gone."""
        names = {asked.cluster.host_of(asked.wanted.id), asked.replaced}
        return {name for name in names if name in self._hosts}

    def _finalists(self, asked: Question, filters: Sequence[Filter]) -> Iterator[str]:
        """Hosts that fit, the best and its nearest rival among them."""
        few = len(asked.image_hosts) <= FEW
        special = self._special(asked) | (asked.image_hosts if few else frozenset())
        for name in special & self._hosts.keys():
            if refusal(asked.views.hosts[name], asked, filters) is None:
                yield name
        if asked.pins or any(pull.expression.equal and not pull.expression.soft for pull in asked.pulls):
            return
        field = self._field(asked, frozenset() if few else asked.image_hosts)
        others = (name for name in field.ranked(asked, self._hosts) if name not in special)
        fit = (name for name in others if refusal(self._hosts[name], asked, filters) is None)
        yield from islice(fit, 2)

    def _special(self, asked: Question) -> frozenset[str]:
        """The hosts that differ from others of their cell and key for this container only."""
        pulled = [pull.hosts for pull in asked.pulls]
        of_volumes = [volume.host for volume in asked.brought]
        return frozenset(self._gone(asked)).union([pin.host for pin in asked.pins], of_volumes, *pulled)

    def _field(self, asked: Question, image_hosts: frozenset[str]) -> Field:
        if len(self._log) > LOG:
            self._log.clear()
            self._fields.clear()
        shape = shape_of(asked, image_hosts)
        field = self._fields.pop(shape, None) or self._new_field(asked, image_hosts)
        self._fields[shape] = field
        field.follow(set(self._log[field.seen :]), self._hosts)
        field.seen = len(self._log)
        return field

    def _new_field(self, asked: Question, image_hosts: frozenset[str]) -> Field:
        while len(self._fields) >= FIELDS:
            del self._fields[next(iter(self._fields))]
        field = Field(asked, image_hosts, self._hosts)
        field.seen = len(self._log)
        return field


def _sum_up(sums: Sums, view: HostView | None, key: str, sign: int) -> None:
    """Count what runs on a host where the label is what it is there, or take it away."""
    zone = zone_of(view, key) if view is not None else None
    for family, count in view.families.items() if view is not None else ():
        of_family = sums.setdefault(family, {})
        of_family[zone] = of_family.get(zone, 0) + sign * count


class _Last:
    def __init__(self) -> None:
        self._views = HostViews({})
        self._board = Board(self._views)

    def of(self, views: HostViews) -> Board:
        if views is not self._views:
            self._board.follow(views)
            self._views = views
        return self._board


_last = _Last()


def board(views: HostViews) -> Board:
    """The board of these views, for one who puts nothing there. Fast if they are much like those asked about last; good
    until somebody asks again."""
    return _last.of(views)
