"""`EngineApi`: one Docker engine's HTTP API over its Unix socket, with deadlines and Drover's errors.

Theory of operation. Every call opens a connection of its own: on a Unix socket that costs some 50 µs and there is no
pooled connection that an engine's restart has silently closed. Paths carry no version, so the engine speaks its newest.

    what happens                                            what the caller gets
    the socket is missing, refuses or breaks                Unavailable
    no answer within the call's deadline                    Unavailable
    status 400 and above                                    EngineError with the engine's own message;
                                                            from `ask` the plain status and text, it is an answer there
    the piece source of an upload raises                    that very error; the engine sees a cut connection
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from drover.errors import DroverError, EngineError, Unavailable

READ_DEADLINE_S = 10.0
CONNECT_DEADLINE_S = 5.0
PIECE_BYTES = 256 * 1024
LINE_BYTES = 1024 * 1024
JSON_TYPE = {"Content-Type": "application/json"}


class EngineApi:
    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        """The session, made at first use: an engine object can be built before any event loop runs."""
        if self._session is None:
            connector = aiohttp.UnixConnector(self.socket_path, force_close=True, limit=0)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(
        self, method: str, path: str, query: str = "", body: str = "", deadline_s: float | None = READ_DEADLINE_S
    ) -> tuple[int, str]:
        """One call; the engine's status and body text, whatever the status. `deadline_s` None waits for ever."""
        headers = JSON_TYPE if body else {}
        async with self._response(method, path, query, body or None, headers, deadline_s) as response:
            return response.status, await response.text("utf-8", "replace")

    async def read(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """The decoded JSON answer to a GET. Raises `EngineError` for a status of 400 and above."""
        status, text = await self.ask("GET", path, urlencode(query or {}))
        return json.loads(_accepted(status, text))

    async def find(self, path: str) -> Any | None:
        """The decoded JSON answer to a GET; None for 404."""
        try:
            return await self.read(path)
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    async def change(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        deadline_s: float = 60.0,
    ) -> str:
        """A POST or DELETE; the answer's text. Raises `EngineError` for a status of 400 and above."""
        text = json.dumps(body) if body is not None else ""
        return _accepted(*await self.ask(method, path, urlencode(query or {}), text, deadline_s))

    async def pieces(self, path: str, query: str) -> AsyncGenerator[bytes, None]:
        """The body of a GET as it comes; the engine is held back while the caller does not take the next piece."""
        async with self._response("GET", path, query) as response:
            if response.status >= 400:
                _accepted(response.status, await response.text())
            async for piece in response.content.iter_chunked(PIECE_BYTES):
                yield piece

    async def lines(self, path: str, query: str) -> AsyncGenerator[bytes, None]:
        """The lines of a GET's body, as they come."""
        async with self._response("GET", path, query) as response:
            if response.status >= 400:
                _accepted(response.status, await response.text())
            async for line in response.content:
                yield line

    async def upload(self, path: str, query: str, source: AsyncIterator[bytes]) -> str:
        """POST a tar archive of unknown length; the answer's text. The engine holds `source` back."""
        feed = _Feed(source)
        headers = {"Content-Type": "application/x-tar"}
        try:
            async with self._response("POST", path, query, feed.pieces(), headers) as response:
                return _accepted(response.status, await response.text("utf-8", "replace"))
        except Unavailable:
            if feed.error is not None:
                raise feed.error
            raise

    @asynccontextmanager
    async def _response(
        self,
        method: str,
        path: str,
        query: str = "",
        data: str | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response whose body has not been read. Whatever breaks the connection becomes `Unavailable`."""
        url = URL(f"http://engine{path}" + (f"?{query}" if query else ""), encoded=True)
        timeout = aiohttp.ClientTimeout(total=deadline_s, sock_connect=CONNECT_DEADLINE_S)
        asked = self._open().request(
            method, url, data=data, headers=headers, timeout=timeout, read_bufsize=LINE_BYTES, allow_redirects=False
        )
        try:
            async with asked as response:
                yield response
        except TimeoutError as error:
            raise self._away(f"did not answer {method} {path} in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._away(f"cannot be reached: {error}") from error

    def _away(self, what: str) -> Unavailable:
        return Unavailable(
            f"the Docker engine at {self.socket_path} {what}",
            hint="check that dockerd runs on this host: systemctl status docker",
        )


class _Feed:
    """Passes an upload's pieces on and keeps the error that ended them: the HTTP client would hide it."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self.error: DroverError | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._source:
                yield piece
        except DroverError as error:
            self.error = error
            raise


def _accepted(status: int, text: str) -> str:
    """The text of an answer below 400. Raises `EngineError` with the engine's message otherwise."""
    if status >= 400:
        raise EngineError(status, message_of(text))
    return text


def message_of(text: str) -> str:
    """The sentence in an engine's `{"message": …}`; the text itself where it is something else."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()
