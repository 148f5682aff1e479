"""Results that are kept by key, and made anew only where containers changed.

Theory of operation. A function of a picture is *local* if it gives keyed values, and the value at a key depends only
on the containers that would have the key if each were alone: the addresses of a name depend on the containers that
have the name. `part` is the picture of some containers alone. So, when some containers changed:

    dirty      the keys that each of them, alone, had in the old picture or has in the new one
    members    all containers that have a dirty key
    new value  of each dirty key: what the function gives for the part of the members

Nothing else can have changed. A *mark* is a key whose value does not matter, only who has it.

    Values     table to its keys and values; a table is (kind, network id or empty), and all in it are marks, or none
    Pieces     the values, and for each key (marks, too) the containers that have it
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from typing import Any

import msgspec

from drover.decide.claims import addresses_of, ports_of, ports_of_service, virtual_of_service
from drover.decide.services import service_of_container
from drover.model.cluster import Cluster
from drover.model.records import Record

Key = Any
"""Hashable: a name, an address, a protocol with a port."""
Rows = Mapping[Key, Any]
Table = tuple[str, str]
Values = Mapping[Table, Rows]
Local = Callable[[Collection[str]], Values]
"""The values of a part, from the ids of its containers."""
Givers = Mapping[Key, frozenset[str]]
_Alone = Mapping[str, Values]
"""What each of some containers would have if it were alone: not what it has none of."""
_NOTHING: Mapping[Any, Any] = {}
_SEVERAL = object()
NOBODY: frozenset[str] = frozenset()


class Pieces(msgspec.Struct, frozen=True):
    """The module's table. `has`: the givers the other way round, which keys each container has."""

    values: Values = {}
    givers: Mapping[Table, Givers] = {}
    has: Mapping[str, Mapping[Table, Set[Key]]] = {}

    def rows(self, kind: str, network: str = "") -> Rows:
        return self.values.get((kind, network), _NOTHING)

    def who(self, kind: str, network: str = "") -> Givers:
        return self.givers.get((kind, network), _NOTHING)


def updated(pieces: Pieces, touched: Collection[str], after: Local, marks: Set[str]) -> Pieces:
    """The pieces after the `touched` containers changed. `after` is the function on the new picture; `marks` are the
    kinds of tables with marks. Tables in which nothing changed are the same objects as before."""
    if not touched:
        return pieces
    alone = {one: {table: rows for table, rows in after((one,)).items() if rows} for one in touched}
    gone, come = _having({one: pieces.has.get(one, _NOTHING) for one in touched}), _having(alone)
    givers, values = dict(pieces.givers), dict(pieces.values)
    fresh: dict[Table, dict[Key, Any]] = {}
    members: set[str] = set()
    for table in {**come, **gone}:
        left, joined = gone.get(table, _NOTHING), come.get(table, _NOTHING)
        givers[table] = _given(pieces.who(*table), left, joined)
        if table[0] not in marks:
            fresh[table] = dict.fromkeys((*joined, *left))
            members |= _take_own(fresh[table], givers[table], table, alone)
    together = after(members) if members else {}
    for table, known in fresh.items():
        found = together.get(table, _NOTHING)
        rows = {key: found.get(key) if value is _SEVERAL else value for key, value in known.items()}
        values[table] = _replaced(pieces.rows(*table), rows)
    has = {one: {table: rows.keys() for table, rows in tables.items()} for one, tables in alone.items()}
    return Pieces(values, givers, _replaced(pieces.has, has))


def _having(containers: Mapping[str, Mapping[Table, Iterable[Key]]]) -> dict[Table, dict[Key, set[str]]]:
    """Who of the containers has each key."""
    found: dict[Table, dict[Key, set[str]]] = {}
    for one, tables in containers.items():
        for table, keys in tables.items():
            having = found.setdefault(table, {})
            for key in keys:
                having.setdefault(key, set()).add(one)
    return found


def _given(givers: Givers, left: Rows, joined: Rows) -> Givers:
    """Who has each key after some left it and some joined."""
    keys = (*joined, *left)
    now = {key: (givers.get(key, NOBODY) - left.get(key, NOBODY)) | joined.get(key, NOBODY) for key in keys}
    return _replaced(givers, now)


def _take_own(rows: dict[Key, Any], givers: Givers, table: Table, alone: _Alone) -> set[str]:
    """Fill in the values of keys that only one container has, if it is one of those that were looked at alone; who has
    the others is returned: those have to be looked at together."""
    members: set[str] = set()
    for key in rows:
        having = givers.get(key, NOBODY)
        only = next(iter(having)) if len(having) == 1 else None
        if only is not None and only in alone:
            rows[key] = alone[only][table][key]
        elif having:
            rows[key] = _SEVERAL
            members |= having
    return members


def _replaced(rows: Rows, now: Rows) -> Rows:
    """The rows with those of `now` in place of the old ones; what is empty there is left out."""
    different = {key: value for key, value in now.items() if rows.get(key) != (value or None)}
    if not different:
        return rows
    merged = {**rows, **different}
    for key, value in different.items():
        if not value:
            del merged[key]
    return merged


def part(cluster: Cluster, containers: Collection[str]) -> Cluster:
    """The picture of some containers (ids) alone: their records, their claims, and those of their services. All else
    is looked up by a container's id or name, and is left as it is."""
    found = {one: record for one in containers if (record := cluster.containers.get(one))}
    services = {service for record in found.values() if (service := service_of_container(record))}
    claims = [claim for one in containers for claim in addresses_of(cluster, one)]
    ports = [claim for one in containers for claim in ports_of(cluster, one)]
    ports += [claim for service in services for claim in ports_of_service(cluster, service)]
    virtual = [claim for service in services for claim in virtual_of_service(cluster, service)]
    tables: dict[str, Mapping[str, Record]] = {
        **cluster.tables,
        "containers": found,
        "addresses": {f"{claim.network}/{claim.ip}": claim for claim in claims},
        "ports": {f"{claim.host}/{claim.protocol}/{claim.port}": claim for claim in ports},
        "service_addresses": {claim.ip: claim for claim in virtual},
    }
    return Cluster(cluster.revision, tables, cluster.versions)
