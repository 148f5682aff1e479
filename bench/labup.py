"""How long `drover lab up` takes until three hosts are one cluster, images not counted (there are none)."""

from __future__ import annotations

from collections.abc import Iterator

from bench.bed import LAB, Bed, remove_lab
from bench.frame import Budget, Row, alone, timed
from drover.lab import Lab

READY = Budget(30.0)
NAME = f"{LAB}-up"


def rows(bed: Bed) -> Iterator[Row]:
    yield alone("three-host lab ready", "s", [_once() for _ in range(bed.effort.lab_rounds)], READY)


def _once() -> float:
    try:
        return timed(lambda: Lab.create(NAME, hosts=3))()
    finally:
        remove_lab(NAME)
