"""Container calls through the gateway: create, lifecycle, list, relays."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from cluster_factory import cid, container, host
from gateway_world import API, IMAGE, Agent, World, ask, engine_id, response

from drover.model import records as r

BODY = {"Image": "busybox", "Cmd": ["sleep", "9"]}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    made.write([*host("h1", facts=API), *host("h2", facts=API), *host("h3", facts=API)])
    made.links.say("h1 h2 h3", "GET", "/images/busybox/json", response({"Id": IMAGE}))
    yield made
    await made.close()


async def agents(world: World) -> list[Agent]:
    return [await world.agent(name) for name in ("h1", "h2", "h3")]


def running(world: World, number: int, name: str, on: str = "h1", state: str = "running") -> str:
    identity = cid(number)
    answer = r.Answer(number=1, status=201)
    world.write(
        container(number, name, on, {"Image": "busybox"}, engine_id=engine_id(identity), state=state, answer=answer)
    )
    return identity


async def test_create_answers_with_the_cluster_id_and_the_engines_warnings(world: World) -> None:
    await agents(world)
    gateway = await world.gateway()
    status, body = await ask(gateway, "POST", "/v1.41/containers/create?name=web", BODY)
    assert (status, body["Warnings"]) == (201, ["slow disk"])
    record = world.shared.cluster.containers[body["Id"]]
    assert (record.name, record.image_id, json.loads(record.body)) == ("web", IMAGE, BODY)
    assert world.shared.cluster.names["web"].id == body["Id"]
    assert world.shared.cluster.host_of(body["Id"]) in ("h1", "h2", "h3")
