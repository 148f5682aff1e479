"""`WatchdogLink`: the daemon's side of the watchdog: it writes the file, and starts the process where none lives.

The process is in a session of its own and is nobody's to stop: it outlives the daemon, and the next daemon goes on
with it. It ends by itself when it is released, or has done its work.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import structlog

from drover.agent.session import AT_ONCE, NEVER
from drover.daemon import watchdog
from drover.decide.fence import Target

log = structlog.get_logger("drover.daemon.watchdog")

GRACE_S = 0.25
"""How much later than the agent the watchdog acts: where both are well, the agent does it."""


class WatchdogLink:
    """`fence.Watchdog` with files and a process."""

    def __init__(self, run: Path, engine_socket: Path) -> None:
        self._run = run
        self._state: dict[str, Any] = {"kill": [], "devices": [], "engine": str(engine_socket)}
        self._process: subprocess.Popen[bytes] | None = None

    def prior_deadline(self) -> float:
        before = watchdog.read(self._run / watchdog.STATE)
        if before is None:
            return AT_ONCE
        self._state |= {"kill": before["kill"], "devices": before["devices"]}
        deadline = before["deadline_s"]
        return AT_ONCE if deadline is None else deadline - GRACE_S

    def tell(self, deadline: float, kill: Sequence[Target] | None, networks: Collection[int] | None) -> None:
        if kill is not None:
            self._state["kill"] = [{"id": target.engine_id, "pid": target.pid} for target in kill]
        if networks is not None:
            self._state["devices"] = [f"dx{vni}" for vni in sorted(networks)]
        if deadline == AT_ONCE:
            deadline = 0.0
        self._state["deadline_s"] = None if deadline == NEVER else deadline + GRACE_S
        watchdog.write(self._run / watchdog.STATE, self._state)
        if deadline != NEVER:
            self._have_one()

    def stopped(self) -> frozenset[str]:
        return frozenset(watchdog.stopped(self._run))

    def note_stopped(self, engine_ids: Collection[str]) -> None:
        watchdog.note_stopped(self._run, engine_ids)

    def _have_one(self) -> None:
        """Start the process if nobody holds the lock: two that start at once settle it between them."""
        if self._process is not None and self._process.poll() is None:
            return
        handle = watchdog.locked(self._run)
        if handle is None:
            return
        os.close(handle)
        script = str(Path(watchdog.__file__))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", script, str(self._run)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        log.info("the watchdog runs", pid=self._process.pid)
