"""Calls to etcd's JSON gateway over several endpoints, each with a deadline.

Theory of operation. A call goes to the preferred endpoint; what went wrong there decides what comes next:

    what went wrong                                    the request        repeatable      other
    no connection, no leader, a learner, overloaded    was not taken      next endpoint   next endpoint
    reset, silence, time-out, leader changed, 5xx      may have been      next endpoint   AnswerLost
    any other refusal (4xx)                            was refused        Refused         Refused

When all endpoints have failed it pauses and begins again, until the deadline ends it with `Unavailable`. The
endpoint that answered last stays the preferred one. Every request says `hasleader`, so that a member that is cut
off from the majority refuses at once, and open streams on it are ended by the member itself.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import aiohttp
import msgspec

from drover.errors import DroverError, Invalid, Unavailable
from drover.store.port import AnswerLost
from drover.wire.nesting import MALFORMED

Json = dict[str, Any]

CONNECT_S = 1.0
"""A host in the same network answers a connection well within it; a dead one must not hold the others up."""
ATTEMPT_S = 1.5
"""How long one endpoint may take over a call that can be repeated elsewhere."""
PAUSE_S = 0.1
DEAD_PEER_S = 2
"""Unacknowledged bytes or unanswered keepalives for this long end a connection: a peer that lost its power."""
CONNECTIONS_PER_ENDPOINT = 32

NOT_TAKEN = ("no leader", "not supported for learner", "too many requests", "not capable")
MAY_BE_TAKEN = ("timed out", "leader changed", "server stopped", "connection", "transport")


class NotTaken(DroverError):
    """An endpoint certainly did not take the request."""


class MaybeTaken(DroverError):
    """An endpoint may have taken the request; its answer did not come."""


class Refused(DroverError):
    """etcd refused the request itself. `code` is gRPC's status code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"etcd refused: {message}")
        self.code = code


class Answer(msgspec.Struct, frozen=True):
    """The decoded body, and the loop's time at which the request that got it was sent."""

    body: Json
    sent_s: float


