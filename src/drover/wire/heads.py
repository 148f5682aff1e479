"""Heads of HTTP/1.1 messages: bytes in, `RequestHead` or `ResponseHead` out.

Theory of operation. A reader is fed what arrives until it has seen the empty line. The grammar is llhttp's (strict,
in C); its answer must agree with the place of the first CRLF CRLF, so that a parser with another idea of a line's end
cannot see another message. On top of the grammar come the rules below: each refuses a head that two programs could
read in two ways.

| rule | refused with |
|---|---|
| at most 64 KiB | 400 |
| only CRLF ends a line; no bare CR or LF, no control characters, no obs-fold, no empty line before the head | 400 |
| HTTP/1.0 or 1.1 | 505 |
| at most one Content-Length, decimal digits only | 400 |
| at most one Transfer-Encoding, exactly `chunked`, never with Content-Length, never in HTTP/1.0 | 400 or 501 |
| exactly one Host in an HTTP/1.1 request, never two | 400 |
| a target of visible ASCII; no CONNECT | 400 |
"""

from __future__ import annotations

import re
from typing import Any

import httptools
import msgspec

Headers = tuple[tuple[bytes, bytes], ...]
Index = dict[bytes, list[bytes]]
"""Header names in lower case, each with all its values in order."""

HEAD_LIMIT_BYTES = 64 * 1024
_END = b"\r\n\r\n"
_CONTROLS = bytes({*range(32), 127} - {*b"\t\r\n"})
_VISIBLE = re.compile(rb"[\x21-\x7e]+")
_DIGITS = re.compile(rb"[0-9]{1,18}")


class BadMessage(Exception):
    """A peer sent bytes that are not one unambiguous HTTP/1.1 message; `status` is what a server answers."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What requests and responses share. `raw` is the head as received, empty line included.

    `length_bytes` is None without Content-Length; `keep_alive` is what version and Connection say.
    """

    version: str
    headers: Headers
    keep_alive: bool
    length_bytes: int | None
    chunked: bool
    raw: bytes
    index: Index

    def value(self, name: bytes) -> bytes:
        """The first value of a header, or nothing; `name` in lower case."""
        values = self.index.get(name)
        return values[0] if values else b""

    def tokens(self, name: bytes) -> set[bytes]:
        """The members of a comma-separated header, in lower case."""
        return _tokens(self.index, name)


class RequestHead(Head, frozen=True, kw_only=True):
    method: str
    target: str

    @property
    def expects_continue(self) -> bool:
        """The client waits for a 100 before it sends the body."""
        return self.version == "1.1" and self.value(b"expect").lower() == b"100-continue"

    @property
    def upgrades(self) -> bool:
        return b"upgrade" in self.tokens(b"connection") and bool(self.value(b"upgrade"))


class ResponseHead(Head, frozen=True, kw_only=True):
    status: int
    reason: str

    @property
    def interim(self) -> bool:
        """A 1xx that another head follows."""
        return 100 <= self.status < 200 and self.status != 101


class _Collector:
    """Receives llhttp's callbacks for one head."""

    def __init__(self) -> None:
        self.target = b""
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_status(self, piece: bytes) -> None:
        self.reason += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        # After the head llhttp would report trailers here too; a reader never feeds it that far.
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


class _HeadReader:
    """Finds one head's end; subclasses say which parser reads it."""

    def __init__(self, parser: Any, collector: _Collector) -> None:
        self._parser = parser
        self._found = collector
        self._raw = bytearray()

    @property
    def empty(self) -> bool:
        """Whether nothing has arrived yet."""
        return not self._raw

    def _feed(self, data: bytes) -> int | None:
        """Take `data`; the number of its bytes that belong to the head if it is complete, else None."""
        before = len(self._raw)
        self._raw += data
        end = self._raw.find(_END, max(0, before - 3))
        if (end if end >= 0 else len(self._raw)) > HEAD_LIMIT_BYTES:
            raise BadMessage("the head is larger than 64 KiB")
        used = end + len(_END) - before if end >= 0 else len(data)
        self._parse(data[:used])
        if self._found.complete != (end >= 0) or self._raw.startswith((b"\r", b"\n")):
            raise BadMessage("a line of the head does not end in CRLF")
        if end < 0:
            return None
        del self._raw[end + len(_END) :]
        if _ambiguous(self._raw):
            raise BadMessage("the head holds a control character or a folded line")
        return used

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # says only that a tunnel may follow; the head is complete
        except httptools.HttpParserError as error:
            raise BadMessage(f"the head is not HTTP/1.1: {error}") from error

    def _shared(self) -> dict[str, Any]:
        """The fields of `Head`, checked."""
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise BadMessage(f"HTTP/{version} is not spoken here", 505)
        headers = tuple(self._found.headers)
        index = index_of(headers)
        length, chunked = _framing_headers(index, version)
        return {
            "version": version,
            "headers": headers,
            "keep_alive": _keeps_alive(index, version),
            "length_bytes": length,
            "chunked": chunked,
            "raw": bytes(self._raw),
            "index": index,
        }


