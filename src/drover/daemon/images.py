"""Images between hosts: asked from the daemons of the others, given to theirs.

The asking side tries the hosts that are alive, those that run containers of the image first; a host that has it not
says so at once. What travels is a thin archive: only the layers that the asking engine lacks.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

import aiohttp
from aiohttp import web

from drover.drivers.engine.port import Engine
from drover.drivers.images.move import EngineSource, move_image
from drover.drivers.images.wire import PATH, RemoteSource, serve_thin
from drover.errors import EngineError, NotFound, Unavailable
from drover.model.cluster import Cluster
from drover.store.mirror import Mirror


class PeerImages:
    """The agent's `ImageMover`."""

    def __init__(self, host: str, mirror: Mirror, engine: Engine, client_tls: ssl.SSLContext) -> None:
        self._host = host
        self._mirror = mirror
        self._engine = engine
        self._tls = client_tls

    async def fetch(self, image_id: str, ref: str, progress: Callable[[str], None]) -> None:
        """Have the image on this engine under `ref`. Raises `NotFound` if no reachable host has it."""
        refused: list[str] = []
        connector = aiohttp.TCPConnector(ssl=self._tls)
        async with aiohttp.ClientSession(connector=connector) as session:
            for host, base_url in _askable(self._mirror.cluster, self._host, image_id):
                try:
                    await move_image(RemoteSource(host, session, base_url), self._engine, ref, image_id, progress)
                except (NotFound, EngineError, Unavailable) as error:
                    refused.append(f"{host}: {error.message}")
                else:
                    return
        raise NotFound(
            f"image {ref} ({image_id[:19]}) is on no host that answers: " + ("; ".join(refused) or "there is no other"),
            hint="pull, load or build it again through the cluster's Docker endpoint",
        )


def _askable(cluster: Cluster, asking: str, image_id: str) -> list[tuple[str, str]]:
    """The other hosts that are alive and their daemons' addresses, likely ones first."""
    likely = {
        cluster.host_of(container.id) for container in cluster.containers.values() if container.image_id == image_id
    }
    hosts = [host for host in cluster.hosts.values() if host.name in cluster.alive and host.name != asking]
    hosts.sort(key=lambda host: (host.name not in likely, host.name))
    return [(host.name, f"https://{host.address}:{host.api_port}") for host in hosts]


def image_routes(host: str, engine: Engine) -> list[web.RouteDef]:
    """The giving side, for the API: `POST /images/thin`."""
    source = EngineSource(host, engine)

    async def thin(request: web.Request) -> web.StreamResponse:
        return await serve_thin(request, source)

    return [web.post(PATH, thin)]
