"""Many volumes replicating for a while: memory, lag, and what is left lying about (root; a proof, not a test).

    python -m bench.soak_volumes --volumes 200 --minutes 10 --interval 5

Theory of operation. One lab of three hosts; on each a few containers that together write to all the volumes, a little
to each about once a second. Every SAMPLE_S the soak notes each daemon's memory and open files, each volume's lag as the
cluster shows it, and what is on the disks. At the end the containers go and everything settles; then

    must be                          within
    memory flat                      the last third's mean at most GROWTH above the second third's
    lag bounded                      the worst lag of each volume at most LAG_S, from the first copy on
    snapshots bounded                what hosts hold per volume at most SNAPSHOTS, during the run
    nothing leaked                   as many loop devices and mounts as before the volumes; no open files more than LEFT
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.bed import create_many, remove_lab, remove_many, resident_mb
from drover.cli.client import Client
from drover.lab import Lab, LabHost
from drover.lab.clients import Docker
from drover.lab.processes import exit_on_sigterm

LAB = "soak"
SAMPLE_S = 10.0
PER_CONTAINER = 20
GROWTH = 1.15
LAG_S = 60.0
SNAPSHOTS = 40
LEFT = 40
SETTLE_S = 120.0
_WRITE = "for v in /v/*; do dd if=/dev/urandom of=$v/f bs=4k count=4 conv=notrunc 2>/dev/null; done; sleep 1"


class Sample(msgspec.Struct, frozen=True):
    """One look: by host unless said otherwise. `lag_s`: each volume's best copy; `uncopied` have none."""

    at_s: float
    memory_mb: dict[str, float]
    files: dict[str, int]
    lag_s: dict[str, float]
    uncopied: int
    snapshots: dict[str, int]
    loops: int
    mounts: dict[str, int]
    load: float


def main(argv: Sequence[str] | None = None) -> int:
    asked = _arguments().parse_args(argv)
    exit_on_sigterm()
    remove_lab(asked.lab)
    try:
        lab = Lab.create(asked.lab, 3, images=("busybox",), pool="16G", say=_say)
        return _soak(lab, asked)
    finally:
        remove_lab(asked.lab)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.soak_volumes", description="Many volumes replicating.")
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds, of every volume")
    parser.add_argument("--driver", default="btrfs")
    parser.add_argument("--lab", default=LAB, help="the lab's name")
    return parser


def _soak(lab: Lab, asked: argparse.Namespace) -> int:
    before = _look(lab, 0.0)
    containers = _begin(lab, asked)
    began_at = time.monotonic()
    samples = []
    while (at_s := time.monotonic() - began_at) < asked.minutes * 60:
        samples.append(_look(lab, at_s))
        _say(_line(samples[-1]))
        time.sleep(SAMPLE_S)
    remove_many(lab.hosts[0].gateway_socket, containers)
    after = _settled(lab, before, time.monotonic() - began_at)
    faults = judged(samples, before, after)
    print(json.dumps(figures(samples, before, after) | {"faults": faults}, indent=2))
    return 1 if faults else 0


def _begin(lab: Lab, asked: argparse.Namespace) -> list[str]:
    """The volumes, and the containers that write to them: their names."""
    docker = Docker(lab.hosts[0].gateway_socket)
    names = [f"soak{number:03}" for number in range(asked.volumes)]
    options = ("--opt", f"interval={asked.interval:g}s", "--opt", f"driver={asked.driver}")
    for name in names:
        docker("volume", "create", *options, name)
    containers = []
    for number, start in enumerate(range(0, len(names), PER_CONTAINER)):
        mine = names[start : start + PER_CONTAINER]
        containers.append(f"writer{number}")
        host = lab.hosts[number % len(lab.hosts)].name
        body: dict[str, object] = {
            "Image": "busybox",
            "Cmd": ["sh", "-c", f"while :; do {_WRITE}; done"],
            "StopSignal": "SIGKILL",
            "Labels": {"drover.constraint": f"host=={host}"},
            "HostConfig": {"Binds": [f"{name}:/v/{name}" for name in mine]},
        }
        create_many(lab.hosts[0].gateway_socket, containers[-1:], body, start=1)
        _say(f"{containers[-1]} writes to {len(mine)} volumes on {host}")
    return containers


def _look(lab: Lab, at_s: float) -> Sample:
    volumes = Client(f"unix://{lab.hosts[0].drover_socket}").get("/volumes")
    now = time.time()
    lags = {one["name"]: lag for one in volumes if (lag := _lag_s(one, now)) is not None}
    return Sample(
        at_s=round(at_s, 1),
        memory_mb={host.name: round(resident_mb(host), 1) for host in lab.hosts},
        files={host.name: len(os.listdir(f"/proc/{host.pid_of('drover')}/fd")) for host in lab.hosts},
        lag_s=lags,
        uncopied=len(volumes) - len(lags),
        snapshots={host.name: _on_disk(host) for host in lab.hosts},
        loops=len(
            [one for one in Path("/sys/block").glob("loop*/loop/backing_file") if f"/{lab.name}/" in one.read_text()]
        ),
        mounts={host.name: _mounts(host) for host in lab.hosts},
        load=os.getloadavg()[0],
    )


