"""Records of older and newer versions, and what a store or a disk may hold that nobody wrote on purpose.

Theory of operation. Every type of record is made from its own fields' types (`st.from_type` cannot know msgspec, so
`made` does it); a newer version adds fields and tables, an older one lacks fields that have defaults. Both must read
what the other wrote; and what a version does not know it must not lose others' records for.
"""

from __future__ import annotations

import base64
import contextlib
import json
import types
import typing
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from tests.fuzz.hostile import bodies, fuzzed, values, with_strange_fields

from drover.decide.app_steps import FILES_LABEL, files_of
from drover.errors import Invalid
from drover.model import records as r
from drover.store import etcd_codec

TABLES = sorted(r.TABLES)


@st.composite
def made(draw: DrawFn, kind: Any) -> Any:
    """A value of a record's or a field's type."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind is object:
        return draw(st.sampled_from((None, 1, "a")))
    if origin is Literal:
        return draw(st.sampled_from(inside))
    if origin in (typing.Union, types.UnionType):
        return draw(made(draw(st.sampled_from(inside))))
    if kind is type(None):
        return None
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind, include_extras=False)
        return kind(**{one.name: draw(made(hints[one.name])) for one in msgspec.structs.fields(kind)})
    if origin is tuple and len(inside) == 2 and inside[1] is Ellipsis:
        return tuple(draw(st.lists(made(inside[0]), max_size=2)))
    if origin is tuple:
        return tuple(draw(made(one)) for one in inside)
    if origin is list:
        return draw(st.lists(made(inside[0]), max_size=2))
    if origin in (dict, typing.get_origin(typing.Mapping[str, str])):
        return draw(st.dictionaries(made(inside[0]), made(inside[1]), max_size=2))
    plain = {str: st.text(max_size=8), int: st.integers(0, 2**40), float: st.floats(0, 2**40), bool: st.booleans()}
    return draw(plain[kind])


@pytest.mark.parametrize("table", TABLES)
@fuzzed(0.5)
@given(data=st.data())
def test_a_record_of_any_content_is_read_as_it_was_written(table: str, data: Any) -> None:
    record = data.draw(made(r.TABLES[table]))
    written = r.encode(record)
    assert r.decode(f"{table}/a", written) == record
    newer = {**json.loads(written), "from_the_future": data.draw(values), "also": {"a": [1]}}
    assert r.decode(f"{table}/a", json.dumps(newer).encode()) == record


@pytest.mark.parametrize("table", TABLES)
def test_a_record_of_an_older_version_lacks_what_it_did_not_know(table: str) -> None:
    """Only the fields without a default were always there."""
    kind = r.TABLES[table]
    needed = {one.name for one in msgspec.structs.fields(kind) if one.required}
    hints = typing.get_type_hints(kind)
    examples = {str: "a", int: 1, float: 1.0, bool: True}
    oldest = {name: examples.get(hints[name], "a") for name in needed}
    assert isinstance(r.decode(f"{table}/a", json.dumps(oldest).encode()), kind)


@fuzzed(2)
@given(st.sampled_from(TABLES), st.data())
def test_a_damaged_record_is_read_or_its_key_is_named(table: str, data: Any) -> None:
    whole = msgspec.to_builtins(data.draw(made(r.TABLES[table])))
    raw = data.draw(bodies(with_strange_fields(whole)))
    row = {"key": etcd_codec.to_key(f"{table}/a"), "value": base64.b64encode(raw).decode(), "mod_revision": "7"}
    try:
        picture = etcd_codec.picture(9, [row])
    except Invalid as error:
        said = error.message
    else:
        said = ""
        assert list(picture.tables) in ([table], [])
    assert not said or f"{table}/a" in said


@fuzzed(1)
@given(st.text(max_size=20).filter(lambda name: name not in r.TABLES), bodies(st.just({"a": 1})))
def test_a_table_of_a_newer_version_is_passed_over(table: str, raw: bytes) -> None:
    table = table.replace("/", "_")
    value = base64.b64encode(raw).decode()
    good = {"key": etcd_codec.to_key("settings/x"), "value": etcd_codec.text(b'{"value":"1"}'), "mod_revision": "7"}
    strange = {"key": etcd_codec.to_key(f"{table}/a"), "value": value, "mod_revision": "8"}
    picture = etcd_codec.picture(9, [good, strange])
    assert set(picture.versions) == {"settings/x"}
    events = [{"kv": {**one, "mod_revision": "12"}} for one in (good, strange)]
    (batch,) = etcd_codec.batches({"events": events}, 9)
    assert [change.key for change in batch.changes] == ["settings/x"]


# -- what decides on a record must bear any content --------------------------------------------------------------------


@fuzzed(2)
@given(
    st.text(max_size=30)
    | bodies(st.just([{"file": "a", "target": "/b"}])).map(lambda raw: raw.decode("utf-8", "replace"))
)
def test_a_label_that_only_looks_like_drovers_own_harms_nobody(label: str) -> None:
    with contextlib.suppress(Invalid):
        assert isinstance(files_of({FILES_LABEL: label}), list)
