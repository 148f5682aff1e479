"""What a daemon keeps in memory when its host has 200 containers, a tenth of them running, the rest created.

All are made through h1's gateway for h1, as a person would. The other hosts' daemons have the same records but
none of the containers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.bed import Bed, container, create_many, remove_many, resident_mb
from bench.frame import Budget, Row, alone

RESIDENT = Budget(80.0)
CONTAINERS = 200
RUNNING = 20
NAMES = tuple(f"bench-memory-{number}" for number in range(CONTAINERS))
_SETTLE_S = 5.0


def rows(bed: Bed) -> Iterator[Row]:
    host = bed.host("h1")
    yield alone("daemon's VmRSS before", "MB", [resident_mb(host)])
    try:
        create_many(host.gateway_socket, NAMES, container("h1"), start=RUNNING)
        time.sleep(_SETTLE_S)
        yield alone(f"daemon's VmRSS, {CONTAINERS} containers on its host", "MB", [resident_mb(host)], RESIDENT)
        yield alone("daemon's VmRSS, all of them on another host", "MB", [resident_mb(bed.host("h2"))])
    finally:
        remove_many(host.gateway_socket, NAMES)
