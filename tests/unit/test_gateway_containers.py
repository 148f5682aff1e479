"""Container calls through the gateway: create, lifecycle, list, relays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from cluster_factory import cid, container, host, network, volume
from gateway_world import API, IMAGE, NOW, Agent, World, ask, drop_host, engine_id, refused, relayed, response, split

from drover.decide.removal import container_removal
from drover.gateway import containers
from drover.gateway.call import EngineResponse
from drover.gateway.routes import ROUTES, Route
from drover.model import records as r
from drover.model.cluster import Change, put

BODY = {"Image": "busybox", "Cmd": ["sleep", "9"]}
HOSTS = ("h1", "h2", "h3")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    made.write([change for name in HOSTS for change in host(name, facts=API)])
    made.links.say("h1 h2 h3", "GET", "/images/busybox/json", response({"Id": IMAGE}))
    yield made
    await made.close()


async def agents(world: World, *script: Any) -> dict[str, Agent]:
    return {name: await world.agent(name, *script) for name in HOSTS}


def having(world: World, number: int, name: str, on: str = "h1", state: str = "running", **body: Any) -> str:
    """A container that its host made."""
    identity = cid(number)
    facts = {"engine_id": engine_id(identity), "state": state, "answer": r.Answer(number=1, status=201)}
    world.write(container(number, name, on, {"Image": "busybox", **body}, **facts))
    return identity


def record_of(world: World, identity: str) -> r.Container:
    return world.shared.cluster.containers[identity]


# -- create ----------------------------------------------------------------------------------------------------------


async def test_create_answers_with_the_cluster_id_and_the_engines_warnings(world: World) -> None:
    await agents(world)
    gateway = await world.gateway()
    status, body = await ask(gateway, "POST", "/v1.41/containers/create?name=web", BODY)
    assert (status, body["Warnings"]) == (201, ["slow disk"])
    record = record_of(world, body["Id"])
    assert (record.name, record.image_id, json.loads(record.body)) == ("web", IMAGE, BODY)
    assert world.shared.cluster.names["web"].id == body["Id"]
    assert world.shared.cluster.host_of(body["Id"]) in HOSTS


async def test_create_without_a_name_gets_two_words(world: World) -> None:
    await agents(world)
    status, body = await ask(await world.gateway(), "POST", "/containers/create", BODY)
    assert status == 201
    first, _, second = record_of(world, body["Id"]).name.partition("_")
    assert first.isalpha()
    assert second.isalpha()


async def test_create_claims_address_and_volume_in_the_same_revision(world: World) -> None:
    await agents(world)
    gateway = await world.gateway()
    assert (await ask(gateway, "POST", "/networks/create", {"Name": "app", "IPAM": POOL}))[0] == 201
    host_config = {"Binds": ["data:/d"], "NetworkMode": "app"}
    endpoints = {"EndpointsConfig": {"app": {"IPAMConfig": {"IPv4Address": "10.44.0.9"}}}}
    asked = {**BODY, "HostConfig": host_config, "NetworkingConfig": endpoints}
    status, body = await ask(gateway, "POST", "/containers/create?name=db", asked)
    cluster = world.shared.cluster
    network = cluster.network_names["app"].id
    where = cluster.host_of(body["Id"])
    keys = [f"addresses/{network}/10.44.0.9", "volumes/data", "names/db"]
    assert status == 201
    assert {cluster.version(key) for key in keys} == {cluster.version(f"placements/{body['Id']}")}
    assert cluster.volumes["data"].host == where
    assert cluster.addresses[f"{network}/10.44.0.9"].mac == "02:42:0a:2c:00:09"


async def test_a_port_of_a_host_is_claimed_once_per_host(world: World) -> None:
    await agents(world)
    gateway = await world.gateway()
    ports = {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]}
    asked = {**BODY, "HostConfig": {"PortBindings": ports, "NetworkMode": "bridge"}}
    answers = [await ask(gateway, "POST", "/containers/create", asked) for _ in range(4)]
    assert [status for status, _ in answers] == [201, 201, 201, 503]
    assert sorted(world.shared.cluster.ports) == [f"{name}/tcp/8080" for name in HOSTS]
    assert "8080" in answers[3][1]["message"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"Memory": 64 << 30}, "h1: 64 GiB of memory asked, 1 GiB free; h2: 64 GiB of memory asked"),
        ({"NanoCpus": 9 * 10**9}, "h1: 9 CPUs asked, 2 CPUs free; h2: 9 CPUs asked"),
    ],
)
async def test_what_no_host_has_is_503_with_a_reason_per_host(world: World, asked: Any, why: str) -> None:
    """A property of the cluster; what one host has, and its engine refuses, is the engine's own answer."""
    rows = [change for name in HOSTS for change in host(name, facts={**API, "memory_bytes": 1 << 30, "cpus": 2})]
    world.write(rows)
    status, answer = await ask(await world.gateway(), "POST", "/containers/create", {**BODY, "HostConfig": asked})
    assert (status, why in answer["message"]) == (503, True), answer
    assert not world.shared.cluster.containers


