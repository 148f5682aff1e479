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

from collections.abc import Callable, Collection, Mapping, Set
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
_Found = dict[Table, dict[Key, set[str]]]
_NOTHING: Rows = {}
NOBODY: frozenset[str] = frozenset()


class Pieces(msgspec.Struct, frozen=True):
    """The module's table."""

    values: Values = {}
    givers: Mapping[Table, Givers] = {}

    def rows(self, kind: str, network: str = "") -> Rows:
        return self.values.get((kind, network), _NOTHING)

    def who(self, kind: str, network: str = "") -> Givers:
        return self.givers.get((kind, network), _NOTHING)


def updated(pieces: Pieces, touched: Collection[str], before: Local, after: Local, marks: Set[str]) -> Pieces:
    """The pieces after the `touched` containers changed. `before` is the function on the picture that the pieces are
    from, `after` on the new one; `marks` are the kinds of tables with marks. Tables in which nothing changed are the
    same objects as before."""
    gone, come = _alone(touched if pieces.givers else (), before), _alone(touched, after)
    givers, values = dict(pieces.givers), dict(pieces.values)
    dirty = {table: gone.get(table, _NOTHING).keys() | come.get(table, _NOTHING).keys() for table in {*gone, *come}}
    for table, keys in dirty.items():
        givers[table] = _given(pieces.who(*table), keys, gone.get(table, _NOTHING), come.get(table, _NOTHING))
    valued = {table: keys for table, keys in dirty.items() if table[0] not in marks}
    fresh = after({one for table, keys in valued.items() for key in keys for one in givers[table].get(key, NOBODY)})
    for table, keys in valued.items():
        rows = {key: value for key, value in fresh.get(table, _NOTHING).items() if key in keys}
        values[table] = _replaced(pieces.rows(*table), {**rows, **dict.fromkeys(keys - rows.keys())})
    return Pieces(values, givers)


def _given(givers: Givers, keys: Set[Key], left: Rows, joined: Rows) -> Givers:
    """Who has each key after some left it and some joined."""
    now = {key: (givers.get(key, NOBODY) - left.get(key, NOBODY)) | joined.get(key, NOBODY) for key in keys}
    return _replaced(givers, now)


def _alone(containers: Collection[str], function: Local) -> _Found:
    """Who has each key, each container looked at alone."""
    found: _Found = {}
    for one in containers:
        for table, rows in function((one,)).items():
            for key in rows:
                found.setdefault(table, {}).setdefault(key, set()).add(one)
    return found


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
