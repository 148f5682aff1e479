"""What `drover doctor network` asks: each host's kernel and engine against the records.

Theory of operation. `GET /doctor/network` answers `{hosts: {name: [sentence]}}`; with `?here=1` this host alone. A host
looks several times, LOOK_AGAIN_S apart, and tells only what it saw each time: what is being changed right now is
no fault. A host that is alive and does not answer is a sentence of its own; one that is not is left out.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec
from aiohttp import web

from drover.errors import DroverError
from drover.model.records import Host
from drover.store.mirror import Mirror

PATH = "/doctor/network"
LOOKS = 3
LOOK_AGAIN_S = 0.5
DEADLINE_S = 20.0
Doubts = Callable[[], Awaitable[list[str]]]


class _Answer(msgspec.Struct):
    hosts: dict[str, list[str]]


def doctor_routes(host: str, mirror: Mirror, doubts: Doubts, client_tls: ssl.SSLContext) -> list[web.RouteDef]:
    """The routes of the module's description; `doubts` looks at this host once."""

    async def network(request: web.Request) -> web.StreamResponse:
        found = {host: await lasting(doubts)}
        if not request.query.get("here"):
            cluster = mirror.cluster
            others = [one for name, one in sorted(cluster.hosts.items()) if name != host and name in cluster.alive]
            found |= await _ask_all(others, client_tls)
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


async def _ask_all(hosts: list[Host], client_tls: ssl.SSLContext) -> dict[str, list[str]]:
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_tls), timeout=timeout) as session:
        answers = await asyncio.gather(*(_ask(session, host) for host in hosts))
    return dict(zip((host.name for host in hosts), answers, strict=True))


async def _ask(session: aiohttp.ClientSession, host: Host) -> list[str]:
    try:
        async with session.get(f"https://{host.address}:{host.api_port}{PATH}?here=1") as response:
            body = await response.read()
        return msgspec.json.decode(body, type=_Answer).hosts.get(host.name, [])
    except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
        return [f"its daemon does not say how its network is: {error or type(error).__name__}"]
