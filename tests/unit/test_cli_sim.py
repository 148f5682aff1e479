"""`drover sim` as people call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from drover.cli.sim import sim
from drover.sim.draw import CALLS, FAULTS, draw
from drover.sim.history import from_file, to_json


def test_one_seed_is_played_and_traced(tmp_path: Path) -> None:
    trace = tmp_path / "trace.txt"
    result = CliRunner().invoke(sim, ["--seed", "8", "--trace", str(trace)], standalone_mode=False)
    assert result.return_value == 0
    assert result.output.startswith("seed 8, ")
    assert "every promise held" in result.output
    lines = trace.read_text().splitlines()
    assert any(" fault " in line for line in lines)
    assert any(" call create " in line for line in lines)


def test_histories_are_played_until_the_hours_are_over() -> None:
    result = CliRunner().invoke(sim, ["--seed", "8", "--hours", "0.03", "--json"], standalone_mode=False)
    assert result.return_value == 0
    outcomes = [json.loads(line) for line in result.output.splitlines()]
    assert [one["seed"] for one in outcomes] == list(range(8, 8 + len(outcomes)))
    assert sum(one["virtual_s"] for one in outcomes) >= 0.03 * 3600


def test_several_processes_play_the_same_histories() -> None:
    alone, together = (
        CliRunner().invoke(sim, ["--seed", "8", "--hours", "0.1", "--json", *more], standalone_mode=False)
        for more in ((), ("--jobs", "2"))
    )
    assert together.return_value == 0
    assert together.output == alone.output
    assert len(alone.output.splitlines()) > 1


def test_a_soak_ends_with_what_was_played() -> None:
    result = CliRunner().invoke(sim, ["--seed", "8", "--hours", "0.01"], standalone_mode=False)
    assert result.return_value == 0
    history = draw(8)
    calls = sum(event.kind in CALLS for event in history.events)
    said = f"1 histories, {len(history.events) - calls} faults, {calls} calls, 0.0"
    assert result.output.startswith(said)
    assert result.output.rstrip().endswith("every promise held")


def test_a_slow_history_lasts_for_hours() -> None:
    slow = draw(6, slow=True)
    assert slow.heal_at > 3600
    assert {event.kind for seed in range(60) for event in draw(seed, slow=True).events} == {*FAULTS, *CALLS}
    assert max(event.for_s for event in slow.events) > max(event.for_s for event in draw(6).events)


def test_a_failure_is_shrunk_and_written_down_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drover.agent.networks.NetworkKeeper.mtu_bytes", _fail)
    result = CliRunner().invoke(sim, ["--seed", "8", "--regressions", str(tmp_path)], standalone_mode=False)
    assert result.return_value == 1
    small = from_file(tmp_path / "seed-8.json")
    assert "KeyError" in small.found
    assert len(small.events) < len(draw(8).events)
    again = CliRunner().invoke(sim, ["--replay", str(tmp_path / "seed-8.json")], standalone_mode=False)
    assert again.return_value == 1
    assert "KeyError" in again.output


def test_a_file_without_a_history_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(to_json(draw(1))[:-20])
    result = CliRunner().invoke(sim, ["--replay", str(path)], standalone_mode=False)
    assert "holds no history" in str(result.exception)


async def _fail(self: object) -> None:
    raise KeyError("unforeseen")