class RequestReader(_HeadReader):
    """Reads one request head."""

    def __init__(self) -> None:
        collector = _Collector()
        super().__init__(httptools.HttpRequestParser(collector), collector)

    def feed(self, data: bytes) -> tuple[RequestHead, bytes] | None:
        """The head and what follows it in `data`, or None while it is incomplete. Raises `BadMessage`."""
        used = self._feed(data)
        return None if used is None else (self._head(), data[used:])

    def _head(self) -> RequestHead:
        method = self._parser.get_method().decode("ascii")
        if method == "CONNECT" or not _VISIBLE.fullmatch(self._found.target):
            raise BadMessage("the request line is not one this server answers")
        shared = self._shared()
        hosts = len(shared["index"].get(b"host", ()))
        if hosts > 1 or (hosts == 0 and shared["version"] == "1.1"):
            raise BadMessage("a request needs exactly one Host header")
        return RequestHead(method=method, target=self._found.target.decode("ascii"), **shared)


class ResponseReader(_HeadReader):
    """Reads one response head."""

    def __init__(self) -> None:
        collector = _Collector()
        super().__init__(httptools.HttpResponseParser(collector), collector)

    def feed(self, data: bytes) -> tuple[ResponseHead, bytes] | None:
        """The head and what follows it in `data`, or None while it is incomplete. Raises `BadMessage`."""
        used = self._feed(data)
        return None if used is None else (self._head(), data[used:])

    def _head(self) -> ResponseHead:
        reason = self._found.reason.decode("latin-1")
        return ResponseHead(status=self._parser.get_status_code(), reason=reason, **self._shared())


def render(first_line: str, headers: Headers) -> bytes:
    """A head's bytes from its first line (without CRLF) and headers."""
    lines = [first_line.encode("latin-1"), *(name + b": " + value for name, value in headers)]
    return b"\r\n".join(lines) + _END


def without(headers: Headers, *names: bytes) -> Headers:
    """The headers but for those named (lower case)."""
    return tuple((k, v) for k, v in headers if k.lower() not in names)


def index_of(headers: Headers) -> Index:
    index: Index = {}
    for name, value in headers:
        index.setdefault(name.lower(), []).append(value)
    return index


def _ambiguous(raw: bytearray) -> bool:
    """Control characters, a CR or LF alone, or a line that begins with a blank (written for speed: one pass each)."""
    ends = raw.count(b"\r\n")
    if raw.count(b"\n") != ends or raw.count(b"\r") != ends or b"\r\n " in raw or b"\r\n\t" in raw:
        return True
    return len(raw.translate(None, _CONTROLS)) != len(raw)


def _tokens(index: Index, name: bytes) -> set[bytes]:
    return {part.strip().lower() for value in index.get(name, ()) for part in value.split(b",")} - {b""}


def _keeps_alive(index: Index, version: str) -> bool:
    tokens = _tokens(index, b"connection")
    return b"close" not in tokens and (version == "1.1" or b"keep-alive" in tokens)


def _framing_headers(index: Index, version: str) -> tuple[int | None, bool]:
    """Content-Length (None without) and whether the body is chunked; refuses every ambiguity."""
    lengths, codings = index.get(b"content-length", ()), index.get(b"transfer-encoding", ())
    if len(lengths) + len(codings) > 1:
        raise BadMessage("Content-Length and Transfer-Encoding say twice how the body is delimited")
    if codings and version == "1.0":
        raise BadMessage("HTTP/1.0 has no Transfer-Encoding")
    if codings and codings[0].lower() != b"chunked":
        raise BadMessage("the only Transfer-Encoding spoken here is chunked", 501)
    if lengths and not _DIGITS.fullmatch(lengths[0]):
        raise BadMessage("Content-Length is not a number")
    return (int(lengths[0]) if lengths else None), bool(codings)
