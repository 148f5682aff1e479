"""The gateway's own answers as bytes, and errors as Docker's JSON.

| outcome | status | body |
|---|---|---|
| `Reply` | its own | its own, with Content-Length; chunked if it is a stream |
| `DroverError` | the error's | `{"message": "sentence. hint"}` |
| `BadMessage` | its own | `{"message": "…"}`, and the connection closes |
| anything else | 500 | `{"message": "…"}`; the traceback goes to the log |
"""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from drover.errors import DroverError, NoPlacement
from drover.gateway.call import Headers, Reply
from drover.wire.heads import BadMessage, render

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def error_reply(error: BaseException) -> Reply:
    """Any error as a `Reply` in Docker's shape."""
    if isinstance(error, DroverError):
        return _message(error.status, sentence(error))
    if isinstance(error, BadMessage):
        return _message(error.status, f"Bad request: {error.reason}.")
    return _message(500, f"The gateway failed unexpectedly: {error or type(error).__name__}")


def sentence(error: DroverError) -> str:
    """The message, the reasons per host if there are any, and the hint."""
    text = error.message
    if isinstance(error, NoPlacement):
        text += "".join(f"\n  {host}: {why}" for host, why in error.reasons.items() if why not in text)
    return f"{text.rstrip('.')}. {error.hint}" if error.hint else text


def _message(status: int, text: str) -> Reply:
    return Reply(status=status, body=msgspec.json.encode({"message": text}) + b"\n")


def has_body(method: str, status: int) -> bool:
    """Whether a response carries a body at all."""
    return method != "HEAD" and status >= 200 and status not in (204, 304)


def reply_head(reply: Reply, extra: Headers, *, chunked: bool, keep_alive: bool) -> bytes:
    """The head of a `Reply`; without `chunked` and with a stream, the body ends with the connection."""
    headers = [*extra, *reply.headers]
    if reply.status not in (204, 304) and reply.status >= 200:
        if reply.content_type:
            headers.append((b"Content-Type", reply.content_type.encode("latin-1")))
        if chunked:
            headers.append((b"Transfer-Encoding", b"chunked"))
        elif reply.stream is None:
            headers.append((b"Content-Length", b"%d" % len(reply.body)))
    if not keep_alive:
        headers.append((b"Connection", b"close"))
    return render(status_line(reply.status), tuple(headers))


def status_line(status: int, reason: str = "") -> str:
    """`HTTP/1.1 404 Not Found`."""
    try:
        reason = reason or HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    return f"HTTP/1.1 {status} {reason}"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; nothing for no data, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
