"""`shrink(history, fails)`: the fewest events with which a history still fails (delta debugging).

Theory of operation. Events are left out in pieces, first large ones; a piece without which it still fails stays out.
When no piece of any size can go, the end is brought nearer. `fails` plays each candidate anew, so that what is left is
sure to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from drover.sim.history import Event, History

Fails = Callable[[History], bool]
AFTER_S = 5.0


def shrink(history: History, fails: Fails, tries: int = 400) -> History:
    """`tries`: how many candidates are played at most."""
    budget = _Budget(fails, tries)
    kept = _fewest(history, budget)
    return _sooner(_fewest(kept, budget), budget)


class _Budget:
    def __init__(self, fails: Fails, tries: int) -> None:
        self._fails = fails
        self.left = tries

    def fails(self, history: History) -> bool:
        if self.left <= 0:
            return False
        self.left -= 1
        return self._fails(history)


def _fewest(history: History, budget: _Budget) -> History:
    events, size = list(history.events), max(1, len(history.events) // 2)
    while size >= 1 and events:
        for without in list(_without(events, size)):
            candidate = msgspec.structs.replace(history, events=tuple(without))
            if len(without) < len(events) and budget.fails(candidate):
                events = without
                break
        else:
            size //= 2
    return msgspec.structs.replace(history, events=tuple(events))


def _without(events: Sequence[Event], size: int) -> Iterator[list[Event]]:
    """The events less `size` of them in a row; the last ones first, as most failures begin early."""
    for start in reversed(range(0, len(events), size)):
        yield [*events[:start], *events[start + size :]]


def _sooner(history: History, budget: _Budget) -> History:
    last_at = max((event.at + event.for_s for event in history.events), default=0.0)
    sooner = msgspec.structs.replace(history, heal_at=round(last_at + AFTER_S, 3))
    return sooner if sooner.heal_at < history.heal_at and budget.fails(sooner) else history
