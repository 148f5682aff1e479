"""`drover move`: followed to its end, and what Ctrl-C does before and after the hand-over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from drover.cli import main as cli
from drover.errors import Conflict

SHOWN: dict[str, Any] = {
    "key": "c1",
    "name": "db",
    "container": "c1",
    "source": "h1",
    "target": "h2",
    "phase": "copying",
    "rounds": 1,
    "moved_bytes": 3 << 20,
    "last_bytes": 4096,
    "rate_bytes_s": 1 << 20,
    "left_s": 7.0,
    "started_at": 100.0,
    "stopping_at": 108.0,
    "stopped_at": 109.0,
    "ended_at": 110.0,
    "why": "",
}


class Daemon:
    """Answers as a daemon does: `phases` one after another, `interrupted` where Ctrl-C is pressed."""

    def __init__(self, phases: list[str], interrupted: bool = False, handed: bool = False) -> None:
        self.phases = phases
        self.interrupted = interrupted
        self.handed = handed
        self.calls: list[tuple[str, str, Any]] = []

    def answer(self, method: str, path: str, body: Any = None) -> Any:
        self.calls.append((method, path, body))
        if method == "DELETE":
            if self.handed:
                raise Conflict("the hand-over to h2 has been made: the move completes", hint="move it back then")
            self.phases = ["aborted"]
            return {}
        if method == "GET" and self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
        phase = self.phases.pop(0) if len(self.phases) > 1 else self.phases[0]
        return SHOWN | {"phase": phase, "why": "it was cancelled" if phase == "aborted" else ""}


@pytest.fixture
def move(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def run(daemon: Daemon, *options: str) -> Result:
        monkeypatch.setattr("drover.cli.move.POLL_S", 0.0)
        for method in ("post", "get", "delete"):
            name = method.upper()
            monkeypatch.setattr(
                f"drover.cli.client.Client.{method}",
                lambda self, path, body=None, name=name: daemon.answer(name, path, body),
            )
        return CliRunner().invoke(cli.main, ["move", "db", "--to", "h2", *options])

    return run


def test_progress_has_the_rate_and_the_time_left(move: Callable[..., Result]) -> None:
    daemon = Daemon(["copying", "copying", "stopping", "stopped", "handed", "done"])
    result = move(daemon, "--limit", "2", "--compress", "--without-log")
    assert result.exit_code == 0
    assert "copying to h2, round 1: 3 MiB, 1 MiB/s, 7 s left" in result.stderr
    assert "db is on h2 now" in result.stdout
    asked = {"target": "h2", "limit_bytes_s": 2 << 20, "compress": True, "leave": ["log"]}
    assert daemon.calls[0] == ("POST", "/containers/db/move", asked)


def test_ctrl_c_cancels_and_waits_until_it_is_as_before(move: Callable[..., Result]) -> None:
    daemon = Daemon(["copying"], interrupted=True)
    result = move(daemon)
    assert result.exit_code == 130
    assert ("DELETE", "/moves/c1", None) in daemon.calls
    assert "cancelled: db is on h1, as it was before" in result.stderr


def test_ctrl_c_after_the_hand_over_says_that_the_move_completes(move: Callable[..., Result]) -> None:
    result = move(Daemon(["handed"], interrupted=True, handed=True))
    assert result.exit_code == 130
    assert "not cancelled: the hand-over to h2 has been made: the move completes" in result.stderr


def test_an_aborted_move_is_an_error_that_says_where_it_is(move: Callable[..., Result]) -> None:
    result = move(Daemon(["copying", "aborted"]))
    assert result.exit_code == 5
    assert "db was not moved: it was cancelled" in result.stderr
    assert "it is on h1, as it was before" in result.stderr


def test_detached_it_is_not_followed(move: Callable[..., Result]) -> None:
    daemon = Daemon(["copying"])
    assert move(daemon, "--detach").stdout == "db is on its way from h1 to h2\n"
    assert [method for method, *_ in daemon.calls] == ["POST"]
