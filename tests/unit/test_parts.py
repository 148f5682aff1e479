"""Pieces that are followed are those that would be made anew, whatever changed together."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping

import pytest

from drover.decide.parts import Local, Pieces, Values, updated

Has = Mapping[str, Mapping[str, int]]
"""Container to its keys, each with a number; a value is the sum of the numbers."""


def of(has: Has) -> Local:
    def function(containers: Collection[str]) -> Values:
        sums: dict[str, int] = {}
        for one in containers:
            for key, number in has.get(one, {}).items():
                sums[key] = sums.get(key, 0) + number
        return {("sum", ""): sums, ("mark", ""): dict.fromkeys(sums)}

    return function


@pytest.mark.parametrize("seed", range(50))
def test_what_is_followed_is_what_would_be_made_anew(seed: int) -> None:
    """Records name a container that there is none of, too: the claims of a service name none at all."""
    chance = random.Random(seed)
    names = ("", "a", "b", "c", "d")
    has: dict[str, Mapping[str, int]] = {}
    pieces = Pieces()
    for _ in range(40):
        touched = set(chance.sample(names, chance.randint(0, 3)))
        for one in touched - {""}:
            has[one] = {key: chance.randint(1, 9) for key in chance.sample("uvwxyz", chance.randint(0, 3))}
        pieces = updated(pieces, touched, of(has), frozenset({"mark"}))
        anew = of(has)(has)
        assert pieces.rows("sum") == anew["sum", ""]
        for kind in ("sum", "mark"):
            givers = {key: frozenset(one for one in has if key in has[one]) for key in anew["sum", ""]}
            assert pieces.who(kind) == givers


def test_a_container_that_nobody_else_touches_is_looked_at_once() -> None:
    asked: list[Collection[str]] = []

    def function(containers: Collection[str]) -> Values:
        asked.append(tuple(containers))
        return of({"a": {"x": 1}, "b": {"y": 2}})(containers)

    pieces = updated(Pieces(), {"a"}, function, frozenset())
    pieces = updated(pieces, {"b"}, function, frozenset())
    assert asked == [("a",), ("b",)]
    assert pieces.rows("sum") == {"x": 1, "y": 2}
