"""Accepting clients as they come, all that wait at once.

Theory of operation. The event loop of uvloop accepts one connection in each of its turns, and a turn serves everybody
who is connected already: with hundreds of busy clients the newest waits hundreds of turns, seconds each. So the
listening socket is watched here, and every connection that waits is taken in one turn, each by a task.

| accept says | then |
|---|---|
| a connection | a protocol is made for it; over TLS after the handshake, which has a deadline |
| none waits, or the client has gone again | until the socket is readable again |
| no file descriptors or memory | a pause, so that the loop does not spin |
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from drover.gateway.pipes import give_room
from drover.gateway.receiving import Receiving
from drover.gateway.secure import accept_tls

BACKLOG = 1024
PAUSE_S = 1.0
HANDSHAKE_DEADLINE_S = 5.0


class Listener:
    """Accepts at `listening` from `start` to `close`; subclasses say how a connection is taken."""

    def __init__(self, listening: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = listening
        self._taking: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def _bind(self) -> None:
        """Raises `OSError`."""

    def _taken(self, accepted: socket.socket) -> Coroutine[Any, Any, object]:
        """Hands the connection over; closes it if it fails."""
        raise TypeError("a listener says how it takes a connection")

    def start(self) -> None:
        """Raises `OSError` if the address cannot be bound."""
        self._socket.setblocking(False)
        try:
            self._bind()
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
        task = self._loop.create_task(self._taken(accepted))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)

    def _rest(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._pause = self._loop.call_later(PAUSE_S, self._watch)

    def close(self) -> None:
        """Stop listening; connections that were taken stay, those that shake hands do not."""
        if self._socket.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for task in self._taking:
            task.cancel()


class UnixListener(Listener):
    """Listens at `path`; `make` makes a connection's protocol."""

    def __init__(self, path: Path, make: Callable[[], asyncio.BaseProtocol]) -> None:
        super().__init__(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        self._path = path
        self._make = make

    def _bind(self) -> None:
        self._socket.bind(str(self._path))

    def _taken(self, accepted: socket.socket) -> Coroutine[Any, Any, object]:
        give_room(accepted)
        return self._loop.connect_accepted_socket(self._make, accepted)


class TlsListener(Listener):
    """Listens at `address` and `port` (0: any, see `port`) with the server context `tls`."""

    def __init__(self, address: str, port: int, tls: ssl.SSLContext, make: Callable[[], Receiving]) -> None:
        super().__init__(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM))
        self._address = address
        self._tls = tls
        self._make = make
        self.port = port

    def _bind(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((self._address, self.port))
        self.port = self._socket.getsockname()[1]

    async def _taken(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it did not shake hands, or not in time: nobody here waits for it
            await accept_tls(self._make(), accepted, self._tls, HANDSHAKE_DEADLINE_S)
