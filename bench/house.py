"""The tool itself: how long `drover --help` takes, and what an agent uses while nothing happens.

The agent's is processor time of h1's daemon over a while, in a cluster of three hosts on which a few containers run and
nobody asks anything; a volume of theirs is copied every five seconds, as by default.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.bed import Bed, container, running
from bench.frame import Budget, Row, alone, interleaved, timed
from drover.lab import LabHost

HELP, IDLE = Budget(150.0), Budget(1.0)
IDLE_S, QUICK_IDLE_S = 10.0, 5.0
_SETTLE_S = 4.0


def rows(bed: Bed) -> Iterator[Row]:
    drover = Path(sys.executable).parent / "drover"

    def asked() -> None:
        subprocess.run([str(drover), "--help"], stdout=subprocess.DEVNULL, check=True)

    found = interleaved({"help": timed(asked, 1000)}, bed.effort.run_rounds, warm_up=2)
    yield alone("drover --help", "ms", found["help"], HELP)
    host = bed.host("h1")
    body = container("h1") | {"HostConfig": {"Binds": ["bench-idle:/data"]}}
    try:
        with running(host.gateway_socket, "bench-idle", body):
            time.sleep(_SETTLE_S)
            span_s = IDLE_S if bed.effort.lab_rounds > 1 else QUICK_IDLE_S
            figures = [_used_percent(host, span_s) for _ in range(bed.effort.lab_rounds)]
        yield alone("an idle agent: share of a core", "%", figures, IDLE)
    finally:
        host.exec(["docker", "volume", "rm", "-f", "bench-idle"], check=False, timeout_s=60.0)


def _used_percent(host: LabHost, span_s: float) -> float:
    pid = host.pid_of("drover") or 0
    begin, used = time.monotonic(), _processor_s(pid)
    time.sleep(span_s)
    return (_processor_s(pid) - used) / (time.monotonic() - begin) * 100


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
