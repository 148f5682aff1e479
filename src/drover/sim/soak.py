"""Many histories, one after the other: seeds counted up until enough hours of a cluster's life have been played.

A history that fails is shrunk, and what is left is written down as a regression file: the tests play all of those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from drover.sim.draw import draw
from drover.sim.history import History, to_json
from drover.sim.play import Outcome, play
from drover.sim.shrink import shrink


def soak(seed: int, hours: float, hosts: int = 0) -> Iterator[tuple[History, Outcome]]:
    """Histories from `seed` on, with their outcomes, until `hours` of virtual time were played, or one failed."""
    played_s = 0.0
    while True:
        history = draw(seed, hosts)
        outcome = play(history)
        yield history, outcome
        played_s += outcome.virtual_s
        seed += 1
        if outcome.broken or played_s >= hours * 3600:
            return


def shrunk(history: History, outcome: Outcome, tries: int = 400) -> History:
    """The smallest history found that breaks the same promise, with what it breaks."""
    kind = _kind(outcome.broken)

    def fails(candidate: History) -> bool:
        return _kind(play(candidate).broken) == kind

    small = shrink(history, fails, tries)
    return msgspec.structs.replace(small, found=play(small).broken)


def _kind(broken: str) -> str:
    """What is alike in two sentences about one failure: the promise, or that it does not settle."""
    _, _, what = broken.partition(" s: ") if broken.startswith("at ") else ("", "", broken)
    return what[:2] if what.startswith("P") else what[:11]


def write_regression(history: History, directory: Path, say: Callable[[str], None]) -> Path:
    """The file `seed-N.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"seed-{history.seed}.json"
    path.write_bytes(to_json(history))
    say(f"{len(history.events)} events are left; written to {path}")
    return path
