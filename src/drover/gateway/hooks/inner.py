"""Calls that the daemon makes to its own gateway: past every hook, to undo what a post-hook failed on and to run
adapters; through them, to run what manifests ask for."""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from drover.gateway.call import Call, EngineResponse, Handler, Links, Relay, Reply
from drover.gateway.targets import read_target

INNER_DEADLINE_S = 120.0
PULL_DEADLINE_S = 600.0
_JSON_HEADERS = ((b"Content-Type", b"application/json"),)


async def inner_call(
    handler: Handler, links: Links, method: str, target: str, body: bytes = b"", deadline_s: float = INNER_DEADLINE_S
) -> EngineResponse:
    """The whole answer of `handler` to a call, streams read to their end. Raises `DroverError`."""
    outcome = await handler(_call(method, target, body))
    if isinstance(outcome, Relay):
        return await _relayed(outcome, links, method, target, body, deadline_s)
    return await _replied(outcome)


def _call(method: str, target: str, body: bytes) -> Call:
    async def read_body(limit_bytes: int) -> bytes:
        return body

    read = read_target(target)
    return Call(
        method=method,
        path=read.path,
        version=read.version,
        target=target,
        query_string=read.query_string,
        headers=_JSON_HEADERS if body else (),
        read_body=read_body,
    )


async def _replied(reply: Reply) -> EngineResponse:
    body = reply.body
    if reply.stream is not None:
        body = b"".join([piece async for piece in reply.stream])
    return EngineResponse(status=reply.status, headers=reply.headers, body=body)


async def _relayed(
    relay: Relay, links: Links, method: str, target: str, body: bytes, deadline_s: float
) -> EngineResponse:
    answer = await links.request(
        relay.host,
        method,
        relay.target or target,
        body=body if relay.body is None else relay.body,
        headers=_JSON_HEADERS if body or relay.body else (),
        deadline_s=deadline_s,
    )
    edit = relay.edit or relay.edit_lines
    return answer if edit is None else msgspec.structs.replace(answer, body=edit(answer.body))


def pull_target(image: str) -> str:
    """The call that pulls an image; a reference without tag and digest means `latest`, as for `docker pull`."""
    tagged = ":" in image.rpartition("/")[2]
    return f"/images/create?fromImage={quote(image, safe='')}" + ("" if tagged else "&tag=latest")
