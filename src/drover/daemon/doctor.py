"""What `drover doctor network` asks: each host's kernel and engine against the records.

Theory of operation. `GET /doctor/network` answers `{hosts: {name: [sentence]}}`; with `?here=1` this host alone. A host
looks several times, LOOK_AGAIN_S apart, and tells only what it saw each time: what is being changed right now is
no fault. A host that is alive and does not answer is a sentence of its own; one that is not is left out.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from drover.daemon.asking import ask_hosts, others_alive
from drover.errors import DroverError, Unavailable
from drover.store.mirror import Mirror
from drover.wire.nesting import MALFORMED

PATH = "/doctor/network"
LOOKS = 3
LOOK_AGAIN_S = 0.5
Doubts = Callable[[], Awaitable[list[str]]]


class _Answer(msgspec.Struct):
    hosts: dict[str, list[str]]


def doctor_routes(host: str, mirror: Mirror, doubts: Doubts, client_tls: ssl.SSLContext) -> list[web.RouteDef]:
    """The routes of the module's description; `doubts` looks at this host once."""

    async def network(request: web.Request) -> web.StreamResponse:
        found = {host: await lasting(doubts)}
        if not request.query.get("here"):
            answers = await ask_hosts(others_alive(mirror.cluster, host), f"{PATH}?here=1", client_tls)
            found |= {name: _said(name, answer) for name, answer in answers.items()}
        return web.Response(body=msgspec.json.encode(_Answer(found)), content_type="application/json")

    return [web.get(PATH, network)]


async def lasting(doubts: Doubts) -> list[str]:
    """The doubts that every look shows."""
    found = await _look(doubts)
    for _ in range(LOOKS - 1):
        if not found:
            break
        await asyncio.sleep(LOOK_AGAIN_S)
        again = await _look(doubts)
        found = [one for one in found if one in again]
    return found


async def _look(doubts: Doubts) -> list[str]:
    try:
        return await doubts()
    except DroverError as error:
        return [f"the network cannot be looked at: {error.message}"]


def _said(host: str, answer: bytes | Unavailable) -> list[str]:
    if isinstance(answer, Unavailable):
        return [answer.message]
    try:
        return msgspec.json.decode(answer, type=_Answer).hosts.get(host, [])
    except MALFORMED as error:
        return [f"its daemon's answer cannot be read: {error}"]
