"""Calls about the whole cluster: events, images, info, disk usage, swarm."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from cluster_factory import cid, container, host
from gateway_world import API, NOW, World, ask, drop_host, engine_id, make_call, refused, relayed, response, split

from drover.gateway.call import EngineResponse, Reply
from drover.gateway.filters import parse_filters, parse_when
from drover.gateway.gateway import Gateway
from drover.gateway.merge import merge_images
from drover.model import records as r
from drover.model.cluster import put

FIRST, SECOND = cid(1), cid(2)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    made.write([*host("h1", facts=API), *host("h2", facts={**API, "min_api_version": "1.24"})])
    made.write(container(1, "a", "h1", engine_id=engine_id(FIRST)))
    yield made
    await made.close()


# -- events ----------------------------------------------------------------------------------------------------------


def event(action: str, time_ns: int, container_id: str = FIRST, **attributes: str) -> bytes:
    labels = {"drover.epoch": "1", "drover.id": container_id, "name": "a", **attributes}
    actor = {"ID": engine_id(container_id), "Attributes": labels}
    told = {"status": action, "id": engine_id(container_id), "Type": "container", "Action": action, "Actor": actor}
    return json.dumps({**told, "time": time_ns // 10**9, "timeNano": time_ns}, separators=(",", ":")).encode() + b"\n"


def foreign(time_ns: int) -> bytes:
    actor = {"ID": "f" * 64, "Attributes": {"name": "x"}}
    return json.dumps({"Type": "container", "Action": "die", "Actor": actor, "timeNano": time_ns}).encode() + b"\n"


async def stream_of(gateway: Gateway, target: str) -> AsyncIterator[bytes]:
    outcome = await gateway.handle(make_call("GET", target))
    assert isinstance(outcome, Reply)
    assert outcome.stream is not None
    return outcome.stream


async def test_past_events_are_merged_in_order_of_time_with_cluster_ids(world: World) -> None:
    world.links.histories["h1"] = [event("create", 10), foreign(15), event("start", 30)]
    world.links.histories["h2"] = [event("create", 20, SECOND), event("die", 40, SECOND)]
    stream = await stream_of(await world.gateway(), "/v1.41/events?since=1&until=9")
    told = [json.loads(line) for line in [line async for line in stream]]
    assert [(e["Action"], e["id"], e["timeNano"]) for e in told] == [
        ("create", FIRST, 10),
        ("create", SECOND, 20),
        ("start", FIRST, 30),
        ("die", SECOND, 40),
    ]
    assert told[0]["Actor"] == {"ID": FIRST, "Attributes": {"drover.host": "h1", "name": "a"}}
    assert {split(target)[1]["since"][0] for _, _, target in world.links.asked} == {"1"}


async def test_live_events_come_as_they_happen_in_pieces_too(world: World) -> None:
    stream = await stream_of(await world.gateway(), "/events")
    first = asyncio.create_task(anext(stream))
    await streaming(world, "h1", "h2")
    line = event("start", 50)
    world.links.streams["h2"].put_nowait(line[:30])
    world.links.streams["h2"].put_nowait(line[30:])
    assert json.loads(await first)["id"] == FIRST
    await stream.aclose()  # type: ignore[attr-defined]


async def streaming(world: World, *hosts: str) -> None:
    """Wait until the events of these hosts are being read."""
    async with asyncio.timeout(10):
        await asyncio.gather(*(world.links.opened(name) for name in hosts))


async def test_a_lost_host_ends_its_part_only_and_goes_on_where_it_ended(world: World) -> None:
    stream = await stream_of(await world.gateway(), "/events?since=1")
    world.links.histories["h1"] = []
    first = asyncio.create_task(anext(stream))
    await streaming(world, "h1", "h2")
    world.links.streams["h2"].put_nowait(event("start", 7_000_000_001, SECOND))
    assert json.loads(await first)["id"] == SECOND
    world.links.streams["h2"].put_nowait(None)
    world.links.streams["h1"].put_nowait(event("die", 60))
    assert json.loads(await anext(stream))["Action"] == "die"
    second = asyncio.create_task(anext(stream))
    world.links.streams["h2"].put_nowait(event("die", 8_000_000_000, SECOND))
    assert json.loads(await second)["id"] == SECOND
    resumed = [split(target)[1] for where, _, target in world.links.asked if where == "h2"][-1]
    assert resumed["since"] == ["7.000000002"]
    await stream.aclose()  # type: ignore[attr-defined]


async def test_event_filters_speak_the_engines_words(world: World) -> None:
    filters = json.dumps({"container": [FIRST[:12]], "label": ["drover.host=h1", "x=y"], "event": ["die"]})
    stream = await stream_of(await world.gateway(), f"/events?since=1&until=5&filters={filters}")
    assert [line async for line in stream] == []
    (asked,) = [(where, split(target)[1]) for where, _, target in world.links.asked]
    assert asked[0] == "h1"
    sent = {name: list(values) for name, values in json.loads(asked[1]["filters"][0]).items()}
    assert sent == {"container": ["a"], "label": ["x=y"], "event": ["die"]}


@pytest.mark.parametrize("query", ["since=x", "until=x", "filters=x"])
async def test_malformed_event_queries(world: World, query: str) -> None:
    assert (await ask(await world.gateway(), "GET", f"/events?{query}"))[0] == 400


# -- images ----------------------------------------------------------------------------------------------------------


def picture(identity: str, *tags: str, created: int = 1) -> dict[str, Any]:
    return {"Id": identity, "RepoTags": list(tags) or ["<none>:<none>"], "RepoDigests": None, "Created": created}


async def test_images_are_listed_once_with_all_their_names(world: World) -> None:
    world.links.say("h1", "GET", "/images/json", response([picture("i1", "a:1"), picture("i2", created=5)]))
    world.links.say("h2", "GET", "/images/json", response([picture("i1", "a:1", "b:2"), picture("i3", created=3)]))
    _, shown = await ask(await world.gateway(), "GET", "/images/json")
    assert [(image["Id"], image["RepoTags"]) for image in shown] == [
        ("i2", ["<none>:<none>"]),
        ("i3", ["<none>:<none>"]),
        ("i1", ["a:1", "b:2"]),
    ]


def test_a_name_anywhere_is_better_than_none() -> None:
    (image,) = merge_images([picture("i1"), picture("i1", "a:1")])
    assert image["RepoTags"] == ["a:1"]


async def test_image_calls_go_to_a_host_that_has_it(world: World) -> None:
    world.links.say("h2", "GET", "/images/a/b:1/json", response({"Id": "i1"}))
    gateway = await world.gateway()
    assert (await relayed(gateway, "GET", "/images/a/b:1/json")).host == "h2"
    assert (await relayed(gateway, "GET", "/images/a/b:1/get")).host == "h2"
    assert (await relayed(gateway, "GET", "/images/get?names=a/b:1")).host == "h2"
    assert (await relayed(gateway, "GET", "/images/nope/json")).host == "h1"
    assert (await relayed(gateway, "POST", "/images/create?fromImage=x")).host == "h1"
    assert (await relayed(gateway, "POST", "/images/a/b:1/push")).edit is None
    drop_host(world, "h1")
    await gateway.context.mirror.reached(world.shared.cluster.revision, 5.0)
    assert (await relayed(gateway, "POST", "/build")).host == "h2"


async def test_a_build_on_a_cluster_network_goes_where_the_network_is(world: World) -> None:
    network = r.Network(id="c" * 64, name="app", body="{}")
    facts = r.NetworkFacts(network=network.id, host="h2", engine_id="d" * 64)
    world.write([put(r.key("networks", network.id), network), put(r.key("network_facts", "h2", network.id), facts)])
    relay = await relayed(await world.gateway(), "POST", f"/v1.41/build?t=a%3A1&networkmode={network.id}")
    assert (relay.host, relay.target) == ("h2", "/v1.41/build?t=a%3A1&networkmode=app")


async def test_tag_and_remove_reach_every_host_that_has_it(world: World) -> None:
    world.links.say("h1 h2", "GET", "/images/a/json", response({"Id": "i1"}))
    world.links.say("h1 h2", "POST", "/images/a/tag", EngineResponse(status=201))
    world.links.say("h1", "DELETE", "/images/a", response([{"Untagged": "a:latest"}, {"Deleted": "i1"}]))
    world.links.say("h2", "DELETE", "/images/a", response([{"Untagged": "a:latest"}]))
    gateway = await world.gateway()
    assert await ask(gateway, "POST", "/images/a/tag?repo=b") == (201, None)
    tagged = [where for where, _, target in world.links.asked if target.endswith("/tag?repo=b")]
    assert sorted(tagged) == ["h1", "h2"]
    assert await ask(gateway, "DELETE", "/images/a") == (200, [{"Untagged": "a:latest"}, {"Deleted": "i1"}])
    world.links.say("h2", "DELETE", "/images/a", refused(409, f"used by container {engine_id(FIRST)}"))
    assert await ask(gateway, "DELETE", "/images/a") == (409, {"message": f"used by container {FIRST}"})


async def test_prunes_are_added_up(world: World) -> None:
    world.links.say("h1", "POST", "/images/prune", response({"ImagesDeleted": None, "SpaceReclaimed": 1}))
    more = {"ImagesDeleted": [{"Deleted": "i1"}], "SpaceReclaimed": 2}
    world.links.say("h2", "POST", "/images/prune", response(more))
    answer = await ask(await world.gateway(), "POST", "/images/prune")
    assert answer == (200, {"ImagesDeleted": [{"Deleted": "i1"}], "SpaceReclaimed": 3})


# -- system ----------------------------------------------------------------------------------------------------------


async def test_info_adds_up_and_lists_the_hosts(world: World) -> None:
    info = {"Containers": 2, "Images": 4, "NCPU": 2, "MemTotal": 100, "Name": "vm", "Labels": ["x=y"], "Other": 1}
    world.links.say("h1 h2", "GET", "/info", response(info))
    world.links.say("h1", "GET", "/images/json", response([{"Id": "sha256:a"}, {"Id": "sha256:b"}]))
    world.links.say("h2", "GET", "/images/json", response([{"Id": "sha256:b"}, {"Id": "sha256:c"}]))
    _, shown = await ask(await world.gateway("h2"), "GET", "/v1.41/info")
    assert (shown["Containers"], shown["NCPU"], shown["MemTotal"], shown["Other"]) == (4, 4, 200, 1)
    assert (shown["Name"], shown["Images"], shown["Labels"]) == ("h2", 3, ["x=y"])
    assert shown["SystemStatus"][:3] == [["Nodes", "2"], [" h1", "10.94.0.1"], ["  └ Status", "is ready"]]
    assert shown["DriverStatus"] == shown["SystemStatus"]


async def test_ping_and_version_come_from_an_engine_that_speaks_for_all(world: World) -> None:
    world.write(host("h1", facts={"api_version": "1.45", "min_api_version": "1.12"}))
    gateway = await world.gateway("h1")
    assert (await relayed(gateway, "HEAD", "/_ping")).host == "h2"
    relay = await relayed(gateway, "GET", "/version")
    assert relay.edit is not None
    assert relay.edit(b'{"MinAPIVersion":"1.12","x":1}') == b'{"MinAPIVersion":"1.24","x":1}'


async def test_without_any_engine_the_answer_says_so() -> None:
    world = World()
    world.write(host("h1", state="silent"))
    status, answer = await ask(await world.gateway(), "GET", "/_ping")
    assert (status, answer["message"]) == (503, "no Docker engine of this cluster answers")
    await world.close()


async def test_disk_usage_is_merged(world: World) -> None:
    ours = {"Id": engine_id(FIRST), "Labels": {"drover.id": FIRST}}
    usage = {"LayersSize": 5, "Images": [picture("i1", "a:1")], "Volumes": [{"Name": "v"}], "BuildCache": None}
    world.links.say("h1", "GET", "/system/df", response({**usage, "Containers": [ours, {"Id": "x", "Labels": {}}]}))
    world.links.say("h2", "GET", "/system/df", response({**usage, "Containers": None}))
    _, shown = await ask(await world.gateway(), "GET", "/system/df")
    assert shown == {**usage, "LayersSize": 10, "Containers": [{"Id": FIRST, "Labels": {"drover.host": "h1"}}]}


async def test_swarm_is_refused_where_it_would_change_something(world: World) -> None:
    gateway = await world.gateway()
    for verb in ("init", "join"):
        status, answer = await ask(gateway, "POST", f"/swarm/{verb}")
        assert (status, "do not take part in Swarm mode" in answer["message"]) == (503, True)
    for path in ("/swarm", "/nodes", "/services/x", "/tasks", "/secrets", "/configs/x"):
        assert (await relayed(gateway, "GET", path)).host == "h1"
    for path in ("/swarm/leave", "/swarm/update", "/services/create"):
        assert (await relayed(gateway, "POST", path)).host == "h1"  # which says that it is in no swarm


# -- filters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("", {}),
        ('{"a":["b","c"]}', {"a": ["b", "c"]}),
        ('{"a":{"b":true,"c":false}}', {"a": ["b"]}),
    ],
)
def test_both_forms_of_filters(text: str, filters: Mapping[str, list[str]]) -> None:
    assert parse_filters(text) == filters


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12.5", 12.5), ("1h30m", NOW - 5400), ("2023-11-14T22:15:00Z", 1_700_000_100.0), ("10ms", NOW - 0.01)],
)
def test_points_of_time(text: str, seconds: float) -> None:
    assert parse_when(text, NOW) == seconds