POOL = {"Config": [{"Subnet": "10.44.0.0/24"}]}


@pytest.mark.parametrize(
    ("target", "body", "status", "message"),
    [
        ("?name=-a", BODY, 400, "Invalid container name (-a), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
        ("", {}, 400, "Config cannot be empty in order to create a container"),
        ("", {"HostConfig": {}}, 400, "Config cannot be empty in order to create a container"),
        ("", b"{not json", 400, "invalid JSON"),
        ("", b"", 400, "invalid JSON: got EOF"),
        ("", b"[1]", 400, "invalid JSON"),
        ("", {"Image": 7}, 400, "wrong type"),
        ("", {"Image": "nope"}, 404, "No such image: nope:latest"),
        ("", {**BODY, "HostConfig": {"NetworkMode": "nonet"}}, 404, "network nonet not found"),
    ],
)
async def test_create_refuses_what_docker_refuses(
    world: World, target: str, body: Any, status: int, message: str
) -> None:
    absent = refused(404, "no such image: nope: No such image: nope:latest")
    world.links.say("h1 h2 h3", "GET", "/images/nope/json", absent)
    before = world.shared.cluster.revision
    got, answer = await ask(await world.gateway(), "POST", f"/containers/create{target}", body)
    assert got == status
    assert message in answer["message"]
    assert world.shared.cluster.revision == before


async def test_an_engines_refusal_reaches_the_client_and_leaves_no_records(world: World) -> None:
    refusal = r.Answer(status=400, message="No command specified", body='{"message":"No command specified"}')
    await agents(world, lambda record: refusal)
    status, answer = await ask(await world.gateway(), "POST", "/containers/create?name=web", BODY)
    assert (status, answer) == (400, {"message": "No command specified"})
    cluster = world.shared.cluster
    assert not cluster.containers
    assert not cluster.names
    assert not cluster.placements
    assert not cluster.container_facts


async def test_of_two_gateways_that_give_one_name_one_wins(world: World) -> None:
    await agents(world)
    gateways = [await world.gateway("h1"), await world.gateway("h2")]
    asked = [ask(gateway, "POST", "/containers/create?name=web", BODY) for gateway in gateways]
    answers = sorted(await asyncio.gather(*asked), key=lambda answer: answer[0])
    winner = answers[0][1]["Id"]
    assert [status for status, _ in answers] == [201, 409]
    assert answers[1][1]["message"] == (
        f'Conflict. The container name "/web" is already in use by container "{winner}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    assert list(world.shared.cluster.containers) == [winner]


async def test_a_name_whose_holder_removes_itself_is_waited_for(world: World) -> None:
    await agents(world)
    old = having(world, 1, "web", state="exited", HostConfig={"AutoRemove": True})
    gateway = await world.gateway()
    asked = asyncio.create_task(ask(gateway, "POST", "/containers/create?name=web", BODY))
    await asyncio.sleep(0)
    keys = [f"containers/{old}", "names/web", f"placements/{old}", f"container_facts/h1/{old}"]
    world.write([Change(key, None) for key in keys])
    status, body = await asked
    assert status == 201
    assert world.shared.cluster.names["web"].id == body["Id"]


async def test_when_the_chosen_host_dies_another_is_taken(world: World) -> None:
    made = await agents(world)
    gateway = await world.gateway()
    for agent in made.values():
        agent.hold.add("create")
    asked = asyncio.create_task(ask(gateway, "POST", "/containers/create?name=web", BODY))
    mirror = await world.mirror()
    first = await mirror.until(lambda now: next(iter(now.placements.values()), None), 5.0, "a placement")
    for agent in made.values():
        agent.hold.clear()
    made[first.host].hold.add("create")
    drop_host(world, first.host)
    status, body = await asked
    assert status == 201
    assert world.shared.cluster.host_of(body["Id"]) not in (None, first.host)


async def test_the_image_tagged_last_is_meant_and_silent_hosts_are_skipped(world: World) -> None:
    await agents(world)
    newer = "sha256:" + "2" * 64
    world.links.say("h1", "GET", "/images/app/json", image(IMAGE, "2026-01-01T00:00:00Z"))
    world.links.say("h2", "GET", "/images/app/json", image(newer, "2026-02-01T00:00:00Z"))
    world.links.silent.add("h3")
    _, body = await ask(await world.gateway(), "POST", "/containers/create", {"Image": "app"})
    assert record_of(world, body["Id"]).image_id == newer


def image(identity: str, tagged: str) -> EngineResponse:
    return response({"Id": identity, "Metadata": {"LastTagTime": tagged}})


async def test_a_commit_without_an_answer_is_looked_up(world: World) -> None:
    await agents(world)
    gateway = await world.gateway()
    store = world.shared.client(deadline_s=0.05)
    store.lose_answers = True
    gateway.context.store = store
    status, body = await ask(gateway, "POST", "/containers/create?name=web", BODY)
    assert status == 201
    assert list(world.shared.cluster.containers) == [body["Id"]]


async def test_a_store_that_is_away_is_told_and_nothing_is_made(world: World) -> None:
    await agents(world)
    gateway = await world.gateway()
    store = world.shared.client(deadline_s=0.05)
    store.cut = True
    gateway.context.store = store
    status, answer = await ask(gateway, "POST", "/containers/create?name=web", BODY)
    assert (status, "the store did not answer" in answer["message"]) == (503, True)
    assert not world.shared.cluster.containers


async def test_no_host_can_take_it_names_every_host(world: World) -> None:
    asked = {**BODY, "Env": ["constraint:storage==ssd"]}
    status, answer = await ask(await world.gateway(), "POST", "/containers/create", asked)
    assert status == 503
    assert all(f"{name}:" in answer["message"] for name in HOSTS)


# -- lifecycle -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "verb", "desired", "status"),
    [
        ("start", "start", "running", 204),
        ("stop?t=3", "stop", "stopped", 204),
        ("restart?t=3", "restart", "running", 204),
        ("kill", "kill", "stopped", 204),
        ("kill?signal=SIGTERM", "kill", "stopped", 204),
    ],
)
async def test_a_lifecycle_call_is_one_order(world: World, call: str, verb: str, desired: str, status: int) -> None:
    await agents(world)
    identity = having(world, 1, "web")
    got, body = await ask(await world.gateway("h2"), "POST", f"/v1.41/containers/web/{call}")
    record = record_of(world, identity)
    assert (got, body) == (status, None)
    assert (record.order.verb, record.order.number, record.desired) == (verb, 2, desired)
    assert record.order.query == call.partition("?")[2]


async def test_the_engines_own_status_comes_back(world: World) -> None:
    await agents(world, lambda record: r.Answer(status=304))
    having(world, 1, "web")
    assert await ask(await world.gateway(), "POST", "/containers/web/start") == (304, None)


@pytest.mark.parametrize(("status", "kept"), [(200, "always"), (400, "no")])
async def test_a_new_restart_policy_is_kept_once_the_engine_has_taken_it(world: World, status: int, kept: str) -> None:
    identity = having(world, 1, "web", HostConfig={"RestartPolicy": {"Name": "no"}})
    await agents(world, lambda _: r.Answer(status=status, body="{}"))
    asked = {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}}
    assert (await ask(await world.gateway(), "POST", "/containers/web/update", asked))[0] == status
    assert json.loads(record_of(world, identity).body)["HostConfig"]["RestartPolicy"]["Name"] == kept


