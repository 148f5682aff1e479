"""The gateway's way to every engine: the local one by its Unix socket, others through their daemons' tunnels.

Theory of operation. `locate(host)` says where a host's tunnel listens, or None for this host. `down(host)` gives a
sentence when the host is known to be dead; then nothing is tried. Connections are pooled per host and address.

| situation | what the caller gets |
|---|---|
| `down(host)` has a sentence | `Unavailable` with that sentence, at once |
| refused, or no connection in 2 s | `Unavailable` naming the host |
| many want a connection at once | 8 at a time are opened; when one fails, those who waited meanwhile fail too |
| one is given back while others wait | who waits longest has it |
| `host_lost` while waiting for an answer | `Unavailable` with the reason, at once |
| a pooled connection closed without an answer, the request is idempotent and bodyless | again, on a fresh one |
| the deadline of a whole `request` | `Unavailable` |
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable

from drover.errors import DroverError, Unavailable
from drover.gateway.call import EngineResponse, Headers
from drover.gateway.engine_side import EngineConnection
from drover.gateway.pipes import FramedPipe, connect_unix
from drover.gateway.pool import Pool
from drover.gateway.questions import Answer, Stream, question
from drover.gateway.secure import connect_tls

CONNECT_DEADLINE_S = 8.0
"""A host that is alive may be busy; one that is dead is known to be soon, and `host_lost` ends the waiting then."""
IDLE_S = 60.0
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS"})

Address = tuple[str, int]


class EngineLinks:
    """`Links` of `gateway.call`, and the connections that relays use.

    `socket_path`: the local engine's. `tls`: the client context for tunnels (None if there is only this host); the
    name it verifies, if it verifies names, is `server_hostname(host)`, by default the host's name.
    """

    def __init__(
        self,
        socket_path: str,
        *,
        locate: Callable[[str], Address | None],
        down: Callable[[str], str | None] = lambda host: None,
        tls: ssl.SSLContext | None = None,
        server_hostname: Callable[[str], str] = str,
        idle_s: float = IDLE_S,
    ) -> None:
        self._socket_path = socket_path
        self._locate = locate
        self._down = down
        self._tls = tls
        self._server_hostname = server_hostname
        self._idle_s = idle_s
        self._pools: dict[str, Pool] = {}
        self._opening: dict[str, set[asyncio.Timeout]] = {}

    async def request(
        self,
        host: str,
        method: str,
        target: str,
        *,
        body: bytes = b"",
        headers: Headers = (),
        deadline_s: float = 30.0,
    ) -> EngineResponse:
        """One whole exchange. Raises `Unavailable`; an engine's error status is an answer."""
        try:
            async with asyncio.timeout(deadline_s):
                return await self._request(host, method, target, body, headers)
        except TimeoutError as error:
            raise Unavailable(f"The engine of host {host} did not answer within {deadline_s:g} s.") from error

    async def _request(self, host: str, method: str, target: str, body: bytes, headers: Headers) -> EngineResponse:
        head = question(method, target, body, headers)
        connection = await self.connect(host)
        answer = Answer()
        try:
            return await answer.to(connection, head, body)
        except DroverError:
            if not self.stale(connection, method, bool(body)):
                raise
        finally:
            self.release(connection)
        connection = await self.connect(host, fresh=True)
        try:
            return await Answer().to(connection, head, body)
        finally:
            self.release(connection)

    async def stream(self, host: str, method: str, target: str) -> AsyncIterator[bytes]:
        """The payload's pieces as they come. Raises `EngineError` on an error status, `Unavailable` if cut."""
        connection = await self.connect(host, fresh=True)
        try:
            async for piece in Stream(connection).pieces(question(method, target, b"", ())):
                yield piece
        finally:
            self.release(connection)

    async def connect(self, host: str, *, fresh: bool = False) -> EngineConnection:
        """A connection to the engine of `host`, pooled if possible unless `fresh`; give it back by `release`."""
        self._refuse_if_down(host)
        pool, since_s = self._pool(host), asyncio.get_running_loop().time()
        while (free := await pool.turn(self._locate(host), fresh)) is not None:
            if free.reusable and free.address == self._locate(host):
                return free
            free.close()  # it ended, or the host got another address, while it was handed over
        try:
            self._refuse_if_down(host)
            pool.refuse_if_failed_since(since_s)
            return await self._connect(host, pool)
        finally:
            pool.opened()

    async def _connect(self, host: str, pool: Pool) -> EngineConnection:
        connection = EngineConnection(host, pool.forget)
        connection.address = address = self._locate(host)
        try:
            await self._open(connection, host, address)
        except Unavailable as error:
            pool.failed(error)
            raise
        pool.add(connection)
        self._refuse_if_lost(connection, host)
        return connection

    def _refuse_if_down(self, host: str) -> None:
        sentence = self._down(host)
        if sentence:
            raise Unavailable(sentence)

    def _refuse_if_lost(self, connection: EngineConnection, host: str) -> None:
        try:
            self._refuse_if_down(host)
        except Unavailable:
            connection.abort()
            raise

    async def _open(self, connection: EngineConnection, host: str, address: Address | None) -> None:
        opening = self._opening.setdefault(host, set())
        deadline = asyncio.timeout(CONNECT_DEADLINE_S)
        opening.add(deadline)
        try:
            async with deadline:
                if address is None:
                    await connect_unix(connection, self._socket_path)
                    return
                if self._tls is None:
                    raise _unreachable(host, "this daemon has no certificate for it")
                await connect_tls(FramedPipe(connection), address, self._tls, self._server_hostname(host))
        except TimeoutError as error:
            self._refuse_if_down(host)
            raise _unreachable(host, f"no connection within {CONNECT_DEADLINE_S:g} s") from error
        except OSError as error:  # includes what TLS refuses
            raise _unreachable(host, error.strerror or str(error)) from error
        finally:
            opening.discard(deadline)

    def _pool(self, host: str) -> Pool:
        pool = self._pools.get(host)
        if pool is None:
            pool = self._pools[host] = Pool(self._idle_s)
        return pool

    @staticmethod
    def stale(connection: EngineConnection, method: str, has_body: bool) -> bool:
        """Whether a failed exchange may be repeated: it was on a pooled connection that never answered."""
        reused = connection.uses > 1 and not connection.answered
        return reused and method in IDEMPOTENT and not has_body

    def release(self, connection: EngineConnection) -> None:
        """The exchange is over, or given up: pool the connection if it is clean, else close it."""
        if connection.reusable:
            self._pool(connection.host).give(connection)
        else:
            connection.abort()

    def open_count(self, host: str) -> int:
        """How many connections to the engine of `host` are open."""
        return self._pool(host).open_count

    def host_lost(self, host: str, reason: str) -> None:
        """The host is dead: cut every connection to it; whoever waits gets `Unavailable(reason)` at once."""
        self._pool(host).abort(Unavailable(reason))
        now = asyncio.get_running_loop().time()
        for deadline in self._opening.get(host, ()):
            deadline.reschedule(now)

    async def close(self) -> None:
        """Cut every connection."""
        for host in list(self._pools):
            self.host_lost(host, "This daemon is stopping.")


def _unreachable(host: str, why: str) -> Unavailable:
    return Unavailable(
        f"The engine of host {host} cannot be reached: {why}.",
        hint=f"Check the host with `drover host inspect {host}`.",
    )
