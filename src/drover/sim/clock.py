"""Virtual time: an asyncio event loop in which nobody ever waits.

When every task waits, the clock jumps to the next timer. Production code under test uses `asyncio.sleep` and
`loop.time()` as usual; hours of a cluster's life take seconds, and two runs take the same steps in the same order.
Real sockets and threads do not belong here: a loop with nothing left to wait for raises `Deadlock`.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
EPOCH = 1_700_000_000.0
"""Wall clock time at virtual time 0, so that traces are alike."""


class Deadlock(RuntimeError):
    """Every task waits for something that no timer will bring."""


class _Jump(selectors.SelectSelector):
    """A selector that does not wait, nor look at anything: it reports how long it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_s: float | None = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.asked_s = timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and moves only when everybody waits."""

    def __init__(self, after_each: Callable[[], None] = lambda: None) -> None:
        """`after_each` is called after each round of callbacks; what it raises ends the run."""
        self._jump = _Jump()
        self._virtual = 0.0
        self.after_each = after_each
        super().__init__(self._jump)

    def time(self) -> float:
        return self._virtual

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        asked, self._jump.asked_s = self._jump.asked_s, 0.0
        if asked is None and not self._ready:  # type: ignore[attr-defined]
            raise Deadlock("every task waits for something that no timer will bring")
        self.after_each()
        self._virtual += asked or 0.0


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on virtual time from 0, to its end."""
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        _cancel_all(loop)
        asyncio.set_event_loop(None)
        loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    if isinstance(loop, VirtualLoop):
        loop.after_each = lambda: None
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())


def wall_now() -> float:
    """The simulated wall clock, in seconds since the Unix epoch."""
    return EPOCH + asyncio.get_running_loop().time()
