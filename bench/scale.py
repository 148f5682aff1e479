"""What each operation costs as a cluster grows: `python -m bench.scale [--out DIR] [--largest N] [--docs]`.

Theory of operation. No engine and no network: the decisions themselves, on made clusters of the SIZES, timed by this
process's CPU clock; and the store, one real etcd on this machine, by the processor time that it takes (`scale_store`).

    operation     who does it, and when
    read          every daemon, for every commit: a watched batch of one record from its JSON
    apply         every daemon, for every commit: one change into its picture
    converge      every agent, for a commit that may concern it: one pass over its own containers
    wiring        every agent, for every container that starts or stops: what its kernel must have, from what changed
    place         the gateway, for every `docker run`: one host among all, the views kept
    views         the gateway, when it has to add up all hosts anew
    all           a scheduler that places all containers on the empty hosts, one after the other (at most SAMPLE)
    lost          the leader, when a host dies: new places for all that ran there
    record        the store: bytes of all records of one container

From these and a working day (`LIFE`) follow the store's writes, what it delivers to watchers, and the share of a core
that each agent needs (`steady`). --docs writes the tables into docs/scale.md and the picture beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from bench.plot import Panel, page
from bench.scale_store import StoreCost, store_cost
from drover.agent.session import RENEWALS
from drover.decide import wiring
from drover.decide.board import Board
from drover.decide.converge import Seen, SeenHere, converge
from drover.decide.kept_views import kept
from drover.decide.recover import relocations
from drover.decide.schedule import place
from drover.decide.views import HostViews
from drover.decide.wanted import wanted_of
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.spec import parse_spec
from drover.store import etcd_codec

DOCS = Path(__file__).resolve().parents[1] / "docs"
SIZES = ((10, 100), (30, 1_000), (100, 5_000), (300, 15_000), (1_000, 50_000), (5_000, 250_000))
ROUNDS = 5
SAMPLE = 20_000
LEASE_S = 4.0
ALL_BUDGET_S = 20.0
NETWORK = "f" * 64
BODY = json.dumps(
    {"Image": "app:1", "Labels": {"tier": "web"}, "HostConfig": {"NetworkMode": "app", "Memory": 64 << 20}}
)
MTU_BYTES = 1450
GIB = 2**30


class Made(msgspec.Struct, frozen=True):
    """A made cluster of so many hosts and containers."""

    hosts: int
    containers: int
    cluster: Cluster


class Life(msgspec.Struct, frozen=True):
    """A working day: how often each container starts anew, commits for each time, the share that has a replicated
    volume, and how often a copy is refreshed (the default interval)."""

    restarts_per_day: float = 1.0
    commits_per_restart: int = 4
    volume_share: float = 0.1
    interval_s: float = 5.0


LIFE, CALM = Life(), Life(volume_share=0.0)
"""CALM: nobody's volumes are copied."""


class Steady(msgspec.Struct, frozen=True):
    """A cluster's life per second: commits, lease renewals, deliveries to watchers; cores of the store; the share of a
    core that each agent needs."""

    hosts: int
    containers: int
    commits: float
    renewals: float
    deliveries: float
    store_cores: float
    agent_cores: float


class Cost(msgspec.Struct, frozen=True):
    """What one operation costs: seconds of CPU, but bytes for `record`."""

    hosts: int
    containers: int
    operation: str
    figure: float


class Figures(msgspec.Struct, frozen=True):
    """All that was measured: `scale.json`."""

    store: StoreCost
    costs: list[Cost]


def identity(number: int) -> str:
    return f"{number:064x}"[::-1]


def _host(number: int) -> Iterator[Change]:
    name, address = f"h{number}", f"10.{90 + number // 65536}.{number // 256 % 256}.{number % 256}"
    yield put(r.key("hosts", name), r.Host(name=name, id=f"id-{name}", index=number, address=address))
    yield put(r.key("alive", name), r.Alive(host=name, session="s", since=1.0))
    yield put(r.key("host_facts", name), r.HostFacts(host=name, cpus=16, memory_bytes=64 * GIB, at=1.0))


def _container(number: int, host: str) -> Iterator[Change]:
    ident, name = identity(number), f"web{number}"
    ip = f"10.{128 + number // 65536}.{number // 256 % 256}.{number % 256}"
    container = r.Container(id=ident, name=name, body=BODY, image_id="sha256:" + "a" * 64, desired="running")
    yield put(r.key("containers", ident), container)
    yield put(r.key("names", name), r.Name(id=ident))
    yield put(
        r.key("placements", ident), r.Placement(container=ident, host=host, chosen="it has the fewest containers")
    )
    yield put(r.key("addresses", NETWORK, ip), r.Address(network=NETWORK, ip=ip, container=ident))
    yield put(r.key("container_facts", host, ident), _running(host, ident))


