"""The messages of Powerstrip's protocol, version 1 exactly, and version 2, its superset: values in, JSON out and back.

Theory of operation. A hook is one POST of a message; its answer is a status, a content type and a body. Answers are
read as JSON whatever their content type says. Bodies of Docker calls travel as text inside the JSON.

| message | fields beside PowerstripProtocolVersion and Type | answer's object |
|---|---|---|
| `pre-hook` | ClientRequest {Method, Request, Body} | ModifiedClientRequest {Method, Request, Body} |
| `post-hook` | the same, ServerResponse {ContentType, Body, Code} | ModifiedServerResponse {ContentType, Body, Code} |
| `unwind-hook` (opt-in) | ClientRequest, ServerResponse or null, Failure {Stage, Adapter, Code, Message} | not read |
| version 2 adds | TraceId, Client, Container; to ClientRequest Path, Query, Version; Headers to both | |
| version 2 may answer | | also `{"Continue": true}` or `{"Refuse": {"Code": 403, "Message": "…"}}` |

| the adapter answers | that is |
|---|---|
| 200 to 299 and the object; fields may be left out | the fields it has; null and absent mean unchanged |
| 200 to 299 and anything else, or 100 to 199, 300 to 399 | a failure (`AdapterError`) |
| 400 to 499 | a refusal (`Refused`): the client gets status, body and content type |
| 500 and above | a refusal too; `crashed` says that `on_error: skip` applies |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qs, quote

import msgspec

from drover.errors import Invalid, Unavailable
from drover.gateway.call import Call, Headers, Reply
from drover.gateway.context import target_of
from drover.gateway.hooks.streams import is_json_type
from drover.gateway.targets import read_target
from drover.wire.nesting import MALFORMED

HookType = Literal["pre-hook", "post-hook", "unwind-hook"]
JSON_TYPE = "application/json"
_SHOWN_CHARACTERS = 500
_SECRET_HEADERS = frozenset({"authorization", "x-registry-auth", "x-registry-config", "cookie"})
_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "#")
_CONTENT_TYPE = re.compile(r"[\x20-\x7e]*")


class AdapterError(Unavailable):
    """An adapter failed: it cannot be reached, or what it answers is not the protocol."""

    status = 502


class AdapterSlow(AdapterError):
    """An adapter did not answer within its deadline."""

    status = 504


class Refused(Exception):
    """A hook refuses the call with `reply`; `crashed`: its status was 500 or above."""

    def __init__(self, reply: Reply, crashed: bool = False) -> None:
        super().__init__(reply.status)
        self.reply = reply
        self.crashed = crashed


class HookAnswer(msgspec.Struct, frozen=True):
    """What came back from an adapter."""

    status: int
    content_type: str
    body: bytes


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A call as hooks see it. `request` is its canonical target; `body` None: none, or not for hooks."""

    method: str
    request: str
    body: bytes | None = None


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A response as hooks see it."""

    status: int
    content_type: str | None
    body: bytes = b""
    headers: Headers = ()


class Extras(msgspec.Struct, frozen=True, kw_only=True):
    """What version 2 tells beside: of the client, the container that the call is about (None if none), and the call."""

    trace_id: str = ""
    peer: str = ""
    headers: Headers = ()
    path: str = ""
    query_string: str = ""
    version: str = ""
    container: Mapping[str, Any] | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Why a chain is unwound: where it failed, at which adapter (empty: none), what the client gets."""

    stage: Literal["pre-hook", "engine", "post-hook", "client"]
    adapter: str = ""
    code: int = 0
    message: str = ""


class _ModifiedRequest(msgspec.Struct, rename="pascal"):
    body: str | None = None
    request: Any = None


class _ModifiedResponse(msgspec.Struct, rename="pascal"):
    content_type: str | None = None
    body: str | None = None
    code: int | None = None


class _Refusal(msgspec.Struct, rename="pascal"):
    code: int = 403
    message: str = ""


class _Answer(msgspec.Struct, rename="pascal"):
    modified_client_request: _ModifiedRequest | None = None
    modified_server_response: _ModifiedResponse | None = None
    refuse: _Refusal | None = None
    continue_: bool = msgspec.field(default=False, name="Continue")


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Answer).decode


def request_of(call: Call, body: bytes | None) -> Request:
    return Request(method=call.method, request=target_of(call, call.path), body=body)


def text_of(body: bytes) -> str | None:
    """A body as hooks are given it: JSON text or empty text, else None (adapters may not survive other text, nor text
    that is nested without end)."""
    if not body:
        return ""
    try:
        text = body.decode()
        msgspec.json.decode(body, type=msgspec.Raw)
    except MALFORMED:
        return None
    return text


def message(
    protocol: int,
    kind: HookType,
    request: Request,
    extras: Extras,
    response: Response | None = None,
    failure: Failure | None = None,
) -> bytes:
    """The POST's body for one adapter."""
    told: dict[str, Any] = {
        "PowerstripProtocolVersion": protocol,
        "Type": kind,
        "ClientRequest": {"Method": request.method, "Request": request.request, "Body": _request_text(request)},
    }
    if kind != "pre-hook":
        told["ServerResponse"] = None if response is None else _shown(response)
    if failure is not None:
        told["Failure"] = failure
    if protocol == 2:
        _extend(told, extras, response)
    return _encode(told)


