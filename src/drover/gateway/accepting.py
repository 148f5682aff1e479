"""Accepting clients of a Unix socket as they come, all that wait at once.

Theory of operation. The event loop of uvloop accepts one connection in each of its turns, and a turn serves everybody
who is connected already: with hundreds of busy clients the newest waits hundreds of turns, seconds each. So the
listening socket is watched here, and every connection that waits is taken in one turn.

| accept says | then |
|---|---|
| a connection | a protocol is made for it |
| none waits, or the client has gone again | until the socket is readable again |
| no file descriptors or memory | a pause, so that the loop does not spin |
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

BACKLOG = 1024
PAUSE_S = 1.0


class UnixListener:
    """Listens at `path` from `start` to `close`; `make` makes a connection's protocol."""

    def __init__(self, path: Path, make: Callable[[], asyncio.Protocol]) -> None:
        self._path = path
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._taking: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Raises `OSError` if the path cannot be bound."""
        self._socket.setblocking(False)
        try:
            self._socket.bind(str(self._path))
            self._socket.listen(BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self._watch()

    def _watch(self) -> None:
        self._loop.add_reader(self._socket.fileno(), self._accept_all)

    def _accept_all(self) -> None:
        for _ in range(BACKLOG):
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._rest()
                return
            self._take(accepted)

    def _take(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        task: asyncio.Task[object] = self._loop.create_task(self._loop.connect_accepted_socket(self._make, accepted))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)

    def _rest(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._pause = self._loop.call_later(PAUSE_S, self._watch)

    def close(self) -> None:
        """Stop listening; connections that were taken stay."""
        if self._socket.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
