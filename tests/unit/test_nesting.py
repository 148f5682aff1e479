"""How deep JSON may be nested: measured without reading it, so that reading it is safe wherever it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.errors import Invalid
from drover.wire.nesting import MAX_LEVELS, levels_of, refuse_deep

plain = st.text(alphabet='[]{}"\\a', max_size=8) | st.integers()
json_values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\', max_size=4), inner, max_size=3)
)


def depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth, inside), default=0)


@given(json_values)
def test_the_levels_are_counted_by_structure_not_by_what_texts_hold(value: Any) -> None:
    padded = [value, ["[" * (MAX_LEVELS + 1)]]  # more brackets than levels, so that it is really looked through
    assert levels_of(json.dumps(padded).encode()) == depth(padded)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_what_is_too_deep_is_refused_and_what_is_not_is_not(opening: str) -> None:
    refuse_deep(opening * MAX_LEVELS)
    with pytest.raises(Invalid, match="deeper than 200 levels"):
        refuse_deep(opening * (MAX_LEVELS + 1))
