"""Following a host that is emptied: what is said, when it is over, and what is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from drover.cli import emptying
from drover.errors import Conflict, Unavailable

MOVING = {"name": "web", "state": "moving", "says": "goes to h2"}
STUCK = {"name": "odd", "state": "stuck", "says": "it is tied to h1"}


def answers(*shown: Any) -> Callable[[], dict[str, Any]]:
    """One after the other; an error is raised."""
    left = list(shown)

    def look() -> dict[str, Any]:
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, dict)
        return found

    return look


def seen(*items: dict[str, str]) -> dict[str, Any]:
    return {"items": list(items), "in_progress": any(item["state"] != "stuck" for item in items)}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emptying, "POLL_S", 0.001)
    monkeypatch.setattr(emptying, "BEGIN_S", 0.0)


def test_each_change_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    look = answers(seen(MOVING, STUCK), seen(MOVING, STUCK), seen(STUCK))
    shown = emptying.follow(look, emptying.settled(), quiet=False)
    assert shown["items"] == [STUCK]
    assert capsys.readouterr().err.splitlines() == [
        "web: goes to h2",
        "odd: cannot leave: it is tied to h1",
        "web: has left",
    ]


def test_a_daemon_that_is_away_for_a_moment_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    look = answers(seen(MOVING), Unavailable("away"), seen())
    assert emptying.follow(look, emptying.settled(), quiet=True)["items"] == []
    assert capsys.readouterr().err == ""


def test_one_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emptying, "AWAY_S", -1.0)
    with pytest.raises(Unavailable):
        emptying.follow(answers(Unavailable("away")), emptying.settled(), quiet=True)


def test_what_is_left_is_named_with_its_reason() -> None:
    emptying.refuse_left("h1", [], "")
    with pytest.raises(Conflict, match="not everything has left h1: odd: it is tied to h1"):
        emptying.refuse_left("h1", [STUCK], "remove it")
