"""What a move costs: copying a volume whole and by its difference, and how long a container stands still.

    row            figure                                                        peer
    whole          bytes per second of the rounds of a volume's first move       the same file through one connection,
                                                                                 to a synchronised disk
    difference     a move's rounds after 1 MB of the volume has changed,         -
                   from the order until the source may set it aside
    standstill     from the stop of a small container to its start elsewhere     -

Volumes are on btrfs and filled with random bytes. Until the rest is small all rounds count.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.bed import Bed
from bench.frame import Budget, Row, alone, ratio

WHOLE = Budget(0.7, at_most=False)
DIFFERENCE = Budget(0.3)
STANDSTILL = Budget(0.9)
SIZE_MB = 1000
PORT = 7777
ROUNDS = 3
RECEIVE = f"""
import os, socket, sys
connection = socket.create_server(("", {PORT})).accept()[0]
with open(sys.argv[1], "wb") as file:
    while piece := connection.recv(1 << 20):
        file.write(piece)
    file.flush()
    os.fsync(file.fileno())
connection.sendall(b"x")
"""
SEND = f"""
import socket, sys, time
for _ in range(100):
    try:
        connection = socket.create_connection((sys.argv[2], {PORT}))
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
begin = time.monotonic()
with open(sys.argv[1], "rb") as file:
    connection.sendfile(file)
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
print(time.monotonic() - begin)
"""


def rows(bed: Bed) -> Iterator[Row]:
    wholes, plains, differences = [], [], []
    for number in range(ROUNDS):
        with _volume(bed, f"bench-move-{number}") as name:
            plains.append(SIZE_MB / _plain_s(bed, name))
            wholes.append(SIZE_MB / _rounds_s(_moved(bed, name, "h2")))
            _changed(bed, name, "h2")
            differences.append(_rounds_s(_moved(bed, name, "h1")))
    yield ratio("volume of 1 GB, whole, over a plain copy", "MB/s", wholes, plains, WHOLE)
    yield alone("volume of 1 GB, 1 MB changed: its rounds", "s", differences, DIFFERENCE)
    yield alone("container: from its stop to its start elsewhere", "s", list(_standstills(bed)), STANDSTILL)


def _on(bed: Bed, host: str, *argv: str) -> str:
    return bed.host(host).exec(list(argv), timeout_s=300.0).stdout.strip()


def _in_volume(bed: Bed, name: str, host: str, script: str) -> None:
    where = ("-e", f"constraint:host=={host}")
    _on(bed, host, "docker", "run", "--rm", "-v", f"{name}:/data", *where, "busybox", "sh", "-c", f"{script}; sync")


@contextmanager
def _volume(bed: Bed, name: str) -> Iterator[str]:
    _on(bed, "h1", "docker", "volume", "create", "--opt", "driver=btrfs", "--opt", "replicas=0", name)
    try:
        _in_volume(bed, name, "h1", f"dd if=/dev/urandom of=/data/file bs=1000000 count={SIZE_MB} 2>/dev/null")
        yield name
    finally:
        _on(bed, "h1", "docker", "volume", "rm", name)


def _changed(bed: Bed, name: str, host: str) -> None:
    _in_volume(bed, name, host, "dd if=/dev/urandom of=/data/file bs=1000000 count=1 seek=500 conv=notrunc 2>/dev/null")


def _moved(bed: Bed, name: str, target: str) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(_on(bed, "h1", "drover", "volume", "move", name, "--to", target, "--json"))
    return shown


def _rounds_s(shown: dict[str, Any]) -> float:
    return float(shown["stopping_at"] - shown["started_at"])


def _plain_s(bed: Bed, name: str) -> float:
    """The volume's file from one pool to the other, through one connection; the copy is removed."""
    pools = {host: bed.host(host).state_dir / "volumes" / "pool" for host in ("h1", "h2")}
    source = _on(bed, "h1", "sh", "-c", f"ls {pools['h1']}/live/{name}@*/file")
    target = pools["h2"] / "bench-copy"
    receiver = threading.Thread(target=_on, args=(bed, "h2", sys.executable, "-c", RECEIVE, str(target)))
    receiver.start()
    took_s = float(_on(bed, "h1", sys.executable, "-c", SEND, source, _address(bed, "h2")))
    receiver.join()
    _on(bed, "h2", "rm", str(target))
    return took_s


def _address(bed: Bed, host: str) -> str:
    return str(json.loads(_on(bed, "h1", "drover", "host", "inspect", host))["address"])


def _standstills(bed: Bed) -> Iterator[float]:
    where = ("-e", "constraint:host==h1", "--stop-signal", "SIGKILL")
    run = ("docker", "run", "-d", "--name", "bench-move", "-v", "bench-small:/data", *where)
    _on(bed, "h1", *run, "busybox", "sleep", "9999")
    try:
        for target in ("h2", "h3", "h1") * ROUNDS:
            shown = json.loads(_on(bed, "h1", "drover", "move", "bench-move", "--to", target, "--json"))
            yield shown["ended_at"] - shown["stopping_at"]
            time.sleep(1)
    finally:
        _on(bed, "h1", "docker", "rm", "-f", "bench-move")
        _on(bed, "h1", "docker", "volume", "rm", "bench-small")
