"""Engine ids to cluster ids, in everything that engines say to clients.

Theory of operation. Each engine gives a container or network an id of its own. On the way to a client every JSON
string that is exactly such an id becomes the cluster's id, in one pass of a regular expression and without decoding:
the rest stays byte for byte what the engine sent.

    in the engine's bytes                              shown to the client
    "<known engine id>", "container:<known engine id>" the cluster id in its place (same length)
    "drover.id":"<cluster id>" (a label)               "drover.host":"<host>"
    "drover.epoch":"<number>" (a label)                nothing; its comma goes too
    a known engine id anywhere in {"message": ...}     the cluster id in its place
    anything else                                      untouched

The networks that every engine has (bridge, host, none) have ids of the cluster's, too (`decide.default_network`).

The map is kept by the mirror's batches. What was removed is kept for a while: an engine tells of a container's end
after its records are gone.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from drover.decide.default_network import PREDEFINED_IDS
from drover.model import records as r
from drover.model.cluster import Change, Cluster
from drover.store.port import Batch

KEPT_AFTER_REMOVAL = 4096
_HEX = rb"[0-9a-f]{64}"
# An opening quote is never preceded by a backslash; an escaped quote inside a string always is. The patterns begin with
# a plain character, which `re` finds fast: most of an inspection are strings that are no ids.
_IN_JSON = re.compile(rb'"(?<!\\")(?P<prefix>drover\.id":"|container:|)(?P<id>' + _HEX + rb')"')
_EPOCH_NAME = b'"drover.epoch":'
_EPOCH = re.compile(rb',"drover\.epoch":"[0-9]*"|"(?<!\\")drover\.epoch":"[0-9]*",?')
_LABEL = b'drover.id":"'
_IN_TEXT = re.compile(rb"(?<![0-9a-f])" + _HEX + rb"(?![0-9a-f])")
_MESSAGE = b'{"message":'


class FadingMap:
    """A mapping whose removed entries can still be read until `KEPT_AFTER_REMOVAL` others were removed."""

    def __init__(self) -> None:
        self._live: dict[bytes, bytes] = {}
        self._gone: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, key: bytes) -> bytes | None:
        return self._live.get(key) or self._gone.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._gone.pop(key, None)
        self._live[key] = value

    def retire(self, key: bytes) -> None:
        if (value := self._live.pop(key, None)) is not None:
            self.mention(key, value)

    def mention(self, key: bytes, value: bytes) -> None:
        """Put an entry that nothing will ever retire: it fades by itself."""
        if key not in self._live:
            self._gone[key] = value
            self._gone.move_to_end(key)
        while len(self._gone) > KEPT_AFTER_REMOVAL:
            self._gone.popitem(last=False)


class IdMap:
    """Engine ids (of every host) to cluster ids; `observe` is given to `Mirror.on_batch`."""

    def __init__(self) -> None:
        self._cluster_id = FadingMap()
        self._host = FadingMap()
        self._engine_id: dict[str, bytes] = {}
        self.state = object()
        """Another object whenever something was learnt: what was translated before it may read otherwise now."""

    def observe(self, batch: Batch) -> None:
        """Learn from a batch of the mirror."""
        self.state = object()
        for change in batch.changes:
            self._learn(change)

    def rebuild(self, cluster: Cluster) -> None:
        """Learn all that a picture holds: the one that is there before the first batch."""
        self.state = object()
        for table in ("container_facts", "network_facts", "host_facts", "placements"):
            for rest, record in cluster.tables.get(table, {}).items():
                self._learn(Change(f"{table}/{rest}", record))

    def mention(self, engine_id: str, cluster_id: str, host: str) -> None:
        """Learn one pair from an engine's own words, which may come before its facts."""
        self.state = object()
        self._cluster_id.mention(engine_id.encode(), cluster_id.encode())
        if self._host.get(cluster_id.encode()) is None:
            self._host.mention(cluster_id.encode(), host.encode())

    def to_cluster(self, body: bytes) -> bytes:
        """The module's table, applied to one JSON text, to one line of a stream, or to several."""
        if body.startswith(_MESSAGE):
            return _IN_TEXT.sub(self._in_text, body)
        shown = _EPOCH.sub(b"", body) if _EPOCH_NAME in body else body
        return _IN_JSON.sub(self._in_json, shown)

    def cluster_id(self, engine_id: str) -> str | None:
        found = self._cluster_id.get(engine_id.encode())
        return None if found is None else found.decode()

    def _in_text(self, match: re.Match[bytes]) -> bytes:
        return self._cluster_id.get(match[0]) or match[0]

    def _in_json(self, match: re.Match[bytes]) -> bytes:
        prefix, ident = match["prefix"], match["id"]
        if prefix == _LABEL:
            return b'"drover.host":"' + (self._host.get(ident) or b"") + b'"'
        found = self._cluster_id.get(ident)
        return match[0] if found is None else b'"' + prefix + found + b'"'

    def _learn(self, change: Change) -> None:
        table, _, rest = change.key.partition("/")
        match change.record:
            case r.ContainerFacts(container=cluster_id, engine_id=engine_id) if engine_id:
                self._set(change.key, engine_id.encode(), cluster_id.encode())
            case r.NetworkFacts(network=cluster_id, engine_id=engine_id) if engine_id:
                self._set(change.key, engine_id.encode(), cluster_id.encode())
            case r.HostFacts(predefined_networks=own):
                for name, engine_id in own.items():
                    self._set(f"{change.key}/{name}", engine_id.encode(), PREDEFINED_IDS.get(name, engine_id).encode())
            case r.Placement(container=cluster_id, host=host):
                self._host.put(cluster_id.encode(), host.encode())
            case None if table == "placements":
                self._host.retire(rest.encode())
            case None if change.key in self._engine_id:
                self._cluster_id.retire(self._engine_id.pop(change.key))

    def _set(self, key: str, engine_id: bytes, cluster_id: bytes) -> None:
        known = self._engine_id.get(key)
        if known is not None and known != engine_id:
            self._cluster_id.retire(known)
        self._engine_id[key] = engine_id
        self._cluster_id.put(engine_id, cluster_id)
