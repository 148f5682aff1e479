"""One wait that several parts of the daemon share: woken by an event, or by time."""

from __future__ import annotations

import asyncio


async def woken(event: asyncio.Event, at_most_s: float | None) -> None:
    """Return when `event` is set or after `at_most_s` seconds (None: only when it is set), and clear it.

    `asyncio.wait_for` is not used: before Python 3.12 it can swallow a cancellation that comes with its end.
    """
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        pass
    event.clear()
