"""Scheduled jobs: once for each time, whoever leads, with what became of each run."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from app_world import LeaderDied, World, web

from drover.decide.jobs import next_time
from drover.errors import Invalid
from drover.model.apps import Schedule

MINUTE = 60.0


def scheduled(image: str = "task", **own: Any) -> dict[str, Any]:
    return {"tick": web(image, 1) | {"x-drover": {"schedule": "* * * * *", **own}}}


def runs(world: World) -> list[dict[str, Any]]:
    return list(world.service("tick")["runs"])


def minutes(world: World, number: int) -> None:
    """Let minutes pass, looking every ten seconds."""
    for _ in range(number * 6):
        world.look()
        world.pass_time(10)
        world.look()


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        ("*/5 * * * *", "UTC", "2026-03-01T10:02", "2026-03-01T10:05"),
        ("0 3 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-29T03:00"),
        ("0 0 29 2 *", "UTC", "2026-03-01T00:00", "2028-02-29T00:00"),
        ("0 9 * * MON", "UTC", "2026-11-23T09:00", "2026-11-30T09:00"),
    ],
)
def test_the_next_time(cron: str, zone: str, after: str, expected: str) -> None:
    assert next_time(Schedule(cron=cron, timezone=zone), at(after, zone)) == at(expected, zone)


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"schedule": "every day"}, "is no cron expression"),
        ({"timezone": "Mars/Olympus"}, "is no time zone"),
        ({"concurrency": "maybe"}, "is none of allow, forbid, replace"),
    ],
)
def test_what_is_no_schedule(own: dict[str, str], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        World().deploy(scheduled(**own))


def test_a_run_for_each_time_with_its_exit_code() -> None:
    world = World()
    world.deploy(scheduled(keep=2))
    world.look()
    world.look()
    assert world.view()["state"] == "converged"
    assert world.names() == []
    minutes(world, 4)
    assert [one["says"] for one in runs(world)][:2] == ["exit code 0", "exit code 0"]
    assert len([one for one in runs(world) if one.get("ended")]) == 2
    assert len(world.names()) <= 3, "containers of older runs are gone"


def test_the_exit_code_of_a_failure_is_kept() -> None:
    world = World()
    world.deploy(scheduled("broken"))
    minutes(world, 2)
    assert "exit code 1" in [one["says"] for one in runs(world)]


@pytest.mark.parametrize(
    ("concurrency", "running", "says"),
    [("forbid", 1, "skipped: the run before had not ended"), ("allow", 3, "running"), ("replace", 1, "replaced by")],
)
def test_while_one_still_runs(concurrency: str, running: int, says: str) -> None:
    world = World()
    world.deploy(scheduled("good", concurrency=concurrency))
    minutes(world, 3)
    world.look()
    assert world.good("tick") == running
    assert any(one["says"].startswith(says) for one in runs(world))


def test_times_that_passed_while_nobody_led_are_made_up_for_by_one_run() -> None:
    world = World()
    world.deploy(scheduled())
    world.look()
    world.look()
    world.now += 3600
    world.look()
    world.look()
    assert len(world.names()) == 1
    assert world.service("tick")["next_due"] > world.now


def test_a_run_whose_container_cannot_be_made_ends_and_says_why() -> None:
    world = World()
    world.deploy(scheduled("refused"))
    minutes(world, 2)
    assert any(one["says"] == "no host has the image" for one in runs(world))


def test_a_run_whose_container_was_taken_away_ends() -> None:
    world = World()
    world.deploy(scheduled("good"))
    minutes(world, 1)
    world.look()
    world.remove(world.cluster.names[world.names()[0]].id)
    world.look()
    assert "its container was removed before it ended" in [one["says"] for one in runs(world)]


def test_another_schedule_counts_from_now() -> None:
    world = World()
    world.deploy(scheduled())
    world.look()
    world.look()
    first = world.service("tick")["next_due"]
    world.deploy(scheduled(schedule="0 0 1 1 *"))
    world.look()
    assert world.service("tick")["next_due"] > first + 3600


def test_cut_at_every_step_each_time_runs_once() -> None:
    whole = World()
    whole.deploy(scheduled())
    minutes(whole, 2)
    for cut in range(whole.effects):
        world = World()
        world.deploy(scheduled())
        world.budget = cut
        with pytest.raises(LeaderDied):
            minutes(world, 2)
        world.budget = -1
        minutes(world, 2)
        due = [one["due_at"] for one in runs(world)]
        assert due == sorted(set(due))
        made = [entry for entry in world.log if entry.startswith("Make container/shop-tick-")]
        assert len(made) == len(set(made)), cut
