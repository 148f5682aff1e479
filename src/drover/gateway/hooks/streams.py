"""Which bodies hooks may see: never a stream, and never more than fits into memory many times over.

Theory of operation. Two questions, answered before a byte of the body is read.

| question | answered by | if no |
|---|---|---|
| may the request's body be read? | method and path, then Content-Type | Body is null; it streams to the engine |
| may the response's body be held? | method and path, status, and the head | post-hooks are skipped; the log says so |

Whatever an endpoint is, an error (status 400 and above) that is no tunnel is a short JSON text: post-hooks get it.
"""

from __future__ import annotations

import re

from drover.gateway.answers import has_body
from drover.gateway.call import Call, Headers

BODY_LIMIT_BYTES = 8 * 1024 * 1024
"""The largest request body that hooks are given; a larger one is refused where hooks are configured."""

_SENDS_STREAM = re.compile(
    r"PUT /containers/.+/archive|POST /(build|session|grpc|images/(load|create)|plugins/create"
    r"|containers/.+/attach)"
)
_GETS_STREAM = re.compile(
    r"GET /(events|images/get|images/.+/get|containers/.+/(logs|stats|export|archive|attach/ws)"
    r"|(services|tasks)/.+/logs)"
    r"|POST /(build|session|grpc|images/(load|create)|(images|plugins)/.+/push|plugins/(pull|.+/upgrade)"
    r"|containers/.+/(wait|attach))"
)
_STREAM_TYPES = (
    "application/vnd.docker.raw-stream",
    "application/vnd.docker.multiplexed-stream",
    "application/x-tar",
    "application/octet-stream",
    "application/json-seq",
    "application/x-ndjson",
)


def value_of(headers: Headers, name: bytes) -> str:
    """The first value of a header; `name` in lower case."""
    return next((v.decode("latin-1") for k, v in headers if k.lower() == name), "")


def is_json_type(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def request_is_readable(call: Call) -> bool:
    """Whether the call has a body that hooks may be given."""
    if _SENDS_STREAM.fullmatch(f"{call.method} {call.path}"):
        return False
    content_type = call.header("content-type")
    announced = call.header("transfer-encoding") or call.header("content-length").strip() not in ("", "0")
    return bool(announced) and (not content_type or is_json_type(content_type))


def why_not_held(call: Call, status: int, headers: Headers) -> str:
    """Why a response with this head passes its post-hooks by; empty if they may have it."""
    if status >= 400 or not has_body(call.method, status):
        return ""
    if _GETS_STREAM.fullmatch(f"{call.method} {call.path}"):
        return "the endpoint answers with a stream"
    content_type = value_of(headers, b"content-type")
    if content_type.partition(";")[0].strip().lower() in _STREAM_TYPES:
        return f"its type is {content_type}"
    if not value_of(headers, b"content-length") and not value_of(headers, b"transfer-encoding"):
        return "its length is open"
    return ""


def why_unhookable(call: Call) -> str:
    """Why hooks cannot see what a call says; empty if they can. No Docker client makes such calls.

    In HTTP/2 the engine would hear calls that no hook sees; the two endpoints made for that (BuildKit's) are calls that
    hooks do see, and may refuse. In a form the engine finds parameters, which win over those in the query.
    """
    if "h2c" in call.header("upgrade").lower() and call.path not in ("/session", "/grpc"):
        return "a call cannot go on in HTTP/2 (Upgrade: h2c)"
    content_type = call.header("content-type").strip().lower()
    if content_type.startswith(("application/x-www-form-urlencoded", "multipart/")):
        return f"a call cannot have parameters in a body of type {content_type.partition(';')[0]}"
    return ""