@pytest.mark.parametrize("policy", [{"Name": "nonsense"}, "always"])
async def test_a_wrong_policy_never_reaches_the_record_of_a_claim_holder(world: World, policy: Any) -> None:
    identity = having(world, 1, "db", Volumes={}, HostConfig={"Binds": ["data:/data"]})
    world.write(volume("data", "h1"))
    made = await agents(world)
    status, answer = await ask(await world.gateway(), "POST", "/containers/db/update", {"RestartPolicy": policy})
    assert status == 400
    assert answer["message"]
    assert "RestartPolicy" not in record_of(world, identity).body
    assert made["h1"].performed == []


async def test_update_answers_with_the_engines_json(world: World) -> None:
    made = await agents(world)
    identity = having(world, 1, "web")
    answer = await ask(await world.gateway(), "POST", "/containers/web/update", {"Memory": 9})
    assert answer == (200, {"Warnings": None})
    assert json.loads(record_of(world, identity).order.body) == {"Memory": 9}
    assert made["h1"].performed == [("update", "web")]


async def test_remove_waits_until_the_records_are_gone(world: World) -> None:
    await agents(world)
    identity = having(world, 1, "web", state="exited")
    assert await ask(await world.gateway(), "DELETE", "/containers/web?v=1") == (204, None)
    assert identity not in world.shared.cluster.containers
    assert "web" not in world.shared.cluster.names


