"""30 containers on three hosts, from the command until all of them run: `drover deploy` against Docker Swarm.

Theory of operation. Two labs of three hosts on the same machine: one a Drover cluster, one a Swarm of the same engines.
The image is on every host, the network an overlay, the command one that a person types; rounds are interleaved. Both
sides are told to kill rather than to stop what is removed, which is not measured.

row                          tested                                peer
30 containers deployed       drover deploy of a file, replicas 30  docker service create --replicas 30
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.bed import IMAGE, LAB, Bed, remove_lab
from bench.frame import Budget, Row, interleaved, ratio
from drover.errors import DeadlineExceeded, DroverError
from drover.lab import Lab
from drover.lab.clients import Docker

CONTAINERS = 30
BUDGET = Budget(0.8)
SWARM_LAB = f"{LAB}-swarm"
PORT = 2377
DEADLINE_S = 120.0
POLL_S = 0.05
NAME = "benchdeploy"
MANIFEST = f"""services:
  sleeper:
    image: {IMAGE}
    command: sleep 86400
    stop_signal: SIGKILL
    deploy: {{replicas: {CONTAINERS}, endpoint_mode: dnsrr}}
"""


def rows(bed: Bed) -> Iterator[Row]:
    with contextlib.suppress(DroverError):
        remove_lab(SWARM_LAB)
    swarm = Lab.create(SWARM_LAB, hosts=3, images=(IMAGE,), cluster=False)
    try:
        manager = _form(swarm)
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "compose.yaml"
            file.write_text(MANIFEST)
            sides = {"drover": lambda: _deployed(bed, file), "swarm": lambda: _created(manager)}
            found = interleaved(sides, bed.effort.lab_rounds, warm_up=1)
        yield ratio(f"{CONTAINERS} containers deployed", "s", found["drover"], found["swarm"], BUDGET)
    finally:
        swarm.destroy()


def _form(lab: Lab) -> Docker:
    """The lab's engines as one Swarm with an overlay network; the manager's client."""
    first, *others = lab.hosts
    manager = Docker(first.docker_socket)
    address, *addresses = [spec.address for spec in lab.topology.hosts]
    manager("swarm", "init", "--advertise-addr", address, "--listen-addr", f"{address}:{PORT}")
    token = manager("swarm", "join-token", "-q", "worker")
    for host, own in zip(others, addresses, strict=True):
        join = ("swarm", "join", "--advertise-addr", own, "--listen-addr", f"{own}:{PORT}", "--token", token)
        Docker(host.docker_socket)(*join, f"{address}:{PORT}")
    manager("network", "create", "-d", "overlay", "--attachable", NAME)
    return manager


def _created(manager: Docker) -> float:
    """Seconds from `docker service create` to the last running task."""
    asked = ("--replicas", str(CONTAINERS), "--network", NAME, "--endpoint-mode", "dnsrr", "--stop-signal", "SIGKILL")
    begin = time.perf_counter()
    manager("service", "create", "--name", NAME, "--detach", "--no-resolve-image", *asked, IMAGE, "sleep", "86400")
    _until(lambda: manager("service", "ls", "--format", "{{.Replicas}}").startswith(f"{CONTAINERS}/"))
    took_s = time.perf_counter() - begin
    manager("service", "rm", NAME)
    _until(lambda: manager("ps", "-q") == "")
    time.sleep(2)  # the workers' tasks end by themselves
    return took_s


def _deployed(bed: Bed, file: Path) -> float:
    """Seconds from `drover deploy` to its end, which is when the last container runs."""
    host = bed.host("h1")
    environment = {**os.environ, **host.environment()}
    begin = time.perf_counter()
    _drover(environment, "deploy", "-f", str(file), "--name", NAME)
    took_s = time.perf_counter() - begin
    _drover(environment, "rm", NAME)
    return took_s


def _drover(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(["drover", *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DroverError(f"`drover {' '.join(arguments)}` ended with {done.returncode}: {done.stderr.strip()}")


def _until(is_so: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    end = time.monotonic() + deadline_s
    while not is_so():
        if time.monotonic() > end:
            raise DeadlineExceeded(f"not within {deadline_s:g} s")
        time.sleep(POLL_S)
