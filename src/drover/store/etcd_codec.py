"""What Drover's records look like in etcd's JSON gateway: pure functions from values to JSON and back.

Drover                        etcd
key `hosts/h1`                key `/drover/hosts/h1`, in base64
record                        value: the record's JSON, in base64
version of a key              mod_revision, as decimal text (64-bit integers are text)
`expect[key] == 0`            mod_revision equals 0: the key does not exist
commit                        one txn: compares, puts and deletes; if refused, a read of the compared keys
batch                         the events of a watch response that have one mod_revision
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from drover.errors import Invalid
from drover.model.cluster import Change, Cluster
from drover.model.records import Record, decode, encode
from drover.store.port import Batch
from drover.wire.nesting import MALFORMED

Json = dict[str, Any]

PREFIX = b"/drover/"
PREFIX_END = b"/drover0"
"""The first key after all that begin with the prefix (`0` follows `/`)."""


def text(raw: bytes) -> str:
    return b64encode(raw).decode("ascii")


def to_key(key: str) -> str:
    return text(PREFIX + key.encode())


def from_key(encoded: str) -> str:
    return b64decode(encoded)[len(PREFIX) :].decode()


def txn(changes: Sequence[Change], expect: Mapping[str, int], lease: str | None) -> Json:
    """The request of one commit."""
    return {
        "compare": [
            {"key": to_key(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(version)}
            for key, version in expect.items()
        ],
        "success": [_operation(change, lease) for change in changes],
        "failure": [{"request_range": {"key": to_key(key), "keys_only": True}} for key in expect],
    }


def _operation(change: Change, lease: str | None) -> Json:
    if change.record is None:
        return {"request_delete_range": {"key": to_key(change.key)}}
    put = {"key": to_key(change.key), "value": text(encode(change.record))}
    return {"request_put": put if lease is None else put | {"lease": lease}}


def revision_of(answer: Json) -> int:
    return int(answer["header"]["revision"])


def broken_expectations(answer: Json, expect: Mapping[str, int]) -> list[str]:
    """The keys whose version differed, from the reads of a refused txn."""
    reads = [item.get("response_range", {}).get("kvs", []) for item in answer.get("responses", [])]
    found = [int(rows[0]["mod_revision"]) if rows else 0 for rows in reads]
    return sorted(key for (key, version), now in zip(expect.items(), found, strict=False) if version != now)


def page(after: bytes, revision: int, limit: int) -> Json:
    """The request of one page of all records: those from key `after` on, at `revision` (0: now)."""
    request = {"key": text(after), "range_end": text(PREFIX_END), "limit": str(limit)}
    return request | {"revision": str(revision)} if revision else request


def after_last(rows: Sequence[Json]) -> bytes:
    """The first possible key after those of a page."""
    return b64decode(rows[-1]["key"]) + b"\0"


def picture(revision: int, rows: Iterable[Json]) -> Cluster:
    """All records at one revision."""
    tables: dict[str, dict[str, Record]] = {}
    versions: dict[str, int] = {}
    for row in rows:
        key = from_key(row["key"])
        record = _record(key, row.get("value", ""))
        if record is not None:
            table, _, rest = key.partition("/")
            tables.setdefault(table, {})[rest] = record
            versions[key] = int(row["mod_revision"])
    return Cluster(revision=revision, tables=tables, versions=versions)


def watch_request(revision: int) -> Json:
    """Watch from `revision` on, that one included, so that a compaction at the next one is always noticed.

    etcd serves a watch that begins exactly at the compacted revision, but may have dropped a removal made at it.
    """
    create = {
        "key": text(PREFIX),
        "range_end": text(PREFIX_END),
        "start_revision": str(max(revision, 1)),
        "progress_notify": True,
    }
    return {"create_request": create}


def batches(answer: Json, seen: int) -> list[Batch]:
    """The batches after revision `seen` in one watch response. etcd does not spread a revision over two."""
    grouped = groupby(answer.get("events", ()), key=lambda event: int(event["kv"]["mod_revision"]))
    return [Batch(revision, _changes(events)) for revision, events in grouped if revision > seen]


def _changes(events: Iterable[Json]) -> tuple[Change, ...]:
    """In key order; without records of tables that this version does not know."""
    known = (_change(event) for event in events)
    return tuple(sorted((change for change in known if change), key=lambda change: change.key))


def _change(event: Json) -> Change | None:
    key = from_key(event["kv"]["key"])
    if event.get("type") == "DELETE":
        return Change(key, None)
    record = _record(key, event["kv"].get("value", ""))
    return None if record is None else Change(key, record)


def _record(key: str, value: str) -> Record | None:
    try:
        return decode(key, b64decode(value))
    except MALFORMED as error:
        raise Invalid(
            f"the record at {key} cannot be read by this version of Drover: {error}",
            hint="upgrade this host's Drover to the version of the other hosts",
        ) from error