async def test_who_waits_for_a_removal_hears_of_it_when_the_records_are_gone(world: World) -> None:
    """`docker run --rm` ends so; its name and its volumes are free then, as on an engine."""
    identity = having(world, 1, "web", HostConfig={"AutoRemove": True, "Binds": ["data:/data"]})
    world.write([put("volumes/data", r.Volume(name="data", body="{}"))])
    gateway = await world.gateway()
    relay = await relayed(gateway, "POST", "/containers/web/wait?condition=removed")
    assert relay.settled is not None
    told = asyncio.ensure_future(relay.settled())
    await asyncio.sleep(0.01)
    assert not told.done()
    world.shared.commit(*container_removal(world.shared.cluster, identity, NOW), None)
    await told
    assert await ask(gateway, "DELETE", "/volumes/data") == (204, None)


async def test_an_engines_word_of_a_removal_is_not_withheld_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "FORGOTTEN_DEADLINE_S", 0.01)
    identity = having(world, 1, "web", NetworkingConfig={"EndpointsConfig": {"app": {}}})
    gateway = await world.gateway()
    relay = await relayed(gateway, "POST", "/containers/web/wait?condition=removed")
    assert relay.settled is not None
    await relay.settled()
    assert identity in world.shared.cluster.containers
    for condition in ("", "?condition=not-running", "?condition=next-exit"):
        assert (await relayed(gateway, "POST", f"/containers/web/wait{condition}")).settled is None


@pytest.mark.parametrize(
    ("body", "waits"),
    [
        ({}, False),
        ({"HostConfig": {"NetworkMode": "default"}, "NetworkingConfig": {"EndpointsConfig": {"default": {}}}}, False),
        ({"HostConfig": {"NetworkMode": "host"}}, False),
        ({"HostConfig": {"NetworkMode": "app"}}, True),
        ({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}}, True),
        ({"HostConfig": {"VolumesFrom": ["db"]}}, True),
    ],
)
async def test_a_removal_is_waited_for_where_it_makes_something_free_that_has_a_name(
    world: World, body: dict[str, Any], waits: bool
) -> None:
    having(world, 1, "web", **body)
    relay = await relayed(await world.gateway(), "POST", "/containers/web/wait?condition=removed")
    assert (relay.settled is not None) == waits


async def test_a_refused_remove_restores_what_was_wanted_and_speaks_of_the_cluster_id(world: World) -> None:
    identity = having(world, 1, "web")
    world.write([put(f"containers/{identity}", r.Container(id=identity, name="web", body="{}", desired="running"))])
    told = {"message": f"You cannot remove a running container {engine_id(identity)}."}
    await agents(world, lambda record: r.Answer(status=409, body=json.dumps(told)))
    status, answer = await ask(await world.gateway(), "DELETE", "/containers/web")
    assert (status, answer["message"]) == (409, f"You cannot remove a running container {identity}.")
    assert record_of(world, identity).desired == "running"


async def test_what_could_not_be_started_is_not_started_later(world: World) -> None:
    await agents(world, lambda record: r.Answer(status=400, body='{"message":"no such file"}'))
    identity = having(world, 1, "web", state="created")
    assert await ask(await world.gateway(), "POST", "/containers/web/start") == (400, {"message": "no such file"})
    assert record_of(world, identity).desired == "created"


