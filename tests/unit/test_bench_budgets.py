"""The list of budgets: each has a group and a row there, what is not measured is said, and the picture shows it all."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from bench import recorded, scale
from bench.__main__ import GROUPS
from bench.budgets import PROMISES, Promise, lacking
from bench.frame import Budget, Report, alone, picture, ratio, unmeasured, used


@pytest.mark.parametrize("promise", PROMISES, ids=lambda one: f"{one.group}: {one.row}")
def test_a_budget_has_a_row_in_its_groups_source(promise: Promise) -> None:
    """The parts of the name that no f-string makes stand there, and so does a budget."""
    assert promise.group in GROUPS
    source = Path(str(importlib.import_module(f"bench.{promise.group}").__file__)).read_text()
    assert "Budget(" in source
    if promise.group == "recorded":
        names = {row.what for row in [*recorded.recovery(Path("/nowhere")), *recorded.database(Path("/nowhere"))]}
        assert any(name.startswith(promise.row) for name in names)
    else:
        assert promise.row.split(", local")[0].split(", another host")[0] in source


def test_a_budget_that_no_row_measured_is_printed_as_not_measured(tmp_path: Path) -> None:
    rows = [alone("drover --help", "ms", [90.0], Budget(150.0))]
    found = lacking([("house", rows)])
    assert [row.what for row in found] == ["an idle agent: share of a core"]
    assert found[0].verdict == "not measured"
    report = Report(tmp_path, quick=True, say=lambda _line: None)
    report.measure("house", [*rows, *found])
    assert "1 kept, 0 missed, 1 not measured" in report.text()
    assert not report.all_kept
    assert json.loads((tmp_path / "report.json").read_text())["blocks"][0]["rows"][1]["verdict"] == "not measured"


def test_the_picture_has_a_bar_for_each_budget_and_what_is_beyond_the_line_missed_it() -> None:
    rows = [
        alone("fast", "s", [1.0], Budget(2.0)),
        ratio("thin", "MB/s", [40.0], [100.0], Budget(0.8, at_most=False)),
        unmeasured("unknown", Budget(1.0), "s", "run something"),
        alone("none allowed", "errors", [0.0], Budget(0)),
    ]
    assert [used(row) for row in rows] == [0.5, 2.0, None, 0.0]
    drawn = picture(rows)
    assert drawn.count('height="13"') == 3
    assert drawn.count("#cc3311") == 1
    assert "not measured" in drawn


def test_what_the_long_programs_wrote_down_becomes_rows(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    lines = [
        {"side": side, "fault": "power", "number": number, "recovery_s": {"db": base + number, "web": 5.0}}
        for side, base in (("drover", 4.0), ("swarm-tuned", 5.0))
        for number in range(3)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    found = {row.what: row for row in recorded.recovery(file)}
    assert found["recovery after a power cut, stateful: median"].value == 5.0
    assert found["recovery after a power cut, stateful: 95 of 100 within"].value == 6.0
    assert found["recovery after a power cut, stateful: against Swarm tuned"].value == pytest.approx(5 / 6)
    assert found["recovery after an orderly shutdown: median"].verdict == "not measured"
    assert "recorded 2" in found["recovery after a power cut, stateless: median"].note


def test_a_knee_is_found_between_two_sizes() -> None:
    points = [(10, 100, 0.01), (100, 1_000, 1.0), (1_000, 10_000, 100.0)]
    hosts, containers = scale.crossing(points, 10.0) or (0.0, 0.0)
    assert (round(hosts), round(containers)) == (316, 3162)
    assert scale.crossing(points, 1000.0) is None


def test_tables_are_put_between_their_marks() -> None:
    page = "a\n<!-- t -->\nold\n<!-- /t -->\nb\n"
    assert scale.written(page, {"t": "new"}) == "a\n<!-- t -->\nnew\n<!-- /t -->\nb\n"
