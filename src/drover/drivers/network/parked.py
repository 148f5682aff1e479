"""`Parking`: what is parked in this network namespace now, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from drover.decide.parking import Parked
from drover.drivers.network import parking
from drover.errors import DroverError

log = structlog.get_logger()

Run = Callable[[Callable[[], Any]], Awaitable[Any]]


class Parking:
    """`run` does work in the namespace, one piece after another; `tunnels` gives the indexes of its VXLAN devices."""

    def __init__(self, run: Run, tunnels: Callable[[], frozenset[int]]) -> None:
        self._run = run
        self._tunnels = tunnels
        self._queue: parking.Queue | None = None
        self._wanted: frozenset[Parked] = frozenset()
        self._written: frozenset[Parked] | None = None
        self._over: frozenset[Parked] = frozenset()
        self._lock = asyncio.Lock()
        self._expiry: set[asyncio.Task[None]] = set()

    @property
    def held(self) -> int:
        return self._queue.held if self._queue else 0

    async def hold(self, wanted: frozenset[Parked]) -> None:
        """Park exactly these, less those that have been parked for too long already."""
        new = wanted - self._wanted
        self._wanted, self._over = wanted, self._over & wanted
        if new:
            self._expiry.add(task := asyncio.create_task(self._expire(new)))
            task.add_done_callback(self._expiry.discard)
        await self._write()

    async def _expire(self, parked: frozenset[Parked]) -> None:
        """Nobody waits longer than that, whatever has become of the move."""
        await asyncio.sleep(parking.LIMIT_S)
        self._over |= parked & self._wanted
        try:
            await self._write()
        except DroverError as error:
            log.warning("parked connections cannot be let go", error=error.message)

    async def _write(self) -> None:
        """Bring the rules up to date, one call at a time; then let go, as what is let go passes the rules again."""
        async with self._lock:
            now = self._wanted - self._over
            if now == self._written or (not now and self._queue is None and await self._is_free()):
                return
            queue, tunnels = await self._run(lambda: self._apply(now))
            self._written = now
            asyncio.get_running_loop().add_reader(queue.fileno(), queue.take)
            queue.take()
            queue.let_go(frozenset(one.ip for one in now), tunnels)

    async def _is_free(self) -> bool:
        """Whether no earlier process has left anything."""
        free = not await self._run(parking.has_rules)
        self._written = frozenset() if free else None
        return free

    def _apply(self, now: frozenset[Parked]) -> tuple[parking.Queue, frozenset[int]]:
        """In the namespace: the queue is there before anything is sent to it."""
        first = self._queue is None
        self._queue = self._queue or parking.Queue()
        parking.write_rules(now)
        if first or not now:  # else they are there since the last time, unless somebody took them away
            parking.ensure_jumps()
        return self._queue, self._tunnels()

    def close(self) -> None:
        for task in self._expiry:
            task.cancel()
        if self._queue is not None:
            asyncio.get_running_loop().remove_reader(self._queue.fileno())
            self._queue.close()
            self._queue = None
