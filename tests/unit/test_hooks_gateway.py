"""Hooks around the real gateway: a refused or failed creation leaves nothing in the cluster's records."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cluster_factory import host, network
from gateway_wire_tools import DEADLINE_S
from gateway_world import API, IMAGE, Agent, World, make_call, response
from hooks_tools import Behaviour, ScriptedAdapter, answer, echo, never

from drover.gateway.call import Headers, Relay, Reply
from drover.gateway.gateway import Gateway
from drover.gateway.hooks.layer import HookLayer
from drover.model.cluster import put
from drover.model.records import Adapters, key
from drover.store.mirror import Mirror

BODY = {
    "Image": "busybox",
    "HostConfig": {
        "PortBindings": {"80/tcp": [{"HostPort": "8080"}]},
        "Binds": ["data:/data"],
        "NetworkMode": "app",
    },
    "NetworkingConfig": {"EndpointsConfig": {"app": {"IPAMConfig": {"IPv4Address": "10.44.0.9"}}}},
}
HELD = ["containers", "names", "placements", "addresses"]
"""The tables that hold something of this container, as long as there is one."""


def die(told: dict[str, Any]) -> web.Response:
    raise asyncio.CancelledError


def ten_megabytes(told: dict[str, Any]) -> web.Response:
    return web.Response(body=b"{" + b" " * 10_000_000)


FAILING: list[tuple[Behaviour, int, str]] = [
    (answer(403, '{"message":"no"}'), 403, "no"),
    (answer(200, "junk"), 502, "adapter one answered with what is not a hook's answer"),
    (answer(302, Location="http://127.0.0.1/"), 502, "adapter one answered with status 302"),
    (ten_megabytes, 502, "adapter one answered with more than 8388608 bytes"),
    (die, 502, "adapter one cannot be asked"),
    (never(), 504, "adapter one did not answer within 0.3 s"),
]
failing = pytest.mark.parametrize(
    ("behave", "status", "says"), FAILING, ids=["refuses", "garbage", "redirect", "large", "killed", "silent"]
)


class HookedGateway:
    """The gateway of h1 with one scripted adapter on every call."""

    def __init__(self, world: World, adapter: ScriptedAdapter, agent: Agent) -> None:
        self.world, self.adapter, self.agent = world, adapter, agent
        self.layer: HookLayer

    async def start(self, endpoints: dict[str, Any]) -> None:
        gateway = await self.world.gateway()
        one = {"url": self.adapter.url, "deadline_s": 0.3}
        text = json.dumps({"endpoints": endpoints, "adapters": {"one": one}})
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
        return [name for name in (*HELD, "ports") if tables.get(name)]


@pytest.fixture
async def hooked(tmp_path: Path) -> AsyncIterator[HookedGateway]:
    world = World()
    world.write([*host("h1", facts=API), *network("a" * 64, "app", "10.44.0.0/16", vni=7)])
    world.links.say("h1", "GET", "/images/busybox/json", response({"Id": IMAGE}))
    adapter = ScriptedAdapter("one", echo, [])
    await adapter.start()
    made = HookedGateway(world, adapter, await world.agent("h1"))
    yield made
    await made.layer.close()
    await world.close()
    await adapter.stop()


@failing
async def test_a_creation_whose_pre_hook_fails_writes_no_record(
    hooked: HookedGateway, behave: Behaviour, status: int, says: str
):
    hooked.adapter.behave = behave
    await hooked.start({"* *": {"pre": ["one"]}})
    got, said = await hooked.create()
    assert (got, said["message"][: len(says)]) == (status, says)
    assert hooked.left() == []
    assert hooked.agent.performed == []
    assert hooked.world.shared.cluster.volumes == {}


@failing
async def test_a_creation_whose_post_hook_fails_leaves_no_record(
    hooked: HookedGateway, behave: Behaviour, status: int, says: str
):
    """The name and the address are free: the same creation succeeds at once when the hook is well."""
    hooked.adapter.behave = behave
    await hooked.start({"POST /*/containers/create": {"post": ["one"]}})
    got, said = await hooked.create()
    assert (got, said["message"][: len(says)]) == (status, says)
    assert hooked.left() == []
    assert hooked.agent.performed == [("create", "web"), ("remove", "web")]
    hooked.adapter.behave = echo
    assert (await hooked.create())[0] == 201
    assert hooked.left() == HELD
    (claim,) = hooked.world.shared.cluster.addresses.values()
    assert claim.ip == "10.44.0.9"


@pytest.mark.parametrize("path", ["/session", "/grpc", "/v1.41/session", "/containers/create"])
async def test_nothing_is_done_before_the_adapters_are_known(hooked: HookedGateway, path: str):
    """A daemon that starts while the store is away: BuildKit's calls need no record, but may need a hook."""
    await hooked.start({"* *": {"pre": ["one"]}})
    unread = Mirror(hooked.world.shared.client())
    gateway = Gateway("h1", hooked.world.shared.client(), unread, hooked.world.links, lambda: 0.0, lambda: "")
    handle = HookLayer(unread, hooked.world.links).wrap(gateway.handle)
    outcome = await handle(make_call("POST", path))
    assert isinstance(outcome, Reply)
    assert (outcome.status, b"has not read the cluster's" in outcome.body) == (503, True)
    assert isinstance(await handle(make_call("GET", "/_ping")), Relay | Reply)
    assert hooked.adapter.asked == []


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
