"""The frame of `make bench`: what it compares, judges and writes. Sides here are made-up figures; nothing is timed."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.frame import Budget, Report, Row, added, alone, interleaved, ratio, sentence, summary, table


def _counting(log: list[str], name: str) -> float:
    log.append(name)
    return float(len(log))


def test_every_side_runs_once_a_round_and_warm_up_is_thrown_away() -> None:
    log: list[str] = []
    sides = {name: lambda name=name: _counting(log, name) for name in ("a", "b", "c")}
    found = interleaved(sides, 4, warm_up=2, chance=random.Random(1))
    assert {name: len(figures) for name, figures in found.items()} == {"a": 4, "b": 4, "c": 4}
    assert [sorted(log[at : at + 3]) for at in range(0, len(log), 3)] == [["a", "b", "c"]] * 6
    assert min(min(figures) for figures in found.values()) > 6


def test_the_order_is_drawn_anew_each_round() -> None:
    log: list[str] = []
    interleaved({name: lambda name=name: _counting(log, name) for name in "ab"}, 30, chance=random.Random(1))
    assert {tuple(log[at : at + 2]) for at in range(0, len(log), 2)} == {("a", "b"), ("b", "a")}


@pytest.mark.parametrize(
    ("figures", "expected"),
    [([7.0], (1, 7.0, 7.0, 7.0)), ([1.0, 2.0, 3.0, 4.0, 5.0], (5, 2.0, 3.0, 4.0))],
)
def test_summary(figures: list[float], expected: tuple[int, float, float, float]) -> None:
    found = summary(figures)
    assert (found.n, found.q1, found.median, found.q3) == expected


def test_comparisons_are_of_medians_and_their_spread_of_rounds() -> None:
    tested, peer = [2.0, 4.0, 9.0], [1.0, 4.0, 3.0]
    cost, times = added("x", "ms", tested, peer), ratio("x", "ms", tested, peer)
    assert (cost.value, cost.spread) == (1.0, (0.5, 3.5))
    assert times.value == pytest.approx(4 / 3)
    assert times.spread == (1.5, 2.5)


@pytest.mark.parametrize(
    ("budget", "value", "verdict"),
    [
        (Budget(1.3), 1.3, "kept"),
        (Budget(1.3), 1.31, "missed"),
        (Budget(0.9, at_most=False), 0.9, "kept"),
        (Budget(0.9, at_most=False), 0.89, "missed"),
        (None, 5.0, "-"),
    ],
)
def test_verdicts(budget: Budget | None, value: float, verdict: str) -> None:
    assert alone("x", "s", [value], budget).verdict == verdict


def test_a_sentence_says_figure_peer_budget_and_verdict() -> None:
    row = ratio("save", "MB/s", [80.0, 100.0, 120.0], [200.0, 200.0, 200.0], Budget(0.9, at_most=False))
    expected = "save: 100 MB/s against 200 MB/s, 0.50x (0.45x to 0.55x, n=3); budget >= 0.90x: missed"
    assert sentence(row) == expected


def _rows_then_failure() -> Iterator[Row]:
    yield alone("fast enough", "s", [1.0], Budget(2.0))
    raise RuntimeError("the engine has gone")


def test_a_group_that_fails_keeps_the_rows_it_had_and_the_others(tmp_path: Path) -> None:
    lines: list[str] = []
    report = Report(tmp_path, quick=True, say=lines.append)
    report.measure("first", _rows_then_failure())
    report.measure("second", [alone("too slow", "s", [3.0], Budget(2.0))])
    written = json.loads((tmp_path / "report.json").read_text())
    assert [block["failure"] for block in written["blocks"]] == ["the engine has gone", ""]
    assert [row["verdict"] for block in written["blocks"] for row in block["rows"]] == ["kept", "missed"]
    assert "1 kept, 1 missed" in (tmp_path / "report.txt").read_text()
    assert "first ended early: the engine has gone" in (tmp_path / "report.txt").read_text()
    assert not report.all_kept


def test_a_report_without_misses_is_all_kept(tmp_path: Path) -> None:
    report = Report(tmp_path, quick=False, say=lambda _line: None)
    report.measure("first", [alone("fast enough", "s", [1.0], Budget(2.0)), alone("for information", "s", [9.0])])
    assert report.all_kept


def test_the_table_has_a_line_per_row_and_the_load_of_each_group(tmp_path: Path) -> None:
    report = Report(tmp_path, quick=False, say=lambda _line: None)
    report.measure("calls", [added("ping", "ms", [0.4, 0.5, 0.6], [0.1, 0.2, 0.3], Budget(0.5))])
    titles, group, line = table(report.blocks)
    assert titles.split() == ["what", "Drover", "peer", "compared", "(quartiles)", "budget"]
    assert group.startswith("calls (")
    assert "load" in group
    shown = "ping 0.5 ms 0.2 ms +0.30 ms (+0.30 ms to +0.30 ms, n=3) <= +0.50 ms kept"
    assert " ".join(line.split()) == shown
