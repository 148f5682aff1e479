"""The connections to one host's engine: those in use, and those that lie idle for the next exchange.

Theory of operation. `take` gives the idle connection used last (the likeliest to live); `give` puts one back if
another exchange may follow. An idle connection that its engine closes leaves by itself; one that lies idle for longer
than `idle_s` is closed by a timer that runs only while something lies idle.
"""

from __future__ import annotations

import asyncio

from drover.errors import DroverError
from drover.gateway.engine_side import EngineConnection

IDLE_LIMIT = 32
"""More idle connections than this to one host are closed rather than kept."""

OPENING_LIMIT = 8


class Pool:
    """All connections to one host's engine."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._open: set[EngineConnection] = set()
        self._idle: dict[EngineConnection, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._failure: DroverError | None = None
        self._failed_at_s = 0.0
        self.opening = asyncio.Semaphore(OPENING_LIMIT)
        """Held while a connection is being opened: a storm of handshakes would miss every deadline."""

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

    def take(self, address: object) -> EngineConnection | None:
        """An idle connection to `address`; those to a former address of the host are closed."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.reusable and connection.address == address:
                return connection
            connection.close()
        return None

    def give(self, connection: EngineConnection) -> None:
        """The exchange has ended: keep the connection if it can be used again, else close it."""
        if not connection.reusable or len(self._idle) >= IDLE_LIMIT:
            connection.close()
            return
        connection.pause_reading(False)
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
