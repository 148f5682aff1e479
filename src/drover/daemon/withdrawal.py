"""Whether the tables of hosts are at a revision: `GET /tables/reached?revision=N`, both ends of it.

The answer is 200 as soon as they are, and 503 after WAIT_S: the asking side asks again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web

from drover.api.app import json_answer
from drover.daemon.peer_session import CONNECT_DEADLINE_S, PeerSession, url_of
from drover.errors import Invalid, Unavailable
from drover.store.mirror import Mirror

WAIT_S = 10.0
PATH = "/tables/reached"
Reached = Callable[[int], Awaitable[None]]
"""Returns once this host's tables are at a revision."""


class PeerTables:
    """The agent's `Senders`."""

    def __init__(self, host: str, mirror: Mirror, here: Reached, client_tls: ssl.SSLContext) -> None:
        self._host = host
        self._mirror = mirror
        self._here = here
        self._session = PeerSession(client_tls)

    async def close(self) -> None:
        await self._session.close()

    async def reached(self, host: str, revision: int) -> None:
        """See `Senders.reached`."""
        if host == self._host:
            await self._here(revision)
            return
        record = self._mirror.cluster.hosts.get(host)
        if record is None:
            return
        timeout = aiohttp.ClientTimeout(total=WAIT_S + CONNECT_DEADLINE_S, connect=CONNECT_DEADLINE_S)
        try:
            async with self._session().get(
                url_of(record, PATH), params={"revision": str(revision)}, timeout=timeout
            ) as response:
                if response.status == web.HTTPNotFound.status_code:
                    return  # an older daemon, which cannot say
                if response.status != 200:
                    raise Unavailable(f"the tables of host {host} are not at revision {revision} yet")
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"host {host} does not say how far its tables are: {error}") from error


def tables_routes(here: Reached) -> list[web.RouteDef]:
    """The route of the module's first line."""

    async def reached(request: web.Request) -> web.Response:
        asked = request.query.get("revision", "")
        if not (asked.isascii() and asked.isdigit()):
            raise Invalid(f"revision must be a number, not {asked!r}")
        try:
            async with asyncio.timeout(WAIT_S):
                await here(int(asked))
        except TimeoutError:
            raise Unavailable(f"the tables of this host are not at revision {asked} yet") from None
        return json_answer({"revision": int(asked)})

    return [web.get(PATH, reached)]
