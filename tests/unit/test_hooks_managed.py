"""Adapters that the cluster runs: made, healthy before use, started again, replaced, removed, nobody's to change."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateway_wire_tools import DEADLINE_S, until
from hooks_tools import CREATE, HookWorld, ScriptedAdapter, hook_world

from drover.gateway.call import Call, Outcome, Reply
from drover.model.cluster import put
from drover.model.records import Container, Host, Name, Placement, key


class Cluster:
    """A handler that keeps containers; a running one answers at the scripted adapter's port."""

    def __init__(self, adapter: ScriptedAdapter) -> None:
        self.adapter = adapter
        self.images = {"acme/debug:1"}
        self.pulled: list[str] = []
        self.containers: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []

    async def handle(self, call: Call) -> Outcome:
        self.calls.append(f"{call.method} {call.path}")
        if call.path == "/containers/create":
            return self._create(call.query("name"), json.loads(await call.json_body()))
        if call.path == "/images/create":
            self.pulled.append(f"{call.query('fromImage')} {call.query('tag')}".strip())
            self.images.add(call.query("fromImage"))
            return Reply(stream=self._progress())
        if call.path == "/containers/json":
            shown = [{"Id": name, "Labels": one["Config"]["Labels"]} for name, one in self.containers.items()]
            return self._json([one for one in shown if "drover.adapter" in one["Labels"]])
        return self._one(call)

    async def _progress(self) -> AsyncIterator[bytes]:
        yield b'{"status":"pulling"}\n'

    def _json(self, value: Any, status: int = 200) -> Reply:
        return Reply(status=status, body=json.dumps(value).encode())

    def _create(self, name: str, body: dict[str, Any]) -> Reply:
        if body["Image"] not in self.images:
            return self._json({"message": f"No such image: {body['Image']}"}, 404)
        labels = {**(body.get("Labels") or {}), "drover.host": "h1"}
        self.containers[name] = {"Id": name, "Config": {"Labels": labels}, "State": {"Running": False}, "Body": body}
        return self._json({"Id": name}, 201)

    def _one(self, call: Call) -> Reply:
        parts = call.path.split("/")
        found = self.containers.get(parts[2]) if len(parts) > 2 else None
        if found is None:
            return self._json({"message": "No such container"}, 404)
        if call.method == "DELETE":
            del self.containers[parts[2]]
            return Reply(status=204)
        if call.path.endswith("/start"):
            found["State"]["Running"] = True
            found["NetworkSettings"] = {"Ports": {"8080/tcp": [{"HostPort": str(self.adapter.port)}]}}
            return Reply(status=204)
        return self._json(found)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[HookWorld]:
    async with hook_world(tmp_path) as built:
        adapter = await built.adapter("debug")
        host = Host(name="h1", id="i1", index=1, address="127.0.0.1")
        await built.mirror.reached(await built.store.commit([put(key("hosts", "h1"), host)]), DEADLINE_S)
        built.cluster = Cluster(adapter)  # type: ignore[attr-defined]
        built.handle_with(built.cluster.handle)  # type: ignore[attr-defined]
        yield built


async def manage(world: HookWorld, image: str = "acme/debug:1", **options: Any) -> Cluster:
    adapters = {"debug": {"image": image, "port": 8080, "env": {"LEVEL": "1"}, **options}}
    await world.apply(json.dumps({"endpoints": {"* *": {"pre": ["debug"]}}, "adapters": adapters}))
    cluster: Cluster = world.cluster  # type: ignore[attr-defined]
    return cluster


async def test_the_cluster_runs_it_before_it_is_used(world: HookWorld):
    cluster = await manage(world)
    assert (await world.ask("POST", f"{CREATE}?name=mine", b'{"Image":"acme/debug:1"}')).status == 201
    assert world.lines == ["debug pre-hook"]
    body = cluster.containers["drover-adapter-debug"]["Body"]
    assert body["HostConfig"]["RestartPolicy"] == {"Name": "always"}
    assert (body["Env"], body["Labels"]["drover.adapter"]) == (["LEVEL=1"], "debug")


async def test_an_image_that_no_host_has_is_pulled(world: HookWorld):
    cluster = await manage(world, "registry.example:5000/acme/new")
    assert (await world.ask("GET", "/v1.41/containers/json", None)).status == 200
    assert cluster.pulled == ["registry.example:5000/acme/new latest"]


async def test_one_that_stopped_is_started_again(world: HookWorld):
    cluster = await manage(world)
    await world.ask("GET", "/v1.41/containers/json", None)
    cluster.containers["drover-adapter-debug"]["State"]["Running"] = False
    await world.adapters["debug"].stop()
    assert (await world.ask("GET", "/v1.41/containers/json", None)).status == 502
    await until(lambda: cluster.containers["drover-adapter-debug"]["State"]["Running"])
    await world.adapters["debug"].start()
    world.layer._managed.suspect(world.layer.config.adapters["debug"])  # type: ignore[union-attr]
    cluster.containers["drover-adapter-debug"]["NetworkSettings"]["Ports"]["8080/tcp"] = [
        {"HostPort": str(world.adapters["debug"].port)}
    ]

    assert (await world.ask("GET", "/v1.41/containers/json", None)).status == 200


