"""Constraints and affinities: parsing and matching."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.errors import Invalid
from drover.model.expression import Expression, parse_expression, parse_list

HOLDS = [
    ("k==ssd", "ssd", True),
    ("k==ssd", "ssd2", False),
    ("k==ssd", None, False),
    ("k!=ssd", "ssd", False),
    ("k!=ssd", "hdd", True),
    ("k!=ssd", None, True),
    ("k==ss*", "ssd", True),
    ("k==ss*", "hss", False),
    ("k==h[12]", "h2", True),
    ("k==h?", "h23", False),
    ("k!=h*", "h2", False),
    ("k==/^h[12]$/", "h2", True),
    ("k==/^h[12]$/", "h23", False),
    ("k==/2/", "h23", True),
    ("k==/(?i)SSD/", "ssd", True),
    ("k==a b", "a b", True),
    ("k==//", "//", True),
    (" k == ssd ", "ssd", True),
]


@pytest.mark.parametrize(("text", "value", "expected"), HOLDS)
def test_holds(text: str, value: str | None, expected: bool) -> None:
    assert parse_expression(text, "constraint").holds(value) is expected


@pytest.mark.parametrize("text", ["k", "k=v", "k==", "==v", "k<v", ""])
def test_malformed(text: str) -> None:
    with pytest.raises(Invalid, match="KEY==VALUE") as refused:
        parse_expression(text, "constraint")
    assert "storage==ssd" in refused.value.hint


@pytest.mark.parametrize(
    ("value", "exact"), [("web", True), ("w*", False), ("w?", False), ("[w]", False), ("/w/", False), ("/", True)]
)
def test_exact(value: str, exact: bool) -> None:
    assert Expression("container", value).exact is exact


def test_a_list_skips_empty_pieces() -> None:
    assert parse_list(" a==b ;; c!=~d , ", "constraint") == (Expression("a", "b"), Expression("c", "d", False, True))


@given(
    st.from_regex(r"[a-z_][a-z0-9_.\-]{0,8}", fullmatch=True),
    st.from_regex(r"[a-z0-9.*\-]{1,8}", fullmatch=True),
    st.booleans(),
    st.booleans(),
)
def test_text_and_back(key: str, value: str, equal: bool, soft: bool) -> None:
    expression = Expression(key, value, equal, soft)
    assert parse_expression(str(expression), "constraint") == expression