def _lag_s(volume: dict[str, Any], now: float) -> float | None:
    times = [max(copy["synced_at"], copy["taken_at"]) for copy in volume["copies"]]
    return max(0.0, round(now - max(times), 1)) if times else None


def _on_disk(host: LabHost) -> int:
    """Snapshots and what waits to be deleted."""
    root = host.state_dir / "volumes"
    listed = host.exec(["sh", "-c", f"ls -d {root}/*/snap/*/* {root}/*/trash/* 2>/dev/null | wc -l"]).stdout
    return int(listed)


def _mounts(host: LabHost) -> int:
    return len(Path(f"/proc/{host.pid_of('drover')}/mounts").read_text().splitlines())


def _settled(lab: Lab, before: Sample, at_s: float) -> Sample:
    """A look when mounts and loop devices are as before, or after SETTLE_S."""
    end = time.monotonic() + SETTLE_S
    while True:
        seen = _look(lab, at_s)
        if (seen.loops <= before.loops and seen.mounts == before.mounts) or time.monotonic() > end:
            return seen
        time.sleep(2)


def judged(samples: Sequence[Sample], before: Sample, after: Sample) -> list[str]:
    """What is not as the module's table says, as sentences."""
    faults = []
    third = len(samples) // 3
    for host in before.memory_mb:
        middle, last = (_mean_mb(part, host) for part in (samples[third : 2 * third], samples[2 * third :]))
        if last > middle * GROWTH:
            faults.append(f"memory of {host} grows: {middle:.0f} MB, then {last:.0f} MB")
        if after.files[host] > before.files[host] + LEFT:
            faults.append(f"{host} has {after.files[host]} files open, {before.files[host]} before")
        if after.mounts[host] > before.mounts[host]:
            faults.append(f"{host} has {after.mounts[host]} mounts, {before.mounts[host]} before")
    late = {name: lag for one in samples[third:] for name, lag in one.lag_s.items() if lag > LAG_S}
    if late or samples[-1].uncopied:
        faults.append(f"{len(late)} volumes lagged over {LAG_S:g} s; {samples[-1].uncopied} have no copy")
    volumes = len(samples[-1].lag_s)
    if (most := max(sum(one.snapshots.values()) for one in samples)) > SNAPSHOTS * volumes:
        faults.append(f"{most} snapshots of {volumes} volumes")
    if after.loops > before.loops:
        faults.append(f"{after.loops} loop devices, {before.loops} before")
    return faults


def _mean_mb(samples: Sequence[Sample], host: str) -> float:
    return statistics.fmean(one.memory_mb[host] for one in samples)


def figures(samples: Sequence[Sample], before: Sample, after: Sample) -> dict[str, Any]:
    """What to report."""
    lags = sorted(lag for one in samples[len(samples) // 3 :] for lag in one.lag_s.values())
    third = len(samples) // 3
    return {
        "volumes": len(samples[-1].lag_s),
        "minutes": round(samples[-1].at_s / 60, 1),
        "memory_mb": {
            host: [
                round(_mean_mb(part, host))
                for part in (samples[:third], samples[third : 2 * third], samples[2 * third :])
            ]
            for host in before.memory_mb
        },
        "lag_s": {"median": statistics.median(lags), "p99": lags[len(lags) * 99 // 100], "worst": lags[-1]},
        "snapshots": {
            "most": max(sum(one.snapshots.values()) for one in samples),
            "after": sum(after.snapshots.values()),
        },
        "files": {"before": before.files, "after": after.files},
        "mounts": {"before": before.mounts, "after": after.mounts},
        "loops": {"before": before.loops, "after": after.loops},
        "load": [round(min(one.load for one in samples), 1), round(max(one.load for one in samples), 1)],
    }


def _line(sample: Sample) -> str:
    worst = max(sample.lag_s.values(), default=0.0)
    middle = statistics.median(sample.lag_s.values()) if sample.lag_s else 0.0
    memory = " ".join(f"{mb:.0f}" for mb in sample.memory_mb.values())
    snapshots = sum(sample.snapshots.values())
    return (
        f"{sample.at_s:6.0f} s: {memory} MB, lag {middle:.1f} s (worst {worst:.1f}), {sample.uncopied} without a copy, "
        f"{snapshots} snapshots, {sum(sample.files.values())} files, load {sample.load:.1f}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
