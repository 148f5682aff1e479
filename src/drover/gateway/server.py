"""The gateway's listeners: Unix sockets and TCP (with TLS if a context is given), all answering with one handler.

Theory of operation. `GatewayServer` owns the listeners, the set of client connections and the counters; what happens
on a connection is `client_side`'s, what a call means is the handler's, how to reach engines is `links`'s.

| part | module |
|---|---|
| accepting clients; TLS | `accepting`, `secure` |
| the buffer that all connections read into | `receiving` |
| a client's connection, its requests one after another | `client_side` |
| a request's body: held, read, relayed, discarded | `intake` |
| an exchange with an engine | `relay`, `edits` |
| connections to engines | `links`, `pool`, `engine_side`, `questions` |
| the other daemons' way in | `tunnel`, `pipes` |
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from pathlib import Path

import msgspec

from drover.errors import Conflict
from drover.gateway.accepting import Listener, TlsListener, UnixListener
from drover.gateway.call import Handler, Headers
from drover.gateway.client_side import ClientConnection
from drover.gateway.links import EngineLinks

HEAD_DEADLINE_S = 30.0
"""An incomplete head is waited for so long; a connection without any byte of a head may idle for ever."""


class Counters(msgspec.Struct):
    """Access counters since the start. `errors`: answers of our own with 5xx, refused messages, cut answers."""

    requests: int = 0
    errors: int = 0
    open_connections: int = 0


class GatewayServer:
    """Serves `handler` to Docker clients. `default_headers` go with every answer that is not an engine's."""

    def __init__(
        self,
        handler: Handler,
        links: EngineLinks,
        *,
        default_headers: Headers = (),
        head_deadline_s: float = HEAD_DEADLINE_S,
    ) -> None:
        self.handler = handler
        self.links = links
        self.default_headers = default_headers
        self.head_deadline_s = head_deadline_s
        self.counters = Counters()
        self._servers: list[asyncio.Server | Listener] = []
        self._connections: set[ClientConnection] = set()
        self._unix_paths: list[Path] = []

    async def listen_unix(self, path: Path, *, mode: int = 0o660, gid: int = -1) -> None:
        """Serve a Unix socket, with access for its group. Raises `Conflict` if somebody else answers there."""
        _clear_stale(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        server = UnixListener(path, self._client)
        server.start()
        os.chmod(path, mode)
        if gid >= 0:
            os.chown(path, -1, gid)
        self._servers.append(server)
        self._unix_paths.append(path)

    async def listen_tcp(self, address: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Serve TCP; returns the port (useful with port 0). Raises `OSError` if the address cannot be bound."""
        if tls is not None:
            listener = TlsListener(address, port, tls, self._client)
            listener.start()
            self._servers.append(listener)
            return listener.port
        server = await asyncio.get_running_loop().create_server(self._client, address, port, backlog=1024)
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def _client(self) -> ClientConnection:
        return ClientConnection(self)

    def opened(self, connection: ClientConnection) -> None:
        self._connections.add(connection)
        self.counters.open_connections += 1

    def closed(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        self.counters.open_connections -= 1

    async def close(self) -> None:
        """Stop listening and cut every client; the links stay the caller's."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.abort()
        for path in self._unix_paths:
            path.unlink(missing_ok=True)
        await asyncio.sleep(0)  # lets the cut connections be told


def _clear_stale(path: Path) -> None:
    """Remove a socket that nobody answers on any more."""
    if not path.is_socket():
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise Conflict(f"Another process already serves {path}.", hint="Stop it, or choose another socket.")
