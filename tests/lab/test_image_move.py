"""Images move between two real Docker engines: full, thin, cut and repeated; what arrived runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from engine_contract import IMAGE, body, busybox_image, layer, settled, unique
from real_engine import RealEngine, real_engines

from drover.drivers.engine.docker import DockerEngine
from drover.drivers.engine.fake_images import FakeImage, FakeImages, Layout
from drover.drivers.images.move import EngineSource, Offer, move_image
from drover.drivers.images.wire import PATH, RemoteSource, serve_thin
from drover.errors import Unavailable

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

with open("/bin/busybox", "rb") as file:
    BUSYBOX = file.read()
BIG_BYTES = 3_000_000


@pytest.fixture(scope="module")
def engines() -> Iterator[list[RealEngine]]:
    with real_engines(2) as engines:
        yield engines


@pytest.fixture
async def h1(engines: list[RealEngine]) -> AsyncIterator[DockerEngine]:
    async with wiped_after(engines[0]) as engine:
        yield engine


@pytest.fixture
async def h2(engines: list[RealEngine]) -> AsyncIterator[DockerEngine]:
    async with wiped_after(engines[1]) as engine:
        yield engine


@asynccontextmanager
async def wiped_after(real: RealEngine) -> AsyncIterator[DockerEngine]:
    """The engine's driver; its containers and images are removed after the test."""
    engine = DockerEngine(real.socket)
    yield engine
    for seen in await engine.containers():
        await engine.order(seen.engine_id, "remove", "force=1&v=1")
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(real.socket)) as session:
        async with session.get("http://engine/images/json?all=1") as listed:
            images = [image["Id"] for image in await listed.json()]
        for image in images:
            await session.delete(f"http://engine/images/{image}?force=1")
    assert await engine.all_layers() == frozenset()
    await engine.close()


def app_layers() -> list[bytes]:
    """Layers of an application: one that is large and does not compress, one that answers with its exit code."""
    return [layer({"big": os.urandom(BIG_BYTES)}), layer({"answer": b"#!/bin/sh\nexit 42\n"})]


async def load(engine: DockerEngine, image: FakeImage, ref: str, layout: Layout = "docker") -> str:
    """Have an image on a real engine; its id there."""
    images = FakeImages()
    images.add(image, ref)

    async def archive() -> AsyncIterator[bytes]:
        yield images.archive([ref], layout)

    await engine.load(archive())
    image_id = await engine.image_id(ref)
    assert image_id == image.id
    return image_id


async def answers(engine: DockerEngine, ref: str) -> bool:
    """Whether a container of the image runs and gives its answer."""
    engine_id, _ = await engine.create_container(unique("app"), body("/answer") | {"Image": ref})
    status, text = await engine.order(engine_id, "start")
    assert status == 204, text
    return (await settled(engine, engine_id, "exited")).exit_code == 42


async def test_everything_to_an_engine_that_has_nothing(h1: DockerEngine, h2: DockerEngine) -> None:
    image_id = await load(h1, busybox_image(BUSYBOX, *app_layers()), "app:1")
    moved_bytes = await move_image(EngineSource("h1", h1), h2, "app:1", image_id)
    assert moved_bytes > BIG_BYTES + len(BUSYBOX)
    assert await h2.image_id("app:1") == image_id
    assert await answers(h2, "app:1")


async def test_only_what_is_missing(h1: DockerEngine, h2: DockerEngine) -> None:
    big, answer = app_layers()
    image_id = await load(h1, busybox_image(BUSYBOX, big, answer), "app:1")
    await load(h2, busybox_image(BUSYBOX, big), "base:1")
    said: list[str] = []
    moved_bytes = await move_image(EngineSource("h1", h1), h2, "app:1", image_id, said.append)
    assert len(answer) < moved_bytes < 50_000
    assert said[0].endswith("2 layers already here")
    assert await answers(h2, "app:1")


async def test_the_same_layer_on_another_base_is_sent(h1: DockerEngine, h2: DockerEngine) -> None:
    big, answer = app_layers()
    image_id = await load(h1, busybox_image(BUSYBOX, big, answer), "app:1")
    await load(h2, busybox_image(BUSYBOX, answer, big), "other:1")
    moved_bytes = await move_image(EngineSource("h1", h1), h2, "app:1", image_id)
    assert BIG_BYTES < moved_bytes < BIG_BYTES + len(BUSYBOX)
    assert await answers(h2, "app:1")


