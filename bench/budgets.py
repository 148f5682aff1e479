"""Every budget, and the row that measures it: what is on this list and has no row is printed as not measured.

`row` is how the row's name begins, without figures that vary; `group` is the one of `make bench` that yields it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bench.frame import Budget, Row, unmeasured


class Promise(msgspec.Struct, frozen=True):
    group: str
    row: str
    says: str


PROMISES = (
    Promise("labup", "three-host lab ready", "at most 30 s"),
    Promise("calls", "GET /_ping, local", "an unhooked local call: at most 0.5 ms more than the engine's"),
    Promise("calls", "GET /containers/ID/json, local", "an unhooked local call: at most 0.5 ms more"),
    Promise("calls", "GET /containers/ID/json, another host", "a remote call: at most 1 ms more"),
    Promise("run", "docker run --rm busybox true, anywhere", "at most 1.3 times the engine's"),
    Promise("run", "docker run --rm busybox true, same host", "at most 1.3 times the engine's"),
    Promise("streams", "exec -i cat, both ways", "at least 0.9 times direct, 0.8 through another host"),
    Promise("streams", "save", "at least 0.9 times direct, 0.8 through another host"),
    Promise("streams", "cp out", "at least 0.9 times direct, 0.8 through another host"),
    Promise("streams", "cp in", "at least 0.9 times direct, 0.8 through another host"),
    Promise("images", "then one new layer", "the missing layers, and only those"),
    Promise("daemon", "daemon's VmRSS, ", "at most 80 MB with 200 containers on its host"),
    Promise("clients", "500 clients", "no error"),
    Promise("clients", "daemon's peak memory, second half over first", "bounded memory"),
    Promise("placing", "placing: one container on that cluster, CPU", "at most 50 ms"),
    Promise("placing", "placing: 100,000 containers on 5,000 empty hosts, CPU", "at most 20 s"),
    Promise("house", "drover --help", "at most 150 ms"),
    Promise("house", "an idle agent: share of a core", "at most 1 %"),
    Promise("hooks", "hooks: a call that no hook matches", "no measurable cost"),
    Promise("hooks", "hooks: one no-op pre-hook", "at most 2 ms more at the median"),
    Promise("hooks", "hooks: hooked calls sustained", "at least 1,000 a second"),
    Promise("hooks", "hooks: gateway's memory, second half of the load over first", "flat"),
    Promise("overlay", "overlay throughput, against a hand-made VXLAN", "at least 0.95 times"),
    Promise("overlay", "overlay throughput, against Swarm's", "at least 1.0 times"),
    Promise("overlay", "overlay round trip, against a hand-made VXLAN", "at most 15 us more"),
    Promise("overlay", "names: questions answered", "at least 5,000 a second"),
    Promise("overlay", "names: 99 of 100 answered within", "5 ms"),
    Promise("overlay", "a new name on every host, after its start", "at most 300 ms"),
    Promise("many", "a host programmed from nothing", "1,000 services of 5: at most 5 s"),
    Promise("many", "one backend ends or comes", "at most 50 ms"),
    Promise("many", "one address moves", "at most 50 ms"),
    Promise("deploy", "30 containers deployed", "at most 0.8 times Swarm's time"),
    Promise("moves", "volume of 1 GB, whole, over a plain copy", "at least 0.7 times"),
    Promise("moves", "volume of 1 GB, 1 MB changed", "at most 0.3 s"),
    Promise("moves", "container: from its stop to its start elsewhere", "at most 0.9 s"),
    Promise("replication", "", "foreground throughput at least 0.8 times that without copies"),
    Promise("recorded", "a live database of 1 GB moves: its clients' gap", "at most 0.9 s at the median"),
    Promise("recorded", "recovery after a power cut, stateful: median", "at most 6 s"),
    Promise("recorded", "recovery after a power cut, stateful: 95 of 100 within", "8 s"),
    Promise("recorded", "recovery after a power cut, stateful: against Swarm tuned", "at most 1.5 times"),
    Promise("recorded", "recovery after a power cut, stateless: median", "at most 6 s"),
    Promise("recorded", "recovery after a power cut, stateless: 95 of 100 within", "8 s"),
    Promise("recorded", "recovery after a power cut, stateless: against Swarm tuned", "at most 1.5 times"),
    Promise("recorded", "recovery after a cut network, stateful: median", "at most 6 s"),
    Promise("recorded", "recovery after a cut network, stateful: 95 of 100 within", "8 s"),
    Promise("recorded", "recovery after a cut network, stateful: against Swarm tuned", "at most 1.5 times"),
    Promise("recorded", "recovery after a cut network, stateless: median", "at most 6 s"),
    Promise("recorded", "recovery after a cut network, stateless: 95 of 100 within", "8 s"),
    Promise("recorded", "recovery after a cut network, stateless: against Swarm tuned", "at most 1.5 times"),
    Promise("recorded", "recovery after an orderly shutdown: median", "at most 3 s"),
    Promise("recorded", "recovery after the store's leader died: median", "at most 3 s more than 6"),
    Promise("recorded", "double writes and duplicate holders", "none"),
)


def lacking(blocks: Iterable[tuple[str, Iterable[Row]]]) -> list[Row]:
    """A row for each budget of the groups given that none of their rows measured, for whatever reason."""
    measured = {group: [row.what for row in rows if row.budget is not None] for group, rows in blocks}
    missing = (one for one in PROMISES if one.group in measured and not _has(measured[one.group], one.row))
    return [unmeasured(one.row or one.group, Budget(0), "", f"promised: {one.says}") for one in missing]


def _has(names: Iterable[str], begins: str) -> bool:
    return any(name.startswith(begins) for name in names)
