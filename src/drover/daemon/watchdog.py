"""The watchdog: a small process of its own that fences this host if the daemon does not, being stopped, hung or dead.

Theory of operation. The daemon writes `<run>/fence.json` at each renewal of its lease and before it starts anything.
The watchdog sleeps until the deadline in it, reads it again, and if no later one is there, it fences: the networks
first, then the containers, each by its process and by the engine. It repeats that for `REPEAT_S`, because something
may have been under way, and ends; the next daemon starts another one. It imports the standard library only, and runs
as a script without site packages.

    file             written by          says
    fence.json       the daemon          deadline_s (CLOCK_MONOTONIC; null: never), kill, devices, engine, boot
    fenced.json      whoever fenced      stopped: engine ids that are to be started again by the agent; boot
    watchdog.lock    the watchdog        locked while one lives

A file of an earlier boot of the machine counts as none. A file that cannot be read changes nothing: what was read last
holds. Process ids are checked against the container's cgroup before they are killed: ids are used again.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LOOK_S = 1.0
REPEAT_S, PAUSE_S = 10.0, 0.5
ENGINE_TIMEOUT_S = 0.5
KILLED, SILENT = 204, 0
STATE, FENCED, LOCK = "fence.json", "fenced.json", "watchdog.lock"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
State = dict[str, Any]


def boot_id() -> str:
    return BOOT_ID.read_text().strip()


def read(path: Path) -> State | None:
    """What a file says; None if there is none, it is damaged, or of an earlier boot."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("boot") == boot_id() else None


def write(path: Path, state: State) -> None:
    """Replace a file in one step: a reader sees the old or the new one."""
    fresh = path.with_suffix(f".{os.getpid()}.new")
    fresh.write_text(json.dumps({**state, "boot": boot_id()}))
    fresh.replace(path)


def locked(run: Path) -> int | None:
    """A descriptor that holds the lock; None if another process holds it."""
    handle = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def note_stopped(run: Path, engine_ids: Iterable[str]) -> None:
    write(run / FENCED, {"stopped": sorted(engine_ids)})


def stopped(run: Path) -> set[str]:
    return set((read(run / FENCED) or {}).get("stopped", ()))


def fence(run: Path, state: State) -> None:
    """Cut the networks, then kill: what does not answer must not hold up the rest."""
    cut(state["devices"])
    alive = [one for one in state["kill"] if kill_process(one["id"], one["pid"])]
    if alive:
        note_stopped(run, stopped(run) | {one["id"] for one in alive})
    for one in state["kill"]:
        status = kill_by_engine(state["engine"], one["id"])
        if status == KILLED:
            note_stopped(run, stopped(run) | {one["id"]})
        if status == SILENT:
            return


def cut(devices: Iterable[str]) -> None:
    """Switch the devices off; one that is gone is no matter."""
    commands = "".join(f"link set dev {device} down\n" for device in devices)
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            ["ip", "-force", "-batch", "-"], input=commands, text=True, capture_output=True, timeout=1.0, check=False
        )


def kill_process(engine_id: str, pid: int) -> bool:
    """Kill a container by its first process, whose end the kernel makes the end of all; True if it was there."""
    try:
        if pid <= 1 or engine_id not in Path(f"/proc/{pid}/cgroup").read_text():
            return False
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return False
    return True


class _Engine(http.client.HTTPConnection):
    """HTTP over the engine's Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=ENGINE_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ENGINE_TIMEOUT_S)
        self.sock.connect(self._path)


def kill_by_engine(path: str, engine_id: str) -> int:
    """Ask the engine to kill a container; the status of its answer. A container that was started a moment ago is not
    in the file with its process yet."""
    engine = _Engine(path)
    try:
        engine.request("POST", f"/containers/{engine_id}/kill")
        return engine.getresponse().status
    except (OSError, http.client.HTTPException):
        return SILENT
    finally:
        engine.close()


def watch(run: Path) -> None:
    """Until released (the file says `never` and nothing is to be watched), or what was fenced stayed so."""
    state: State = {"deadline_s": None}
    fenced_since: float | None = None
    while True:
        state = read(run / STATE) or state
        deadline = state["deadline_s"]
        left_s = (deadline if deadline is not None else float("inf")) - time.monotonic()
        if deadline is None:
            return
        if left_s > 0:
            fenced_since = None
            time.sleep(min(left_s, LOOK_S))
            continue
        fenced_since = fenced_since or time.monotonic()
        fence(run, state)
        if time.monotonic() - fenced_since > REPEAT_S:
            return
        time.sleep(PAUSE_S)


def _be_hard_to_hold_up() -> None:
    """As far as the machine lets us: the last to be killed for memory, among the first to be scheduled."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def main(run: Path) -> int:
    """One watchdog per run directory; a second one ends at once."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if locked(run) is None:
        return 0
    _be_hard_to_hold_up()
    watch(run)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
