"""Volumes between two daemons, over real connections: content, compression, bandwidth, and what breaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cluster_factory import world

from drover.agent.volumes import Given, Wanted
from drover.api.app import errors_as_json
from drover.daemon.volumes import PeerVolumes, _Pace, _path, _query, stream_routes
from drover.errors import Conflict, DroverError, Unavailable
from drover.model import records as r
from drover.model.cluster import put
from drover.sim import clock
from drover.trust import certificates, tls

ZEROS = bytes(4 << 20)
ALL = Wanted(volume="my data", epoch=7, if_changed=True, last=True, limit_bytes_s=1 << 40, compress=True)


class Keeper:
    """Gives `content`; `refusal` before it, `broken` within it."""

    def __init__(self, content: bytes = ZEROS) -> None:
        self.content = content
        self.refusal: DroverError | None = None
        self.broken = False
        self.asked: list[tuple[Wanted, bytes]] = []

    async def give(self, wanted: Wanted, have: bytes) -> Given:
        self.asked.append((wanted, have))
        if self.refusal is not None:
            raise self.refusal
        return Given("0000000007-000000000000001", self._pieces(), 12.5)

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        half = len(self.content) // 2
        yield self.content[:half]
        if self.broken:
            raise DroverError("input/output error")
        yield self.content[half:]


class Peers:
    """h1 with its keeper, and what h2 asks it by."""

    def __init__(self, keeper: Keeper, volumes: PeerVolumes, url: str, tls_dir: Path) -> None:
        self.keeper = keeper
        self.volumes = volumes
        self.url = url
        self.tls_dir = tls_dir

    async def pulled(self, wanted: Wanted, have: bytes = b"") -> tuple[str, float, bytes]:
        async with self.volumes.open("h1", wanted, have) as incoming:
            pieces = [piece async for piece in incoming.pieces]
            return incoming.snapshot, incoming.at, b"".join(pieces)

    async def bytes_on_the_wire(self, wanted: Wanted) -> int:
        connector = aiohttp.TCPConnector(ssl=tls.client_context(self.tls_dir))
        url = self.url + _path(wanted.volume)
        async with (
            aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
            session.post(url, params=_query(wanted)) as response,
        ):
            return len(await response.read())


def enrol(directory: Path, authority: certificates.Authority, name: str) -> Path:
    issued = certificates.issue(
        authority, certificates.request(certificates.host_key(directory), name), name, "127.0.0.1", time.time()
    )
    certificates.install(directory, authority, issued)
    return directory


@asynccontextmanager
async def served(keeper: Keeper, directory: Path) -> AsyncIterator[int]:
    """A daemon's app with the giving side alone; its port."""
    nothing: Any = None
    anything: Any = keeper
    app = web.Application(middlewares=[errors_as_json])
    app.add_routes(stream_routes(anything, nothing, nothing))
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls.server_context(directory, "required"))
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture
async def peers(tmp_path: Path) -> AsyncIterator[Peers]:
    authority = certificates.new_authority("test", time.time())
    h1, h2 = (enrol(tmp_path / name, authority, name) for name in ("h1", "h2"))
    keeper = Keeper()
    async with served(keeper, h1) as port:
        record = r.Host(name="h1", id="1", index=1, address="127.0.0.1", api_port=port)
        mirror: Any = SimpleNamespace(cluster=world([put(r.key("hosts", "h1"), record)]))
        volumes = PeerVolumes(mirror, tls.client_context(h2))
        yield Peers(keeper, volumes, f"https://127.0.0.1:{port}", h2)
        await volumes.close()


@pytest.mark.parametrize("wanted", [Wanted(volume="data", epoch=1, snapshot="s1"), ALL], ids=["one", "all"])
async def test_what_is_asked_and_given_arrives_as_it_was(peers: Peers, wanted: Wanted) -> None:
    assert await peers.pulled(wanted, b"have\n" * 500_000) == ("0000000007-000000000000001", 12.5, ZEROS)
    assert peers.keeper.asked == [(wanted, b"have\n" * 500_000)]


async def test_compressed_it_is_less_on_the_wire_and_otherwise_all_of_it(peers: Peers) -> None:
    assert await peers.bytes_on_the_wire(Wanted(volume="data", epoch=1)) == len(ZEROS)
    assert await peers.bytes_on_the_wire(Wanted(volume="data", epoch=1, compress=True)) < len(ZEROS) // 100


async def test_a_refusal_comes_in_its_own_words(peers: Peers) -> None:
    peers.keeper.refusal = Conflict("h1 does not hold epoch 1 of volume data", hint="look again")
    with pytest.raises(Conflict, match="does not hold epoch 1") as refused:
        await peers.pulled(Wanted(volume="data", epoch=1))
    assert refused.value.hint == "look again"


@pytest.mark.parametrize("compress", [False, True])
async def test_a_stream_that_breaks_does_not_look_whole(peers: Peers, compress: bool) -> None:
    peers.keeper.broken = True
    with pytest.raises(Unavailable, match="volume data from host h1 does not come"):
        await peers.pulled(Wanted(volume="data", epoch=1, compress=compress))


async def test_a_host_that_is_not_there_is_unavailable(peers: Peers) -> None:
    nobody = r.Host(name="h1", id="1", index=1, address="127.0.0.1", api_port=1)
    mirror: Any = peers.volumes._mirror
    mirror.cluster = world([put(r.key("hosts", "h1"), nobody)])
    with pytest.raises(Unavailable, match="volume data from host h1 does not come"):
        await peers.pulled(Wanted(volume="data", epoch=1))


@pytest.mark.parametrize(("limit_bytes_s", "took_s"), [(0, 0.0), (1 << 20, 8.0), (4 << 20, 2.0)])
def test_a_limit_holds_on_average_whatever_the_pieces_are(limit_bytes_s: int, took_s: float) -> None:
    async def scene() -> float:
        loop = asyncio.get_running_loop()
        begin, pace = loop.time(), _Pace(limit_bytes_s)
        for piece_bytes in (1 << 20, 3 << 20, 1, (4 << 20) - 1):
            await pace.sent(piece_bytes)
        return loop.time() - begin

    assert clock.run(scene()) == pytest.approx(took_s, abs=0.01)
