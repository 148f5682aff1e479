"""Which stock clients this machine has, and a bench to try one on: a client at one gateway, containers there or not.

| name | docker CLI | gateway | containers on |
|---|---|---|---|
| `cli20-here` | 20.10 | h1 | h1 |
| `cli20-elsewhere` | 20.10 | h1 | h2 |
| `cli28-elsewhere` | 23 or later | h3 | h2 |
"""

from __future__ import annotations

import itertools
import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drover.lab import Lab, LabHost
from drover.lab.clients import Docker, environment
from drover.lab.stage import HOST_FIELD

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / ".venv/clients"
BENCHES = (("cli20-here", 20, "h1", "h1"), ("cli20-elsewhere", 20, "h1", "h2"), ("cli28-elsewhere", 28, "h3", "h2"))
NEW_MAJOR = 23
PTY_DEADLINE_S = 30.0
_numbers = itertools.count(1)


def client_major(program: str) -> int:
    """The major version of a docker CLI."""
    words = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.split()
    return int(words[2].split(".")[0]) if len(words) > 2 and words[2][0].isdigit() else 0


def docker_programs() -> list[str]:
    """Every docker CLI of the PATH, each file once."""
    found = [shutil.which("docker", path=directory) for directory in os.environ["PATH"].split(":")]
    return list({os.path.realpath(program): program for program in found if program}.values())


def docker_program(major: int) -> str:
    """The CLI of the old generation (20) or the new one (28); skips the test if this machine has none."""
    for program in docker_programs():
        if (client_major(program) >= NEW_MAJOR) == (major >= NEW_MAJOR):
            return program
    pytest.skip(f"this machine has no docker CLI {'>=' if major >= NEW_MAJOR else '<'} {NEW_MAJOR} in its PATH")


class Bench:
    """A docker CLI at the gateway of `at`, whose containers all go to `home`."""

    def __init__(self, lab: Lab, program: str, at: str, home: str) -> None:
        self.lab = lab
        self.at = at
        self.home = home
        self.docker = Docker(lab.host(at).gateway_socket, program)
        self.mark = f"bench-{next(_numbers)}"
        self.there = ("--label", f"drover.constraint=host=={home}", "--label", f"bench={self.mark}")

    def name(self, what: str = "c") -> str:
        """A name that no other test uses."""
        return f"{what}-{next(_numbers)}"

    def up(self, *options: str, command: tuple[str, ...] = ("sleep", "1000")) -> str:
        """The name of a new container that runs."""
        name = self.name()
        self.docker("run", "-d", "--name", name, *self.there, *options, "busybox", *command)
        return name

    def inspect(self, name: str, form: str) -> str:
        return self.docker("inspect", "--format", form, name)

    def host_of(self, name: str) -> str:
        return self.docker("ps", "-a", "--filter", f"name=^/?{name}$", "--format", HOST_FIELD)

    def exists(self, name: str) -> bool:
        return self.docker.run("inspect", "--type", "container", name).status == 0

    def clean(self) -> None:
        """Remove the containers of this bench."""
        left = self.docker("ps", "-aq", "--filter", f"label=bench={self.mark}").split()
        if left:
            self.docker("rm", "-f", "-v", *left)

    def terminal(self, *argv: str, typed: str, until: str) -> tuple[int, str]:
        """Run the CLI on a terminal of its own, type once `until` is on it; its status and all that was shown."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*self.docker.argv, *argv], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(self.docker.socket)
        )
        os.close(theirs)
        shown = b""
        end = time.monotonic() + PTY_DEADLINE_S
        try:
            while time.monotonic() < end and (piece := _read(ours)):
                shown += piece
                if typed and until.encode() in shown:
                    os.write(ours, typed.encode())
                    typed = ""
            return process.wait(PTY_DEADLINE_S), shown.decode(errors="replace")
        finally:
            process.kill()
            process.wait()
            os.close(ours)


def _read(terminal: int) -> bytes:
    """What a terminal shows next; nothing once the program on it has ended."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def fetched_from(host: LabHost, url: str) -> str:
    """A page as the lab's host gets it."""
    script = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())"
    return host.exec([sys.executable, "-c", script, url], check=False).stdout.strip()
