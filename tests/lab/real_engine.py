"""Real Docker engines for tests: each in a network and mount namespace of its own, on a directory of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BOOT_S = 60.0
END_S = 20.0


class RealEngine:
    """One dockerd. `socket` is its API; `root` holds all its files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.namespace = f"drt-{uuid.uuid4().hex[:8]}"
        self.socket = str(root / "docker.sock")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the namespace, start the daemon and wait for its socket."""
        _run("ip", "netns", "add", self.namespace)
        _run("ip", "netns", "exec", self.namespace, "ip", "link", "set", "lo", "up")
        own_mounts = [
            "unshare",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            f"mount --make-rprivate /; {self._daemon}",
        ]
        command = ["nsenter", f"--net=/run/netns/{self.namespace}", *own_mounts]
        with (self.root / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + BOOT_S
        while not self._answers():
            assert self._process.poll() is None, (self.root / "log").read_text()
            assert time.monotonic() < deadline, (self.root / "log").read_text()
            time.sleep(0.2)

    @property
    def _daemon(self) -> str:
        places = f"--data-root {self.root}/data --exec-root {self.root}/exec --pidfile {self.root}/pid"
        return f"exec dockerd {places} -H unix://{self.socket}"

    def _answers(self) -> bool:
        asked = ["docker", "-H", f"unix://{self.socket}", "version"]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0

    def stop(self) -> None:
        """End the daemon, then whatever is left in its namespace, then the namespace."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pid in self._left():
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + END_S
        while self._left() and time.monotonic() < deadline:
            time.sleep(0.1)
        _run("ip", "netns", "del", self.namespace)

    def _left(self) -> list[int]:
        """The processes that still live in its namespace."""
        listed = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        return [int(pid) for pid in listed.stdout.split()]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def real_engines(count: int) -> Iterator[list[RealEngine]]:
    """Some engines, stopped and wiped at the end whatever happens."""
    top = Path(tempfile.mkdtemp(prefix="drover-engines-"))
    engines = []
    try:
        for number in range(count):
            root = top / str(number)
            root.mkdir()
            engines.append(RealEngine(root))
            engines[-1].start()
        yield engines
    finally:
        for engine in engines:
            engine.stop()
        shutil.rmtree(top, ignore_errors=True)
