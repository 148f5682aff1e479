"""The other daemons' way to this host's engine: one framed pipe per connection, from mutual TLS to a Unix socket.

Theory of operation. Who may connect is decided by the TLS context (a certificate of the cluster's CA) and by `admit`
(a removed host still has its certificate). Each accepted connection gets an engine connection of its own, joined to it
by a splice; HTTP is not looked at here.

| what happens | what the peer sees |
|---|---|
| `admit` knows no such host | its connection closes without a byte |
| the engine's socket refuses or does not answer in 2 s | its connection closes without an end frame |
| either side ends its direction | the end frame, or end of file; the opposite direction goes on |
| the daemon stops | its connections close |
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import structlog

from drover.errors import Unavailable
from drover.gateway.accepting import TlsListener
from drover.gateway.pipes import FramedPipe, SpliceEnd, connect_unix
from drover.trust.tls import peer_name

CONNECT_DEADLINE_S = 2.0

log = structlog.get_logger()


class _Accepted(SpliceEnd):
    """The peer's side; connects the engine's side when TLS is up."""

    def __init__(self, server: TunnelServer) -> None:
        super().__init__()
        self._server = server
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = peer_name(transport)
        if not self._server.admit(peer):
            log.warning("tunnel: this host does not belong to the cluster (any more)", peer=peer)
            self.abort()
            return
        self._server.accepted.add(self)
        self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        path, engine_end = self._server.socket_path, SpliceEnd()
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                await connect_unix(engine_end, path)
        except OSError as error:  # a TimeoutError is one
            log.warning("tunnel: the engine cannot be reached", socket=path, error=str(error))
            self.abort()
        else:
            self.join(engine_end)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.accepted.discard(self)
        super().connection_lost(exc)


class TunnelServer:
    """Listens with `tls` (a server context that demands client certificates) for the engine at `socket_path`.

    `admit(name)` says whether the host named in the peer's certificate may use the engine.
    """

    def __init__(self, socket_path: str, tls: ssl.SSLContext, admit: Callable[[str], bool] = lambda name: True) -> None:
        self.socket_path = socket_path
        self.admit = admit
        self.accepted: set[_Accepted] = set()
        self._tls = tls
        self._listener: TlsListener | None = None

    async def start(self, address: str, port: int) -> int:
        """Listen; returns the port (useful with port 0). Raises `Unavailable` if the address cannot be bound."""
        listener = TlsListener(address, port, self._tls, lambda: FramedPipe(_Accepted(self)))
        try:
            listener.start()
        except OSError as error:
            raise _cannot_listen(address, port, error) from error
        self._listener = listener
        return listener.port

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        if self._listener is not None:
            self._listener.close()
        for end in list(self.accepted):
            end.abort()


def _cannot_listen(address: str, port: int, error: OSError) -> Unavailable:
    return Unavailable(
        f"This host cannot listen for the other hosts' tunnels at {address} port {port}: {error.strerror or error}.",
        hint=f"See who has the port with `ss -ltnp 'sport = :{port}'`, and this host's addresses with `ip addr`.",
    )