class EtcdHttp:
    """The endpoints of one cluster. `endpoints` are URLs like `https://10.0.0.1:4742`, preferred first."""

    def __init__(self, endpoints: Sequence[str], tls: ssl.SSLContext | None, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._endpoints: list[str] = []
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self.endpoints = endpoints

    @property
    def endpoints(self) -> Sequence[str]:
        return tuple(self._endpoints)

    @endpoints.setter
    def endpoints(self, endpoints: Sequence[str]) -> None:
        """Replace them; the preferred one stays preferred if it is still there."""
        if not endpoints:
            raise Invalid("the store needs at least one endpoint", hint="give the URL of a host that runs a member")
        preferred = [url for url in self._endpoints[:1] if url in endpoints]
        self._endpoints = preferred + [url for url in endpoints if url not in preferred]

    async def call(
        self,
        path: str,
        body: Json,
        *,
        repeatable: bool = True,
        deadline_s: float | None = None,
        attempt_s: float = ATTEMPT_S,
    ) -> Answer:
        """The answer of the first endpoint that gives one; see the table above for what it raises.

        A repeatable call leaves an endpoint that is silent for `attempt_s`; another one waits to the end.
        """
        loop = asyncio.get_running_loop()
        limit_s = self.deadline_s if deadline_s is None else deadline_s
        end_s = loop.time() + limit_s
        trouble: DroverError = NotTaken("no endpoint was asked")
        while (left_s := end_s - loop.time()) > 0:
            try:
                return await self._attempt(path, body, repeatable, min(left_s, attempt_s) if repeatable else left_s)
            except (NotTaken, MaybeTaken) as error:
                trouble = error
                await asyncio.sleep(PAUSE_S / len(self._endpoints))
        raise Unavailable(
            f"the store did not answer within {limit_s:g} s ({trouble.message})",
            hint="check that most of the hosts that run the store are up: drover host ls",
        )

    async def call_at(self, endpoint: str, path: str, body: Json) -> Json:
        """The answer of this very endpoint; raises `Unavailable` if it gives none."""
        try:
            async with asyncio.timeout(self.deadline_s):
                return (await self._post(endpoint, path, body)).body
        except (TimeoutError, NotTaken, MaybeTaken) as error:
            raise Unavailable(f"the store's member at {endpoint} did not answer: {error or 'silence'}") from None

    async def stream(self, path: str, body: Json, silence_s: float) -> AsyncGenerator[Json, None]:
        """The results of a streamed call to the preferred endpoint, for as long as it lasts.

        Ends only by `NotTaken` or `MaybeTaken` (the next endpoint is preferred then; also when nothing came for
        `silence_s`), or `Refused`.
        """
        endpoint = self._endpoints[0]
        try:
            async for line in self._lines(endpoint, path, body, silence_s):
                yield _result(msgspec.json.decode(line))
            raise MaybeTaken(f"{endpoint} ended the stream")
        except (NotTaken, MaybeTaken):
            self._demote(endpoint)
            raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._demote(endpoint)
            raise MaybeTaken(f"{endpoint}: {_words(error)}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _attempt(self, path: str, body: Json, repeatable: bool, limit_s: float) -> Answer:
        """One try at the preferred endpoint, which is demoted if it fails."""
        endpoint = self._endpoints[0]
        try:
            async with asyncio.timeout(limit_s):
                return await self._post(endpoint, path, body)
        except NotTaken:
            self._demote(endpoint)
            raise
        except (MaybeTaken, TimeoutError) as error:
            self._demote(endpoint)
            why = error.message if isinstance(error, MaybeTaken) else f"{endpoint} was silent for {limit_s:.1f} s"
            raise MaybeTaken(why) if repeatable else _lost(why) from error

    async def _post(self, endpoint: str, path: str, body: Json) -> Answer:
        sent_s = asyncio.get_running_loop().time()
        try:
            async with self._open().post(endpoint + path, data=msgspec.json.encode(body)) as response:
                content = await response.read()
        except aiohttp.ClientConnectorError as error:
            raise NotTaken(f"{endpoint}: {_words(error)}") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise NotTaken(f"{endpoint} did not take a connection within {CONNECT_S:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise MaybeTaken(f"{endpoint}: {_words(error)}") from error
        return Answer(_result(_decode(endpoint, response.status, content)), sent_s)

    async def _lines(self, endpoint: str, path: str, body: Json, silence_s: float) -> AsyncGenerator[bytes, None]:
        """The lines of a streamed response; of any length, unlike those of the library's own reader."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s)
        async with self._open().post(endpoint + path, data=msgspec.json.encode(body), timeout=timeout) as response:
            rest = bytearray()
            async for chunk in response.content.iter_any():
                *lines, tail = (rest + chunk if rest else chunk).split(b"\n")
                for line in lines:
                    yield bytes(line)
                rest = bytearray(tail)
            if rest:
                yield bytes(rest)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=self._tls if self._tls is not None else True,
                    limit=0,
                    limit_per_host=CONNECTIONS_PER_ENDPOINT,
                    socket_factory=_socket,
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                headers={"Grpc-Metadata-hasleader": "true", "Content-Type": "application/json"},
                # An environment's proxy settings are not meant for the hosts of the cluster.
                trust_env=False,
            )
        return self._session

    def _demote(self, endpoint: str) -> None:
        """Ask others first, unless somebody else found that out already."""
        if self._endpoints[0] == endpoint:
            self._endpoints.append(self._endpoints.pop(0))


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that notices within `DEAD_PEER_S` when the other host has fallen silent."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, DEAD_PEER_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_S * 1000)
    return made


def _decode(endpoint: str, status: int, content: bytes) -> Json:
    try:
        body = msgspec.json.decode(content)
    except MALFORMED:
        raise MaybeTaken(f"{endpoint} answered with status {status} and no JSON") from None
    if not isinstance(body, dict):
        raise MaybeTaken(f"{endpoint} answered with status {status} and JSON that is not an object")
    return body


def _result(body: Json) -> Json:
    """The result of a message, plain or of a stream; raises what its error says."""
    error = body.get("error")
    if error is None:
        found: Json = body.get("result", body)
        return found
    if isinstance(error, dict):
        raise _classified(int(error.get("grpc_code", 2)), str(error.get("message", "")))
    raise _classified(int(body.get("code", 2)), str(body.get("message", error)))


CANCELLED, UNKNOWN, LATE, UNAVAILABLE = 1, 2, 4, 14
"""gRPC status codes."""


def _classified(code: int, message: str) -> DroverError:
    if any(words in message for words in NOT_TAKEN):
        return NotTaken(message)
    unclear = code == UNKNOWN and any(words in message for words in MAY_BE_TAKEN)
    if unclear or code in (CANCELLED, LATE, UNAVAILABLE):
        return MaybeTaken(message)
    return Refused(code, message)


def _lost(why: str) -> AnswerLost:
    return AnswerLost(
        f"the store's answer to a write was lost ({why}); it may or may not have been made",
        hint="look at the records before doing it again",
    )


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
