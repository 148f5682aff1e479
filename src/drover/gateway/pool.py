"""The connections to one host's engine: those in use, and those that lie idle for the next exchange.

Theory of operation. `turn` gives the idle connection used last (the likeliest to live), or the right to open one, of
which there are few at a time; `give` puts a connection back if another exchange may follow. Who finds neither waits,
first come, first served:

| meanwhile | who waits longest gets |
|---|---|
| `give` | that connection, unless it must be a fresh one |
| `opened` | the right to open one; those who need a fresh one before the others |

An idle connection that its engine closes leaves by itself; one that lies idle for longer than `idle_s` is closed by a
timer that runs only while something lies idle.
"""

from __future__ import annotations

import asyncio
from collections import deque

from drover.errors import DroverError
from drover.gateway.engine_side import EngineConnection

IDLE_LIMIT = 32
"""More idle connections than this to one host are closed rather than kept."""

OPENING_LIMIT = 8
"""So many are opened at a time: a storm of handshakes would miss every deadline."""

_Turn = asyncio.Future[EngineConnection | None]


class Pool:
    """All connections to one host's engine."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._open: set[EngineConnection] = set()
        self._idle: dict[EngineConnection, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._failure: DroverError | None = None
        self._failed_at_s = 0.0
        self._opening = 0
        self._waiting: deque[_Turn] = deque()
        self._waiting_for_fresh: deque[_Turn] = deque()

    def failed(self, error: DroverError) -> None:
        """A connection could not be opened; this holds for those who wait to open one, too."""
        self._failure, self._failed_at_s = error, asyncio.get_running_loop().time()

    def refuse_if_failed_since(self, since_s: float) -> None:
        """Raise the last failure if it happened after `since_s` (loop time), so that a queue does not wait in turn."""
        if self._failure is not None and self._failed_at_s > since_s:
            raise self._failure

    @property
    def open_count(self) -> int:
        return len(self._open)

    def add(self, connection: EngineConnection) -> None:
        self._open.add(connection)

    def forget(self, connection: EngineConnection) -> None:
        """The connection is gone."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    async def turn(self, address: object, fresh: bool) -> EngineConnection | None:
        """A connection to `address` that is free, or None: the caller may open one, and calls `opened` afterwards."""
        connection = None if fresh else self._take(address)
        if connection is not None:
            return connection
        if self._opening < OPENING_LIMIT:
            self._opening += 1
            return None
        turn: _Turn = asyncio.get_running_loop().create_future()
        (self._waiting_for_fresh if fresh else self._waiting).append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            self._pass_on(turn)
            raise

    def opened(self) -> None:
        """What `turn` allowed has been done, or has failed."""
        if not (_wake(self._waiting_for_fresh, None) or _wake(self._waiting, None)):
            self._opening -= 1

    def _pass_on(self, turn: _Turn) -> None:
        """Who waited was cancelled; what it had been given just then is the next one's."""
        if turn.cancelled() or not turn.done():
            return
        connection = turn.result()
        if connection is None:
            self.opened()
        else:
            self.give(connection)

    def _take(self, address: object) -> EngineConnection | None:
        """An idle connection to `address`; those to a former address of the host are closed."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.reusable and connection.address == address:
                return connection
            connection.close()
        return None

    def give(self, connection: EngineConnection) -> None:
        """The exchange has ended: hand the connection on or keep it if it can be used again, else close it."""
        if not connection.reusable:
            connection.close()
            return
        connection.pause_reading(False)
        if _wake(self._waiting, connection):
            return
        if len(self._idle) >= IDLE_LIMIT:
            connection.close()
            return
        self._idle[connection] = asyncio.get_running_loop().time()
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None and self._idle:
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        oldest = asyncio.get_running_loop().time() - self._idle_s
        for connection in [c for c, since in self._idle.items() if since <= oldest]:
            del self._idle[connection]
            connection.close()
        self._schedule()

    def abort(self, error: DroverError) -> None:
        """Cut every connection; whoever waits on one is told `error`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._idle.clear()
        for connection in list(self._open):
            connection.abort(error)


def _wake(waiting: deque[_Turn], connection: EngineConnection | None) -> bool:
    """Give the first who still waits its turn; false if nobody does."""
    while waiting:
        turn = waiting.popleft()
        if not turn.done():
            turn.set_result(connection)
            return True
    return False
