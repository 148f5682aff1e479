"""Docker's own clients, pointed at one endpoint: what a person types, for the demo and the tests.

    client       program
    docker       `docker` of PATH, or the one named
    Compose v2   `.venv/clients/docker-compose` (tools/clients fetches it), else a `docker-compose` of PATH

Nothing of the caller's own Docker settings gets in: of `DOCKER_*` variables only ours are set.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from drover.errors import DroverError, MissingTool

CALL_TIMEOUT_S = 60.0
TIMED_OUT = 124
"""The status of a client that was ended at its deadline, as coreutils' `timeout` has it."""


class Ran(msgspec.Struct, frozen=True):
    """One run of a client. `line` is what a person would have typed."""

    line: str
    status: int
    out: str
    err: str
    took_s: float

    @property
    def words(self) -> str:
        """What it said: errors first."""
        return "\n".join(text.strip("\n") for text in (self.err, self.out) if text.strip())


def environment(socket: Path) -> dict[str, str]:
    """This process's environment with Docker's clients pointed at the socket."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    return {**kept, "DOCKER_HOST": f"unix://{socket}"}


class Docker:
    """The docker CLI on one endpoint: `docker("ps", "-q")` is its output, `docker.run("ps")` all there is to know."""

    def __init__(self, socket: Path, program: str = "docker") -> None:
        self.socket = socket
        self.argv = [program]
        self._shown = Path(program).name

    def __call__(self, *argv: str, stdin: str | None = None, timeout_s: float = CALL_TIMEOUT_S) -> str:
        """The command's output, stripped. `DroverError` repeats the words of one that fails."""
        ran = self.run(*argv, stdin=stdin, timeout_s=timeout_s)
        if ran.status != 0:
            raise DroverError(f"`{ran.line}` ended with {ran.status}: {ran.words}")
        return ran.out.strip()

    def run(
        self,
        *argv: str,
        stdin: str | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Ran:
        """Run to the end, or to the deadline, which counts as status 124."""
        begin = time.monotonic()
        try:
            done = subprocess.run(
                [*self.argv, *argv],
                input=stdin if stdin is not None else "",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                env={**environment(self.socket), **(env or {})},
                cwd=cwd,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Ran(self._line(argv), TIMED_OUT, "", f"no end within {timeout_s:g} s", time.monotonic() - begin)
        return Ran(self._line(argv), done.returncode, done.stdout, done.stderr, time.monotonic() - begin)

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start a command that goes on by itself, as `logs -f`; its output is a pipe, its errors too."""
        return subprocess.Popen(
            [*self.argv, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(self.socket),
        )

    def _line(self, argv: Sequence[str]) -> str:
        return shlex.join([self._shown, *argv])


class Compose(Docker):
    """Compose on one endpoint, for the project in a directory."""

    def __init__(self, socket: Path, program: str, directory: Path) -> None:
        super().__init__(socket, program)
        self.argv = [program, "--project-directory", str(directory), "--file", str(directory / "compose.yaml")]


def compose_program() -> str:
    """Compose v2's path. `MissingTool` says how to get it."""
    fetched = Path(sys.prefix) / "clients" / "docker-compose"
    found = str(fetched) if fetched.exists() else shutil.which("docker-compose")
    if found is None:
        raise MissingTool("there is no Compose here", hint="tools/clients fetches it")
    return found