def _request_text(request: Request) -> str | None:
    return text_of(request.body) or None if request.body else None


def _shown(response: Response) -> dict[str, Any]:
    return {"ContentType": response.content_type, "Body": text_of(response.body), "Code": response.status}


def _extend(told: dict[str, Any], extras: Extras, response: Response | None) -> None:
    """Version 2: what version 1 leaves out."""
    told["TraceId"] = extras.trace_id
    told["Client"] = {"Identity": extras.peer}
    told["Container"] = extras.container
    told["ClientRequest"] |= {
        "Headers": _headers(extras.headers),
        "Path": extras.path,
        "Query": parse_qs(extras.query_string, keep_blank_values=True),
        "Version": extras.version,
    }
    if response is not None:
        told["ServerResponse"]["Headers"] = _headers(response.headers)


def _headers(headers: Headers) -> dict[str, str]:
    """Names in lower case; registry passwords are not the adapters' business."""
    pairs = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
    return {name: "(withheld)" if name in _SECRET_HEADERS else value for name, value in pairs}


def read_pre(name: str, protocol: int, answer: HookAnswer, sent: Request) -> Request:
    """The request after a pre-hook. Raises `Refused` and `AdapterError`."""
    said = _read(name, protocol, answer)
    modified = said.modified_client_request
    if modified is None:
        _must_have(name, protocol, said, "ModifiedClientRequest")
        return sent
    body = _changed(_request_text(sent), modified.body, sent.body)
    return Request(method=sent.method, request=_with_query_of(modified.request, sent.request), body=body)


def read_post(name: str, protocol: int, answer: HookAnswer, sent: Response) -> Response:
    """The response after a post-hook. Raises `Refused` and `AdapterError`."""
    said = _read(name, protocol, answer)
    modified = said.modified_server_response
    if modified is None:
        _must_have(name, protocol, said, "ModifiedServerResponse")
        return sent
    return Response(
        status=_status(name, modified.code, sent.status),
        content_type=_content_type(name, modified.content_type) or sent.content_type,
        body=_changed(text_of(sent.body), modified.body, sent.body) or b"",
        headers=sent.headers,
    )


def _read(name: str, protocol: int, answer: HookAnswer) -> _Answer:
    if answer.status >= 400:
        raise Refused(_refusal_of(name, answer), crashed=answer.status >= 500)
    if not 200 <= answer.status < 300:
        raise AdapterError(f"adapter {name} answered with status {answer.status}, which hooks do not follow")
    try:
        said = _decode(answer.body)
    except MALFORMED as error:
        raise AdapterError(f"adapter {name} answered with what is not a hook's answer: {error}") from error
    if protocol == 2 and said.refuse is not None:
        code = said.refuse.code if 400 <= said.refuse.code <= 599 else 403
        text = said.refuse.message or f"adapter {name} refused this call"
        raise Refused(Reply(status=code, body=message_body(text)))
    return said


def _must_have(name: str, protocol: int, said: _Answer, wanted: str) -> None:
    """Version 1 always sends the object back; an answer without it is an adapter's error, not a consent."""
    if not (protocol == 2 and said.continue_):
        also = ", `Continue` or `Refuse`" if protocol == 2 else ""
        raise AdapterError(f"adapter {name} answered without {wanted}{also}")


def _changed(given: str | None, returned: str | None, kept: bytes | None) -> bytes | None:
    """The body after a hook that was given the text `given` for the bytes `kept`."""
    if returned is None or returned == given or (given is None and not returned):
        return kept
    return returned.encode("utf-8", "replace")


def _with_query_of(returned: Any, request: str) -> str:
    """The request with the query that a hook returned, if it returned the same end point; else unchanged."""
    if not isinstance(returned, str) or returned == request:
        return request
    path, mark, query = returned.partition("?")
    if not _same_end_point(path, request.partition("?")[0]):
        return request
    return request.partition("?")[0] + mark + quote(query, safe=_VISIBLE)


def _same_end_point(path: str, own: str) -> bool:
    try:
        return read_target(path).path == read_target(own).path
    except Invalid:
        return False


def _status(name: str, code: int | None, otherwise: int) -> int:
    if code is None:
        return otherwise
    if not 200 <= code <= 599:
        raise AdapterError(f"adapter {name} answered with Code {code}, which is no status of a response")
    return code


def _content_type(name: str, returned: str | None) -> str | None:
    if returned is not None and not _CONTENT_TYPE.fullmatch(returned):
        raise AdapterError(f"adapter {name} answered with a ContentType that cannot be a header")
    return returned


def _refusal_of(name: str, answer: HookAnswer) -> Reply:
    """An HTTP error of an adapter, as the client gets it: its JSON as it is, else a message in Docker's shape."""
    if answer.body and text_of(answer.body) is not None:
        content_type = answer.content_type if is_json_type(answer.content_type) else JSON_TYPE
        return Reply(status=answer.status, body=answer.body, content_type=content_type)
    said = answer.body.decode("utf-8", "replace").strip()
    readable = said if said and not said.startswith("<") else ""
    text = f"adapter {name} refused this call with status {answer.status}"
    return Reply(
        status=answer.status, body=message_body(f"{text}: {readable[:_SHOWN_CHARACTERS]}" if readable else text)
    )


def message_body(text: str) -> bytes:
    """`{"message": text}`, as Docker's clients read errors."""
    return _encode({"message": text}) + b"\n"
