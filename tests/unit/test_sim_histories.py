"""Whole histories from seeds: a fixed budget of them, those that once failed, and what the machinery promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tests.mutants import MUTANTS, source_of

from drover.sim.draw import CALLS, FAULTS, draw
from drover.sim.faults import KINDS as FAULT_KINDS
from drover.sim.history import Event, History, Shape, from_file, to_json
from drover.sim.play import play
from drover.sim.shrink import shrink
from drover.sim.workload import KINDS as CALL_KINDS

REGRESSIONS = sorted((Path(__file__).parent.parent / "sim_regressions").glob("*.json"))
BUDGET = (1, 2, 3, 4, 5, 9, 22, 64, 100)
"""Some found nothing yet; 4, 22, 64 and 100 are those that found faults."""
PROGRAM = "from drover.cli.main import main; main()"


@pytest.mark.parametrize("seed", BUDGET)
def test_every_promise_holds(seed: int) -> None:
    outcome = play(draw(seed))
    assert outcome.broken == ""
    assert outcome.virtual_s > draw(seed).heal_at


def test_what_failed_is_written_down() -> None:
    assert len(REGRESSIONS) >= 6
    assert all(from_file(path).found for path in REGRESSIONS)


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.stem)
def test_what_once_failed_holds(path: Path) -> None:
    assert play(from_file(path)).broken == ""


@pytest.mark.parametrize("seed", ["9", "64"])
def test_the_same_seed_has_the_same_trace_under_any_hash_seed(seed: str) -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM, "sim", "--seed", seed, "--json"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    first, second = (json.loads(one) for one in said)
    assert first["revisions"] > 50
    assert first == second


def test_a_seed_draws_the_same_history_and_others_draw_others() -> None:
    assert draw(5) == draw(5)
    assert draw(5).events != draw(6).events
    assert draw(5, hosts=4).shape.hosts == 4
    assert set(FAULTS) == FAULT_KINDS
    assert set(CALLS) == CALL_KINDS
    assert not FAULT_KINDS & CALL_KINDS
    drawn = {event.kind for seed in range(200) for event in draw(seed).events}
    assert drawn == FAULT_KINDS | CALL_KINDS


def test_a_history_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    path.write_bytes(to_json(draw(3)))
    assert from_file(path) == draw(3)


def test_shrinking_leaves_what_matters() -> None:
    events = tuple(Event(at=float(at), kind="compact" if at in (7, 31) else "election", for_s=1.0) for at in range(40))
    history = History(seed=0, shape=Shape(), heal_at=300.0, events=events)
    played = []

    def fails(candidate: History) -> bool:
        played.append(candidate)
        return sum(event.kind == "compact" for event in candidate.events) == 2

    small = shrink(history, fails)
    assert [event.at for event in small.events] == [7.0, 31.0]
    assert small.heal_at < history.heal_at
    assert len(played) < 100


def test_a_broken_promise_is_told_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drover.agent.fence.Fence._stop", _do_nothing)
    monkeypatch.setattr("drover.sim.parts.SimWatchdog._fence", lambda self: None)
    create = Event(
        at=0.5, kind="create", host="h1", what="db", body={"volumes": ["data"], "network": "app", "start": True}
    )
    cuts = [Event(at=20.0, kind="cut", host=host, for_s=30.0) for host in ("h1", "h2", "h3")]
    for cut in cuts:
        outcome = play(History(seed=0, shape=Shape(), heal_at=60.0, events=(create, cut)))
        if outcome.broken:
            assert msgspec.json.encode(outcome)
            assert outcome.broken.startswith("at 2")
            assert "P1: " in outcome.broken
            return
    pytest.fail("no cut of any host broke a promise")


async def _do_nothing(self: object) -> None:
    return None


def test_each_deliberate_bug_can_still_be_made() -> None:
    """`tests.mutants` would stop at the first of them whose place in the source is another now."""
    missing = [one.name for one in MUTANTS if source_of(one).count(one.old) != 1]
    assert missing == []
    assert len(MUTANTS) >= 15
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)
