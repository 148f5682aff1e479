"""What each operation costs as a cluster grows: `python -m bench.scale [--out DIR] [--largest N]`.

Theory of operation. No engine and no network: the decisions themselves, on made clusters of the SIZES,
timed by this process's CPU clock. The work of real hosts is what these cost, plus the store.

    operation     who does it, and when
    apply         every daemon, for every commit: one change into its picture
    place         the gateway, for every `docker run`: one host among all, the views kept
    views         the gateway, when it has to add up all hosts anew
    converge      every agent, when something of its host changed: one pass over its own containers
    wiring        every agent, for every container that starts or stops: what its kernel must have, from what changed
    lost          the leader, when a host dies: new places for all that ran there
    record        the store: bytes of all records of one container

The result is `scale.json`, a table, and one picture with both axes logarithmic: a straight line of slope one is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from drover.decide import wiring
from drover.decide.converge import Seen, SeenHere, converge
from drover.decide.recover import relocations
from drover.decide.schedule import place
from drover.decide.views import HostViews
from drover.decide.wanted import wanted_of
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.spec import parse_spec

SIZES = ((10, 100), (30, 1_000), (100, 5_000), (300, 15_000), (1_000, 50_000), (5_000, 250_000))
ROUNDS = 5
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


class Cost(msgspec.Struct, frozen=True):
    """What one operation costs: seconds of CPU, but bytes for `record`."""

    hosts: int
    containers: int
    operation: str
    figure: float


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


def _seconds(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """The median CPU time of a call."""
    took = []
    for _ in range(rounds):
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


def _views(one: Made) -> float:
    return _seconds(lambda: HostViews.of(one.cluster))


def _place(one: Made) -> float:
    views = HostViews.of(one.cluster)
    wanted = wanted_of(one.cluster, "new", "new", parse_spec(BODY))
    return _seconds(lambda: place(one.cluster, wanted, views=views))


def _converge(one: Made) -> float:
    host = "h1"
    mine = [ident for ident, placement in one.cluster.placements.items() if placement.host == host]
    containers = {ident: SeenHere(engine_id=ident[::-1], state="running", epoch=1) for ident in mine}
    seen = Seen(containers=containers, networks={NETWORK: "e"}, images=frozenset({"sha256:" + "a" * 64}))
    return _seconds(lambda: converge(one.cluster, host, seen, 10.0))


def _wiring(one: Made) -> float:
    before = wiring.follow(wiring.Wiring(host="h1", mtu_bytes=MTU_BYTES), one.cluster)
    after = one.cluster.apply(2, [_restarted(one, 3)])
    return _seconds(lambda: wiring.follow(before, after))


def _lost(one: Made) -> float:
    gone = one.cluster.apply(2, [delete(r.key("alive", "h1")), put(r.key("lost", "h1"), r.HostLost(host="h1", at=5.0))])
    return _seconds(lambda: relocations(gone, 100.0), 1)


def _record(one: Made) -> float:
    """Bytes of a container's records and their keys."""
    changes = list(_container(2, "h1"))
    return float(sum(len(change.key) + len(msgspec.json.encode(change.record)) for change in changes))


OPERATIONS: dict[str, Callable[[Made], float]] = {
    "apply": _apply,
    "place": _place,
    "views": _views,
    "converge": _converge,
    "wiring": _wiring,
    "lost": _lost,
    "record": _record,
}


def measure(hosts: int, containers: int) -> Iterator[Cost]:
    one = made(hosts, containers)
    for name, operation in OPERATIONS.items():
        yield Cost(hosts, containers, name, operation(one))


def table(costs: list[Cost]) -> str:
    """A row per size, a column per operation; milliseconds, but bytes for `record`."""
    rows = ["| hosts | containers | " + " | ".join(OPERATIONS) + " |", "|--:" * (len(OPERATIONS) + 2) + "|"]
    for size in dict.fromkeys((cost.hosts, cost.containers) for cost in costs):
        found = {cost.operation: cost.figure for cost in costs if (cost.hosts, cost.containers) == size}
        shown = (f"{found[name]:.0f} B" if name == "record" else f"{found[name] * 1000:.1f}" for name in OPERATIONS)
        rows.append(f"| {size[0]:,} | {size[1]:,} | " + " | ".join(shown) + " |")
    return "\n".join(rows)


_FONT = 'font-family="sans-serif" font-size="12"'
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
WIDTH, HEIGHT, MARGIN = 760, 420, 70


def draw(costs: list[Cost]) -> str:
    """An SVG image: milliseconds over containers, both logarithmic."""
    timed = [cost for cost in costs if cost.operation != "record"]
    left, right = (math.log10(edge([cost.containers for cost in timed])) for edge in (min, max))
    low, high = -3, 5

    def x(containers: float) -> float:
        return MARGIN + (math.log10(containers) - left) / max(right - left, 1e-9) * (WIDTH - 2.6 * MARGIN)

    def y(seconds: float) -> float:
        share = (math.log10(max(seconds * 1000, 10**low)) - low) / (high - low)
        return HEIGHT - 40 - share * (HEIGHT - 70)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {_FONT}>',
             '<rect width="100%" height="100%" fill="white"/>']  # fmt: skip
    for power in range(low, high + 1):
        at = y(10.0 ** (power - 3))
        parts.append(f'<line x1="{MARGIN}" y1="{at:.0f}" x2="{WIDTH - 1.6 * MARGIN:.0f}" y2="{at:.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{at + 4:.0f}" text-anchor="end">{10.0**power:g} ms</text>')
    for containers in dict.fromkeys(cost.containers for cost in timed):
        parts.append(f'<text x="{x(containers):.0f}" y="{HEIGHT - 18}" text-anchor="middle">{containers:,}</text>')
    names = [name for name in OPERATIONS if name != "record"]
    for name, colour in zip(names, _COLOURS, strict=True):
        line = [(x(cost.containers), y(cost.figure)) for cost in timed if cost.operation == name]
        points = " ".join(f"{a:.0f},{b:.0f}" for a, b in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{line[-1][0] + 6:.0f}" y="{line[-1][1] + 4:.0f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--largest", type=int, default=SIZES[-1][1], metavar="N", help="containers of the largest size")
    options = parser.parse_args()
    costs: list[Cost] = []
    for hosts, containers in SIZES:
        if containers <= options.largest:
            costs += measure(hosts, containers)
            print(table(costs).splitlines()[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scale.json").write_bytes(msgspec.json.encode(costs))
    (options.out / "scale.svg").write_text(draw(costs))
    print(table(costs))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
