"""Virtual time: an asyncio event loop in which nobody ever waits.

When every task waits, the clock jumps to the next timer. Production code under test uses `asyncio.sleep` and
`loop.time()` as usual; hours of a cluster's life take seconds, and two runs take the same steps in the same order.
Real sockets and threads do not belong here and are never looked at: a loop with nothing left to wait for raises
`Deadlock`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")
EPOCH = 1_700_000_000.0
"""Wall clock time at virtual time 0, so that traces are alike."""


class Deadlock(RuntimeError):
    """Every task waits for something that no timer will bring."""


class _Handle:
    """A callback that is to be called once: asyncio's own, without what only a debugger needs."""

    __slots__ = ("_when", "args", "call", "context")

    def __init__(self, call: Callable[..., object], args: tuple[Any, ...], context: Context, when: float) -> None:
        self.call: Callable[..., object] | None = call
        self.args = args
        self.context = context
        self._when = when

    def cancel(self) -> None:
        self.call, self.args = None, ()

    def cancelled(self) -> bool:
        return self.call is None

    def when(self) -> float:
        return self._when


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and moves only when everybody waits.

    What asyncio does for sockets, threads and debuggers at every step is left out here: half of a history's time went
    there. Timers of one instant fire in the order in which they were set.
    """

    def __init__(self, after_each: Callable[[], None] = lambda: None) -> None:
        """`after_each` is called after each round of callbacks; what it raises ends the run."""
        self._virtual = 0.0
        self._due: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._numbers = count()
        self.after_each = after_each
        super().__init__()
        self.get_debug = bool  # type: ignore[method-assign]
        """False: each future and task asks, and this is the cheapest answer."""

    def time(self) -> float:
        return self._virtual

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        handle = _Handle(callback, args, context or copy_context(), 0.0)
        self._due.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        when = self._virtual + delay
        handle = _Handle(callback, args, context or copy_context(), when)
        heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        handle = _Handle(callback, args, context or copy_context(), when)
        heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def _run_once(self) -> None:
        due = self._due
        if not due and not self._stopping:  # type: ignore[attr-defined]
            self._jump()
        for _ in range(len(due)):
            handle = due.popleft()
            if (call := handle.call) is not None:
                try:
                    handle.context.run(call, *handle.args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    self.call_exception_handler({"message": f"Exception in callback {call!r}", "exception": error})
        self.after_each()

    def _jump(self) -> None:
        """To the next timer that was not called off, and all others of that instant."""
        timers = self._timers
        while timers and timers[0][2].call is None:
            heappop(timers)
        if not timers:
            raise Deadlock("every task waits for something that no timer will bring")
        now = self._virtual = max(self._virtual, timers[0][0])
        while timers and timers[0][0] <= now:
            self._due.append(heappop(timers)[2])


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
