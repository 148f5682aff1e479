"""What passes between the gateway's wire side and its handlers: a `Call` in, a `Reply` or a `Relay` out.

Theory of operation. The wire side (`server`) parses a request's head and makes a `Call`; the route table picks a
handler; the handler answers with a value. A `Reply` is answered by the gateway itself. A `Relay` names the engine
to pass the call to and what to edit on the way; without edits, bodies and streams pass untouched, and hijacked
connections become tunnels with half-close. Handlers never see a socket; hooks wrap handlers and never own streams.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol
from urllib.parse import parse_qsl

import msgspec

from drover.errors import DroverError

Headers = tuple[tuple[bytes, bytes], ...]
BodyReader = Callable[[int], Awaitable[bytes]]
"""Reads the whole request body; raises `Invalid` if it is larger than the given number of bytes."""
Edit = Callable[[bytes], bytes]

Inspect = Callable[[AsyncIterator[bytes]], Awaitable[None]]
"""Reads the pieces of a request body. A piece goes to the engine when the next is asked for, all when it returns."""
Fetch = Callable[[str, str, Callable[[str], None]], Awaitable[None]]
"""Has this host's engine get an image (id, reference) from another host; raises `NotFound` if nobody has it."""

JSON_LIMIT_BYTES = 8 * 1024 * 1024


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One client request. `path` is decoded and normalised, without version prefix, e.g. `/containers/web/json`;
    `version` is `1.41` or empty; `target` is the request target as received."""

    method: str
    path: str
    version: str
    target: str
    query_string: str
    headers: Headers
    read_body: BodyReader
    params: Mapping[str, str] = {}
    """Named parts of the path, filled in by the route table."""
    peer: str = ""
    """Who calls, as the connection proves it: `uid:1000` on a Unix socket, `cn:NAME` by certificate, else empty."""

    def query(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return next((v for k, v in parse_qsl(self.query_string, keep_blank_values=True) if k == name), default)

    def flag(self, name: str) -> bool:
        """Docker's boolean form: present and not one of '', 0, no, false, none."""
        return self.query(name).strip().lower() not in ("", "0", "no", "false", "none")

    def header(self, name: str) -> str:
        wanted = name.lower().encode()
        return next((v.decode("latin-1") for k, v in self.headers if k.lower() == wanted), "")

    async def json_body(self, limit_bytes: int = JSON_LIMIT_BYTES) -> bytes:
        return await self.read_body(limit_bytes)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway's own answer. With `stream`, the body is sent chunked as it comes, and `body` is ignored."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Headers = ()
    stream: AsyncIterator[bytes] | None = None


class ResponseHook(Protocol):
    """What takes part in a relayed response; `gateway.hooks` has the one there is."""

    def holds(self, status: int, headers: Headers, tunnel: bool) -> bool:
        """Asked once, when the engine's head is complete: whether to collect the whole response for `answer`. A tunnel
        is never held."""
        ...

    async def answer(self, response: EngineResponse) -> Reply | None:
        """What the client gets instead of the held response, which has been edited already; None: just that."""
        ...

    async def failed(self, error: DroverError, answered: bool) -> Reply:
        """The engine failed. The client gets the reply, unless it has `answered` a part of a response already."""
        ...


class Relay(msgspec.Struct, frozen=True, kw_only=True):
    """Pass the call to the engine of `host`.

    `target`: another request target (path and query), None for the client's own. `body`: a replacement of the
    request body (None: stream the client's through). `edit`: applied to the whole response body if it is
    JSON and framed (buffered up to a limit, Content-Length made anew). `edit_lines`: applied to each
    newline-terminated piece of a streamed response, at once. `seen`: called with status and the whole body of a
    buffered response (implies buffering). `hook`: is asked about the response before the client gets any of it.
    `inspect`: reads along in the client's request body, and by not asking for more withholds the rest from the engine.
    `settled`: with `edit_lines`, awaited when the engine has answered with success. The head goes to the client at
    once, the lines (few) after it.
    """

    host: str
    target: str | None = None
    body: bytes | None = None
    edit: Edit | None = None
    edit_lines: Edit | None = None
    seen: Callable[[int, bytes], None] | None = None
    hook: ResponseHook | None = None
    inspect: Inspect | None = None
    settled: Callable[[], Awaitable[None]] | None = None


Outcome = Reply | Relay
Handler = Callable[[Call], Awaitable[Outcome]]


class EngineResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A whole response of an engine to a question the gateway asked for itself."""

    status: int
    headers: Headers = ()
    body: bytes = b""


class Links(Protocol):
    """The gateway's way to every engine (protocol; the real one is `gateway.links.EngineLinks`).

    Errors: `Unavailable` naming the host when it is known to be dead (at once), refuses, or does not answer the
    deadline. Cancelling a request closes its connection.
    """

    async def request(
        self,
        host: str,
        method: str,
        target: str,
        *,
        body: bytes = b"",
        headers: Headers = (),
        deadline_s: float = 30.0,
    ) -> EngineResponse: ...

    def stream(self, host: str, method: str, target: str) -> AsyncIterator[bytes]:
        """The response body's pieces as they come, for ever if the engine streams for ever. An error status
        raises `EngineError`."""
        ...
