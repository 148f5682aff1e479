"""Exchanges the gateway makes for itself: a whole answer, or a stream of pieces with back-pressure."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator

from drover.errors import DroverError, EngineError, Unavailable
from drover.gateway.call import EngineResponse, Headers
from drover.gateway.engine_side import EngineConnection
from drover.wire.bodies import Data, Sink
from drover.wire.heads import RequestHead, ResponseHead, index_of, render

ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
ERROR_LIMIT_BYTES = 64 * 1024
QUEUE_BYTES = 1024 * 1024


def question(method: str, target: str, body: bytes, headers: Headers) -> RequestHead:
    """The head of a request of the gateway's own; a body is JSON unless the headers say otherwise."""
    named = {name.lower() for name, _ in headers}
    own: list[tuple[bytes, bytes]] = [(b"Host", b"docker")]
    if body or method in ("POST", "PUT"):
        own.append((b"Content-Length", b"%d" % len(body)))
    if body and b"content-type" not in named:
        own.append((b"Content-Type", b"application/json"))
    all_headers = (*own, *headers)
    raw = render(f"{method} {target} HTTP/1.1", all_headers)
    return RequestHead(
        method=method,
        target=target,
        version="1.1",
        headers=all_headers,
        keep_alive=True,
        length_bytes=len(body) or None,
        chunked=False,
        raw=raw,
        index=index_of(all_headers),
    )


def error_message(body: bytes) -> str:
    """The `message` of Docker's error JSON, or the body's text."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace").strip()


class Answer:
    """Receives one whole response."""

    def __init__(self) -> None:
        self._head: ResponseHead | None = None
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def to(self, connection: EngineConnection, head: RequestHead, body: bytes) -> EngineResponse:
        """Ask and wait for the end of the answer. Raises `Unavailable` if the connection fails."""
        connection.begin(self, head, head.raw + body)
        await self._done
        if self._head is None:
            raise Unavailable(f"The engine of host {connection.host} gave no answer.")
        return EngineResponse(status=self._head.status, headers=self._head.headers, body=b"".join(self._pieces))

    def response_head(self, head: ResponseHead, tunnel: bool) -> Sink | None:
        if head.interim:
            return None
        self._head = head
        if tunnel:
            self.response_failed(Unavailable("The engine opened a tunnel where an answer was expected."))
        return self._collect

    def _collect(self, piece: bytes) -> None:
        self._size_bytes += len(piece)
        if self._size_bytes > ANSWER_LIMIT_BYTES:
            self.response_failed(Unavailable(f"The engine's answer is larger than {ANSWER_LIMIT_BYTES} bytes."))
            return
        self._pieces.append(piece)

    def response_data(self, data: Data) -> None:
        # Everything wanted comes through `_collect`; bytes of an unexpected tunnel are dropped.
        return

    def response_flush(self) -> None:
        return  # nothing is held back

    def response_end(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def response_failed(self, error: DroverError) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def engine_full(self, full: bool) -> None:
        # The whole request is in memory already; there is nobody to slow down.
        return


class Stream:
    """Receives a response's payload for an iterator; the engine is not read while 1 MiB waits."""

    def __init__(self, connection: EngineConnection) -> None:
        self._connection = connection
        self._status = 0
        self._queue: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._ended = False
        self._error: DroverError | None = None
        self._news = asyncio.Event()

    async def pieces(self, head: RequestHead) -> AsyncIterator[bytes]:
        """Ask, then yield the payload. Raises `EngineError` on an error status, `Unavailable` if cut."""
        self._connection.begin(self, head, head.raw)
        refused = b""
        async for piece in self._arrivals():
            if self._status < 400:
                yield piece
            elif len(refused) < ERROR_LIMIT_BYTES:
                refused += piece
        if self._status >= 400:
            raise EngineError(self._status, error_message(refused))

    async def _arrivals(self) -> AsyncIterator[bytes]:
        while True:
            while self._queue:
                yield self._pop()
            if self._error is not None:
                raise self._error
            if self._ended:
                return
            self._news.clear()
            await self._news.wait()

    def _pop(self) -> bytes:
        piece = self._queue.popleft()
        self._waiting_bytes -= len(piece)
        self._connection.pause_reading(self._waiting_bytes > QUEUE_BYTES)
        return piece

    def response_head(self, head: ResponseHead, tunnel: bool) -> Sink | None:
        if not head.interim:
            self._status = head.status
        return self._queued

    def response_data(self, data: Data) -> None:
        self._queued(bytes(data))

    def _queued(self, data: bytes) -> None:
        self._queue.append(data)
        self._waiting_bytes += len(data)
        self._connection.pause_reading(self._waiting_bytes > QUEUE_BYTES)
        self._news.set()

    def response_flush(self) -> None:
        return  # nothing is held back

    def response_end(self) -> None:
        self._ended = True
        self._news.set()

    def response_failed(self, error: DroverError) -> None:
        self._error = error
        self._news.set()

    def engine_full(self, full: bool) -> None:
        # A question's head is all that is written.
        return