async def test_rename_moves_the_name(world: World) -> None:
    await agents(world)
    identity = having(world, 1, "web")
    having(world, 2, "db")
    gateway = await world.gateway()
    assert (await ask(gateway, "POST", "/containers/web/rename?name=db"))[0] == 409
    assert (await ask(gateway, "POST", "/containers/web/rename?name=web"))[0] == 400
    assert (await ask(gateway, "POST", "/containers/web/rename"))[0] == 400
    assert await ask(gateway, "POST", "/containers/web/rename?name=www") == (204, None)
    assert record_of(world, identity).name == "www"
    assert {name: held.id for name, held in world.shared.cluster.names.items()} == {"www": identity, "db": cid(2)}


async def test_a_refused_rename_gives_the_old_name_back(world: World) -> None:
    await agents(world, lambda record: r.Answer(status=500, body='{"message":"no"}'))
    identity = having(world, 1, "web")
    assert (await ask(await world.gateway(), "POST", "/containers/web/rename?name=www"))[0] == 500
    assert record_of(world, identity).name == "web"
    assert list(world.shared.cluster.names) == ["web"]


async def test_kill_overtakes_a_stop_and_ends_its_wait(world: World) -> None:
    made = await agents(world)
    made["h1"].hold.add("stop")
    having(world, 1, "web")
    gateway = await world.gateway()
    stop = asyncio.create_task(ask(gateway, "POST", "/containers/web/stop"))
    mirror = await world.mirror()
    await mirror.until(lambda now: now.containers[cid(1)].order.verb == "stop", 5.0, "the stop order")
    assert await ask(gateway, "POST", "/containers/web/kill") == (204, None)
    assert await stop == (204, None)
    assert made["h1"].performed == [("kill", "web")]


async def test_a_start_waits_for_the_stop_before_it(world: World) -> None:
    made = await agents(world)
    made["h1"].hold.add("stop")
    having(world, 1, "web")
    gateway = await world.gateway()
    stop = asyncio.create_task(ask(gateway, "POST", "/containers/web/stop"))
    mirror = await world.mirror()
    await mirror.until(lambda now: now.containers[cid(1)].order.verb == "stop", 5.0, "the stop order")
    start = asyncio.create_task(ask(gateway, "POST", "/containers/web/start"))
    made["h1"].hold.clear()
    world.write([put("settings/wake", r.Setting(value="1"))])
    assert await asyncio.gather(stop, start) == [(204, None), (204, None)]
    assert made["h1"].performed == [("stop", "web"), ("start", "web")]


async def test_a_host_lost_while_waiting_is_named(world: World) -> None:
    having(world, 1, "web")
    gateway = await world.gateway("h2")
    asked = asyncio.create_task(ask(gateway, "POST", "/containers/web/stop"))
    mirror = await world.mirror()
    await mirror.until(lambda now: now.containers[cid(1)].order.verb == "stop", 5.0, "the stop order")
    drop_host(world, "h1")
    status, answer = await asked
    assert status == 503
    assert "host h1 is down since 2023-11-14" in answer["message"]


@pytest.mark.parametrize(
    "route", [one for one in ROUTES if "/containers/{name}" in one.template], ids=lambda one: one.endpoint
)
async def test_every_call_about_a_dead_hosts_container_is_answered_at_once(world: World, route: Route) -> None:
    having(world, 1, "web")
    drop_host(world, "h1")
    path = route.template.replace("{name}", "web").replace("{id}", "one")
    status, answer = await ask(await world.gateway("h2"), route.method, f"{path}?name=other", {})
    assert status == 503
    assert "host h1 is down since 2023-11-14" in answer["message"]


@pytest.mark.parametrize("path", ["/commit?container=web", "/networks/app/connect", "/networks/app/disconnect"])
async def test_so_is_one_that_names_it_elsewhere(world: World, path: str) -> None:
    having(world, 1, "web", HostConfig={"NetworkMode": "app" if "disconnect" in path else "none"})
    world.write(network("a" * 64, "app", "10.9.0.0/24"))
    drop_host(world, "h1")
    status, answer = await ask(await world.gateway("h2"), "POST", path, {"Container": "web"})
    assert status == 503
    assert "host h1 is down since 2023-11-14" in answer["message"]


