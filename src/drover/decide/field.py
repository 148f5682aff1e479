"""`Field`: the hosts that may take containers of one shape, kept in the order in which they would be taken.

Theory of operation. Containers of one *shape* ask the same of a host but for their names, volumes and neighbours. For a
shape each host has an entry, made by the very filters and criteria that `decide.fit` and `decide.rank` have: none if a
filter `BY_HOST` refuses it, else its *cell* (soft constraints that it leaves unmet, and the zone it is in) and its
*key* (all criteria after `family`). Each cell is an `Order` of keys. So the hosts come out in the order of the ranking:

    wish, zone   the cells, sorted for each container: how crowded a zone is depends on the family; there are few cells
    family       hosts of a cell without any container of the family first: the cell's order, passing over others
                 then those with one, two, …: an order of its own, made when a family has filled a cell
    the rest     the key, and then the circle

A host that changed gets a new entry before the next look. Families with orders of their own are few: each has about as
many containers as there are hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from drover.decide.fit import BY_HOST, CROWD, FILTERS, IDLE, Question, refusal, spread_keys, zone_of
from drover.decide.fit_machine import DISK_LABEL, TOLERATE_LABEL
from drover.decide.order import Key, Order, walked
from drover.decide.rank import AFTER_FAMILY, unmet
from drover.decide.views import HostView, HostViews, nano_cpus
from drover.model.cluster import Cluster
from drover.model.expression import Expression

Zone = tuple[str | None, ...]
"""What a host has for each of the labels to spread over."""
Cell = tuple[int, Zone]
Entry = tuple[Cell, Key]
CROWDED = 64
"""So many families have orders of their own at a time."""


class Crowds(Mapping[str, int]):
    """`fit.crowds`, each worked out when it is asked for: from how many of a family run where a label is what, for each
    of the labels to spread over."""

    def __init__(
        self, hosts: Mapping[str, HostView], keys: Sequence[str], sums: Sequence[Mapping[str | None, int]]
    ) -> None:
        self._hosts = hosts if keys else {}
        self._keys = keys
        self._sums = sums

    def of(self, zone: Zone) -> int:
        crowd = 0
        for value, sums in zip(zone, self._sums, strict=False):
            crowd = crowd * CROWD + sums.get(value, 0)
        return crowd

    def __getitem__(self, host: str) -> int:
        view = self._hosts[host]
        return self.of(tuple([zone_of(view, key) for key in self._keys]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)


class Shape(msgspec.Struct, frozen=True):
    """What the filters `BY_HOST` and the criteria that count read of a question."""

    tolerates: str
    disk: str
    constraints: tuple[Expression, ...]
    platform: str
    devices: tuple[str, ...]
    memory_bytes: int
    nano_cpus: int
    packed: bool
    spread: str
    image_hosts: frozenset[str]


def shape_of(asked: Question, image_hosts: frozenset[str]) -> Shape:
    spec = asked.wanted.spec
    return Shape(
        spec.labels.get(TOLERATE_LABEL, ""),
        spec.labels.get(DISK_LABEL, ""),
        spec.constraints,
        asked.wanted.platform,
        spec.devices,
        spec.memory_bytes,
        nano_cpus(spec),
        asked.packed,
        asked.spread,
        image_hosts,
    )


class Field:
    """For the shape of a question."""

    def __init__(self, asked: Question, image_hosts: frozenset[str], hosts: Mapping[str, HostView]) -> None:
        self._asked = msgspec.structs.replace(
            asked,
            cluster=Cluster(),
            views=HostViews({}),
            pins=(),
            brought=(),
            pulls=(),
            replaced="",
            crowds={},
            image_hosts=image_hosts,
        )
        self._filters = [check for name, check in FILTERS if name in BY_HOST and not _is_idle(name, asked)]
        self._keys = () if asked.packed else spread_keys(asked.spread)
        self._entries: dict[str, Entry] = {}
        self._cells: dict[Cell, Order] = {}
        self._crowded: dict[str, _Crowded] = {}
        self.seen = 0
        """How much of the log of changes is in it."""
        self.follow(hosts, hosts)

    def follow(self, names: Iterable[str], hosts: Mapping[str, HostView]) -> None:
        """Take over what is different on hosts; one that is not among `hosts` is gone."""
        for name in names:
            old, new = self._entries.pop(name, None), self._entry(hosts.get(name))
            if old is not None and (new is None or old[0] != new[0]):
                _put(self._cells, name, old[0], None)
            if new is not None:
                self._entries[name] = new
                _put(self._cells, name, *new)
            for crowded in self._crowded.values():
                crowded.missed.add(name)

    def _entry(self, view: HostView | None) -> Entry | None:
        if view is None or refusal(view, self._asked, self._filters) is not None:
            return None
        zone = tuple([zone_of(view, key) for key in self._keys])
        key = tuple([criterion.measure(view, self._asked) for criterion in AFTER_FAMILY])
        return (unmet(view, self._asked), zone), key

    def ranked(self, asked: Question, hosts: Mapping[str, HostView]) -> Iterator[str]:
        """Hosts in the order in which they would be taken, without those that a filter of the shape refuses."""
        container, family = asked.wanted.id, asked.family
        if family in self._crowded:
            self._orders_of(family, hosts)
        for cells in self._levels(asked):
            lonely = [self._cells[cell] for cell in cells if not self._is_full(cell, family)]
            for name in walked(lonely, container):
                if asked.packed or not hosts[name].families.get(family, 0):
                    yield name
            if not asked.packed:
                orders = self._orders_of(family, hosts)
                yield from walked([orders[cell] for cell in cells if cell in orders], container)

    def _levels(self, asked: Question) -> Iterable[Sequence[Cell]]:
        """The cells, those that are equally good together, the best first."""
        levels: dict[tuple[int, int], list[Cell]] = {}
        for cell in self._cells:
            crowd = asked.crowds.of(cell[1]) if isinstance(asked.crowds, Crowds) else 0
            levels.setdefault((cell[0], crowd), []).append(cell)
        return [cells for _, cells in sorted(levels.items())]

    def _is_full(self, cell: Cell, family: str) -> bool:
        """Whether each host of a cell is known to have a container of the family."""
        crowded = self._crowded.get(family)
        return crowded is not None and len(crowded.orders.get(cell, ())) == len(self._cells[cell])

    def _orders_of(self, family: str, hosts: Mapping[str, HostView]) -> Mapping[Cell, Order]:
        crowded = self._crowded.pop(family, None)
        if crowded is None:
            while len(self._crowded) >= CROWDED:
                del self._crowded[next(iter(self._crowded))]
            crowded = _Crowded(self._entries)
        self._crowded[family] = crowded
        for name in crowded.missed:
            entry = self._entries.get(name)
            count = hosts[name].families.get(family, 0) if entry else 0
            crowded.put(name, entry, count)
        crowded.missed.clear()
        return crowded.orders


def _is_idle(name: str, asked: Question) -> bool:
    """Whether a filter refuses no host for this shape. Taints may come."""
    return name != "taint" and name in IDLE and IDLE[name](asked)


class _Crowded:
    """The orders of the hosts that have containers of one family, by how many; `missed` are to be looked at again."""

    def __init__(self, missed: Iterable[str]) -> None:
        self.orders: dict[Cell, Order] = {}
        self.missed = set(missed)
        self._cell_of: dict[str, Cell] = {}

    def put(self, name: str, entry: Entry | None, count: int) -> None:
        cell = entry[0] if entry and count else None
        old = self._cell_of.pop(name, None)
        if old is not None and old != cell:
            _put(self.orders, name, old, None)
        if cell is not None and entry is not None:
            self._cell_of[name] = cell
            _put(self.orders, name, cell, (count, *entry[1]))


def _put(cells: dict[Cell, Order], name: str, cell: Cell, key: Key | None) -> None:
    order = cells.setdefault(cell, Order())
    order.put(name, key)
    if not len(order):
        del cells[cell]
