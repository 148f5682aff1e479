"""What copying a volume costs who writes to it: synced writes with the default policy against none, at half load.

A container rewrites random 8 KiB blocks of a file, each on disk before the next, and then pauses for as long as such a
write takes when it has the disk to itself: half load. Both sides are the same container; only `replicas` changes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.bed import Bed, container, running
from bench.frame import Budget, Row, interleaved, ratio
from drover.cli.client import Client
from drover.errors import DeadlineExceeded

BUDGET = Budget(0.8, at_most=False)
VOLUME = "bench-copied"
FILE_BLOCKS = 8192
COPY_DEADLINE_S = 60.0
_FILL = f"dd if=/dev/urandom of=/data/f bs=8k count={FILE_BLOCKS} conv=fsync 2>/dev/null"
_WRITES = (
    "n=0; end=$(($(date +%s)+{seconds})); while [ $(date +%s) -lt $end ]; do "
    f"dd if=/dev/urandom of=/data/f bs=8k count=1 seek=$((RANDOM%{FILE_BLOCKS})) conv=notrunc,fsync 2>/dev/null; "
    "n=$((n+1)); usleep {pause_us}; done; echo $n"
)


def rows(bed: Bed) -> Iterator[Row]:
    host, seconds = bed.host("h1"), 10 if bed.effort.lab_rounds > 1 else 5
    body = container("h1") | {"HostConfig": {"Binds": [f"{VOLUME}:/data"]}}
    daemon = Client(f"unix://{host.drover_socket}")

    def writes_s(pause_us: int) -> float:
        script = _WRITES.format(seconds=seconds, pause_us=pause_us)
        done = host.exec(["docker", "exec", "bench-writer", "sh", "-c", script], timeout_s=seconds * 4.0)
        return int(done.stdout) / seconds

    def side(replicas: int) -> float:
        daemon.post(f"/volumes/{VOLUME}/options", {"options": {"replicas": str(replicas)}})
        _settle(daemon, replicas)
        return writes_s(pause_us)

    with running(host.gateway_socket, "bench-writer", body):
        host.exec(["docker", "exec", "bench-writer", "sh", "-c", _FILL], timeout_s=60.0)
        daemon.post(f"/volumes/{VOLUME}/options", {"options": {"replicas": "0"}})
        pause_us = int(1e6 / writes_s(0))
        found = interleaved({"copied": lambda: side(1), "alone": lambda: side(0)}, bed.effort.lab_rounds + 1)
    host.exec(["docker", "volume", "rm", VOLUME], timeout_s=60.0)
    yield ratio("synced writes at half load, a copy every 5 s", "1/s", found["copied"], found["alone"], BUDGET)


def _settle(daemon: Client, replicas: int) -> None:
    """Wait for a copy, if there is to be one: the first is another matter."""
    end = time.monotonic() + COPY_DEADLINE_S
    while replicas and not daemon.get(f"/volumes/{VOLUME}")["copies"]:
        if time.monotonic() > end:
            raise DeadlineExceeded(f"volume {VOLUME} has no copy after {COPY_DEADLINE_S:g} s")
        time.sleep(0.2)
