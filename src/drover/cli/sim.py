"""`drover sim`: the cluster in a simulated world, thousands of hours in minutes. Needs no root and no Docker."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from drover.cli import output

if TYPE_CHECKING:
    from drover.sim.history import History
    from drover.sim.play import Outcome

FOREVER_H = 1e12
TOLD_EVERY_S = 20.0


@click.command()
@click.option("--seed", default=None, type=int, metavar="S", help="Begin with this seed; alone: play just this one.")
@click.option("--hours", default=None, type=float, metavar="H", help="How many hours of a cluster's life (default: 1).")
@click.option("--hosts", default=0, metavar="N", help="Clusters of N hosts (default: the seed says how many).")
@click.option("--slow", is_flag=True, help="Hours of life in each history, with faults spread over them.")
@click.option("--jobs", default=1, metavar="N", help="Play N histories at a time.")
@click.option("--forever", is_flag=True, help="Until a promise is broken, or Ctrl-C.")
@click.option("--replay", type=click.Path(path_type=Path, exists=True), metavar="FILE", help="Play a regression file.")
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="Write the last history's trace.")
@click.option(
    "--regressions",
    type=click.Path(path_type=Path),
    default=Path("sim-regressions"),
    metavar="DIR",
    show_default=True,
    help="Where a failure is written down, shrunk.",
)
@click.option("--no-shrink", is_flag=True, help="Do not look for the smallest schedule that fails.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON per history.")
def sim(
    seed: int | None,
    hours: float | None,
    hosts: int,
    slow: bool,
    jobs: int,
    forever: bool,
    replay: Path | None,
    trace: Path | None,
    regressions: Path,
    no_shrink: bool,
    as_json: bool,
) -> int:
    """Play a cluster's life in a simulated world, every promise checked.

    A seed draws the cluster, what people ask of it and what befalls it. All is healed in the end, and the cluster must
    come to rest. The same seed has the same trace. Status 1 if a promise was broken.

    \b
    Example:
      drover sim                           # an hour of clusters' lives
      drover sim --seed 7 --trace t.txt    # one history, everything that happened in it
      drover sim --hours 500 --slow --jobs 2
      drover sim --forever                 # until something breaks
    """
    from drover.sim.history import from_file
    from drover.sim.play import play

    if replay is not None or (seed is not None and hours is None and not forever):
        from drover.sim.draw import draw

        history = from_file(replay) if replay is not None else draw(seed or 0, hosts, slow)
        outcome = _traced(history, trace) if trace else play(history)
        _tell_one(outcome, as_json)
        return _failed(history, outcome, regressions, replay is not None or no_shrink) if outcome.broken else 0
    wanted_h = FOREVER_H if forever else 1.0 if hours is None else hours
    from drover.sim.soak import soak

    count = _Count()
    try:
        for history, outcome in soak(seed or 1, wanted_h, hosts, slow, jobs):
            count.add(history, outcome, as_json)
            if outcome.broken:
                if trace:
                    _traced(history, trace)
                _tell_one(outcome, as_json)
                return _failed(history, outcome, regressions, no_shrink)
    finally:
        if not as_json:
            output.say(f"{count}: {'a promise was broken' if count.broken else 'every promise held'}")
    return 0


class _Count:
    """What was played; also the line that says so, at the end of a soak or where it is interrupted."""

    def __init__(self) -> None:
        self.begin = self.told_at = time.monotonic()
        self.histories = self.faults = self.calls = 0
        self.played_s = 0.0
        self.broken = False

    def add(self, history: History, outcome: Outcome, as_json: bool) -> None:
        from drover.sim import workload

        calls = sum(event.kind in workload.KINDS for event in history.events)
        self.histories += 1
        self.calls += calls
        self.faults += len(history.events) - calls
        self.played_s += outcome.virtual_s
        self.broken = bool(outcome.broken)
        if as_json:
            _tell_one(outcome, True)
        elif time.monotonic() - self.told_at > TOLD_EVERY_S:
            self.told_at = time.monotonic()
            output.note(f"seed {outcome.seed}: {self}")

    def __str__(self) -> str:
        took_s = time.monotonic() - self.begin
        what = f"{self.histories} histories, {self.faults} faults, {self.calls} calls"
        return f"{what}, {self.played_s / 3600:.2f} hours in {took_s:.0f} s"


def _traced(history: History, path: Path) -> Outcome:
    from drover.sim.play import play

    with path.open("w") as file:
        return play(history, lambda line: print(line, file=file))


def _tell_one(outcome: Outcome, as_json: bool) -> None:
    import msgspec

    if as_json:
        sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")
        sys.stdout.flush()
        return
    said = outcome.broken or f"every promise held; at rest {outcome.settled_s:.0f} s after all was healed"
    output.say(f"seed {outcome.seed}, {outcome.virtual_s:.0f} s, trace {outcome.digest}: {said}")
    for sentence in outcome.excused:
        output.say(f"  left: {sentence}")


def _failed(history: History, outcome: Outcome, regressions: Path, no_shrink: bool) -> int:
    from drover.sim.soak import shrunk, write_regression

    if not no_shrink:
        output.note(f"looking for fewer than {len(history.events)} events that break it ...")
        write_regression(shrunk(history, outcome), regressions, output.note)
    return 1
