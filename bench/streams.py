"""Throughput of long streams by stock docker CLI: through the container's own host's gateway, and through another's.

    row       what moves                                            its bytes count
    cat       a file into `docker exec -i C cat` and out again      once (both directions at the same time)
    save      an image of one random layer, to nowhere              once
    cp out    a file of a container, to nowhere                     once
    cp in     a tar of one file, into a container                   once

The peer is the same command at the engine's own socket, in the same round. What this side holds is in memory
(/dev/shm); sizes are chosen so that the engine alone is busy for about `Effort.stream_round_s`.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from bench import material
from bench.bed import Bed, container, running
from bench.frame import Budget, Row, interleaved, ratio
from drover.errors import DroverError
from drover.lab import LabHost
from drover.lab.clients import Docker, environment

LOCAL = Budget(0.9, at_most=False)
REMOTE = Budget(0.8, at_most=False)
NAME = "bench-streams"
IMAGE = "bench/streams:latest"
_SIZES_MB = (16, 32, 64, 128, 256)
_NEARLY = 0.7
_TIMEOUT_S = 120.0


class Move(msgspec.Struct, frozen=True):
    """A docker command that moves `size_mb`; its standard input is `source`, if there is one."""

    what: str
    size_mb: int
    argv: tuple[str, ...]
    source: Path | None = None


def rows(bed: Bed) -> Iterator[Row]:
    here = bed.host("h1")
    sockets = {"engine": here.docker_socket, "local": here.gateway_socket, "remote": bed.host("h2").gateway_socket}
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm", prefix="drover-bench-") as scratch,
        running(here.gateway_socket, NAME, container("h1")),
    ):
        for prepare in (_cat, _save, _copy_out, _copy_in):
            yield from _measured(bed, sockets, partial(prepare, here, Path(scratch)))


def _measured(bed: Bed, sockets: dict[str, Path], make: Callable[[int], Move]) -> Iterator[Row]:
    move = _sized(bed.effort.stream_round_s, sockets["engine"], make)
    sides = {name: partial(_throughput, move, path) for name, path in sockets.items()}
    found = interleaved(sides, bed.effort.stream_rounds)
    what = f"{move.what}, {move.size_mb} MB"
    yield ratio(f"{what}, local", "MB/s", found["local"], found["engine"], LOCAL)
    yield ratio(f"{what}, another host", "MB/s", found["remote"], found["engine"], REMOTE)


def _sized(round_s: float, engine: Path, make: Callable[[int], Move]) -> Move:
    """The smallest move that keeps the engine busy for nearly a round; the largest if none does."""
    for size_mb in _SIZES_MB:
        move = make(size_mb)
        if size_mb / _throughput(move, engine) >= round_s * _NEARLY:
            break
    return move


def _throughput(move: Move, endpoint: Path) -> float:
    """Do the move at an endpoint, its output thrown away: MB/s."""
    with open(move.source or os.devnull, "rb") as source:
        begin = time.perf_counter()
        done = subprocess.run(
            ["docker", *move.argv],
            stdin=source,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(endpoint),
            timeout=_TIMEOUT_S,
            check=False,
        )
        took_s = time.perf_counter() - begin
    if done.returncode != 0:
        raise DroverError(f"`docker {' '.join(move.argv)}` failed: {done.stderr.decode(errors='replace').strip()}")
    return move.size_mb / took_s


# Each prepares what its move needs; all three endpoints know it by the same name.


def _cat(_here: LabHost, scratch: Path, size_mb: int) -> Move:
    source = material.random_file(scratch / "random", size_mb)
    return Move("exec -i cat, both ways", size_mb, ("exec", "-i", NAME, "cat"), source)


def _save(here: LabHost, scratch: Path, size_mb: int) -> Move:
    layer = material.random_tar(scratch / "layer.tar", "random", size_mb)
    material.load_image(here.docker_socket, scratch / "image.tar", IMAGE, [layer])
    return Move("save", size_mb, ("save", IMAGE))


def _copy_out(here: LabHost, _scratch: Path, size_mb: int) -> Move:
    write = f"dd if=/dev/urandom of=/random bs=1000000 count={size_mb}"
    Docker(here.docker_socket)("exec", NAME, "sh", "-c", write)
    return Move("cp out", size_mb, ("cp", f"{NAME}:/random", "-"))


def _copy_in(_here: LabHost, scratch: Path, size_mb: int) -> Move:
    source = material.random_tar(scratch / "copied.tar", "copied", size_mb)
    return Move("cp in", size_mb, ("cp", "-", f"{NAME}:/tmp"), source)
