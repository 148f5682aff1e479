"""`Cluster`: one consistent, read-only picture of all records, at one store revision.

It is a value: `apply` returns a new picture and shares the tables that did not change. Everything in
`decide` takes one; whoever holds one can answer "why is web on h2?" without asking anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

import msgspec

from drover.model import records as r
from drover.model.table import Table

R = TypeVar("R", bound=r.Record)
_EMPTY: Mapping[str, Any] = {}


class Change(msgspec.Struct, frozen=True):
    """A record write: the record at `key`, or its removal (`record` None)."""

    key: str
    record: r.Record | None


class Cluster(msgspec.Struct, frozen=True):
    """`tables[table][rest of key]` is a record; `versions[key]` is the revision that last wrote the key."""

    revision: int = 0
    tables: Mapping[str, Mapping[str, Any]] = {}
    versions: Mapping[str, int] = {}

    def apply(self, revision: int, changes: Iterable[Change]) -> Cluster:
        """The picture after `changes`, all of them made at `revision`."""
        tables = dict(self.tables)
        versions = dict(self.versions)
        written: dict[str, dict[str, None]] = {}
        for change in changes:
            table, _, rest = change.key.partition("/")
            if table not in written:
                tables[table] = Table(tables.get(table, _EMPTY))
                written[table] = {}
            written[table][rest] = None
            rows = cast(Table, tables[table])
            if change.record is None:
                rows.pop(rest, None)
                versions.pop(change.key, None)
            else:
                rows[rest] = change.record
                versions[change.key] = revision
        for table, keys in written.items():
            cast(Table, tables[table]).made_from(self.tables.get(table, _EMPTY), keys)
        return Cluster(revision=revision, tables=tables, versions=versions)

    def version(self, record_key: str) -> int:
        """The revision that last wrote the key; 0 if there is none. What a conditional commit expects."""
        return self.versions.get(record_key, 0)

    def rows(self, table: str, kind: type[R]) -> Mapping[str, R]:
        return self.tables.get(table, _EMPTY)

    @property
    def hosts(self) -> Mapping[str, r.Host]:
        return self.tables.get("hosts", _EMPTY)

    @property
    def alive(self) -> Mapping[str, r.Alive]:
        return self.tables.get("alive", _EMPTY)

    @property
    def lost(self) -> Mapping[str, r.HostLost]:
        return self.tables.get("lost", _EMPTY)

    @property
    def suspects(self) -> Mapping[str, r.Suspect]:
        return self.rows("suspects", r.Suspect)

    @property
    def host_facts(self) -> Mapping[str, r.HostFacts]:
        return self.tables.get("host_facts", _EMPTY)

    @property
    def containers(self) -> Mapping[str, r.Container]:
        return self.tables.get("containers", _EMPTY)

    @property
    def names(self) -> Mapping[str, r.Name]:
        return self.tables.get("names", _EMPTY)

    @property
    def placements(self) -> Mapping[str, r.Placement]:
        return self.tables.get("placements", _EMPTY)

    @property
    def container_facts(self) -> Mapping[str, r.ContainerFacts]:
        """Keyed `host/container id`."""
        return self.tables.get("container_facts", _EMPTY)

    @property
    def networks(self) -> Mapping[str, r.Network]:
        return self.tables.get("networks", _EMPTY)

    @property
    def network_names(self) -> Mapping[str, r.Name]:
        return self.tables.get("network_names", _EMPTY)

    @property
    def network_facts(self) -> Mapping[str, r.NetworkFacts]:
        """Keyed `host/network id`."""
        return self.tables.get("network_facts", _EMPTY)

    @property
    def addresses(self) -> Mapping[str, r.Address]:
        """Keyed `network id/ip`."""
        return self.tables.get("addresses", _EMPTY)

    @property
    def kept_addresses(self) -> Mapping[str, r.KeptAddress]:
        """Keyed `network id/ip`."""
        return self.tables.get("kept_addresses", _EMPTY)

    @property
    def ports(self) -> Mapping[str, r.Port]:
        """Keyed `host/protocol/port`."""
        return self.tables.get("ports", _EMPTY)

    @property
    def service_addresses(self) -> Mapping[str, r.ServiceAddress]:
        """Keyed by address."""
        return self.tables.get("service_addresses", _EMPTY)

    @property
    def volumes(self) -> Mapping[str, r.Volume]:
        return self.tables.get("volumes", _EMPTY)

    @property
    def volume_facts(self) -> Mapping[str, r.VolumeFacts]:
        """Keyed `host/volume name`."""
        return self.tables.get("volume_facts", _EMPTY)

    @property
    def volume_space(self) -> Mapping[str, r.VolumeSpace]:
        """Keyed `host/driver`."""
        return self.tables.get("volume_space", _EMPTY)

    @property
    def moves(self) -> Mapping[str, r.Move]:
        """Keyed by container id, or `volume:NAME`."""
        return self.tables.get("moves", _EMPTY)

    @property
    def move_facts(self) -> Mapping[str, r.MoveFacts]:
        """Keyed `host/key of the move`."""
        return self.tables.get("move_facts", _EMPTY)

    @property
    def tokens(self) -> Mapping[str, r.Token]:
        return self.tables.get("tokens", _EMPTY)

    @property
    def members(self) -> Mapping[str, r.Member]:
        return self.tables.get("members", _EMPTY)

    @property
    def apps(self) -> Mapping[str, r.App]:
        return self.tables.get("apps", _EMPTY)

    @property
    def deployments(self) -> Mapping[str, r.Deployment]:
        """Keyed by application."""
        return self.tables.get("deployments", _EMPTY)

    @property
    def app_troubles(self) -> Mapping[str, r.AppTroubles]:
        """Keyed by application."""
        return self.tables.get("app_troubles", _EMPTY)

    @property
    def files(self) -> Mapping[str, r.AppFile]:
        """Keyed `application/file id`."""
        return self.tables.get("files", _EMPTY)

    def facts_of(self, container: str) -> r.ContainerFacts | None:
        """What the container's own host last reported of it; None if it reported nothing (unknown, not absent)."""
        placement = self.placements.get(container)
        return None if placement is None else self.container_facts.get(f"{placement.host}/{container}")

    def host_of(self, container: str) -> str | None:
        placement = self.placements.get(container)
        return None if placement is None else placement.host


def put(record_key: str, record: r.Record) -> Change:
    return Change(record_key, record)


def delete(record_key: str) -> Change:
    return Change(record_key, None)
