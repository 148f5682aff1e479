"""What the API shows of addresses, and giving one up over it; and the command's tables."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from api_world import World
from api_world import world as serving
from click.testing import CliRunner
from cluster_factory import address, cid, container, host, network, world

from drover.api.addresses import AddressView, address_routes, addresses_view
from drover.cli.main import main
from drover.decide.grace import GRACE_S
from drover.model import records as r
from drover.model.cluster import Change, put

NET = "a" * 64
RECORDS: list[Change] = [
    *network(NET, "app", "10.44.0.0/24", gateway="10.44.0.1", vni=4096),
    *container(1, "web", "h1"),
    *address(NET, "10.44.0.10", 1),
    *address(NET, "10.44.0.9", 2),
    put(
        r.key("kept_addresses", NET, "10.44.0.2"),
        r.KeptAddress(network=NET, ip="10.44.0.2", name="db", container=cid(3), epoch=4, at=100.0),
    ),
    put("service_addresses/10.127.0.1", r.ServiceAddress(ip="10.127.0.1", network=NET, service="/web")),
]


def test_every_address_in_the_order_of_numbers() -> None:
    shown = addresses_view(world(host("h1"), RECORDS))
    assert [(one.ip, one.state, one.holder, one.host) for one in shown] == [
        ("10.44.0.2", "kept", "db", ""),
        ("10.44.0.9", "orphaned", "", ""),
        ("10.44.0.10", "held", "web", "h1"),
        ("10.127.0.1", "service", "web", ""),
    ]
    assert shown[0] == AddressView(
        network=NET,
        network_name="app",
        ip="10.44.0.2",
        state="kept",
        mac="02:42:0a:2c:00:02",
        holder="db",
        container=cid(3),
        epoch=4,
        kept_at=100.0,
        until=100.0 + GRACE_S,
    )


async def command(api: World, *arguments: str) -> Any:
    return await asyncio.to_thread(CliRunner().invoke, main, ["-H", f"unix://{api.socket}", "address", *arguments])


async def test_the_command_lists_and_releases(tmp_path: Path) -> None:
    async with serving(tmp_path, address_routes()) as api:
        await api.commit(*RECORDS)
        listed = await command(api, "ls", "--network", "app")
        assert [line.split()[:2] for line in listed.output.splitlines()[1:]] == [
            ["app", "10.44.0.2"],
            ["app", "10.44.0.9"],
            ["app", "10.44.0.10"],
            ["app", "10.127.0.1"],
        ]
        assert json.loads((await command(api, "ls", "--network", "other", "--json")).output) == []
        for ip in ("10.44.0.2", "10.44.0.9"):
            assert (await command(api, "release", ip, "--network", "app")).output == f"address {ip} is free\n"
        assert list(api.cluster.addresses) == [f"{NET}/10.44.0.10"]
        assert api.cluster.kept_addresses == {}


@pytest.mark.parametrize(
    ("ip", "code", "says"),
    [
        ("10.44.0.10", 5, "address 10.44.0.10 of network app is held by container web on h1: it cannot be released"),
        ("10.44.0.77", 4, "address 10.44.0.77 is neither held nor kept"),
    ],
)
async def test_the_living_keep_theirs(tmp_path: Path, ip: str, code: int, says: str) -> None:
    async with serving(tmp_path, address_routes()) as api:
        await api.commit(*RECORDS)
        done = await command(api, "release", ip)
        assert done.exit_code == code
        assert says in done.stderr
        assert f"{NET}/10.44.0.10" in api.cluster.addresses