@pytest.mark.parametrize(
    ("host_config", "says"),
    [
        ({"Binds": ["not/absolute:/x"]}, 'create not/absolute: "not/absolute" includes invalid characters'),
        ({"Binds": ["a:/x"]}, "create a: volume name is too short"),
        ({"Mounts": [{"Type": "volume", "Source": "a"}]}, 'for type "volume": field Target must not be empty'),
        ({"VolumesFrom": ["nope"]}, "No such container: nope"),
        ({"Binds": ["data:/x"], "RestartPolicy": {"Name": "nonsense"}}, "invalid restart policy 'nonsense'"),
    ],
)
async def test_wrong_wishes_are_refused_in_the_engines_words_before_anything_is_written(
    world: World, host_config: dict[str, Any], says: str
) -> None:
    before = world.shared.cluster.revision
    body = {**BODY, "HostConfig": host_config}
    status, answer = await ask(await world.gateway(), "POST", "/containers/create", body)
    assert status == 400
    assert says in answer["message"]
    assert world.shared.cluster.revision == before


async def test_what_cannot_be_copied_is_said_of_the_container_as_the_client_called_it(world: World) -> None:
    identity = having(world, 1, "web")
    gateway = await world.gateway()
    engines = json.dumps({"message": f"Could not find the file /x in container {engine_id(identity)}"}).encode()
    for ref in ("web", identity):
        relay = await relayed(gateway, "GET", f"/containers/{ref}/archive?path=/x")
        assert relay.edit is not None
        assert json.loads(relay.edit(engines))["message"] == f"Could not find the file /x in container {ref}"


# -- relays ----------------------------------------------------------------------------------------------------------


async def test_a_reading_call_goes_to_the_engine_under_its_own_id(world: World) -> None:
    identity = having(world, 1, "web", "h2")
    gateway = await world.gateway()
    for ref in ("web", identity, identity[:12], "h2/web"):
        relay = await relayed(gateway, "GET", f"/v1.41/containers/{ref}/logs?stdout=1&tail=a%20b")
        assert (relay.host, relay.target) == ("h2", f"/v1.41/containers/{engine_id(identity)}/logs?stdout=1&tail=a%20b")
    relay = await relayed(gateway, "POST", "/containers/web/kill?signal=SIGHUP")
    assert relay.target == f"/containers/{engine_id(identity)}/kill?signal=SIGHUP"
    relay = await relayed(gateway, "DELETE", f"/containers/{identity[:12]}/alias?link=1")
    assert (relay.host, relay.target) == ("h2", "/containers/web/alias?link=1")
    relay = await relayed(gateway, "POST", "/commit?container=web&repo=x")
    assert relay.target == f"/commit?container={engine_id(identity)}&repo=x"


async def test_unknown_and_ambiguous_references(world: World) -> None:
    having(world, 0x1A, "web")
    having(world, 0x2A, "db")
    gateway = await world.gateway()
    assert await ask(gateway, "GET", "/containers/nope/json") == (404, {"message": "No such container: nope"})
    status, answer = await ask(gateway, "GET", "/containers/a/json")
    assert (status, "multiple IDs" in answer["message"]) == (500, True)


async def test_a_container_that_no_engine_has_made_yet(world: World) -> None:
    world.write(container(1, "web"))
    status, answer = await ask(await world.gateway(), "GET", "/containers/web/json")
    assert (status, answer["message"]) == (404, "No such container: web (host h1 has not made it yet)")


async def test_an_exec_instance_is_found_again_by_any_gateway(world: World) -> None:
    having(world, 1, "web", "h2")
    first, other = await world.gateway("h1"), await world.gateway("h3")
    relay = await relayed(first, "POST", "/containers/web/exec", {"Cmd": ["id"]})
    assert relay.seen is not None
    relay.seen(201, b'{"Id":"abc"}')
    assert (await relayed(first, "POST", "/exec/abc/start")).host == "h2"
    world.links.say("h2", "GET", "/exec/abc/json", response({"ID": "abc"}))
    assert (await relayed(other, "GET", "/exec/abc/json")).host == "h2"
    assert await ask(other, "GET", "/exec/zzz/json") == (404, {"message": "No such exec instance: zzz"})


# -- list ------------------------------------------------------------------------------------------------------------


def listed(world: World, *names: str) -> None:
    """Each host's engine lists those of these containers that are on it."""

    def answer(where: str, query: Mapping[str, list[str]], body: bytes) -> EngineResponse:
        cluster = world.shared.cluster
        ours = [cluster.containers[cluster.names[name].id] for name in names]
        return response([element(one) for one in ours if cluster.host_of(one.id) == where])

    world.links.say("h1 h2 h3", "GET", "/containers/json", answer)


