"""How much CPU it costs to find a host for one container on a large cluster: 100,000 containers on 5,000 hosts.

All of it is values: no lab is needed. Each round places a container and adds it to the records, as a gateway would see
them afterwards, so that what is kept from one placement to the next has to follow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from bench.bed import Bed
from bench.frame import Budget, Row, alone
from drover.decide.board import Board
from drover.decide.kept_views import kept
from drover.decide.schedule import place
from drover.decide.views import HostViews
from drover.decide.wanted import wanted_of
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put
from drover.model.spec import parse_spec

HOSTS, CONTAINERS, SERVICES, ZONES = 5_000, 100_000, 500, 5
ONE, ALL = Budget(50.0), Budget(20.0)
ROUNDS = 15


def rows(bed: Bed) -> Iterator[Row]:
    cluster = _cluster()
    begun_s = time.process_time()
    kept(cluster)
    yield alone("placing: adding up 100,000 containers on 5,000 hosts, once", "s", [time.process_time() - begun_s])
    figures_ms = []
    for number in range(CONTAINERS, CONTAINERS + ROUNDS):
        begun_s = time.process_time()
        host = _placed(cluster, number)
        figures_ms.append((time.process_time() - begun_s) * 1000)
        cluster = cluster.apply(cluster.revision + 1, _container(number, host))
    yield alone("placing: one container on that cluster, CPU", "ms", figures_ms, ONE)
    yield _explained(cluster)
    yield _all()


def _all() -> Row:
    """All of them on the empty hosts, one after the other."""
    cluster = Cluster().apply(1, [change for number in range(1, HOSTS + 1) for change in _host(number)])
    begun_s = time.process_time()
    board = Board(HostViews.of(cluster))
    for number in range(CONTAINERS):
        spec = parse_spec(_body(number))
        host = board.place(cluster, wanted_of(cluster, _id(number), _name(number), spec)).host
        board.put(host, _id(number), _name(number), spec)
    took_s = time.process_time() - begun_s
    return alone("placing: 100,000 containers on 5,000 empty hosts, CPU", "s", [took_s], ALL)


def _explained(cluster: Cluster) -> Row:
    """To read the reasons of the hosts that were not taken, as whoever records a placement does."""
    board, figures_ms = Board(kept(cluster)), []
    for number in range(CONTAINERS, CONTAINERS + ROUNDS):
        wanted = wanted_of(cluster, _id(number), _name(number), parse_spec(_body(number)))
        chosen = board.place(cluster, wanted)
        begun_s = time.process_time()
        dict(chosen.reasons)
        figures_ms.append((time.process_time() - begun_s) * 1000)
    return alone("placing: to say why not each of 64 other hosts, CPU", "ms", figures_ms)


def _placed(cluster: Cluster, number: int) -> str:
    body = _body(number)
    return place(cluster, wanted_of(cluster, _id(number), _name(number), parse_spec(body))).host


def _cluster() -> Cluster:
    changes = [change for number in range(1, HOSTS + 1) for change in _host(number)]
    for number in range(CONTAINERS):
        changes += _container(number, f"h{number % HOSTS + 1}")
    return Cluster().apply(1, changes)


def _host(number: int) -> list[Change]:
    name = f"h{number}"
    labels = {"zone": f"z{number % ZONES}"}
    return [
        put(r.key("hosts", name), r.Host(name=name, id=name, index=number, address="192.0.2.1", labels=labels)),
        put(r.key("alive", name), r.Alive(host=name, session="s")),
        put(r.key("host_facts", name), r.HostFacts(host=name, cpus=64, memory_bytes=2**38)),
    ]


def _container(number: int, host: str) -> list[Change]:
    identity = _id(number)
    record = r.Container(id=identity, name=_name(number), body=_body(number), desired="running")
    return [
        put(r.key("containers", identity), record),
        put(r.key("placements", identity), r.Placement(container=identity, host=host)),
    ]


def _id(number: int) -> str:
    return f"{number:064x}"


def _name(number: int) -> str:
    return f"shop-app{number % SERVICES}-{number // SERVICES + 1}"


def _body(number: int) -> str:
    prefix = "com.docker.compose"
    labels = {f"{prefix}.project": "shop", f"{prefix}.service": f"app{number % SERVICES}"}
    return json.dumps({"Image": "app:1", "Labels": labels, "HostConfig": {"Memory": 2**26}})
