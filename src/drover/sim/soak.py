"""Many histories, one after the other: seeds counted up until enough hours of a cluster's life have been played.

A history that fails is shrunk, and what is left is written down as a regression file: the tests play all of those.
Several processes play several histories at a time; what comes of them is told in the order of the seeds.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import msgspec

from drover.sim.draw import draw
from drover.sim.history import History, to_json
from drover.sim.play import Outcome, play
from drover.sim.shrink import shrink

AHEAD = 3
"""How many histories per process are handed out before the first of them is told of."""
TASKS = 200
"""How many histories a process plays before another takes its place: what it remembers does not grow for ever."""


def soak(
    seed: int, hours: float, hosts: int = 0, slow: bool = False, jobs: int = 1
) -> Iterator[tuple[History, Outcome]]:
    """Histories from `seed` on, with their outcomes, until `hours` of virtual time were played, or one failed."""
    played_s = 0.0
    outcomes = _one_by_one(seed, hosts, slow) if jobs == 1 else _side_by_side(seed, hosts, slow, jobs)
    for outcome in outcomes:
        yield draw(outcome.seed, hosts, slow), outcome
        played_s += outcome.virtual_s
        if outcome.broken or played_s >= hours * 3600:
            return


def _one_by_one(seed: int, hosts: int, slow: bool) -> Iterator[Outcome]:
    for one in count(seed):
        yield played(one, hosts, slow)


def _side_by_side(seed: int, hosts: int, slow: bool, jobs: int) -> Iterator[Outcome]:
    with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=TASKS) as pool:
        waiting: deque[Future[Outcome]] = deque()
        try:
            for one in count(seed):
                waiting.append(pool.submit(played, one, hosts, slow))
                if len(waiting) > jobs * AHEAD:
                    yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def played(seed: int, hosts: int, slow: bool) -> Outcome:
    """One history from its seed. Garbage is collected after it: a history's world is one large circle of objects, all
    of which are in use until its end."""
    _leave_out_what_stays()
    gc.disable()
    try:
        return play(draw(seed, hosts, slow))
    finally:
        gc.enable()
        gc.collect()


@cache
def _leave_out_what_stays() -> None:
    """Modules and classes, a hundred thousand objects, are never garbage: from now on no collection looks at them."""
    gc.collect()
    gc.freeze()


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
