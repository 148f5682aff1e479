"""What goes to etcd's JSON gateway and comes back, as values."""

from __future__ import annotations

import pytest

from drover.errors import Invalid
from drover.model.cluster import delete, put
from drover.model.records import Setting
from drover.store import etcd_codec as codec
from drover.store.port import Batch

A = codec.to_key("settings/a")
VALUE = codec.text(b'{"value":"1"}')


def event(key: str, revision: int, value: str | None = VALUE) -> codec.Json:
    kv = {"key": codec.to_key(key), "mod_revision": str(revision)}
    return {"type": "DELETE", "kv": kv} if value is None else {"kv": kv | {"value": value}}


def test_a_commit_is_one_txn() -> None:
    request = codec.txn([put("settings/a", Setting(value="1")), delete("settings/b")], {"settings/a": 4}, "77")
    assert request == {
        "compare": [{"key": A, "target": "MOD", "result": "EQUAL", "mod_revision": "4"}],
        "success": [
            {"request_put": {"key": A, "value": VALUE, "lease": "77"}},
            {"request_delete_range": {"key": codec.to_key("settings/b")}},
        ],
        "failure": [{"request_range": {"key": A, "keys_only": True}}],
    }


def test_a_refused_txn_tells_which_keys_differ() -> None:
    same, other, gone = ({"response_range": {"kvs": [{"mod_revision": n}]} if n else {}} for n in ("4", "9", None))
    expect = {"settings/same": 4, "settings/other": 8, "settings/gone": 3, "settings/absent": 0}
    answer = {"responses": [same, other, gone, {"response_range": {}}]}
    assert codec.broken_expectations(answer, expect) == ["settings/gone", "settings/other"]


def test_events_are_grouped_by_revision_and_those_seen_are_left_out() -> None:
    answer = {"events": [event("settings/z", 4), event("settings/b", 5), event("settings/a", 5, None)]}
    assert codec.batches(answer, seen=4) == [
        Batch(5, (delete("settings/a"), put("settings/b", Setting(value="1")))),
    ]
    assert codec.batches({"header": {"revision": "9"}}, seen=4) == []


def test_a_table_of_a_newer_version_is_passed_over() -> None:
    assert codec.batches({"events": [event("novelties/x", 5)]}, seen=4) == [Batch(5, ())]
    rows = [{"key": codec.to_key("novelties/x"), "value": VALUE, "mod_revision": "3"}]
    assert codec.picture(3, rows).versions == {}


def test_a_record_that_cannot_be_read_is_an_error_that_names_it() -> None:
    with pytest.raises(Invalid, match="the record at settings/a cannot be read"):
        codec.batches({"events": [event("settings/a", 5, codec.text(b"{}"))]}, seen=4)


def test_pages_follow_each_other_at_one_revision() -> None:
    assert codec.page(codec.PREFIX, 0, 10) == {
        "key": codec.text(b"/drover/"),
        "range_end": codec.text(b"/drover0"),
        "limit": "10",
    }
    start = codec.after_last([{"key": A}])
    assert start == b"/drover/settings/a\0"
    assert codec.page(start, 7, 10)["revision"] == "7"


@pytest.mark.parametrize(("revision", "start"), [(0, "1"), (1, "1"), (9, "9")])
def test_a_watch_begins_at_the_revision_it_has(revision: int, start: str) -> None:
    assert codec.watch_request(revision)["create_request"]["start_revision"] == start