def _running(host: str, ident: str) -> r.ContainerFacts:
    return r.ContainerFacts(
        container=ident,
        host=host,
        engine_id=ident[::-1],
        state="running",
        started_at="2026-01-01T00:00:00Z",
        epoch=1,
        answer=r.Answer(number=1),
    )


def made(hosts: int, containers: int) -> Made:
    """Equally many containers on each host, all on one network."""
    app = r.Network(id=NETWORK, name="app", body="{}", subnet="10.128.0.0/9", gateway="10.128.0.1", vni=4096)
    changes = [put(r.key("networks", NETWORK), app), put(r.key("network_names", "app"), r.Name(id=NETWORK))]
    for number in range(1, hosts + 1):
        changes += _host(number)
    for number in range(2, containers + 2):
        changes += _container(number, f"h{number % hosts + 1}")
    return Made(hosts, containers, Cluster().apply(1, changes))


def _seconds(work: Callable[[], Any], rounds: int = ROUNDS, before: Callable[[], Any] = lambda: None) -> float:
    """The median CPU time of a call; what happens `before` each is not counted."""
    took = []
    for _ in range(rounds):
        before()
        begin = time.process_time()
        work()
        took.append(time.process_time() - begin)
    return statistics.median(took)


def _restarted(one: Made, number: int) -> Change:
    """A container of another host reports that it started anew."""
    ident = identity(number)
    facts = next(facts for facts in one.cluster.container_facts.values() if facts.container == ident)
    facts = msgspec.structs.replace(facts, started_at=f"2026-01-01T00:00:{number % 60:02}Z")
    return put(r.key("container_facts", facts.host, ident), facts)


def _apply(one: Made) -> float:
    change = _restarted(one, 2)
    return _seconds(lambda: one.cluster.apply(2, [change]))


def _read(one: Made) -> float:
    change = _restarted(one, 2)
    key, value = etcd_codec.to_key(change.key), etcd_codec.text(r.encode(change.record or r.Setting(value="")))
    answer = {"events": [{"kv": {"key": key, "value": value, "mod_revision": "7"}}]}
    text = msgspec.json.encode({"result": answer})
    batches = 200

    def read() -> None:
        for _ in range(batches):
            etcd_codec.batches(msgspec.json.decode(text)["result"], 1)

    return _seconds(read) / batches


def _views(one: Made) -> float:
    return _seconds(lambda: HostViews.of(one.cluster))


def _place(one: Made) -> float:
    """With its reasons, as they are recorded; each time on the picture after another container came."""
    clusters = [one.cluster]
    kept(one.cluster)

    def placed() -> None:
        cluster, number = clusters[-1], len(clusters)
        wanted = wanted_of(cluster, f"new{number}", f"new{number}", parse_spec(BODY))
        dict(place(cluster, wanted).reasons)

    def come() -> None:
        number = one.containers + 1 + len(clusters)
        clusters.append(clusters[-1].apply(1 + len(clusters), _container(number, f"h{number % one.hosts + 1}")))

    placed()
    return _seconds(placed, before=come)


def _converge(one: Made) -> float:
    host = "h1"
    mine = [ident for ident, placement in one.cluster.placements.items() if placement.host == host]
    containers = {ident: SeenHere(engine_id=ident[::-1], state="running", epoch=1) for ident in mine}
    seen = Seen(containers=containers, networks={NETWORK: "e"}, images=frozenset({"sha256:" + "a" * 64}))
    clusters = [one.cluster]
    converge(one.cluster, host, seen, 10.0)

    def restarted() -> None:
        clusters.append(clusters[-1].apply(1 + len(clusters), [_restarted(one, 2 + len(clusters))]))

    return _seconds(lambda: converge(clusters[-1], host, seen, 10.0), before=restarted)


def _wiring(one: Made) -> float:
    before = wiring.follow(wiring.Wiring(host="h1", mtu_bytes=MTU_BYTES), one.cluster)
    after = one.cluster.apply(2, [_restarted(one, 3)])
    return _seconds(lambda: wiring.follow(before, after))


def _lost(one: Made) -> float:
    kept(one.cluster)
    gone = one.cluster.apply(2, [delete(r.key("alive", "h1")), put(r.key("lost", "h1"), r.HostLost(host="h1", at=5.0))])
    return _seconds(lambda: relocations(gone, 100.0), 1)