async def test_calls_say_why_it_is_not_healthy(world: HookWorld):
    world.cluster.images.clear()  # type: ignore[attr-defined]
    world.cluster._create = lambda name, body: Reply(status=500, body=b'{"message":"no space left"}')  # type: ignore[attr-defined]
    await manage(world, deadline_s=0.3)
    got = await world.ask("GET", "/v1.41/containers/json", None)
    assert got.status == 504
    why = "its container cannot be created: no space left"
    assert got.message == f"adapter debug did not answer within 0.3 s: {why}"
    assert world.layer.views()[0]["trouble"] == why


async def test_its_images_own_health_check_counts(world: HookWorld):
    cluster = await manage(world, deadline_s=0.3)
    assert (await world.ask("GET", "/v1.41/containers/json", None)).status == 200
    state = cluster.containers["drover-adapter-debug"]["State"]
    state["Health"] = {"Status": "unhealthy"}
    managed, adapter = world.layer._managed, world.layer.config.adapters["debug"]
    assert managed is not None
    managed.suspect(adapter)
    await until(lambda: "health check says: unhealthy" in managed.trouble(adapter))
    got = await world.ask("GET", "/v1.41/containers/json", None)
    assert (got.status, "unhealthy" in got.message) == (504, True)
    state["Health"] = {"Status": "healthy"}
    managed.suspect(adapter)
    await until(lambda: not managed.trouble(adapter))
    assert (await world.ask("GET", "/v1.41/containers/json", None)).status == 200


async def test_whatever_goes_wrong_in_a_round_there_is_a_next_one(world: HookWorld):
    cluster = await manage(world, deadline_s=0.3)
    assert (await world.ask("GET", "/v1.41/containers/json", None)).status == 200
    managed, adapter = world.layer._managed, world.layer.config.adapters["debug"]
    assert managed is not None
    well, cluster._one = cluster._one, lambda call: 1 / 0  # type: ignore[assignment, return-value, method-assign]
    managed.suspect(adapter)
    await until(lambda: "division by zero" in managed.trouble(adapter))
    cluster._one = well  # type: ignore[method-assign]
    managed.suspect(adapter)
    await until(lambda: not managed.trouble(adapter))
    assert (await world.ask("GET", "/v1.41/containers/json", None)).status == 200


async def test_another_configuration_replaces_its_container(world: HookWorld):
    cluster = await manage(world)
    await world.ask("GET", "/v1.41/containers/json", None)
    await manage(world, env={"LEVEL": "2"})
    assert (await world.ask("GET", "/v1.41/containers/json", None)).status == 200
    assert cluster.containers["drover-adapter-debug"]["Body"]["Env"] == ["LEVEL=2"]


async def test_one_that_is_configured_no_more_is_removed_and_others_stay(world: HookWorld):
    cluster = await manage(world)
    await world.ask("POST", f"{CREATE}?name=mine", b'{"Image":"acme/debug:1"}')
    await world.apply("endpoints: {}\nadapters: {}\n")
    await until(lambda: list(cluster.containers) == ["mine"])


async def test_other_containers_networks_are_their_own_business(world: HookWorld):
    cluster = await manage(world)
    for body in (b'{"Container":"other"}', b"{}", b"no json"):
        got = await world.ask("POST", "/v1.41/networks/a/disconnect", body)
        assert got.message == "No such container"
    assert cluster.calls.count("POST /networks/a/disconnect") == 3


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("DELETE", "/v1.41/containers/drover-adapter-debug?force=1"),
        ("DELETE", f"/v1.41/containers/{'d' * 12}"),
        ("POST", "/v1.41/containers/drover-adapter-debug/stop"),
        ("POST", "/v1.41/containers/drover%2Dadapter-debug/exec"),
        ("PUT", "/containers/drover-adapter-debug/archive?path=/"),
        ("POST", "/v1.41/containers/create?name=drover-adapter-debug"),
        ("POST", "/v1.41/containers/create?name=/drover-adapter-debug"),
        ("POST", "/v1.41/containers/other/rename?name=drover-adapter-debug"),
        ("POST", "/v1.41/networks/drover/disconnect"),
        ("POST", "/networks/a/b/connect"),
    ],
)
async def test_nobody_may_put_another_in_its_place(world: HookWorld, method: str, target: str):
    cid = "d" * 64
    changes = [
        put(key("containers", cid), Container(id=cid, name="drover-adapter-debug", body="{}")),
        put(key("names", "drover-adapter-debug"), Name(id=cid)),
        put(key("placements", cid), Placement(container=cid, host="h1")),
    ]
    await world.mirror.reached(await world.store.commit(changes), DEADLINE_S)
    await manage(world)
    body = b'{"Container":"dddddddddddd","Force":true}' if "connect" in target else None
    got = await world.ask(method, target, body)
    assert (got.status, got.message) == (
        403,
        "Container drover-adapter-debug is kept by `drover adapter apply`.",
    )
