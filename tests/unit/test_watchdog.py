"""The watchdog as a real process: what it does when the deadline passes, and when it does not act."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest

from drover.agent.session import AT_ONCE, NEVER
from drover.daemon import watchdog
from drover.daemon.watchdog_link import GRACE_S, WatchdogLink
from drover.decide.fence import Target

DEADLINE_S = 20.0


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A container's first process, as far as the watchdog can tell."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def link(tmp_path: Path) -> Iterator[WatchdogLink]:
    made = WatchdogLink(tmp_path, tmp_path / "engine.sock")
    yield made
    made.tell(NEVER, None, None)
    until(lambda: lock_is_free(tmp_path))


def lock_is_free(run: Path) -> bool:
    handle = watchdog.locked(run)
    if handle is not None:
        os.close(handle)
    return handle is not None


def cgroup() -> str:
    """What stands for a container's id: text of this process's own cgroup, which its children share."""
    return Path("/proc/self/cgroup").read_text().splitlines()[0]


def test_it_kills_when_the_deadline_passes_though_nobody_tells_it_to(
    tmp_path: Path, link: WatchdogLink, sleeper: subprocess.Popen[bytes]
) -> None:
    link.tell(time.monotonic() + 0.3, [Target(cgroup(), sleeper.pid)], [])
    assert sleeper.poll() is None
    until(lambda: sleeper.poll() is not None)
    until(lambda: link.stopped() == {cgroup()})


def test_a_later_deadline_keeps_it_from_acting(
    tmp_path: Path, link: WatchdogLink, sleeper: subprocess.Popen[bytes]
) -> None:
    for _ in range(5):
        link.tell(time.monotonic() + 60, [Target(cgroup(), sleeper.pid)], [])
        time.sleep(0.1)
    assert sleeper.poll() is None
    assert not lock_is_free(tmp_path)


def test_a_process_that_took_over_the_number_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    assert not watchdog.kill_process("c" * 64, sleeper.pid)
    assert not watchdog.kill_process(cgroup(), 0)
    assert sleeper.poll() is None
    assert watchdog.kill_process(cgroup(), sleeper.pid)


def test_released_it_ends(tmp_path: Path, link: WatchdogLink) -> None:
    link.tell(time.monotonic() + 60, [], [])
    until(lambda: not lock_is_free(tmp_path))
    link.tell(NEVER, None, None)
    until(lambda: lock_is_free(tmp_path))


def test_the_next_daemon_finds_the_deadline_and_the_targets_and_the_same_watchdog(
    tmp_path: Path, link: WatchdogLink, sleeper: subprocess.Popen[bytes]
) -> None:
    told = time.monotonic() + 0.5
    link.tell(told, [Target(cgroup(), sleeper.pid)], [4096])
    until(lambda: not lock_is_free(tmp_path))
    following = WatchdogLink(tmp_path, tmp_path / "engine.sock")
    assert following.prior_deadline() == pytest.approx(told)
    following.tell(told + 0.2, None, None)
    assert (watchdog.read(tmp_path / watchdog.STATE) or {})["devices"] == ["dx4096"]
    until(lambda: sleeper.poll() is not None)


def test_what_an_earlier_boot_left_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watchdog.write(tmp_path / watchdog.STATE, {"deadline_s": 1.0, "kill": [], "devices": []})
    watchdog.note_stopped(tmp_path, ["e1"])
    monkeypatch.setattr(watchdog, "boot_id", lambda: "another")
    found = WatchdogLink(tmp_path, tmp_path / "engine.sock")
    assert (found.prior_deadline(), found.stopped()) == (AT_ONCE, frozenset())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"boot": "x"}'])
def test_a_damaged_file_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / watchdog.STATE).write_text(content)
    assert watchdog.read(tmp_path / watchdog.STATE) is None


class _Engine(BaseHTTPRequestHandler):
    """An engine that kills what it is asked to."""

    asked: list[str] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.send_response(204)
        self.end_headers()

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        return


def test_a_container_without_a_known_process_is_killed_by_the_engine(tmp_path: Path) -> None:
    path = str(tmp_path / "engine.sock")
    with ThreadingUnixStreamServer(path, _Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        watchdog.fence(tmp_path, {"devices": [], "engine": path, "kill": [{"id": "e7", "pid": 0}]})
        server.shutdown()
    assert _Engine.asked == ["/containers/e7/kill"]
    assert watchdog.stopped(tmp_path) == {"e7"}


def test_a_silent_engine_does_not_hold_it_up(tmp_path: Path) -> None:
    kill = [{"id": f"e{number}", "pid": 0} for number in range(50)]
    watchdog.fence(tmp_path, {"devices": [], "engine": str(tmp_path / "none.sock"), "kill": kill})
    assert watchdog.stopped(tmp_path) == set()


def test_it_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    watchdog.write(tmp_path / watchdog.STATE, {"deadline_s": None})
    done = subprocess.run(
        [sys.executable, "-I", "-S", watchdog.__file__, str(tmp_path)], check=False, timeout=DEADLINE_S
    )
    assert done.returncode == 0


def test_the_agent_acts_first_and_the_watchdog_in_good_time() -> None:
    assert 0 < GRACE_S < 1.0
