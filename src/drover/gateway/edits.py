"""What a relay does to a response on its way: nothing, edit its lines as they come, or edit the whole.

Theory of operation. `choose_edit` looks at the `Relay` and the response head. A chosen edit gets the body's payload
and returns the bytes for the client, head included; None means that the response passes untouched.

| the relay has | and the response | then |
|---|---|---|
| `edit_lines` | is below 300 and has a body | head at once, each line edited as soon as it is complete, chunked anew |
| `settled` too | the same | head at once, all lines at the end |
| `seen` | anything | buffered; `edit` applied if JSON; Content-Length made anew |
| `edit` | is JSON with a body | buffered, edited, Content-Length made anew |
| a `hook` that holds | is no tunnel | collected after `seen` and `edit`; nothing is sent, the hook answers |
| otherwise, or a tunnel | | untouched |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from drover.errors import EngineError
from drover.gateway.answers import LAST_CHUNK, chunk, has_body, status_line
from drover.gateway.call import EngineResponse, Relay
from drover.wire.heads import RequestHead, ResponseHead, render, without

WHOLE_LIMIT_BYTES = 32 * 1024 * 1024
LINE_LIMIT_BYTES = 1024 * 1024


class ResponseEdit(Protocol):
    def start(self) -> bytes:
        """What goes to the client as soon as the engine's head is complete."""
        ...

    def feed(self, piece: bytes) -> bytes:
        """What goes to the client after a piece of payload. Raises `EngineError` beyond a limit."""
        ...

    def end(self) -> bytes:
        """What goes to the client at the body's end."""
        ...


def choose_edit(relay: Relay, request: RequestHead, response: ResponseHead, held: bool = False) -> ResponseEdit | None:
    """The edit a response needs; not for tunnels and interim heads. `held`: a hook wants to have it whole."""
    body = has_body(request.method, response.status)
    if held:
        return Held(_edit_of(relay, body, response), relay.seen, request, response)
    if relay.edit_lines is not None and body and response.status < 300:
        return Lines(relay.edit_lines, request, response, at_end=relay.settled is not None)
    edit = _edit_of(relay, body, response)
    if relay.seen is not None or edit is not None:
        return Whole(edit, relay.seen, request, response)
    return None


def _edit_of(relay: Relay, body: bool, response: ResponseHead) -> Callable[[bytes], bytes] | None:
    json = body and response.value(b"content-type").lower().startswith(b"application/json")
    return relay.edit if json else None


class Whole:
    """Buffers the response, at most 32 MiB."""

    def __init__(
        self,
        edit: Callable[[bytes], bytes] | None,
        seen: Callable[[int, bytes], None] | None,
        request: RequestHead,
        response: ResponseHead,
    ) -> None:
        self._edit, self._seen = edit, seen
        self._request, self._response = request, response
        self._pieces: list[bytes] = []
        self._size_bytes = 0

    def start(self) -> bytes:
        return b""

    def feed(self, piece: bytes) -> bytes:
        self._size_bytes += len(piece)
        if self._size_bytes > WHOLE_LIMIT_BYTES:
            raise EngineError(502, f"The engine's answer is larger than {WHOLE_LIMIT_BYTES} bytes.")
        self._pieces.append(piece)
        return b""

    def end(self) -> bytes:
        return self._render(self._edited())

    def _edited(self) -> bytes:
        body = b"".join(self._pieces)
        if self._seen is not None:
            self._seen(self._response.status, body)
        return body if self._edit is None else self._edit(body)

    def _render(self, body: bytes) -> bytes:
        if not has_body(self._request.method, self._response.status):
            return self._response.raw
        return _head(self._response, (b"Content-Length", b"%d" % len(body))) + body


class Held(Whole):
    """Keeps the whole edited response for a hook: as a value, and as what the client gets if the hook leaves it."""

    response = EngineResponse(status=0)
    raw = b""

    def end(self) -> bytes:
        body = self._edited()
        self.response = EngineResponse(status=self._response.status, headers=self._response.headers, body=body)
        self.raw = self._render(body)
        return b""


class Lines:
    """Edits each line as soon as it is complete; a line longer than 1 MiB is edited in pieces. `at_end`: all of them
    when the response has ended, at most 1 MiB."""

    def __init__(
        self, edit: Callable[[bytes], bytes], request: RequestHead, response: ResponseHead, *, at_end: bool = False
    ) -> None:
        self._edit = edit
        self._at_end = at_end
        self._response = response
        self._chunked = request.version == "1.1"
        self._begun = bytearray()

    def start(self) -> bytes:
        if self._chunked:
            return _head(self._response, (b"Transfer-Encoding", b"chunked"))
        return _head(self._response, (b"Connection", b"close"))

    def feed(self, piece: bytes) -> bytes:
        self._begun += piece
        end = self._begun.rfind(b"\n") + 1
        if len(self._begun) - end > LINE_LIMIT_BYTES:
            end = len(self._begun)
        elif self._at_end:
            return b""
        whole = bytes(self._begun[:end])
        del self._begun[:end]
        return self._wrap(b"".join(self._edit(line) for line in whole.splitlines(keepends=True)))

    def end(self) -> bytes:
        last = self._wrap(b"".join(self._edit(line) for line in bytes(self._begun).splitlines(keepends=True)))
        return last + LAST_CHUNK if self._chunked else last

    def _wrap(self, data: bytes) -> bytes:
        return chunk(data) if self._chunked else data


def _head(response: ResponseHead, framing: tuple[bytes, bytes]) -> bytes:
    """The response's head with another framing; a connection that the engine closes need not be closed here."""
    kept = without(response.headers, b"content-length", b"transfer-encoding", b"connection", b"trailer")
    return render(status_line(response.status, response.reason), (*kept, framing))
