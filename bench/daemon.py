"""What a daemon keeps in memory when its host has 200 containers, a tenth of them running, the rest created; and what
processor time it uses while nothing happens.

All are made through h1's gateway for h1, as a person would. The other hosts' daemons have the same records but
none of the containers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.bed import Bed, container, cpu_s, create_many, remove_many, resident_mb
from bench.frame import Budget, Row, alone

RESIDENT = Budget(80.0)
IDLE = Budget(1.0)
CONTAINERS = 200
RUNNING = 20
NAMES = tuple(f"bench-memory-{number}" for number in range(CONTAINERS))
_SETTLE_S = 5.0
_IDLE_S = 30.0
"""Longer than anything that a daemon does now and then."""


def rows(bed: Bed) -> Iterator[Row]:
    host = bed.host("h1")
    yield alone("daemon's VmRSS before", "MB", [resident_mb(host)])
    try:
        create_many(host.gateway_socket, NAMES, container("h1"), start=RUNNING)
        time.sleep(_SETTLE_S)
        yield alone(f"daemon's VmRSS, {CONTAINERS} containers on its host", "MB", [resident_mb(host)], RESIDENT)
        yield alone("daemon's VmRSS, all of them on another host", "MB", [resident_mb(bed.host("h2"))])
        before_s = cpu_s(host)
        time.sleep(_IDLE_S)
        share = (cpu_s(host) - before_s) / _IDLE_S * 100
        yield alone("idle daemon's processor time, of one core", "%", [share], IDLE)
    finally:
        remove_many(host.gateway_socket, NAMES)
