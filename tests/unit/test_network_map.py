"""`drover network`: what one host says of a network, what a command shows of all."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_world import World, alive, world
from click.testing import CliRunner, Result
from cluster_factory import address, cid, container, network

from drover.cli import main as cli
from drover.daemon.network_map import network_routes
from drover.decide.overlay import Remote
from drover.drivers.network.port import SeenNetwork, Traffic
from drover.errors import NotFound
from drover.model.cluster import put
from drover.model.records import Host, key

APP = "a" * 64
SEEN = SeenNetwork(
    id=APP,
    vni=4097,
    complete=True,
    mtu_bytes=1450,
    remotes=frozenset({Remote("10.44.0.3", "02:42:0a:2c:00:03", "10.94.0.2")}),
    traffic=Traffic(received_bytes=1_234_567, sent_bytes=890, dropped_packets=2),
)


async def seen(identity: str) -> SeenNetwork | None:
    return SEEN if identity == APP else None


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, network_routes(seen, ssl.create_default_context())) as made:
        await made.commit(
            *network(APP, "app", "10.44.0.0/16", gateway="10.44.0.1", vni=4097),
            *network("b" * 64, "lan", driver="macvlan"),
            *container(1, "web", on="h1", state="running"),
            *container(2, "db", on="h2", state="running"),
            *address(APP, "10.44.0.2", 1),
            *address(APP, "10.44.0.3", 2),
            put(key("hosts", "h2"), Host(name="h2", id="i2", index=2, address="127.0.0.1", api_port=9)),
            *alive("h2"),
        )
        yield made


async def run(made: World, *arguments: str) -> Result:
    return await asyncio.to_thread(
        CliRunner().invoke, cli.main, arguments, env={"DROVER_HOST": f"unix://{made.socket}"}
    )


async def test_one_host_says_what_its_kernel_has(here: World) -> None:
    part = await here.call("GET", "/networks/app?here=1")
    assert (part["host"], part["state"], part["bridge"], part["entries"]) == ("h1", "up", "dv4097", 1)
    assert (part["received_bytes"], part["sent_bytes"], part["dropped_packets"]) == (1_234_567, 890, 2)
    assert (await here.call("GET", "/networks/lan?here=1"))["state"] == "none"


async def test_all_hosts_are_asked_and_one_that_does_not_answer_is_named(here: World) -> None:
    found = await here.call("GET", f"/networks/{APP[:12]}")
    assert [(part["host"], part["state"]) for part in found["hosts"]] == [("h1", "up"), ("h2", "unknown")]
    assert "does not say" in found["hosts"][1]["message"]
    assert [(one["ip"], one["holder"], one["host"]) for one in found["addresses"]] == [
        ("10.44.0.2", "web", "h1"),
        ("10.44.0.3", "db", "h2"),
    ]
    assert found["addresses"][0]["container"] == cid(1)


async def test_an_unknown_network(here: World) -> None:
    with pytest.raises(NotFound, match="network nothing not found"):
        await here.call("GET", "/networks/nothing")


async def test_the_list_and_the_map(here: World) -> None:
    listed = (await run(here, "network", "ls")).stdout.splitlines()
    assert listed[1].split() == ["app", APP[:12], "4097", "10.44.0.0/16", "2", "h1", "h2"]
    assert listed[2].split()[:3] == ["lan", "b" * 12, "-"]
    shown = (await run(here, "network", "inspect", "app", "--map")).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["VNI:", "4097"] in lines
    assert ["h1", "up", "dv4097", "1450", "1", "1", "1.2", "MB", "890", "B", "2"] in lines
    assert ["10.44.0.3", "02:42:0a:2c:00:03", "held", "db", "h2", "1"] in lines
