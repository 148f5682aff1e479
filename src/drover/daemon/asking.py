"""Asking the daemons of other hosts the same question at once, over their APIs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable

import aiohttp

from drover.errors import Unavailable
from drover.model.cluster import Cluster
from drover.model.records import Host

DEADLINE_S = 20.0


def others_alive(cluster: Cluster, host: str) -> list[Host]:
    """The other hosts whose lease is held, by name."""
    return [one for name, one in sorted(cluster.hosts.items()) if name != host and name in cluster.alive]


async def ask_hosts(hosts: Iterable[Host], path: str, client_tls: ssl.SSLContext) -> dict[str, bytes | Unavailable]:
    """Each host's answer to `GET path`, or why there is none."""
    asked = list(hosts)
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_tls), timeout=timeout) as session:
        answers = await asyncio.gather(*(_ask(session, host, path) for host in asked))
    return dict(zip((host.name for host in asked), answers, strict=True))


async def _ask(session: aiohttp.ClientSession, host: Host, path: str) -> bytes | Unavailable:
    try:
        async with session.get(f"https://{host.address}:{host.api_port}{path}", raise_for_status=True) as response:
            return await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return Unavailable(f"its daemon does not say how its network is: {error or type(error).__name__}")
