"""Budgets whose proof takes longer than a bench: their rows come from what the long programs wrote down last.

    file                        written by            rows
    out/faults/results.jsonl    `make faults`         recovery, beside Docker Swarm in the same run
    out/proof.json              `make proof`          the move of a live database of 1 GB

A row without a record says which program to run. The date of the record is the row's note.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.bed import Bed
from bench.faults.__main__ import results
from bench.faults.play import Result
from bench.frame import Budget, Row, alone, ratio, unmeasured

OUT = Path(__file__).resolve().parents[1] / "out"
MEDIAN, P95, SHUTDOWN, STORE_LEADER = Budget(6.0), Budget(8.0), Budget(3.0), Budget(9.0)
AGAINST_SWARM, GAP, DOUBLE = Budget(1.5), Budget(0.9), Budget(0)
THINGS = {"db": "stateful", "web": "stateless"}
LOSSES = {"power": "after a power cut", "network": "after a cut network"}


def rows(_bed: Bed) -> Iterator[Row]:
    yield from recovery(OUT / "faults" / "results.jsonl")
    yield from database(OUT / "proof.json")


def recovery(file: Path) -> Iterator[Row]:
    found, note = [one for one in results(file) if not one.error], _dated(file)
    for fault, when in LOSSES.items():
        for thing, kind in THINGS.items():
            figures = _figures(found, "drover", fault, thing)
            what = f"recovery {when}, {kind}"
            yield _or_not(f"{what}: median", figures, MEDIAN, note)
            yield _or_not(f"{what}: 95 of 100 within", [_p95(figures)] if figures else [], P95, note)
            yield _beside(f"{what}: against Swarm tuned", figures, _figures(found, "swarm-tuned", fault, thing))
    shutdown = _figures(found, "drover", "shutdown", "db")
    yield _or_not("recovery after an orderly shutdown: median", shutdown, SHUTDOWN, note)
    store = _figures(found, "drover", "store", "db")
    yield _or_not("recovery after the store's leader died: median", store, STORE_LEADER, note)
    ours = [one for one in found if one.side == "drover"]
    doubles = [float(sum(one.double_writes + one.duplicates for one in ours))] if ours else []
    yield _or_not(f"double writes and duplicate holders in {len(ours)} faults", doubles, DOUBLE, note, unit="")


def database(file: Path) -> Iterator[Row]:
    """Of moves only: `make proof KILL=1` writes another kind of record to the same place."""
    told = json.loads(file.read_text()) if file.exists() else {}
    gaps = [one["gap_s"] for one in told.get("moves", ())]
    what = "a live database of 1 GB moves: its clients' gap"
    yield alone(what, "s", gaps, GAP, _dated(file)) if gaps else unmeasured(what, GAP, "s", "run `make proof`")


def _figures(found: Sequence[Result], side: str, fault: str, thing: str) -> list[float]:
    return [
        one.recovery_s[thing] for one in found if (one.side, one.fault) == (side, fault) and thing in one.recovery_s
    ]


def _p95(figures: Sequence[float]) -> float:
    return sorted(figures)[min(len(figures) - 1, len(figures) * 95 // 100)]


def _or_not(what: str, figures: Sequence[float], budget: Budget, note: str, unit: str = "s") -> Row:
    if not figures:
        return unmeasured(what, budget, unit, "run `make faults`")
    return alone(what, unit, figures, budget, note)


def _beside(what: str, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    rounds = min(len(ours), len(theirs))
    if not rounds:
        return unmeasured(what, AGAINST_SWARM, "s", "run `make faults`")
    return ratio(what, "s", ours[:rounds], theirs[:rounds], AGAINST_SWARM)


def _dated(file: Path) -> str:
    if not file.exists():
        return ""
    return "recorded " + time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(file.stat().st_mtime))
