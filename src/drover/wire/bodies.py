"""Where a body ends, and when there is no body but a tunnel.

Theory of operation. `request_framing` and `response_framing` choose a mode from the head; a `Body` is fed what
arrives, says how many bytes are its own, and is `done` at its end. It counts and does not copy: whoever relays writes
the bytes on as they came. Whoever wants the payload alone (without chunk sizes) gives a `sink`.

| mode | ends | used for |
|---|---|---|
| NONE | at once | requests without length; answers to HEAD; 1xx, 204, 304 |
| LENGTH | after Content-Length bytes | most calls |
| CHUNKED | after the chunk of size 0 and its trailers | build, pull, events, logs |
| EOF | when the connection ends | responses without either |
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable

import msgspec

from drover.wire.heads import BadMessage, RequestHead, ResponseHead

Data = bytes | memoryview
"""Bytes as they were received: a view of a buffer that will be used again, or a copy."""
Sink = Callable[[bytes], None]

LINE_LIMIT_BYTES = 4096
TRAILERS_LIMIT_BYTES = 16 * 1024
_LINE_BYTES = 32
"""As many bytes as nearly every line has."""
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e]*)?")
_BETWEEN = re.compile(rb"\r\n([1-9A-Fa-f][0-9A-Fa-f]{0,14})\r\n")
"""A chunk's end and the next one's size, which is not 0."""
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_STREAM_TYPE = b"application/vnd.docker."


class Mode(enum.Enum):
    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    EOF = "eof"


class Framing(msgspec.Struct, frozen=True):
    """How a body is delimited; `length_bytes` counts in mode LENGTH only."""

    mode: Mode
    length_bytes: int = 0


_NONE = Framing(Mode.NONE)


def request_framing(head: RequestHead) -> Framing:
    """A request without length or chunking has no body."""
    return _declared(head) or _NONE


def response_framing(method: str, head: ResponseHead) -> Framing:
    """A response without length or chunking ends with its connection; some have no body whatever they declare."""
    if method == "HEAD" or head.status < 200 or head.status in (204, 304):
        return _NONE
    return _declared(head) or Framing(Mode.EOF)


def _declared(head: RequestHead | ResponseHead) -> Framing | None:
    if head.chunked:
        return Framing(Mode.CHUNKED)
    if head.length_bytes is not None:
        return Framing(Mode.LENGTH, head.length_bytes)
    return None


def becomes_tunnel(request: RequestHead, response: ResponseHead) -> bool:
    """Whether both directions are raw bytes after this response head.

    Status 101; or Docker's older form, a 200 with a stream's content type and no framing, to a request for
    `…/attach` or `…/start` (of an exec) or one that asked to upgrade.
    """
    if response.status == 101:
        return True
    if response.status != 200 or not response.value(b"content-type").lower().startswith(_STREAM_TYPE):
        return False
    path = request.target.partition("?")[0]
    asked = request.upgrades or path.endswith(("/attach", "/start"))
    return asked and response_framing(request.method, response).mode is Mode.EOF


class Body:
    """Counts one body's bytes."""

    def __init__(self, framing: Framing, sink: Sink | None = None) -> None:
        self.mode = framing.mode
        self.done = framing.mode is Mode.NONE or (framing.mode is Mode.LENGTH and framing.length_bytes == 0)
        self._sink = sink
        self._left_bytes = framing.length_bytes
        self._line = bytearray()
        self._trailer_bytes = 0
        self._step = {Mode.CHUNKED: self._size_line, Mode.EOF: self._all}.get(framing.mode, self._count)
        self._within = self._chunks if framing.mode is Mode.CHUNKED and sink is None else self._count

    def feed(self, data: Data) -> int:
        """Count `data`; how many of its first bytes belong to this body. Raises `BadMessage` on bad chunks."""
        at = 0
        while at < len(data) and not self.done:
            at = self._step(data, at)
        return at

    def end(self) -> None:
        """The connection ended. Raises `BadMessage` if the body was not complete."""
        if self.mode is not Mode.EOF and not self.done:
            raise BadMessage("the connection ended in the middle of a body")
        self.done = True

    def _all(self, data: Data, at: int) -> int:
        if self._sink is not None:
            self._sink(bytes(data[at:]))
        return len(data)

    def _count(self, data: Data, at: int) -> int:
        end = min(len(data), at + self._left_bytes)
        if self._sink is not None:
            self._sink(bytes(data[at:end]))
        self._left_bytes -= end - at
        if self._left_bytes == 0:
            self._step = self._chunk_end
            self.done = self.mode is Mode.LENGTH
        return end

    def _chunks(self, data: Data, at: int) -> int:
        """As `_count`, and over all that follow whose ends look as nearly all do: a stream has thousands a second."""
        size, left = len(data), self._left_bytes
        while left <= size - at:
            at += left
            between = _BETWEEN.match(data, at)
            if between is None:
                self._left_bytes, self._step = 0, self._chunk_end
                return at
            at, left = between.end(), int(between[1], 16)
        self._left_bytes = left - (size - at)
        return size

    def _size_line(self, data: Data, at: int) -> int:
        line, at = self._read_line(data, at)
        if line is not None:
            found = _CHUNK_LINE.fullmatch(line)
            if found is None:
                raise BadMessage("a chunk's size is not a hexadecimal number")
            self._left_bytes = int(found[1], 16)
            self._step = self._within if self._left_bytes else self._trailer_line
        return at

    def _chunk_end(self, data: Data, at: int) -> int:
        between = None if self._line else _BETWEEN.match(data, at)
        if between is not None:  # nearly always
            self._left_bytes = int(between[1], 16)
            self._step = self._within
            return between.end()
        line, at = self._read_line(data, at)
        if line:
            raise BadMessage("a chunk is longer than its size")
        if line is not None:
            self._step = self._size_line
        return at

    def _trailer_line(self, data: Data, at: int) -> int:
        line, at = self._read_line(data, at)
        if line is not None:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > TRAILERS_LIMIT_BYTES or (line and not _TRAILER_LINE.fullmatch(line)):
                raise BadMessage("the trailers of a chunked body are malformed")
            self.done = not line
        return at

    def _read_line(self, data: Data, at: int) -> tuple[bytes | None, int]:
        """One line without its CRLF (None while incomplete) and where the next begins."""
        window = bytes(data[at : at + _LINE_BYTES])
        if b"\n" not in window:
            window = bytes(data[at : at + LINE_LIMIT_BYTES])
        found = window.find(b"\n")
        end = at + found + 1 if found >= 0 else len(data)
        self._line += window[: end - at]
        if len(self._line) >= LINE_LIMIT_BYTES:
            raise BadMessage("a line between chunks is too long")
        if found < 0:
            return None, end
        line = bytes(self._line)
        self._line.clear()
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise BadMessage("a line between chunks does not end in CRLF")
        return line[:-2], end