def element(record: r.Container) -> dict[str, Any]:
    labels = {"drover.epoch": "1", "drover.id": record.id, "tier": "front"}
    return {
        "Id": engine_id(record.id),
        "Names": [f"/{record.name}"],
        "Created": 5,
        "Labels": labels,
        "State": "running",
    }


async def names_of(world: World, query: str) -> list[str]:
    status, items = await ask(await world.gateway(), "GET", f"/v1.41/containers/json?{query}")
    assert status == 200, items
    return [item["Names"][0] for item in items]


def three(world: World) -> None:
    for number, (name, where) in enumerate((("a", "h1"), ("b", "h2"), ("c", "h3")), 1):
        identity = having(world, number, name, where)
        record = r.Container(id=identity, name=name, body='{"Image":"busybox"}', created_at=100.0 + number)
        world.write([put(f"containers/{identity}", record)])
    listed(world, "a", "b", "c")


async def test_lists_are_merged_newest_first_with_cluster_ids(world: World) -> None:
    three(world)
    status, items = await ask(await world.gateway(), "GET", "/containers/json")
    assert status == 200
    assert [item["Id"] for item in items] == [cid(3), cid(2), cid(1)]
    assert [item["Labels"] for item in items] == [{"drover.host": h, "tier": "front"} for h in ("h3", "h2", "h1")]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("limit=2", ["/c", "/b"]),
        ('filters={"label":["drover.host=h2"]}', ["/b"]),
        ('filters={"label":["drover.host=h2","drover.host=h1"]}', []),
        ('filters={"label":{"drover.host":true}}', ["/c", "/b", "/a"]),
        (f'filters={{"id":["{cid(2)[:8]}"]}}', ["/b"]),
        ('filters={"since":["a"]}', ["/c", "/b"]),
        ('filters={"before":["b"]}', ["/a"]),
    ],
)
async def test_filters_about_the_cluster_are_the_gateways(world: World, query: str, names: list[str]) -> None:
    three(world)
    assert await names_of(world, query) == names


async def test_other_filters_reach_the_engines_with_the_clusters_label(world: World) -> None:
    three(world)
    await names_of(world, 'all=1&size=1&filters={"status":["exited"],"label":["x=y"]}')
    _, _, target = world.links.asked[-1]
    filters = json.loads(query_part(target, "filters"))
    assert filters == {"status": {"exited": True}, "label": {"x=y": True, "drover.id": True}}
    assert (query_part(target, "all"), query_part(target, "size")) == ("1", "1")


def query_part(target: str, name: str) -> str:
    return split(target)[1][name][0]


async def test_a_dead_hosts_containers_are_shown_as_it_left_them(world: World) -> None:
    three(world)
    drop_host(world, "h2")
    status, items = await ask(await world.gateway(), "GET", "/containers/json")
    assert status == 200
    assert [item["Names"] for item in items] == [["/c"], ["/b"], ["/a"]]
    assert items[1]["Status"].startswith("Host h2 is down since 2023-11-14")
    assert (items[1]["State"], items[1]["Labels"]["drover.host"]) == ("running", "h2")
    assert await names_of(world, 'filters={"name":["b"]}') == ["/c", "/b", "/a"]
    assert await names_of(world, 'filters={"ancestor":["busybox"]}') == ["/c", "/a"]


@pytest.mark.parametrize("query", ["filters=xx", "limit=x", 'filters={"label":3}'])
async def test_a_malformed_list_query_is_refused(world: World, query: str) -> None:
    status, answer = await ask(await world.gateway(), "GET", f"/containers/json?{query}")
    assert status == 400
    assert answer["message"]


async def test_an_engines_refusal_of_a_filter_is_the_clients(world: World) -> None:
    world.links.say("h1 h2 h3", "GET", "/containers/json", refused(400, "Invalid filter 'foo'"))
    answer = await ask(await world.gateway(), "GET", '/containers/json?filters={"foo":["a"]}')
    assert answer == (400, {"message": "Invalid filter 'foo'"})


async def test_prune_removes_the_stopped_ones_of_all_hosts(world: World) -> None:
    await agents(world)
    three(world)
    asked = await ask(await world.gateway(), "POST", "/containers/prune?filters=%7B%22until%22:[%22102.5%22]%7D")
    assert asked == (200, {"ContainersDeleted": [cid(2), cid(1)], "SpaceReclaimed": 0})
    assert list(world.shared.cluster.containers) == [cid(3)]
