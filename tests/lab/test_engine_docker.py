"""The real engine driver against the contract, on two Docker engines of the test's own."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from engine_contract import CLUSTER_ID, IMAGE, EngineContract, body, busybox_image, settled, unique
from real_engine import RealEngine, real_engines

from drover.drivers.engine.docker import DockerEngine
from drover.drivers.engine.fake_images import FakeImages
from drover.drivers.engine.port import Engine
from drover.drivers.engine.translate import FixedAddress, Translation, translated

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]
BUSYBOX = Path("/bin/busybox").read_bytes()


@pytest.fixture(scope="module")
def engines() -> Iterator[list[RealEngine]]:
    with real_engines(2) as engines:
        yield engines


async def connected(real: RealEngine) -> AsyncIterator[DockerEngine]:
    """The engine's driver; all containers are removed after the test."""
    engine = DockerEngine(real.socket)
    yield engine
    for seen in await engine.containers():
        await engine.order(seen.engine_id, "remove", "force=1&v=1")
    await engine.close()


@pytest.fixture
async def engine(engines: list[RealEngine]) -> AsyncIterator[DockerEngine]:
    async for engine in connected(engines[0]):
        await load_busybox(engine)
        yield engine


async def load_busybox(engine: DockerEngine) -> None:
    if await engine.image_id(IMAGE) is None:
        images = FakeImages()
        images.add(busybox_image(BUSYBOX), IMAGE)

        async def archive() -> AsyncIterator[bytes]:
            yield images.archive([IMAGE], "docker")

        await engine.load(archive())


class TestDocker(EngineContract):
    @pytest.fixture
    async def other(self, engines: list[RealEngine]) -> AsyncIterator[DockerEngine]:
        async for engine in connected(engines[1]):
            yield engine

    @pytest.fixture
    async def away(self, tmp_path: Path) -> AsyncIterator[DockerEngine]:
        engine = DockerEngine(str(tmp_path / "docker.sock"))
        yield engine
        await engine.close()


def inspect(real: RealEngine, engine_id: str) -> list[str]:
    """Hostname, address and MAC address, as the docker CLI shows them."""
    wanted = "{{.Config.Hostname}} {{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}}{{end}}"
    command = ["docker", "-H", f"unix://{real.socket}", "inspect", "-f", wanted, engine_id]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


async def test_a_translated_body_is_what_the_engine_takes(engine: Engine, engines: list[RealEngine]) -> None:
    network, name = unique("net"), unique("web")
    pool = {"Config": [{"Subnet": "10.213.7.0/24"}]}
    await engine.create_network({"Name": network, "IPAM": pool, "Labels": {"drover.id": network}})
    asked = body("sh", "-c", "sleep infinity") | {"HostConfig": {"NetworkMode": "n" * 64}}
    translation = Translation(
        id=CLUSTER_ID,
        epoch=9,
        networks={"n" * 64: network},
        addresses={network: FixedAddress("10.213.7.77", "02:42:0a:d5:07:4d")},
    )
    engine_id, _ = await engine.create_container(name, translated(asked, translation))
    await engine.order(engine_id, "start")
    assert (await settled(engine, engine_id, "running")).epoch == 9
    shown = await asyncio.to_thread(inspect, engines[0], engine_id)
    assert shown == [CLUSTER_ID[:12], "10.213.7.77", "02:42:0a:d5:07:4d"]
    await engine.order(engine_id, "remove", "force=1")
    await engine.remove_network(network)
