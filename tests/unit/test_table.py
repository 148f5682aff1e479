"""What changed between two tables is found, by what they remember or by comparing."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.table import KEYS, STEPS, Table, changed


def compared(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    return {key for key in {*old, *new} if old.get(key) is not new.get(key)}


def step(chance: random.Random, rows: int) -> list[Change]:
    keys = [r.key("alive", f"h{chance.randrange(40)}") for _ in range(rows)]
    return [put(key, r.Alive(host="h", session="s")) if chance.random() < 0.7 else delete(key) for key in keys]


@pytest.mark.parametrize("seed", range(30))
def test_what_changed_is_what_comparing_finds(seed: int) -> None:
    chance = random.Random(seed)
    pictures = [Cluster()]
    for revision in range(1, 100):
        before = pictures[-1] if chance.random() < 0.8 else chance.choice(pictures)
        pictures.append(before.apply(revision, step(chance, chance.choice((0, 1, 1, 3)))))
        old, new = chance.choice(pictures).alive, chance.choice(pictures).alive
        found = changed(old, new)
        assert len(found) == len(set(found))
        assert set(found) == compared(old, new)


def test_only_what_was_written_is_looked_at() -> None:
    class Counting(Table):
        def items(self) -> Any:
            raise AssertionError("it looks at all rows")

    old = Table({"a": 1, "b": 2})
    new = Counting({"a": 1, "c": 3})
    new.made_from(old, ("c", "b"))
    assert changed(old, new) == ["c", "b"]


def test_little_is_remembered() -> None:
    first = Table({})
    table = first
    for number in range(STEPS + 1):
        after = Table({**table, str(number): number})
        after.made_from(table, (str(number),))
        table = after
    assert len(table.steps) == STEPS
    assert changed(first, table) == [str(number) for number in range(STEPS + 1)]
    much = Table(dict.fromkeys(map(str, range(KEYS + 1)), 0))
    much.made_from(table, tuple(much))
    assert much.steps == ()


def test_tables_of_other_kinds_are_compared() -> None:
    one = r.Alive(host="h1", session="s")
    assert changed({"a": one, "b": one}, {"a": one, "c": one}) == ["c", "b"]
    assert changed({"a": one}, {"a": r.Alive(host="h1", session="s")}) == ["a"]
    assert changed(Table({"a": one}), {"a": one}) == []
