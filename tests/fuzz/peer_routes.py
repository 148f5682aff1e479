"""A daemon's API with everything that hosts ask of each other, on loopback: the agent's parts are real, its volumes
are directories on this disk, its engine is the fake one. The agent does not run: only what a call does is done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web
from api_world import World
from cluster_factory import cid, container, host_config, volume

from drover.agent.agent import Agent, Drivers
from drover.api.addresses import address_routes
from drover.api.apps import app_routes
from drover.api.events import event_routes
from drover.api.founding import founding_changes
from drover.api.server import ApiServer
from drover.api.volumes import volume_api_routes
from drover.daemon.images import image_routes
from drover.daemon.volume_life import LifeRoutes
from drover.daemon.volumes import PeerVolumes, stream_routes
from drover.drivers.backups.fake import FakeBackups
from drover.drivers.engine.fake import FakeEngine
from drover.drivers.insides.fake import FakeInsides
from drover.drivers.network.fake import FakeNetwork
from drover.drivers.volumes.catalog import host_catalog
from drover.drivers.volumes.fake import FakeVolumes
from drover.trust import tls

VOLUME, CONTAINER = "data", cid(1)


def routes(made: World, root: Path) -> list[web.RouteDef]:
    engine, disk = FakeEngine(seed="h1"), FakeVolumes()
    peers = PeerVolumes(made.mirror, tls.client_context(made.tls_dir))
    backups = FakeBackups(disk.read_at, disk.write_at)
    unused: Any = None
    catalog = host_catalog(root, None, None)
    drivers = Drivers(engine, FakeNetwork(), catalog, unused, peers, peers, FakeInsides(engine), backups=backups)
    agent = Agent("h1", made.mirror, made.store, drivers, time.time)
    actor = agent.actor
    streams = stream_routes(actor.keeper, actor.belongings, actor.rounds)
    life = LifeRoutes("h1", actor, peers, backups).routes()
    images = image_routes("h1", engine)
    return [*streams, *volume_api_routes(), *life, *address_routes(), *app_routes(), *event_routes(), *images]


@contextlib.asynccontextmanager
async def daemon(directory: Path) -> AsyncIterator[World]:
    """One host, a volume with a file in it, and a container that uses it."""
    made = World(directory)
    host = made.found()
    root = directory / "volumes"
    made.server = ApiServer(made.context(), routes(made, root))
    await made.store.commit(founding_changes(host, "test"))
    await made.store.commit([*container(1, "web0", "h1", host_config(Binds=["data:/d"])), *volume(VOLUME, "h1")])
    _write(root / "directory" / "live" / f"{VOLUME}@{1:010}" / "file", "kept\n")
    assert await made.mirror.start()
    await made.server.start(made.socket, "", "127.0.0.1", 0)
    made.port = made.server.port
    try:
        yield made
    finally:
        await made.server.stop()
        await made.mirror.stop()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)
