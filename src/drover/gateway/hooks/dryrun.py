"""What a hook made of what it was sent, as a diff; and the dry run that shows it (`drover adapter test`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from drover.errors import Invalid
from drover.gateway.answers import sentence
from drover.gateway.hooks.config import Adapter
from drover.gateway.hooks.protocol import (
    AdapterError,
    Extras,
    HookAnswer,
    Refused,
    Request,
    Response,
    message,
    read_post,
    read_pre,
)
from drover.gateway.hooks.stats import Change, body_changes
from drover.gateway.targets import read_target

Ask = Callable[[Adapter, bytes], Awaitable[HookAnswer]]


class _Response(msgspec.Struct, rename="pascal"):
    content_type: str | None = "application/json"
    body: str | None = None
    code: int = 200


class Wish(msgspec.Struct, rename="pascal"):
    """The file of a dry run: a call, and for a post-hook its response, spelled as in the protocol."""

    request: str
    method: str = "POST"
    body: str | None = None
    server_response: _Response | None = None


async def dry_run(ask: Ask, adapter: Adapter, wish: dict[str, Any]) -> dict[str, Any]:
    """What was sent and answered, and what it would have changed. Raises `Invalid` for a wish that is no call."""
    try:
        read = msgspec.convert(wish, Wish)
    except msgspec.ValidationError as error:
        raise Invalid(f"the request to test with is not one: {error}", hint="it needs Method, Request and Body")
    request = Request(method=read.method, request=read.request, body=_bytes(read.body))
    response = _response(read.server_response)
    tell = message(adapter.protocol, "pre-hook" if response is None else "post-hook", request, _extras(read), response)
    shown: dict[str, Any] = {"sent": msgspec.json.decode(tell), "outcome": "unchanged", "changes": [], "error": ""}
    try:
        answer = await ask(adapter, tell)
        shown |= {"status": answer.status, "answer": answer.body.decode("utf-8", "replace")}
        before: Request | Response = request if response is None else response
        changes = changes_between(before, _read(adapter, answer, request, response))
        shown |= {"outcome": "changed" if changes else "unchanged", "changes": msgspec.to_builtins(changes)}
    except Refused as refused:
        shown |= {"outcome": "failed" if refused.crashed else "refused", "error": refused.reply.body.decode()}
    except AdapterError as error:
        shown |= {"outcome": "failed", "error": sentence(error)}
    return shown


def _read(adapter: Adapter, answer: HookAnswer, request: Request, response: Response | None) -> Request | Response:
    if response is None:
        return read_pre(adapter.name, adapter.protocol, answer, request)
    return read_post(adapter.name, adapter.protocol, answer, response)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _response(given: _Response | None) -> Response | None:
    if given is None:
        return None
    return Response(status=given.code, content_type=given.content_type, body=_bytes(given.body) or b"")


def _extras(wish: Wish) -> Extras:
    target = read_target(wish.request)
    return Extras(trace_id="test", path=target.path, query_string=target.query_string, version=target.version)


def changes_between(before: Request | Response, after: Request | Response) -> list[Change]:
    """The fields that differ; bodies by field if they are JSON."""
    if isinstance(before, Request) and isinstance(after, Request):
        plain = [Change("Request", before.request, after.request)] if before.request != after.request else []
        return plain + body_changes(before.body, after.body)
    if isinstance(before, Response) and isinstance(after, Response):
        pairs = (("Code", before.status, after.status), ("ContentType", before.content_type, after.content_type))
        changed = [Change(field, old, new) for field, old, new in pairs if old != new]
        return changed + body_changes(before.body, after.body)
    return []
