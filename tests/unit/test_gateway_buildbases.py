"""A build's base images are brought before its engine can need them; the context passes as it is."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from cluster_factory import host
from gateway_wire_tools import Peer, ok, relay_to, running, until
from gateway_world import API, World, relayed, response

from drover.drivers.images.tarstream import BLOCK_BYTES
from drover.errors import NotFound
from drover.gateway.call import Inspect

MIB = 1024 * 1024


def context(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("_", "/"))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


class Fetched:
    """A `Fetch` that notes what it was asked for."""

    def __init__(self, refuses: bool = False) -> None:
        self.asked: list[tuple[str, str]] = []
        self._refuses = refuses

    async def __call__(self, image_id: str, ref: str, progress: Callable[[str], None]) -> None:
        self.asked.append((image_id, ref))
        if self._refuses:
            raise NotFound(f"image {ref} is on no host that answers")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """`base` is on h2 only, `here` on both hosts, `newer` was tagged again on h2."""
    made = World()
    made.write([*host("h1", facts=API), *host("h2", facts=API)])
    made.links.say("h1 h2", "GET", "/images/here/json", response({"Id": "sha256:1"}))
    made.links.say("h2", "GET", "/images/base/json", response({"Id": "sha256:2"}))
    for name, ident, at in (("h1", "sha256:3", "2026-01-01"), ("h2", "sha256:4", "2026-02-01")):
        tagged = response({"Id": ident, "Metadata": {"LastTagTime": at}})
        made.links.say(name, "GET", "/images/newer/json", tagged)
    yield made
    await made.close()


async def building(world: World, fetch: Fetched, target: str = "/v1.41/build") -> Inspect | None:
    """What inspects the body of a build on h1."""
    gateway = await world.gateway()
    gateway.context.fetch = fetch
    return (await relayed(gateway, "POST", target)).inspect


async def pieces(data: bytes, size: int = 700) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
async def test_what_other_hosts_have_is_brought(world: World, pack: Callable[[bytes], bytes]) -> None:
    fetch = Fetched()
    inspect = await building(world, fetch)
    assert inspect is not None
    dockerfile = b"FROM base AS one\nFROM here\nFROM newer\nFROM nobody-has-it\nCOPY --from=one / /\n"
    await inspect(pieces(pack(context(aaa=b"x" * 5000, Dockerfile=dockerfile, zzz=b"y" * 5000))))
    assert sorted(fetch.asked) == [("sha256:2", "base"), ("sha256:4", "newer")]


async def test_another_name_and_build_arguments(world: World) -> None:
    fetch = Fetched()
    arguments = quote(json.dumps({"BASE": "base", "UNSET": None}))
    inspect = await building(world, fetch, f"/v1.41/build?dockerfile=.%2Fsub%2FMine&buildargs={arguments}")
    assert inspect is not None
    await inspect(pieces(context(Dockerfile=b"FROM newer", sub_Mine=b"ARG BASE=here\nARG UNSET=x\nFROM $BASE")))
    assert fetch.asked == [("sha256:2", "base")]


@pytest.mark.parametrize("query", ["version=2", "remote=https%3A%2F%2Fexample.com", "pull=1"])
async def test_what_cannot_be_read_along_is_not_inspected(world: World, query: str) -> None:
    assert await building(world, Fetched(), f"/v1.41/build?{query}") is None


async def test_no_dockerfile_brings_nothing(world: World) -> None:
    fetch = Fetched()
    inspect = await building(world, fetch)
    assert inspect is not None
    await inspect(pieces(context(other=b"FROM base")))
    assert fetch.asked == []


async def test_an_image_that_cannot_be_brought_is_left_to_the_engine(world: World) -> None:
    fetch = Fetched(refuses=True)
    inspect = await building(world, fetch)
    assert inspect is not None
    await inspect(pieces(context(Dockerfile=b"FROM base")))
    assert fetch.asked == [("sha256:2", "base")]


HEAD = b"POST /v1.41/build HTTP/1.1\r\nHost: a\r\n"


def framed(data: bytes, chunked: bool) -> bytes:
    if not chunked:
        return HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data
    parts = [data[at : at + 5000] for at in range(0, len(data), 5000)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_end_waits_for_the_reader_and_nothing_is_changed(tmp_path: Path, chunked: bool) -> None:
    seen, got = asyncio.Event(), bytearray()
    released = asyncio.Event()
    data = context(Dockerfile=b"FROM base", big=bytes(range(256)) * 4096)
    raw = framed(data, chunked)
    body = raw.partition(b"\r\n\r\n")[2]

    async def inspect(pieces: AsyncIterator[bytes]) -> None:
        read = b""
        async for piece in pieces:
            read += piece
            if len(read) > BLOCK_BYTES:
                break
        seen.set()
        await released.wait()

    async def script(peer: Peer, head: bytes) -> None:
        while len(got) < len(body):
            got.extend(await peer.exactly(min(1000, len(body) - len(got))))
        await peer.send(ok(b"built"))

    async with running(tmp_path) as world:
        world.engine_of("h1").script = script
        world.handler = relay_to("h1", inspect=inspect)
        client = await world.client()
        asked = asyncio.create_task(client.ask(raw))
        await seen.wait()
        assert len(got) <= BLOCK_BYTES + 1000
        released.set()
        assert (await asked)[1] == b"built"
        assert bytes(got) == body
        client.close()


async def test_a_reader_that_fails_lets_all_pass(tmp_path: Path) -> None:
    async def inspect(pieces: AsyncIterator[bytes]) -> None:
        raise ValueError("cannot read it")

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(ok(await peer.exactly(5)))

    async with running(tmp_path) as world:
        world.engine_of("h1").script = script
        world.handler = relay_to("h1", inspect=inspect)
        client = await world.client()
        assert (await client.ask(framed(b"hello", chunked=False)))[1] == b"hello"
        client.close()


async def test_an_engine_that_answers_early_ends_the_reading(tmp_path: Path) -> None:
    cancelled = asyncio.Event()

    async def inspect(pieces: AsyncIterator[bytes]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(ok(b"no"))

    async with running(tmp_path) as world:
        world.engine_of("h1").script = script
        world.handler = relay_to("h1", inspect=inspect)
        client = await world.client()
        assert (await client.ask(framed(b"hello", chunked=False)))[1] == b"no"
        await until(cancelled.is_set)
        client.close()
