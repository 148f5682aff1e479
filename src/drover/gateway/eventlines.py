"""Event streams of engines cut into events, and what a client of the cluster sees of each. Pure.

an engine's event                                       shown
about a container without the label drover.id           not at all: it is not the cluster's
about one of the cluster's containers                   with cluster ids (its engine id is learned from its label)
about anything else                                     with cluster ids
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from drover.drivers.engine.port import ID_LABEL
from drover.gateway.filters import Filters
from drover.gateway.ids import IdMap
from drover.gateway.listing import HOST_LABEL
from drover.model import records as r
from drover.model.cluster import Cluster


class Event(msgspec.Struct, frozen=True):
    """One event: its time in nanoseconds and its line, with cluster ids and a newline."""

    time_ns: int
    line: bytes


class _Actor(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="ID", default="")
    attributes: dict[str, str] | None = msgspec.field(name="Attributes", default=None)


class _Event(msgspec.Struct):
    kind: str = msgspec.field(name="Type", default="")
    actor: _Actor = msgspec.field(name="Actor", default=_Actor())
    time_ns: int = msgspec.field(name="timeNano", default=0)


class Lines:
    """Cuts a stream into lines; a line may come in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        yield from (line for line in lines if line)


def read_event(ids: IdMap, host: str, line: bytes) -> Event | None:
    """The event as a client sees it; None if it is not the cluster's."""
    event = msgspec.json.decode(line, type=_Event)
    attributes = event.actor.attributes or {}
    if event.kind == "container":
        if ID_LABEL not in attributes:
            return None
        ids.mention(event.actor.id, attributes[ID_LABEL], host)
    return Event(event.time_ns, ids.to_cluster(line) + b"\n")


def engine_filters(cluster: Cluster, filters: Filters) -> Filters:
    """The client's filters in the engines' words: cluster ids become names, which are the same on every engine;
    `drover.host` is decided here already (`concerns`)."""
    changed = dict(filters)
    for kind, table, names in (
        ("container", cluster.containers, cluster.names),
        ("network", cluster.networks, cluster.network_names),
    ):
        if kind in filters:
            changed[kind] = [_name(table, names, ref) for ref in filters[kind]]
    labels = [label for label in filters.get("label", []) if label.partition("=")[0] != HOST_LABEL]
    changed["label"] = labels
    return {name: values for name, values in changed.items() if values}


def concerns(host: str, filters: Filters) -> bool:
    """Whether the filters `label=drover.host=H` leave this host in."""
    named = [label.partition("=")[2] for label in filters.get("label", []) if label.startswith(f"{HOST_LABEL}=")]
    return all(name == host for name in named)


def _name(table: Mapping[str, r.Container] | Mapping[str, r.Network], names: Mapping[str, r.Name], ref: str) -> str:
    """The name of the one record whose id begins with `ref`; `ref` itself if it is a name, or means no or several."""
    matches = [record.name for identity, record in table.items() if identity.startswith(ref)]
    return matches[0] if len(matches) == 1 and ref not in names else ref
