"""Rows of a picture by something they have, without a look at all of them for each picture.

Theory of operation. What one host has to do must not cost more because others have much. An `Index` groups the rows of
a table; of the next table it takes over what changed (`model.table`), and sorts a group again only if it did. So the
groups are those of a new index, always in the order of their keys. A row without a group is not kept.

    placed_on         the placements of a host
    held_by           the volumes whose claim a host has
    removed_volumes   those that are to be removed
    with_several      the containers that use more than one named volume
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import parse_spec
from drover.model.table import changed

R = TypeVar("R", bound=r.Record)
_NONE: Mapping[str, Any] = {}


class Index(Generic[R]):
    def __init__(self, group: Callable[[R], str]) -> None:
        """`group`: empty for a row that is not kept."""
        self._group: Callable[[R], str] = group
        self._table: Mapping[str, R] = _NONE
        self._groups: dict[str, dict[str, R]] = {}
        self._sorted: dict[str, Sequence[R]] = {}

    def of(self, table: Mapping[str, R], group: str) -> Sequence[R]:
        """The rows of a group, by their keys. Not to be changed by the caller."""
        for key in changed(self._table, table):
            self._take_over(key, self._table.get(key), table.get(key))
        self._table = table
        if group not in self._sorted:
            rows = self._groups.get(group, _NONE)
            self._sorted[group] = [rows[key] for key in sorted(rows)]
        return self._sorted[group]

    def _take_over(self, key: str, old: R | None, new: R | None) -> None:
        before, after = (self._group(row) if row is not None else "" for row in (old, new))
        if before:
            del self._groups[before][key]
            if not self._groups[before]:
                del self._groups[before]
        if new is not None and after:
            self._groups.setdefault(after, {})[key] = new
        for group in (before, after):
            self._sorted.pop(group, None)


def _is_several(container: r.Container) -> str:
    return "several" if len(parse_spec(container.body).volume_names) > 1 else ""


_placements: Index[r.Placement] = Index(lambda placement: placement.host)
_volumes: Index[r.Volume] = Index(lambda volume: volume.host)
_removed: Index[r.Volume] = Index(lambda volume: "removed" if volume.removed else "")
_several: Index[r.Container] = Index(_is_several)


def placed_on(cluster: Cluster, host: str) -> Sequence[r.Placement]:
    return _placements.of(cluster.placements, host)


def containers_on(cluster: Cluster, host: str) -> Sequence[r.Container]:
    """The containers that are placed on a host."""
    ids = [placement.container for placement in placed_on(cluster, host)]
    return [cluster.containers[one] for one in ids if one in cluster.containers]


def held_by(cluster: Cluster, host: str) -> Sequence[r.Volume]:
    return _volumes.of(cluster.volumes, host)


def removed_volumes(cluster: Cluster) -> Sequence[r.Volume]:
    return _removed.of(cluster.volumes, "removed")


def with_several(cluster: Cluster) -> Sequence[r.Container]:
    return _several.of(cluster.containers, "several")
