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
        self._started = False

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

    async def release(self, parked: frozenset[Parked]) -> None:
        """Let go of these, though they are still wanted: whoever wants them learns of the end of the move later."""
        self._over |= parked & self._wanted
        await self._write()

    async def _expire(self, parked: frozenset[Parked]) -> None:
        """Nobody waits longer than that, whatever has become of the move."""
        await asyncio.sleep(parking.LIMIT_S)
        try:
            await self.release(parked)
        except DroverError as error:
            log.warning("parked connections cannot be let go", error=error.message)

    async def _write(self) -> None:
        """Bring queue and rules up to date, one call at a time. The queue comes first: clients that wait need not wait
        for rules to be written, and what the rules still send there goes on at once."""
        async with self._lock:
            now = self._wanted - self._over
            if now == self._written or (not now and self._queue is None and await self._is_free()):
                return
            self._queue, tunnels = await self._run(lambda: (self._queue or parking.Queue(), self._tunnels()))
            asyncio.get_running_loop().add_reader(self._queue.fileno(), self._queue.take)
            self._queue.park(frozenset(one.ip for one in now if not one.passing), tunnels)
            first, self._started = not self._started, True
            if self._written is None or parking.rules(now) != parking.rules(self._written):
                await self._run(lambda: _apply(now, first))
            self._written = now

    async def _is_free(self) -> bool:
        """Whether no earlier process has left anything."""
        free = not await self._run(parking.has_rules)
        self._written = frozenset() if free else None
        return free

    def close(self) -> None:
        for task in self._expiry:
            task.cancel()
        if self._queue is not None:
            asyncio.get_running_loop().remove_reader(self._queue.fileno())
            self._queue.close()
            self._queue = None


def _apply(now: frozenset[Parked], first: bool) -> None:
    parking.write_rules(now)
    if first or not now:  # else they are there since the last time, unless somebody took them away
        parking.ensure_jumps()
