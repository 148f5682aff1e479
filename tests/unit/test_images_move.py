"""Moving an image between two engines in memory, directly and over HTTP: what travels, what is said, what may fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from drover.drivers.engine.fake import FakeEngine
from drover.drivers.engine.fake_images import Layout, digest, make_image
from drover.drivers.images.move import EngineSource, Offer, Progress, Source, is_name, move_image
from drover.drivers.images.wire import PATH, RemoteSource, serve_thin
from drover.errors import Conflict, DroverError, EngineError, Invalid, NotFound, Unavailable
from drover.sim.clock import run

BASE, TOP = b"b" * 200_000, b"t" * 10_000
IMAGE = make_image([BASE, TOP])


@pytest.fixture(params=["docker", "oci"])
def layout(request: pytest.FixtureRequest) -> Layout:
    return "docker" if request.param == "docker" else "oci"


@pytest.fixture
def h1(layout: Layout) -> FakeEngine:
    engine = FakeEngine("h1", archive_layout=layout)
    engine.images.add(IMAGE, "app:1")
    return engine


@pytest.fixture
def h2() -> FakeEngine:
    return FakeEngine("h2")


def give_base(engine: FakeEngine) -> None:
    engine.images.add(make_image([BASE]), "base:1")


async def answer_errors(request: web.Request, source: Source) -> web.StreamResponse:
    """The handler as the API calls it."""
    try:
        return await serve_thin(request, source)
    except DroverError as error:
        return web.json_response({"error": error.message}, status=error.status)


@asynccontextmanager
async def remote(source: Source) -> AsyncIterator[RemoteSource]:
    """The source as another host sees it."""
    app = web.Application()

    async def handle(request: web.Request) -> web.StreamResponse:
        return await answer_errors(request, source)

    app.router.add_post(PATH, handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield RemoteSource("h1", session, str(server.make_url("/")))


class CutSource:
    """A host whose archive breaks in the middle, the first `times` times."""

    host = "h1"

    def __init__(self, engine: FakeEngine, times: int) -> None:
        self._inner = EngineSource("h1", engine)
        self._times = times

    @asynccontextmanager
    async def offer(self, image: str, chains: Collection[str]) -> AsyncIterator[Offer]:
        async with self._inner.offer(image, chains) as offer:
            self._times -= 1
            broken = self._times >= 0
            yield Offer(offer.total_bytes, offer.present_layers, self._cut(offer.pieces) if broken else offer.pieces)

    async def _cut(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        yield await anext(pieces)
        raise Unavailable("the host is gone")


async def test_a_target_with_nothing_gets_everything(h1: FakeEngine, h2: FakeEngine) -> None:
    moved_bytes = await move_image(EngineSource("h1", h1), h2, "app:1", IMAGE.id)
    assert await h2.image_id("app:1") == IMAGE.id
    assert moved_bytes > len(BASE) + len(TOP)


async def test_a_target_with_the_base_gets_the_rest(h1: FakeEngine, h2: FakeEngine) -> None:
    give_base(h2)
    moved_bytes = await move_image(EngineSource("h1", h1), h2, "app:1", IMAGE.id)
    assert await h2.image_id("app:1") == IMAGE.id
    assert len(TOP) < moved_bytes < len(BASE)


async def test_over_http_too(h1: FakeEngine, h2: FakeEngine) -> None:
    give_base(h2)
    async with remote(EngineSource("h1", h1)) as source:
        moved_bytes = await move_image(source, h2, "other/name", IMAGE.id)
    assert await h2.image_id("other/name:latest") == IMAGE.id
    assert len(TOP) < moved_bytes < len(BASE)


@pytest.mark.parametrize("ref", [IMAGE.id, "app@sha256:" + "1" * 64])
async def test_ids_and_digests_give_no_name(h1: FakeEngine, h2: FakeEngine, ref: str) -> None:
    await move_image(EngineSource("h1", h1), h2, ref, IMAGE.id)
    assert await h2.image_id(IMAGE.id) == IMAGE.id
    assert h2.images.tags == {}
    assert not is_name(ref)


async def test_a_base_that_vanishes_meanwhile_is_sent_after_all(h1: FakeEngine, h2: FakeEngine) -> None:
    async def all_layers() -> frozenset[str]:
        return frozenset([digest(BASE)])

    h2.all_layers = all_layers  # type: ignore[method-assign]
    await move_image(EngineSource("h1", h1), h2, "app:1", IMAGE.id)
    assert await h2.image_id("app:1") == IMAGE.id
    assert h2.calls.count("load") == 2


async def test_a_refusal_that_layers_do_not_explain_passes_through(h1: FakeEngine, h2: FakeEngine) -> None:
    h2.fail_next("load", EngineError(500, "no space left on device"))
    with pytest.raises(EngineError, match="no space left"):
        await move_image(EngineSource("h1", h1), h2, "app:1", IMAGE.id)


async def test_a_cut_stream_loads_nothing_and_can_be_repeated(h1: FakeEngine, h2: FakeEngine) -> None:
    source = CutSource(h1, times=1)
    with pytest.raises(Unavailable, match="the host is gone"):
        await move_image(source, h2, "app:1", IMAGE.id)
    assert await h2.image_id(IMAGE.id) is None
    await move_image(source, h2, "app:1", IMAGE.id)
    assert await h2.image_id("app:1") == IMAGE.id


async def test_a_stream_cut_over_http_does_not_look_finished(h1: FakeEngine, h2: FakeEngine) -> None:
    async with remote(CutSource(h1, times=1)) as source:
        with pytest.raises(Unavailable, match="image data from host h1 does not come"):
            await move_image(source, h2, "app:1", IMAGE.id)
        assert await h2.image_id(IMAGE.id) is None
        await move_image(source, h2, "app:1", IMAGE.id)
    assert await h2.image_id("app:1") == IMAGE.id


async def test_a_host_without_the_image(h1: FakeEngine, h2: FakeEngine) -> None:
    unknown = "sha256:" + "0" * 64
    with pytest.raises(EngineError, match="No such image"):
        await move_image(EngineSource("h1", h1), h2, "app:1", unknown)
    async with remote(EngineSource("h1", h1)) as source:
        with pytest.raises(NotFound, match="host h1 does not have image sha256:0000"):
            await move_image(source, h2, "app:1", unknown)


async def test_a_host_whose_engine_is_down_or_that_is_gone(h1: FakeEngine, h2: FakeEngine) -> None:
    h1.down = True
    async with remote(EngineSource("h1", h1)) as source:
        with pytest.raises(Unavailable, match="the Docker engine does not answer"):
            await move_image(source, h2, "app:1", IMAGE.id)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(Unavailable, match="image data from host h1 does not come"):
            await move_image(RemoteSource("h1", session, "http://127.0.0.1:1"), h2, "app:1", IMAGE.id)


async def test_an_engine_that_numbers_images_otherwise(h1: FakeEngine, h2: FakeEngine) -> None:
    async def image_id(ref: str) -> str:
        return "sha256:" + "9" * 64

    h2.image_id = image_id  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="has another id"):
        await move_image(EngineSource("h1", h1), h2, "app:1", IMAGE.id)


@pytest.mark.parametrize("body", ["", "[]", '{"image": 5}', "not json"])
async def test_malformed_requests_are_invalid(h1: FakeEngine, body: str) -> None:
    async with (
        remote(EngineSource("h1", h1)) as source,
        aiohttp.ClientSession() as session,
        session.post(source._url, data=body) as response,
    ):
        assert response.status == Invalid.status
        assert "malformed" in json.loads(await response.text())["error"]


async def test_progress_in_words(h1: FakeEngine, h2: FakeEngine) -> None:
    give_base(h2)
    said: list[str] = []
    await move_image(EngineSource("h1", h1), h2, "app:1", IMAGE.id, said.append)
    assert said[0] == "moving image app:1 from h1: 0 B of 9.8 KiB, 1 layer already here"


async def nothing() -> AsyncIterator[bytes]:
    for piece in ():
        yield piece


def test_progress_is_not_said_too_often_and_never_beyond_the_whole() -> None:
    async def a_piece_every_tenth_of_a_second() -> list[str]:
        said: list[str] = []
        progress = Progress("app:1", "h1", Offer(3072, 0, nothing()), said.append)
        for _ in range(10):
            progress.add(1024)
            await asyncio.sleep(0.1)
        return said

    said = run(a_piece_every_tenth_of_a_second())
    assert said == [f"moving image app:1 from h1: {done}" for done in ("1 KiB of 3 KiB", "6 KiB of 6 KiB")]
