"""`docker run --rm busybox true`: the cluster against the engine, with the same docker CLI.

row             tested: h1's gateway                    peer: h1's engine
anywhere        wherever the cluster places it          there
same host       constrained to h1                       there
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.bed import IMAGE, Bed
from bench.frame import Budget, Row, interleaved, ratio, timed
from drover.lab.clients import Docker

BUDGET = Budget(1.3)
_RUN = ("run", "--rm")
_TRUE = (IMAGE, "true")
_WARM_UP = 2


def rows(bed: Bed) -> Iterator[Row]:
    host = bed.host("h1")
    cluster, engine = Docker(host.gateway_socket), Docker(host.docker_socket)
    for name in ("h1", "h2", "h3"):  # the image's first way to a host is another row's business
        cluster(*_RUN, "-e", f"constraint:host=={name}", *_TRUE)
    sides = {
        "anywhere": timed(lambda: cluster(*_RUN, *_TRUE)),
        "here": timed(lambda: cluster(*_RUN, "-e", "constraint:host==h1", *_TRUE)),
        "engine": timed(lambda: engine(*_RUN, *_TRUE)),
    }
    found = interleaved(sides, bed.effort.run_rounds, warm_up=_WARM_UP)
    yield ratio("docker run --rm busybox true, anywhere", "s", found["anywhere"], found["engine"], BUDGET)
    yield ratio("docker run --rm busybox true, same host", "s", found["here"], found["engine"], BUDGET)
