"""What the agent makes of a container's networks and addresses on its engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import pytest
from test_agent import CID, World, on_virtual_time

from drover.drivers.engine.port import SeenContainer
from drover.model import records as r
from drover.model.cluster import Change, delete, put

APP, BACK = "a" * 64, "b" * 64
ON_APP: dict[str, Any] = {
    "HostConfig": {"NetworkMode": "app"},
    "NetworkingConfig": {"EndpointsConfig": {"app": {"Aliases": ["w"]}}},
}


def network(identity: str, name: str, third: int) -> list[Change]:
    record = r.Network(
        id=identity, name=name, body="{}", subnet=f"10.44.{third}.0/24", gateway=f"10.44.{third}.1", vni=4096 + third
    )
    return [put(r.key("networks", identity), record), put(r.key("network_names", name), r.Name(id=identity))]


def claim(ip: str, identity: str = APP) -> Change:
    return put(r.key("addresses", identity, ip), r.Address(network=identity, ip=ip, container=CID))


async def seen(world: World) -> SeenContainer:
    found = await world.engine.container("web")
    assert found is not None
    return found


async def change(world: World, *more: Change, **fields: Any) -> None:
    """Change the container's record."""
    record = world.mirror.cluster.containers[CID]
    await world.store.commit([put(r.key("containers", CID), msgspec.structs.replace(record, **fields)), *more])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again, on virtual time."""
    for _ in range(200):
        if await condition():
            return
        await asyncio.sleep(0.1)
    pytest.fail("it did not come true within 20 s")


def test_a_claim_that_changed_is_the_address_it_starts_with() -> None:
    async def scene(world: World) -> None:
        await world.create(ON_APP, *network(APP, "app", 0), claim("10.44.0.2"))
        assert (await seen(world)).addresses == {"app": "10.44.0.2"}
        await world.store.commit([delete(f"addresses/{APP}/10.44.0.2"), claim("10.44.0.9")])
        joined: list[Mapping[str, Any]] = []
        connect = world.engine.connect

        async def watched(network: str, engine_ref: str, endpoint: Mapping[str, Any]) -> None:
            joined.append(endpoint)
            await connect(network, engine_ref, endpoint)

        world.engine.connect = watched  # type: ignore[method-assign]
        await world.order("start", "running")
        assert (await world.answered(2)).state == "running"
        assert (await seen(world)).addresses == {"app": "10.44.0.9"}
        assert [one["Aliases"] for one in joined] == [["w"]]

    on_virtual_time(scene)


def test_a_start_with_the_claimed_address_asks_the_engine_for_nothing_more() -> None:
    async def scene(world: World) -> None:
        await world.create(ON_APP, *network(APP, "app", 0), claim("10.44.0.2"))
        await world.order("start", "running")
        assert (await world.answered(2)).answer.status == 204
        assert not {"connect", "disconnect"} & set(world.engine.calls)

    on_virtual_time(scene)


LEFT = [
    (ON_APP, (APP,), {}, set()),
    (ON_APP, (APP,), {BACK: "{}"}, {"back"}),
    (ON_APP, (APP,), {APP: json.dumps({"Aliases": ["again"]})}, {"app"}),
    ({"HostConfig": {"NetworkMode": "bridge"}}, ("bridge",), {BACK: "{}"}, {"back"}),
    (ON_APP, (), {BACK: "{}"}, {"app", "back"}),
]


@pytest.mark.parametrize(("body", "left", "joined", "expected"), LEFT)
def test_made_anew_it_is_on_the_networks_it_was_on(
    body: dict[str, Any], left: tuple[str, ...], joined: dict[str, str], expected: set[str]
) -> None:
    async def scene(world: World) -> None:
        claims = [claim("10.44.0.2")] if APP not in left or APP in joined else []
        await world.create(body, *network(APP, "app", 0), *network(BACK, "back", 1), *claims)
        await change(world, left=left, attachments=joined)
        await world.stop_agent()
        before = await seen(world)
        await world.engine.order(before.engine_id, "remove", "force=1")
        await world.start_agent()

        async def again() -> bool:
            found = await world.engine.container("web")
            return found is not None and set(found.networks) == expected

        await until(again)
        assert (await seen(world)).engine_id != before.engine_id

    on_virtual_time(scene)