def _all(one: Made) -> float:
    """Place SAMPLE containers on the hosts without any, and reckon with the number of all."""
    hosts = [change for number in range(1, one.hosts + 1) for change in _host(number)]
    app = [put(r.key("networks", NETWORK), one.cluster.networks[NETWORK]), put("network_names/app", r.Name(id=NETWORK))]
    empty = Cluster().apply(1, [*hosts, *app])
    board, spec = Board(HostViews.of(empty)), parse_spec(BODY)
    sample = min(SAMPLE, one.containers)
    begin = time.process_time()
    for number in range(sample):
        ident = identity(number)
        chosen = board.place(empty, wanted_of(empty, ident, f"web{number}", spec))
        board.put(chosen.host, ident, f"web{number}", spec)
    return (time.process_time() - begin) / sample * one.containers


def _record(one: Made) -> float:
    """Bytes of a container's records and their keys."""
    changes = list(_container(2, "h1"))
    return float(sum(len(change.key) + len(msgspec.json.encode(change.record)) for change in changes))


OPERATIONS: dict[str, Callable[[Made], float]] = {
    "read": _read,
    "apply": _apply,
    "converge": _converge,
    "wiring": _wiring,
    "place": _place,
    "views": _views,
    "all": _all,
    "lost": _lost,
    "record": _record,
}


def measure(hosts: int, containers: int) -> Iterator[Cost]:
    one = made(hosts, containers)
    for name, operation in OPERATIONS.items():
        yield Cost(hosts, containers, name, operation(one))


def steady(found: dict[str, float], hosts: int, containers: int, store: StoreCost, life: Life = LIFE) -> Steady:
    """`found`: what operations cost at this size.

    A refreshed copy is one commit of its host (`synced_at`). Every daemon reads and applies every commit, and looks
    over what it has (`agent.RELEVANT`: volumes' facts, and the records that a restart changes); what tells of a
    container wires its kernel anew.
    """
    restarts = containers * life.restarts_per_day / 86_400 * life.commits_per_restart
    refreshes = containers * life.volume_share / life.interval_s
    commits, renewals = restarts + refreshes, hosts * RENEWALS / LEASE_S
    deliveries = commits * hosts
    return Steady(
        hosts=hosts,
        containers=containers,
        commits=commits,
        renewals=renewals,
        deliveries=deliveries,
        store_cores=commits * store.commit_s + renewals * store.renewal_s + deliveries * store.delivery_s,
        agent_cores=commits * (found["read"] + found["apply"] + found["converge"]) + restarts * found["wiring"],
    )


