"""The CLI's way to a daemon: HTTP over its Unix socket, with the standard library only (starting fast matters)."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from drover.api.answers import exchange, understand
from drover.errors import Invalid, Unavailable

DEFAULT_HOST = "unix:///run/drover/drover.sock"
DEADLINE_S = 60.0
PIECE_BYTES = 256 * 1024


class Client:
    """Calls one daemon. `host` is a URL: `unix:///path/to/drover.sock`."""

    def __init__(self, host: str = "", deadline_s: float = DEADLINE_S) -> None:
        url = host or os.environ.get("DROVER_HOST", "") or DEFAULT_HOST
        if not url.startswith("unix://"):
            raise Invalid(
                f"{url!r} is no address of a drover daemon", hint=f"use unix:///PATH, for instance {DEFAULT_HOST}"
            )
        self.path = url.removeprefix("unix://")
        self.deadline_s = deadline_s

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def post(self, path: str, body: Any = None) -> Any:
        return self.call("POST", path, body)

    def delete(self, path: str) -> Any:
        return self.call("DELETE", path)

    def download(self, path: str) -> Iterator[bytes]:
        """An answer's bytes as they come. Raises as `call` does, also if it breaks off."""
        connection = _UnixConnection(self.path, None)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status >= 400:
                understand(response.status, response.read())
            while piece := response.read(PIECE_BYTES):
                yield piece
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.path, error) from error
        finally:
            connection.close()

    def upload(self, path: str, pieces: Iterable[bytes]) -> Any:
        """Post bytes as they come; the decoded JSON answer. Raises as `call` does."""
        connection = _UnixConnection(self.path, None)
        try:
            try:
                connection.request("POST", path, pieces, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before all was sent: the answer says why
            response = connection.getresponse()
            return understand(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.path, error) from error
        finally:
            connection.close()

    def lines(self, path: str) -> Iterator[Any]:
        """The JSON values of an answer that comes line by line, for ever. Raises as `call` does."""
        connection = _UnixConnection(self.path, None)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status >= 400:
                understand(response.status, response.read())
            for line in response:
                yield json.loads(line)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.path, error) from error
        finally:
            connection.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded JSON answer. Raises the daemon's own error, or `Unavailable` if it cannot be reached."""
        try:
            return exchange(_UnixConnection(self.path, self.deadline_s), method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.path, error) from error


def segment(name: str) -> str:
    """A name as one part of a URL's path."""
    return quote(name, safe="")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, deadline_s: float | None) -> None:
        super().__init__("localhost", timeout=deadline_s)
        self.unix_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.unix_path)


def _unreachable(path: str, error: Exception) -> Unavailable:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return Unavailable(
            f"no drover daemon listens on {path}",
            hint="start it (`systemctl start drover`, or `drover daemon`), or set DROVER_HOST; "
            "a host that is in no cluster yet needs `drover init` or `drover join`",
        )
    if isinstance(error, PermissionError):
        return Unavailable(f"you may not use {path}", hint="run as root, or as a member of the socket's group")
    if isinstance(error, TimeoutError):
        return Unavailable(f"the daemon at {path} did not answer in time", hint="see its log, and `drover status`")
    return Unavailable(f"the daemon at {path} ended the call: {error}", hint="see its log, and call again")