async def test_a_layer_that_occurs_twice(h1: DockerEngine, h2: DockerEngine) -> None:
    """20.10 saves the second one as a link to the first, which is left out."""
    big, answer = app_layers()
    image_id = await load(h1, busybox_image(BUSYBOX, answer, big, answer), "app:1")
    await load(h2, busybox_image(BUSYBOX, answer, big), "base:1")
    moved_bytes = await move_image(EngineSource("h1", h1), h2, "app:1", image_id)
    assert moved_bytes < BIG_BYTES
    assert await answers(h2, "app:1")
    await load(h2, busybox_image(BUSYBOX, answer, big, answer, answer), "longer:1")
    longer_id = await h2.image_id("longer:1")
    assert longer_id is not None
    assert await move_image(EngineSource("h2", h2), h1, "longer:1", longer_id) < BIG_BYTES
    assert await answers(h1, "longer:1")


@pytest.mark.parametrize("layout", ["docker", "oci"])
async def test_thin_archives_of_both_layouts_load(h1: DockerEngine, layout: Layout) -> None:
    """The newer layout comes from an engine in memory, as a newer Docker would write it."""
    big, answer = app_layers()
    image = busybox_image(BUSYBOX, big, answer)
    images = FakeImages()
    images.add(image, "app:1")
    await load(h1, busybox_image(BUSYBOX, big), "base:1")

    class Saved:
        """As much of an engine as a source needs."""

        async def image_layers(self, ref: str) -> list[str]:
            return list(image.diff_ids)

        async def layer_sizes(self, ref: str) -> list[int]:
            return [len(data) for data in image.layers]

        async def save(self, refs: list[str]) -> AsyncIterator[bytes]:
            yield images.archive(refs, layout)

    moved_bytes = await move_image(EngineSource("new", Saved()), h1, "app:1", image.id)  # type: ignore[arg-type]
    assert moved_bytes < 50_000
    assert await answers(h1, "app:1")


async def test_from_daemon_to_daemon(h1: DockerEngine, h2: DockerEngine) -> None:
    big, answer = app_layers()
    image_id = await load(h1, busybox_image(BUSYBOX, big, answer), "app:1")
    await load(h2, busybox_image(BUSYBOX), IMAGE)
    app = web.Application()

    async def handle(request: web.Request) -> web.StreamResponse:
        return await serve_thin(request, EngineSource("h1", h1))

    app.router.add_post(PATH, handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        moved_bytes = await move_image(RemoteSource("h1", session, str(server.make_url("/"))), h2, "app:1", image_id)
    assert BIG_BYTES < moved_bytes < BIG_BYTES + len(BUSYBOX)
    assert await answers(h2, "app:1")


class CutSource:
    """A host that goes away in the middle of its archive."""

    host = "h1"

    def __init__(self, engine: DockerEngine) -> None:
        self._inner = EngineSource("h1", engine)

    @asynccontextmanager
    async def offer(self, image: str, chains: Collection[str]) -> AsyncIterator[Offer]:
        async with self._inner.offer(image, chains) as offer:
            yield Offer(offer.total_bytes, offer.present_layers, self._cut(offer.pieces))

    async def _cut(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        sent_bytes = 0
        async for piece in pieces:
            yield piece
            sent_bytes += len(piece)
            if sent_bytes > BIG_BYTES / 2:
                raise Unavailable("the host is gone")


async def test_a_cut_stream_loads_nothing_and_can_be_repeated(h1: DockerEngine, h2: DockerEngine) -> None:
    image_id = await load(h1, busybox_image(BUSYBOX, *app_layers()), "app:1")
    with pytest.raises(Unavailable, match="the host is gone"):
        await move_image(CutSource(h1), h2, "app:1", image_id)
    assert await h2.all_layers() == frozenset()
    assert await h2.image_id("app:1") is None
    await move_image(EngineSource("h1", h1), h2, "app:1", image_id)
    assert await answers(h2, "app:1")