def table(costs: list[Cost]) -> str:
    """A row per size, a column per operation; milliseconds, but seconds for `all` and bytes for `record`."""
    shown = {"all": lambda figure: f"{_shown(figure)} s", "record": lambda figure: f"{figure:.0f} B"}
    rows = ["| hosts | containers | " + " | ".join(OPERATIONS) + " |", "|--:" * (len(OPERATIONS) + 2) + "|"]
    for size, found in by_size(costs).items():
        cells = (shown.get(name, lambda figure: _shown(figure * 1000))(found[name]) for name in OPERATIONS)
        rows.append(f"| {size[0]:,} | {size[1]:,} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def by_size(costs: list[Cost]) -> dict[tuple[int, int], dict[str, float]]:
    found: dict[tuple[int, int], dict[str, float]] = {}
    for cost in costs:
        found.setdefault((cost.hosts, cost.containers), {})[cost.operation] = cost.figure
    return found


def steady_table(lives: list[Steady]) -> str:
    titles = ("hosts", "containers", "commits/s", "renewals/s", "deliveries/s", "cores of the store", "cores per agent")
    rows = ["| " + " | ".join(titles) + " |", "|--:" * len(titles) + "|"]
    for one in lives:
        figures = (one.commits, one.renewals, one.deliveries, one.store_cores, one.agent_cores)
        cells = [f"{one.hosts:,}", f"{one.containers:,}", *(_shown(figure) for figure in figures)]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _shown(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def draw(costs: list[Cost], lives: list[Steady]) -> str:
    """Four panels over the number of containers: store writes, watch fan-out, agent CPU, scheduler time."""

    def line(name: str, scale: float = 1000.0) -> list[tuple[float, float]]:
        return [(one.containers, max(one.figure * scale, 1e-3)) for one in costs if one.operation == name]

    def life(name: str) -> list[tuple[float, float]]:
        return [(one.containers, getattr(one, name)) for one in lives]

    writes = {"commits": life("commits"), "renewals": life("renewals")}
    fan_out = {"deliveries": life("deliveries")}
    agent = {name: line(name) for name in ("read", "apply", "wiring", "converge")}
    scheduler = {name: line(name) for name in ("place", "views", "lost", "all")}
    across = "containers"
    return page(
        [
            Panel("What the store is asked", "/s", across, writes),
            Panel("What the store delivers to watchers", "/s", across, fan_out),
            Panel("Agent: CPU per commit", "ms", across, agent),
            Panel("Scheduler: CPU", "ms", across, scheduler, (ALL_BUDGET_S * 1000, "budget of `all`: 20 s")),
            Panel("Cores per agent", "cores", across, {"agent": life("agent_cores")}, (1.0, "one core")),
            Panel("Cores of the store", "cores", across, {"store": life("store_cores")}, (8.0, "eight cores")),
        ]
    )


def knees(costs: list[Cost], lives: list[Steady]) -> str:
    """Where each thing is used up, between two sizes by the logarithms of both."""
    limits = {
        "an agent needs 5 % of a core": ("agent_cores", 0.05),
        "an agent needs a whole core": ("agent_cores", 1.0),
        "the store needs one core": ("store_cores", 1.0),
        "the store needs eight cores": ("store_cores", 8.0),
    }
    rows = ["| when | hosts | containers |", "|---|--:|--:|"]
    for what, (name, limit) in limits.items():
        at = crossing([(one.hosts, one.containers, getattr(one, name)) for one in lives], limit)
        rows.append(f"| {what} | {_place_of(at)} |")
    lost = [(one.hosts, one.containers, one.figure) for one in costs if one.operation == "lost"]
    rows.append(
        f"| the leader needs 1 s to find new places for a lost host's containers | {_place_of(crossing(lost, 1.0))} |"
    )
    everything = [(one.hosts, one.containers, one.figure) for one in costs if one.operation == "all"]
    rows.append(
        f"| placing all containers one after the other takes 20 s | {_place_of(crossing(everything, ALL_BUDGET_S))} |"
    )
    return "\n".join(rows)


def _place_of(at: tuple[float, float] | None) -> str:
    return "beyond | beyond" if at is None else f"{at[0]:,.0f} | {at[1]:,.0f}"


def crossing(points: list[tuple[int, int, float]], limit: float) -> tuple[float, float] | None:
    """Hosts and containers at which a growing figure reaches the limit; None if it does not."""
    for low, high in pairwise(points):
        if low[2] < limit <= high[2]:
            share = math.log(limit / low[2]) / math.log(high[2] / low[2])
            return (
                low[0] * (high[0] / low[0]) ** share,
                low[1] * (high[1] / low[1]) ** share,
            )
    return None


def written(docs: str, sections: dict[str, str]) -> str:
    """A page with each section put between its marks, `<!-- NAME -->` and `<!-- /NAME -->`."""
    for name, text in sections.items():
        before, begin, rest = docs.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        docs = f"{before}{begin}{text}\n{end}{after}"
    return docs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--largest", type=int, default=SIZES[-1][1], metavar="N", help="containers of the largest size")
    parser.add_argument("--docs", action="store_true", help="write the figures into docs/scale.md and docs/scale.svg")
    parser.add_argument("--recorded", action="store_true", help="measure nothing: what OUT/scale.json has")
    options = parser.parse_args()
    file = options.out / "scale.json"
    figures = msgspec.json.decode(file.read_bytes(), type=Figures) if options.recorded else _measured(options.largest)
    costs, store = figures.costs, figures.store
    lives, calm = (
        [steady(found, *size, store, life) for size, found in by_size(costs).items()] for life in (LIFE, CALM)
    )
    options.out.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.encode(figures))
    (options.out / "scale.svg").write_text(draw(costs, lives))
    sections = {
        "costs": table(costs),
        "store": store.table(),
        "steady": steady_table(lives),
        "knees": knees(costs, lives),
        "calm": steady_table(calm),
        "calm-knees": knees(costs, calm),
    }
    print("\n\n".join(sections.values()))
    if options.docs:
        page_file = DOCS / "scale.md"
        page_file.write_text(written(page_file.read_text(), sections))
        (DOCS / "scale.svg").write_text(draw(costs, lives))
    return 0


def _measured(largest: int) -> Figures:
    with tempfile.TemporaryDirectory() as directory:
        store = store_cost(Path(directory))
    print(store, flush=True)
    costs: list[Cost] = []
    for hosts, containers in SIZES:
        if containers <= largest:
            costs += measure(hosts, containers)
            print(table(costs).splitlines()[-1], flush=True)
    return Figures(store, costs)


if __name__ == "__main__":
    raise SystemExit(main())
