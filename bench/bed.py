"""What groups measure on: one three-host lab, made when the first group needs it, and containers on chosen hosts.

name            size
Effort.full     the figures that documents quote
Effort.quick    the same rows from fewer rounds: all groups in five minutes
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from bench.wire import KeepAlive
from drover.errors import EngineError, NotFound
from drover.lab import Lab, LabHost

LAB = "bench"
IMAGE = "busybox"
_WORKERS = 8


class Effort(msgspec.Struct, frozen=True):
    """How much is measured: rounds by kind of row, and seconds of the many clients."""

    call_rounds: int
    run_rounds: int
    stream_rounds: int
    stream_round_s: float
    lab_rounds: int
    clients_s: float


FULL = Effort(call_rounds=2000, run_rounds=20, stream_rounds=9, stream_round_s=1.0, lab_rounds=3, clients_s=60.0)
QUICK = Effort(call_rounds=500, run_rounds=7, stream_rounds=4, stream_round_s=0.4, lab_rounds=1, clients_s=15.0)


class Bed:
    """The lab, and what every group needs of it."""

    def __init__(self, effort: Effort, say: Callable[[str], None]) -> None:
        self.effort = effort
        self.say = say
        self._lab: Lab | None = None

    @property
    def lab(self) -> Lab:
        """The lab, made at first use."""
        if self._lab is None:
            self.say(f"making the lab {LAB}")
            self._lab = Lab.create(LAB, hosts=3, images=(IMAGE,))
        return self._lab

    def host(self, name: str) -> LabHost:
        return self.lab.host(name)

    def close(self) -> None:
        """Remove the lab, also one that an earlier, interrupted run has left."""
        remove_lab(LAB)
        self._lab = None


def remove_lab(name: str) -> None:
    with contextlib.suppress(NotFound):
        Lab.open(name).destroy()


def container(host: str, *, command: Sequence[str] = ("sleep", "86400"), image: str = IMAGE) -> dict[str, object]:
    """The body of a create call for a container on that host; it ends at once when it is told to stop."""
    return {
        "Image": image,
        "Cmd": list(command),
        "Labels": {"drover.constraint": f"host=={host}"},
        "StopSignal": "SIGKILL",
    }


@contextlib.contextmanager
def running(socket: Path, name: str, body: dict[str, object]) -> Iterator[str]:
    """A started container by that name, until the block ends; its id."""
    with KeepAlive(socket) as api:
        ident: str = api.json("POST", f"/containers/create?name={name}", body)["Id"]
        try:
            api.ask("POST", f"/containers/{name}/start")
            yield ident
        finally:
            api.ask("DELETE", f"/containers/{name}?force=true")


def create_many(socket: Path, names: Sequence[str], body: dict[str, object], *, start: int = 0) -> None:
    """Create containers, several at a time, and start the first `start` of them."""

    def one(name: str) -> None:
        with KeepAlive(socket) as api:
            api.json("POST", f"/containers/create?name={name}", body)
            if name in names[:start]:
                api.ask("POST", f"/containers/{name}/start")

    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(one, names))


def remove_many(socket: Path, names: Sequence[str]) -> None:
    """Remove containers, several at a time; those that are not there are passed over."""

    def one(name: str) -> None:
        with KeepAlive(socket) as api:
            try:
                api.ask("DELETE", f"/containers/{name}?force=true")
            except EngineError as error:
                if error.status != 404:
                    raise

    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(one, names))


def cpu_s(host: LabHost) -> float:
    """The processor time that the host's daemon has used."""
    pid = host.pid_of("drover")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(host: LabHost) -> float:
    """What the host's daemon has in memory (VmRSS), in MB of 10^6 bytes."""
    pid = host.pid_of("drover")
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise NotFound(f"the daemon of {host.name} does not run")
