"""What one call costs more through a gateway than at the engine, on connections that stay open.

row         tested                              peer
/_ping      h1's gateway                        h1's engine
inspect     h1's gateway, container on h1       h1's engine
inspect     h2's gateway, container on h1       h1's engine
list        h1's gateway (asks three engines)   h1's engine; for information
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from bench.bed import Bed, container, running
from bench.frame import Budget, Row, added, interleaved, timed
from bench.wire import KeepAlive

LOCAL = Budget(0.5)
REMOTE = Budget(1.0)
NAME = "bench-calls"
_WARM_UP = 50


def rows(bed: Bed) -> Iterator[Row]:
    inspect = f"/containers/{NAME}/json"
    here, there = bed.host("h1"), bed.host("h2")
    with ExitStack() as stack:
        stack.enter_context(running(here.gateway_socket, NAME, container("h1")))
        engine, local, remote = (
            stack.enter_context(KeepAlive(path))
            for path in (here.docker_socket, here.gateway_socket, there.gateway_socket)
        )
        yield _row(bed, "GET /_ping, local", "/_ping", local, engine, LOCAL)
        yield _row(bed, "GET /containers/ID/json, local", inspect, local, engine, LOCAL)
        yield _row(bed, "GET /containers/ID/json, another host", inspect, remote, engine, REMOTE)
        yield _row(bed, "GET /containers/json, three hosts", "/containers/json", local, engine, None)


def _row(bed: Bed, what: str, target: str, tested: KeepAlive, engine: KeepAlive, budget: Budget | None) -> Row:
    sides = {
        "tested": timed(partial(tested.ask, "GET", target), 1000),
        "engine": timed(partial(engine.ask, "GET", target), 1000),
    }
    found = interleaved(sides, bed.effort.call_rounds, warm_up=_WARM_UP)
    return added(what, "ms", found["tested"], found["engine"], budget)
