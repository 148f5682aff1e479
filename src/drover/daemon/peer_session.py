"""`PeerSession`: the HTTP connections of one of this daemon's parts to the other hosts' daemons, kept between calls.

A connection that is there already saves the round trips of a handshake: within a hand-over, and while a stop waits.
"""

from __future__ import annotations

import ssl

import aiohttp

from drover.model.records import Host

CONNECT_DEADLINE_S = 3.0


class PeerSession:
    """Opened by the first call, in the loop that makes it; usable again after `close`."""

    def __init__(self, client_tls: ssl.SSLContext) -> None:
        self._tls = client_tls
        self._session: aiohttp.ClientSession | None = None

    def __call__(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls, limit=0))
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def url_of(host: Host, path: str) -> str:
    """Where a host's daemon answers to a path."""
    return f"https://{host.address}:{host.api_port}{path}"
