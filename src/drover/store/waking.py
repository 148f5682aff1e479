"""One wait that several parts of the daemon share: woken by an event, or by time."""

from __future__ import annotations

import asyncio


async def woken(event: asyncio.Event, at_most_s: float | None) -> None:
    """Return when `event` is set or after `at_most_s` seconds (None: only when it is set), and clear it. Nobody else
    may wait for this event: time sets it, too.

    `asyncio.wait_for` is not used: before Python 3.12 it can swallow a cancellation that comes with its end.
    """
    if at_most_s is None or event.is_set():
        await event.wait()
    else:
        timer = asyncio.get_running_loop().call_later(at_most_s, event.set)
        try:
            await event.wait()
        finally:
            timer.cancel()
    event.clear()
