"""Networks and volumes through the gateway, in Docker's shapes and words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cluster_factory import cid, container, host
from gateway_world import API, World, ask, drop_host, engine_id, refused, relayed, response

from drover.decide.attached import networks_of
from drover.decide.default_network import PREDEFINED_IDS
from drover.decide.overlay import mac_of
from drover.model import records as r
from drover.model.cluster import Change, put
from drover.model.spec import parse_spec

OWN = {name: name[0] * 64 for name in ("bridge", "host", "none")}
BRIDGE = OWN["bridge"]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    for name in ("h1", "h2"):
        made.write(host(name, facts={**API, "predefined_networks": OWN}))
    made.links.say("h1 h2", "GET", "/networks", response([{"Name": name, "Id": OWN[name]} for name in OWN]))
    yield made
    await made.close()


def having(world: World, number: int, name: str, state: str = "running", **body: Any) -> str:
    identity = cid(number)
    facts = {"engine_id": engine_id(identity), "state": state, "answer": r.Answer(number=1, status=201)}
    world.write(container(number, name, "h1", {"Image": "busybox", **body}, **facts))
    return identity


async def made(world: World, name: str, **body: Any) -> str:
    status, answer = await ask(await world.gateway(), "POST", "/networks/create", {"Name": name, **body})
    assert (status, answer["Warning"]) == (201, "")
    return str(answer["Id"])


async def test_a_network_gets_a_subnet_and_is_shown_as_docker_does(world: World) -> None:
    network = await made(world, "app", Labels={"a": "b"}, Internal=True)
    status, shown = await ask(await world.gateway(), "GET", "/networks/app")
    assert status == 200
    assert shown == {
        "Name": "app",
        "Id": network,
        "Created": "2023-11-14T22:15:00Z",
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": False,
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [{"Subnet": "10.128.0.0/20", "Gateway": "10.128.0.1"}],
        },
        "Internal": True,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": {},
        "Labels": {"a": "b"},
    }


async def test_two_gateways_never_choose_one_subnet(world: World) -> None:
    gateways = [await world.gateway("h1"), await world.gateway("h2")]
    asked = [ask(g, "POST", "/networks/create", {"Name": f"n{i}"}) for i, g in enumerate(gateways * 2)]
    assert [status for status, _ in await asyncio.gather(*asked)] == [201] * 4
    networks = world.shared.cluster.networks.values()
    assert len({network.subnet for network in networks}) == 4
    assert len({network.vni for network in networks}) == 4


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"Name": "app"}, 409, "network with name app already exists"),
        ({"Name": "bridge"}, 403, "operation is not permitted on predefined bridge network "),
        ({"Name": ""}, 500, "invalid name: "),
        ({"Name": "x", "Driver": "nodrv"}, 404, 'plugin "nodrv" not found'),
        ({"Name": "x", "Driver": "host"}, 403, 'only one instance of "host" network is allowed'),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "10.128.0.0/24"}]}}, 403, "Pool overlaps with other one"),
        ({"Name": "x", "EnableIPv6": True}, 400, "network x cannot have IPv6: networks of the cluster carry IPv4 only"),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "fd00::/64"}]}}, 400, "network x cannot have IPv6"),
        ({"Name": "x", "Options": {"drover.broadcast": "maybe"}}, 400, "drover.broadcast=maybe is neither true nor"),
        ({"Name": 3}, 400, "invalid JSON"),
        (b"{", 400, "invalid JSON"),
    ],
)
async def test_refused_networks(world: World, body: Any, status: int, message: str) -> None:
    await made(world, "app")
    world.links.say("h1 h2", "GET", "/info", response({"Plugins": {"Network": ["bridge", "macvlan"]}}))
    got, answer = await ask(await world.gateway(), "POST", "/networks/create", body)
    assert (got, answer["message"][: len(message)]) == (status, message)


async def test_lists_show_the_predefined_once_and_filter_the_clusters(world: World) -> None:
    await made(world, "app", Labels={"tier": "front"})
    await made(world, "db")
    gateway = await world.gateway()

    async def names(filters: Any) -> list[str]:
        _, items = await ask(gateway, "GET", f"/networks?filters={json.dumps(filters)}")
        return [item["Name"] for item in items]

    assert await names({}) == ["bridge", "host", "none", "app", "db"]
    world.links.say("h1", "GET", "/networks", response([]))
    assert await names({"name": ["ap"]}) == ["app"]
    assert await names({"type": {"custom": True}, "label": {"tier=front": True}}) == ["app"]
    assert await names({"driver": ["overlay"]}) == []
    assert await ask(gateway, "GET", '/networks?filters={"foo":["x"]}') == (400, {"message": "Invalid filter 'foo'"})
    assert (await ask(gateway, "GET", '/networks?filters={"type":["x"]}'))[0] == 500


async def test_predefined_networks_are_the_engines(world: World) -> None:
    gateway = await world.gateway()
    for ref in ("bridge", BRIDGE[:12], PREDEFINED_IDS["bridge"], PREDEFINED_IDS["bridge"][:12]):
        relay = await relayed(gateway, "GET", f"/v1.41/networks/{ref}")
        assert relay.target == "/v1.41/networks/bridge"
        assert relay.edit is not None
        assert json.loads(relay.edit(json.dumps({"Id": BRIDGE}).encode())) == {"Id": PREDEFINED_IDS["bridge"]}
    answer = await ask(gateway, "DELETE", "/networks/bridge")
    assert answer == (403, {"message": "bridge is a pre-defined network and cannot be removed"})
    assert await ask(gateway, "GET", "/networks/nope") == (404, {"message": "network nope not found"})


async def test_every_gateway_gives_the_predefined_networks_the_same_ids(world: World) -> None:
    for digit, name in (("1", "h1"), ("2", "h2")):
        own = {network: f"{ord(network[0]):x}" * 31 + "0" + digit for network in OWN}
        world.write(host(name, facts={**API, "predefined_networks": own}))
        world.links.say(name, "GET", "/networks", response([{"Name": one, "Id": own[one]} for one in own]))
    for name in ("h1", "h2"):
        gateway = await world.gateway(name)
        _, shown = await ask(gateway, "GET", "/networks")
        assert {one["Name"]: one["Id"] for one in shown} == PREDEFINED_IDS
        _, found = await ask(gateway, "GET", f'/networks?filters={{"id":["{PREDEFINED_IDS["host"][:12]}"]}}')
        assert [one["Name"] for one in found] == ["host"]


async def test_a_network_in_use_is_not_removed(world: World) -> None:
    network = await made(world, "app")
    identity = having(world, 1, "web", HostConfig={"NetworkMode": "app"})
    key = r.key("addresses", network, "10.128.0.2")
    world.write([put(key, r.Address(network=network, ip="10.128.0.2", container=identity))])
    gateway = await world.gateway()
    told = f"error while removing network: network app id {network} has active endpoints"
    assert await ask(gateway, "DELETE", "/networks/app") == (403, {"message": told})
    assert await ask(gateway, "POST", "/networks/prune") == (200, {"NetworksDeleted": None})


async def test_an_unused_network_goes_with_its_claims(world: World) -> None:
    network = await made(world, "app")
    identity = having(world, 1, "web", state="exited", HostConfig={"NetworkMode": "app"})
    key = r.key("addresses", network, "10.128.0.2")
    world.write([put(key, r.Address(network=network, ip="10.128.0.2", container=identity))])
    await made(world, "other")
    gateway = await world.gateway()
    assert await ask(gateway, "DELETE", "/networks/app") == (204, None)
    assert await ask(gateway, "POST", "/networks/prune") == (200, {"NetworksDeleted": ["other"]})
    cluster = world.shared.cluster
    assert not cluster.networks
    assert not cluster.network_names
    assert not cluster.addresses


async def test_connect_claims_an_address_and_disconnect_gives_it_up(world: World) -> None:
    agent = await world.agent("h1")
    network = await made(world, "app")
    identity = having(world, 1, "web")
    gateway = await world.gateway()
    body = {"Container": "web", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.128.0.77"}, "Aliases": ["w"]}}
    assert (await ask(gateway, "POST", "/networks/app/connect", body))[0] == 200
    order = world.shared.cluster.containers[identity].order
    assert json.loads(order.body) == {"network": network, "endpoint": body["EndpointConfig"]}
    assert list(world.shared.cluster.addresses) == [f"{network}/10.128.0.77"]
    world_facts(world, identity)
    await gateway.context.mirror.reached(world.shared.cluster.revision, 5.0)
    _, shown = await ask(gateway, "GET", "/networks/app")
    assert shown["Containers"][identity]["IPv4Address"] == "10.128.0.77/20"
    told = {"message": "endpoint with name web already exists in network app"}
    assert await ask(gateway, "POST", "/networks/app/connect", body) == (403, told)
    assert (await ask(gateway, "POST", "/networks/app/disconnect", {"Container": "web"}))[0] == 200
    assert not world.shared.cluster.addresses
    assert not world.shared.cluster.containers[identity].attachments
    status, answer = await ask(gateway, "POST", "/networks/app/disconnect", {"Container": "web"})
    assert (status, answer["message"]) == (500, f"container {identity} is not connected to network app")
    assert agent.performed == [("connect", "web"), ("disconnect", "web")]


async def test_an_ipv6_address_is_refused(world: World) -> None:
    await made(world, "app")
    having(world, 1, "web")
    body = {"Container": "web", "EndpointConfig": {"IPAMConfig": {"IPv6Address": "fd00::9"}}}
    status, answer = await ask(await world.gateway(), "POST", "/networks/app/connect", body)
    assert status == 400
    assert answer["message"].startswith("address fd00::9 cannot be had: network app has no IPv6")
    assert not world.shared.cluster.addresses


def world_facts(world: World, identity: str, state: str = "running") -> None:
    """The agent reports that the container runs, or what else it does."""
    facts = world.shared.cluster.facts_of(identity)
    assert facts is not None
    running = r.ContainerFacts(
        container=identity, host="h1", engine_id=facts.engine_id, state=state, answer=facts.answer
    )
    world.write([put(r.key("container_facts", "h1", identity), running)])


async def test_a_refused_connect_leaves_no_claim(world: World) -> None:
    await world.agent("h1", lambda record: r.Answer(status=500, body='{"message":"no"}'))
    await made(world, "app")
    identity = having(world, 1, "web")
    gateway = await world.gateway()
    assert await ask(gateway, "POST", "/networks/app/connect", {"Container": "web"}) == (500, {"message": "no"})
    assert not world.shared.cluster.addresses
    assert not world.shared.cluster.containers[identity].attachments
    assert (await ask(gateway, "POST", "/networks/app/connect", {"Container": "nope"}))[0] == 404
    assert (await ask(gateway, "POST", "/networks/nope/connect", {"Container": "web"}))[0] == 404


async def test_a_predefined_network_is_connected_by_an_order_alone(world: World) -> None:
    agent = await world.agent("h1")
    having(world, 1, "web")
    assert (await ask(await world.gateway(), "POST", "/networks/bridge/connect", {"Container": "web"}))[0] == 200
    assert agent.performed == [("connect", "web")]
    assert not world.shared.cluster.addresses


async def test_compose_recreates_a_container_with_its_address(world: World) -> None:
    """Made under another name beside the one it replaces, renamed when that is gone, then started."""
    await world.agent("h1")
    network = await made(world, "app")
    old = having(world, 1, "web")
    new = having(world, 2, "0123_web", state="created")
    for identity, ip in ((old, "10.128.0.2"), (new, "10.128.0.3")):
        claim = r.Address(network=network, ip=ip, container=identity, mac=mac_of(ip))
        world.write([put(r.key("addresses", network, ip), claim)])
    gateway = await world.gateway()
    assert (await ask(gateway, "DELETE", "/containers/web?force=1"))[0] == 204
    assert list(world.shared.cluster.kept_addresses) == [f"{network}/10.128.0.2"]
    assert (await ask(gateway, "POST", "/containers/0123_web/rename?name=web"))[0] == 204
    world_facts(world, new, "created")
    await gateway.context.mirror.reached(world.shared.cluster.revision, 5.0)
    assert (await ask(gateway, "POST", "/containers/web/start"))[0] == 204
    assert [(one.ip, one.container) for one in world.shared.cluster.addresses.values()] == [("10.128.0.2", new)]
    assert not world.shared.cluster.kept_addresses


async def test_a_network_of_the_create_call_that_was_left_is_noted(world: World) -> None:
    await world.agent("h1")
    network = await made(world, "app")
    identity = having(world, 1, "web", NetworkingConfig={"EndpointsConfig": {"app": {}, "bridge": {}}})
    claim = r.Address(network=network, ip="10.128.0.2", container=identity)
    world.write([put(r.key("addresses", network, "10.128.0.2"), claim)])
    gateway = await world.gateway()
    await gateway.context.mirror.reached(world.shared.cluster.revision, 5.0)
    for ref in ("app", "bridge"):
        assert (await ask(gateway, "POST", f"/networks/{ref}/disconnect", {"Container": "web"}))[0] == 200
    assert set(world.shared.cluster.containers[identity].left) == {network, "bridge"}
    for ref in ("app", "bridge"):
        assert (await ask(gateway, "POST", f"/networks/{ref}/connect", {"Container": "web"}))[0] == 200
    record = world.shared.cluster.containers[identity]
    assert (record.left, record.attachments) == ((network,), {network: "{}"})
    assert networks_of(world.shared.cluster, record, parse_spec(record.body)) == [network]
    assert list(world.shared.cluster.addresses) == [f"{network}/10.128.0.2"]


# -- volumes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def volumes(world: World) -> World:
    world.links.say("h1 h2", "GET", "/volumes", response({"Volumes": None, "Warnings": None}))
    return world


async def test_a_volume_is_a_record(volumes: World) -> None:
    gateway = await volumes.gateway()
    asked = {"Name": "data", "Labels": {"a": "b"}, "DriverOpts": {"type": "tmpfs"}}
    status, shown = await ask(gateway, "POST", "/volumes/create", asked)
    assert status == 201
    assert shown == {
        "CreatedAt": "2023-11-14T22:15:00Z",
        "Driver": "local",
        "Labels": {"a": "b"},
        "Mountpoint": "",
        "Name": "data",
        "Options": {"type": "tmpfs"},
        "Scope": "local",
    }
    assert await ask(gateway, "POST", "/volumes/create", {"Name": "data"}) == (201, shown)
    assert (await ask(gateway, "GET", "/volumes/data")) == (200, shown)
    status, unnamed = await ask(gateway, "POST", "/volumes/create", {})
    assert (status, len(unnamed["Name"])) == (201, 64)


async def test_a_volumes_mountpoint_is_its_hosts(volumes: World) -> None:
    volumes.write([put(r.key("volumes", "data"), r.Volume(name="data", body="{}", host="h2"))])
    volumes.links.say("h2", "GET", "/volumes/data", response({"Name": "data", "Mountpoint": "/m"}))
    volumes.links.say("h2", "GET", "/volumes", response({"Volumes": [{"Name": "data", "Mountpoint": "/m"}]}))
    gateway = await volumes.gateway()
    assert (await ask(gateway, "GET", "/volumes/data"))[1]["Mountpoint"] == "/m"
    _, shown = await ask(gateway, "GET", "/volumes")
    assert [(item["Name"], item["Mountpoint"]) for item in shown["Volumes"]] == [("data", "/m")]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/volumes/nope", None, 404, "get nope: no such volume"),
        ("DELETE", "/volumes/nope", None, 404, "get nope: no such volume"),
        ("POST", "/volumes/create", {"Name": "-v"}, 400, 'create -v: "-v" includes invalid characters'),
        ("POST", "/volumes/create", {"Name": 1}, 400, "invalid JSON"),
        ("GET", '/volumes?filters={"foo":["a"]}', None, 400, "Invalid filter 'foo'"),
        ("POST", '/volumes/prune?filters={"foo":["a"]}', None, 400, "Invalid filter 'foo'"),
        ("DELETE", "/volumes/data", None, 409, f"remove data: volume is in use - [{cid(1)}]"),
    ],
)
async def test_refused_volumes(volumes: World, method: str, path: str, body: Any, status: int, message: str) -> None:
    volumes.write([put(r.key("volumes", "data"), r.Volume(name="data", body="{}", host="h1"))])
    having(volumes, 1, "db", HostConfig={"Binds": ["data:/d"]})
    got, answer = await ask(await volumes.gateway(), method, path, body)
    assert (got, answer["message"][: len(message)]) == (status, message)


async def test_rm_marks_a_volume_with_data_and_waits_for_its_host(volumes: World) -> None:
    volumes.write([put(r.key("volumes", "data"), r.Volume(name="data", body="{}", host="h1"))])
    gateway = await volumes.gateway()
    asked = asyncio.create_task(ask(gateway, "DELETE", "/volumes/data"))
    await gateway.context.mirror.until(lambda now: now.volumes["data"].removed, 5.0, "the mark")
    assert (await ask(gateway, "POST", "/volumes/create", {"Name": "data"}))[0] == 409
    volumes.write([Change(r.key("volumes", "data"), None)])
    assert await asked == (204, None)
    assert await ask(gateway, "DELETE", "/volumes/data?force=1") == (204, None)


async def test_a_volume_on_a_dead_host_is_not_removed_in_silence(volumes: World) -> None:
    volumes.write([put(r.key("volumes", "data"), r.Volume(name="data", body="{}", host="h2"))])
    drop_host(volumes, "h2")
    status, answer = await ask(await volumes.gateway(), "DELETE", "/volumes/data")
    assert (status, "host h2 is down since" in answer["message"]) == (503, True)


async def test_engines_own_volumes_are_listed_and_removed_where_they_are(volumes: World) -> None:
    gateway = await volumes.gateway()
    volumes.links.say("h2", "GET", "/volumes", response({"Volumes": [{"Name": "anon", "Labels": None}]}))
    volumes.links.say("h2", "GET", "/volumes/anon", response({"Name": "anon"}))
    volumes.links.say("h1", "GET", "/volumes/anon", refused(404, "get anon: no such volume"))
    volumes.links.say("h2", "DELETE", "/volumes/anon", response(None, 204))
    _, shown = await ask(gateway, "GET", "/volumes")
    assert [item["Name"] for item in shown["Volumes"]] == ["anon"]
    assert (await relayed(gateway, "DELETE", "/volumes/anon")).host == "h2"
    asked = await ask(gateway, "POST", "/volumes/prune")
    assert asked == (200, {"VolumesDeleted": ["anon"], "SpaceReclaimed": 0})


async def test_prune_spares_used_volumes(volumes: World) -> None:
    names = ("data", "a" * 64, "used")
    volumes.write([put(r.key("volumes", name), r.Volume(name=name, body="{}")) for name in names])
    having(volumes, 1, "db", HostConfig={"Binds": ["used:/d"]})
    gateway = await volumes.gateway()
    old = await ask(gateway, "POST", "/v1.41/volumes/prune")
    assert sorted(old[1]["VolumesDeleted"]) == ["a" * 64, "data"]
    assert list(volumes.shared.cluster.volumes) == ["used"]


async def test_newer_clients_prune_anonymous_volumes_only_unless_they_say_all() -> None:
    world = World()
    world.write(host("h1", facts={"api_version": "1.45", "min_api_version": "1.24"}))
    world.links.say("h1", "GET", "/volumes", response({"Volumes": []}))
    world.write([put(r.key("volumes", name), r.Volume(name=name, body="{}")) for name in ("data", "a" * 64)])
    gateway = await world.gateway()
    assert (await ask(gateway, "POST", "/v1.42/volumes/prune"))[1]["VolumesDeleted"] == ["a" * 64]
    assert (await ask(gateway, "POST", '/v1.42/volumes/prune?filters={"all":["1"]}'))[1]["VolumesDeleted"] == ["data"]
    await world.close()
