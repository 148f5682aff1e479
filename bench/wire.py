"""Asking an engine or a gateway over a Unix socket that stays open, with as little of our own in between as can be.

KeepAlive       one request after another, blocking: for latencies
AnswerParser    what both KeepAlive and the many clients of `clients` read answers with
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import httptools

from drover.errors import EngineError, Unavailable

TIMEOUT_S = 120.0
_PIECE_BYTES = 256 * 1024


def request_bytes(method: str, target: str, body: bytes = b"") -> bytes:
    """A request as bytes; a body is JSON."""
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{method} {target} HTTP/1.1\r\nHost: docker\r\n{length}\r\n".encode() + body


class AnswerParser:
    """One answer, fed as it arrives; `complete` says when it has."""

    def __init__(self) -> None:
        self.complete = False
        self.body = b""
        self._parser = httptools.HttpResponseParser(self)

    @property
    def status(self) -> int:
        status: int = self._parser.get_status_code()
        return status

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.complete = True


class KeepAlive:
    """A connection to `path`. Errors: `Unavailable` if it ends, `EngineError` on a status of 400 and more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(str(path))

    def __enter__(self) -> KeepAlive:
        return self

    def __exit__(self, *_ignored: object) -> None:
        self._socket.close()

    def ask(self, method: str, target: str, body: bytes = b"") -> bytes:
        """The answer's body."""
        self._socket.sendall(request_bytes(method, target, body))
        answer = AnswerParser()
        while not answer.complete:
            data = self._socket.recv(_PIECE_BYTES)
            if not data:
                raise Unavailable(f"{self._path} closed the connection during {method} {target}")
            answer.feed(data)
        if answer.status >= 400:
            raise EngineError(answer.status, f"{method} {target}: {answer.body.decode(errors='replace').strip()}")
        return answer.body

    def json(self, method: str, target: str, body: Any = None) -> Any:
        """The answer's body, decoded; None if it is empty."""
        found = self.ask(method, target, b"" if body is None else json.dumps(body).encode())
        return json.loads(found) if found else None
