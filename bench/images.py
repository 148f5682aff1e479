"""What travels when a host lacks one layer of an image: that layer, and only that.

h2 has an image of a large layer; a second image on h1 is the same plus a small layer. A container of it on h2 makes
its daemon fetch it. Counted is what h2's network card receives meanwhile, the cluster's own talk included.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import material
from bench.bed import Bed, container
from bench.frame import Budget, Row, alone
from bench.wire import KeepAlive
from drover.lab import LabHost

BASE_MB = 64
NEW_MB = 8
ONLY_THE_LAYER = Budget(1.1)
_BASE = "bench/base:latest"
_NEW = "bench/new:latest"
_NAME = "bench-images"


def rows(bed: Bed) -> Iterator[Row]:
    source, target = bed.host("h1"), bed.host("h2")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="drover-bench-") as scratch:
        _load(source, Path(scratch))
    base_mb, _ = _fetched(source, target, _BASE)
    new_mb, took_s = _fetched(source, target, _NEW)
    yield alone(f"whole image of {BASE_MB} MB to a host without it", "MB", [base_mb])
    yield alone(f"then one new layer of {NEW_MB} MB: bytes per layer byte", "x", [new_mb / NEW_MB], ONLY_THE_LAYER)
    yield alone("create of that container, the transfer included", "s", [took_s])


def _load(host: LabHost, scratch: Path) -> None:
    base = material.random_tar(scratch / "base.tar", "base", BASE_MB)
    new = material.random_tar(scratch / "new.tar", "new", NEW_MB)
    for tag, layers in ((_BASE, [base]), (_NEW, [base, new])):
        material.load_image(host.docker_socket, scratch / "image.tar", tag, layers)


def _fetched(source: LabHost, target: LabHost, image: str) -> tuple[float, float]:
    """Create a container of the image on `target`, asking at `source`: (MB that `target` received, seconds)."""
    before, begin = _received_mb(target), time.perf_counter()
    with KeepAlive(source.gateway_socket) as api:
        api.json("POST", f"/containers/create?name={_NAME}", container(target.name, image=image))
        took_s = time.perf_counter() - begin
        api.ask("DELETE", f"/containers/{_NAME}?force=true")
    return _received_mb(target) - before, took_s


def _received_mb(host: LabHost) -> float:
    """What the host's card has received since it was plugged in."""
    lines = Path(f"/proc/{host.pid_of('dockerd')}/net/dev").read_text().splitlines()
    counters = next(line.partition(":")[2] for line in lines if line.strip().startswith("eth0:"))
    return int(counters.split()[0]) / material.MB
