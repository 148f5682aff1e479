"""`Cluster`: one consistent, read-only picture of all records, at one store revision.

It is a value: `apply` returns a new picture and shares the tables that did not change. Everything in
`decide` takes one; whoever holds one can answer "why is web on h2?" without asking anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

import msgspec

from drover.model import records as r

R = TypeVar("R", bound=r.Record)
_EMPTY: Mapping[str, r.Record] = {}


class Change(msgspec.Struct, frozen=True):
    """A record write: the record at `key`, or its removal (`record` None)."""

    key: str
    record: r.Record | None


class Cluster(msgspec.Struct, frozen=True):
    """`tables[table][rest of key]` is a record; `versions[key]` is the revision that last wrote the key."""

    revision: int = 0
    tables: Mapping[str, Mapping[str, r.Record]] = {}
    versions: Mapping[str, int] = {}

    def apply(self, revision: int, changes: Iterable[Change]) -> Cluster:
        """The picture after `changes`, all of them made at `revision`."""
        tables = dict(self.tables)
        versions = dict(self.versions)
        copied: set[str] = set()
        for change in changes:
            table, _, rest = change.key.partition("/")
            if table not in copied:
                tables[table] = dict(tables.get(table, {}))
                copied.add(table)
            rows = cast(dict[str, r.Record], tables[table])
            if change.record is None:
                rows.pop(rest, None)
                versions.pop(change.key, None)
            else:
                rows[rest] = change.record
                versions[change.key] = revision
        return Cluster(revision=revision, tables=tables, versions=versions)

    def version(self, record_key: str) -> int:
        """The revision that last wrote the key; 0 if there is none. What a conditional commit expects."""
        return self.versions.get(record_key, 0)

    def rows(self, table: str, kind: type[R]) -> Mapping[str, R]:
        found: Mapping[str, Any] = self.tables.get(table, _EMPTY)
        return found

    @property
    def hosts(self) -> Mapping[str, r.Host]:
        return self.rows("hosts", r.Host)

    @property
    def alive(self) -> Mapping[str, r.Alive]:
        return self.rows("alive", r.Alive)

    @property
    def lost(self) -> Mapping[str, r.HostLost]:
        return self.rows("lost", r.HostLost)

    @property
    def host_facts(self) -> Mapping[str, r.HostFacts]:
        return self.rows("host_facts", r.HostFacts)

    @property
    def containers(self) -> Mapping[str, r.Container]:
        return self.rows("containers", r.Container)

    @property
    def names(self) -> Mapping[str, r.Name]:
        return self.rows("names", r.Name)

    @property
    def placements(self) -> Mapping[str, r.Placement]:
        return self.rows("placements", r.Placement)

    @property
    def container_facts(self) -> Mapping[str, r.ContainerFacts]:
        """Keyed `host/container id`."""
        return self.rows("container_facts", r.ContainerFacts)

    @property
    def networks(self) -> Mapping[str, r.Network]:
        return self.rows("networks", r.Network)

    @property
    def network_names(self) -> Mapping[str, r.Name]:
        return self.rows("network_names", r.Name)

    @property
    def network_facts(self) -> Mapping[str, r.NetworkFacts]:
        """Keyed `host/network id`."""
        return self.rows("network_facts", r.NetworkFacts)

    @property
    def addresses(self) -> Mapping[str, r.Address]:
        """Keyed `network id/ip`."""
        return self.rows("addresses", r.Address)

    @property
    def kept_addresses(self) -> Mapping[str, r.KeptAddress]:
        """Keyed `network id/ip`."""
        return self.rows("kept_addresses", r.KeptAddress)

    @property
    def ports(self) -> Mapping[str, r.Port]:
        """Keyed `host/protocol/port`."""
        return self.rows("ports", r.Port)

    @property
    def service_addresses(self) -> Mapping[str, r.ServiceAddress]:
        """Keyed by address."""
        return self.rows("service_addresses", r.ServiceAddress)

    @property
    def volumes(self) -> Mapping[str, r.Volume]:
        return self.rows("volumes", r.Volume)

    @property
    def volume_facts(self) -> Mapping[str, r.VolumeFacts]:
        """Keyed `host/volume name`."""
        return self.rows("volume_facts", r.VolumeFacts)

    @property
    def volume_space(self) -> Mapping[str, r.VolumeSpace]:
        """Keyed `host/driver`."""
        return self.rows("volume_space", r.VolumeSpace)

    @property
    def moves(self) -> Mapping[str, r.Move]:
        """Keyed by container id, or `volume:NAME`."""
        return self.rows("moves", r.Move)

    @property
    def move_facts(self) -> Mapping[str, r.MoveFacts]:
        """Keyed `host/key of the move`."""
        return self.rows("move_facts", r.MoveFacts)

    @property
    def tokens(self) -> Mapping[str, r.Token]:
        return self.rows("tokens", r.Token)

    @property
    def members(self) -> Mapping[str, r.Member]:
        return self.rows("members", r.Member)

    @property
    def apps(self) -> Mapping[str, r.App]:
        return self.rows("apps", r.App)

    @property
    def deployments(self) -> Mapping[str, r.Deployment]:
        """Keyed by application."""
        return self.rows("deployments", r.Deployment)

    @property
    def app_troubles(self) -> Mapping[str, r.AppTroubles]:
        """Keyed by application."""
        return self.rows("app_troubles", r.AppTroubles)

    @property
    def files(self) -> Mapping[str, r.AppFile]:
        """Keyed `application/file id`."""
        return self.rows("files", r.AppFile)

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
