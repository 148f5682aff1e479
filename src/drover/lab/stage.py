"""What the acts of the demo share: the lab, a person's commands told as they run, and polling with a deadline."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from drover.errors import DroverError
from drover.lab import clients, cluster
from drover.lab.clients import Compose, Docker, Ran
from drover.lab.host import LabHost
from drover.lab.lab import Lab
from drover.lab.processes import wait_until
from drover.lab.story import Story, expect, unmet

if TYPE_CHECKING:
    from drover.lab.demo_shop import Shop

HOST_FIELD = '{{.Label "drover.host"}}'
SETTLE_S = 30.0
_LOG_LINES = 8
_DROVER_TIMEOUT_S = 120
T = TypeVar("T")


class Stage:
    """One lab and its story. `first` is the gateway that a command goes to unless told otherwise; `picture` is where
    the shop's run is to be drawn (None: nowhere)."""

    def __init__(self, lab: Lab, story: Story, scratch: Path, picture: Path | None = None) -> None:
        self.lab = lab
        self.story = story
        self.scratch = scratch
        self.first = "h1"
        self.shop: Shop | None = None
        """The shop of `demo_shop`, while it is open."""
        self.picture = picture

    @property
    def open_shop(self) -> Shop:
        """The shop. DroverError if the act that opens it did not hold."""
        if self.shop is None:
            raise DroverError("the shop is not open", hint="the act that opens it did not hold")
        return self.shop

    def client(self, host: str | None = None) -> Docker:
        """The user's own docker CLI at a host's gateway."""
        return Docker(self.lab.host(host or self.first).gateway_socket)

    def docker(self, *argv: str, host: str | None = None, stdin: str | None = None) -> str:
        """A docker command that must succeed, told with its output. Returns the output, stripped."""
        return _output(self._told(self.client(host).run(*argv, stdin=stdin), host))

    def refused(self, *argv: str, host: str | None = None) -> str:
        """A docker command that must fail; its error, told and returned."""
        ran = self._told(self.client(host).run(*argv), host)
        expect(ran.status != 0, f"`{ran.line}` to be refused", ran.out)
        return ran.err.strip()

    def compose(self, project: Path, *argv: str) -> str:
        """A Compose command that must succeed, told with its output."""
        compose = Compose(self.lab.host(self.first).gateway_socket, clients.compose_program(), project)
        ran = compose.run(*argv, timeout_s=120)
        return _output(self._told(msgspec.structs.replace(ran, line=shlex.join(["docker", "compose", *argv])), None))

    def drover(self, *argv: str) -> str:
        """A `drover` command that must succeed, told with its output."""
        return _output(self._told(self.ask(*argv), None))

    def ask(self, *argv: str) -> Ran:
        """A `drover` command that nobody is told of."""
        env = self.lab.host(self.first).environment()
        command = [cluster.drover(), *argv]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_DROVER_TIMEOUT_S, check=False)
        return Ran(shlex.join(["drover", *argv]), done.returncode, done.stdout, done.stderr, 0)

    def engine(self, host: str) -> Docker:
        """The docker CLI at a host's own engine, past the cluster."""
        return Docker(self.lab.host(host).docker_socket)

    def host_of(self, *names: str) -> list[str]:
        """The hosts that containers run on."""
        form = '{{index .Config.Labels "drover.host"}}'
        return self.client()("inspect", "--format", form, *names).split()

    def until(self, look: Callable[[], T | None], what: str, deadline_s: float = SETTLE_S) -> T:
        """The first answer of `look` that is not None; errors of Drover count as none."""
        found: list[T] = []

        def done() -> bool:
            try:
                answer = look()
            except DroverError:
                return False
            found.extend([] if answer is None else [answer])
            return bool(found)

        wait_until(done, what, deadline_s=deadline_s, poll_s=0.2)
        return found[0]

    def _told(self, ran: Ran, host: str | None) -> Ran:
        where = f"   (at {host}'s gateway)" if host else ""
        self.story.tell(f"$ {ran.line}{where}")
        self.story.show(ran.words)
        return ran


def _output(ran: Ran) -> str:
    if ran.status != 0:
        raise unmet(f"`{ran.line}` to succeed", f"status {ran.status}: {ran.words}")
    return ran.out.strip()


def evidence(lab: Lab) -> str:
    """The last lines of every daemon's log."""
    return "\n".join(f"{host.name}: {line}" for host in lab.hosts for line in _last_lines(host))


def _last_lines(host: LabHost) -> list[str]:
    log = host.directory / "drover.log"
    return log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else ["no drover.log"]


def received_bytes(host: LabHost) -> int:
    """All that came over a host's cable since it was plugged in."""
    for line in host.exec(["cat", "/proc/net/dev"]).stdout.splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "eth0":
            return int(figures.split()[0])
    raise unmet(f"{host.name} to have a cable", "no eth0")


def random_file(file: Path, size_bytes: int) -> bytes:
    """A file that does not compress; returns its content."""
    data = os.urandom(size_bytes)
    file.write_bytes(data)
    return data
