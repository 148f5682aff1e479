"""Hooks around the real gateway: a refused or failed creation leaves nothing in the cluster's records."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cluster_factory import host
from gateway_wire_tools import DEADLINE_S
from gateway_world import API, IMAGE, Agent, World, make_call, response
from hooks_tools import ScriptedAdapter, answer, echo

from drover.gateway.call import Headers, Reply
from drover.gateway.hooks.layer import HookLayer
from drover.model.cluster import put
from drover.model.records import Adapters, key

BODY = {
    "Image": "busybox",
    "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}, "Binds": ["data:/data"]},
}


class HookedGateway:
    """The gateway of h1 with one scripted adapter on every call."""

    def __init__(self, world: World, adapter: ScriptedAdapter, agent: Agent) -> None:
        self.world, self.adapter, self.agent = world, adapter, agent
        self.layer: HookLayer

    async def start(self, endpoints: dict[str, Any]) -> None:
        gateway = await self.world.gateway()
        text = json.dumps({"endpoints": endpoints, "adapters": {"one": self.adapter.url}})
        self.world.write([put(key("adapters", "current"), Adapters(text=text))])
        mirror = gateway.context.mirror
        await mirror.reached(self.world.shared.cluster.revision, DEADLINE_S)
        self.layer = HookLayer(mirror, self.world.links)
        self.handle = self.layer.wrap(gateway.handle)

    async def create(self) -> tuple[int, Any]:
        body = json.dumps(BODY).encode()
        headers: Headers = ((b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(body)))
        outcome = await self.handle(make_call("POST", "/v1.41/containers/create?name=web", body, headers))
        assert isinstance(outcome, Reply)
        return outcome.status, json.loads(outcome.body)

    def left(self) -> list[str]:
        """The tables that hold anything of a container."""
        tables = self.world.shared.cluster.tables
        return [name for name in ("containers", "names", "placements", "ports", "addresses") if tables.get(name)]


@pytest.fixture
async def hooked(tmp_path: Path) -> AsyncIterator[HookedGateway]:
    world = World()
    world.write(list(host("h1", facts=API)))
    world.links.say("h1", "GET", "/images/busybox/json", response({"Id": IMAGE}))
    adapter = ScriptedAdapter("one", echo, [])
    await adapter.start()
    made = HookedGateway(world, adapter, await world.agent("h1"))
    yield made
    await made.layer.close()
    await world.close()
    await adapter.stop()


async def test_a_refused_creation_writes_no_record(hooked: HookedGateway):
    hooked.adapter.behave = answer(403, '{"message":"no"}')
    await hooked.start({"* *": {"pre": ["one"]}})
    assert await hooked.create() == (403, {"message": "no"})
    assert hooked.left() == []
    assert hooked.agent.performed == []


@pytest.mark.parametrize("behave", [answer(403), answer(200, "junk"), answer(302)])
async def test_a_creation_whose_post_hook_fails_leaves_no_record(hooked: HookedGateway, behave: Any):
    hooked.adapter.behave = behave
    await hooked.start({"POST /*/containers/create": {"post": ["one"]}})
    assert (await hooked.create())[0] in (403, 502)
    assert hooked.left() == []
    assert hooked.agent.performed == [("create", "web"), ("remove", "web")]
    hooked.adapter.behave = echo
    assert (await hooked.create())[0] == 201
    assert {"containers", "names", "placements"} <= set(hooked.left())


async def test_a_container_is_created_as_the_hook_changed_it(hooked: HookedGateway):
    def behave(told: dict[str, Any]) -> Any:
        changed = told["ClientRequest"] | {
            "Request": "/containers/create?name=renamed",
            "Body": json.dumps({"Image": "busybox", "Labels": {"by": "hook"}}),
        }
        return answer(200, json.dumps({"ModifiedClientRequest": changed}))(told)

    hooked.adapter.behave = behave
    await hooked.start({"* *": {"pre": ["one"]}})
    assert (await hooked.create())[0] == 201
    (record,) = hooked.world.shared.cluster.containers.values()
    assert (record.name, json.loads(record.body)) == ("renamed", {"Image": "busybox", "Labels": {"by": "hook"}})
