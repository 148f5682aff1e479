"""Protocol version 2: what it adds to version 1, and that nobody gets it who did not ask. Ways to adapters, numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from gateway_wire_tools import Peer, ok, tls_contexts, until
from hooks_tools import CREATE, HookWorld, answer, echo, hook_world

from drover.gateway.hooks.stats import AdapterStats, Change, Feed, body_changes, quantile
from drover.model.cluster import put
from drover.model.records import Container, Name, Placement, key

TWO = {"protocol": 2}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[HookWorld]:
    async with hook_world(tmp_path) as built:
        await built.adapter("one")
        yield built


async def test_version_two_tells_more(world: HookWorld):
    await world.configure({"* *": {"pre": ["one"], "post": ["one"]}}, one=TWO)
    world.engine_answer = ok(b"{}", b"Content-Type: application/json", b"Api-Version: 1.41")
    secret = b"X-Registry-Auth: c2VjcmV0"
    await world.ask("POST", f"{CREATE}?name=web&name=x&e=", b'{"Image":"a"}', b"User-Agent: Docker-Client", secret)
    before, after = world.adapters["one"].asked
    assert before["PowerstripProtocolVersion"] == 2
    request = before["ClientRequest"]
    assert (request["Path"], request["Version"]) == ("/containers/create", "1.41")
    assert request["Query"] == {"name": ["web", "x"], "e": [""]}
    assert request["Headers"]["user-agent"] == "Docker-Client"
    assert request["Headers"]["x-registry-auth"] == "(withheld)"
    assert before["Client"]["Identity"].startswith("uid:")
    assert before["Container"] is None
    assert after["ServerResponse"]["Headers"]["api-version"] == "1.41"
    assert before["TraceId"] == after["TraceId"] != ""


async def test_version_two_names_the_container(world: HookWorld):
    cid = "c" * 64
    changes = [
        put(key("containers", cid), Container(id=cid, name="db", body='{"Image":"a","Labels":{"tier":"data"}}')),
        put(key("names", "db"), Name(id=cid)),
        put(key("placements", cid), Placement(container=cid, host="h2")),
    ]
    await world.mirror.reached(await world.store.commit(changes), 5)
    await world.configure({"* *": {"pre": ["one"]}}, one=TWO)
    for target in ("/v1.41/containers/db/start", f"/v1.41/containers/{cid[:6]}", "/v1.41/containers/ghost/start"):
        await world.ask("POST", target, None)
    told = [one["Container"] for one in world.adapters["one"].asked]
    assert told == [{"Id": cid, "Name": "db", "Labels": {"tier": "data"}, "Host": "h2"}] * 2 + [None]


async def test_version_one_gets_version_one_beside_version_two(world: HookWorld):
    two = await world.adapter("two")
    await world.configure({"* *": {"pre": ["one", "two"]}}, two=TWO)
    await world.ask()
    assert set(world.adapters["one"].asked[0]) == {"PowerstripProtocolVersion", "Type", "ClientRequest"}
    assert set(world.adapters["one"].asked[0]["ClientRequest"]) == {"Method", "Request", "Body"}
    assert {"TraceId", "Client", "Container"} < set(two.asked[0])


async def test_continue_leaves_everything_as_it_is(world: HookWorld):
    world.adapters["one"].behave = answer(200, '{"Continue": true}')
    await world.configure({"* *": {"pre": ["one"], "post": ["one"]}}, one=TWO)
    assert (await world.ask()).status == 201
    assert world.engine_bodies == [b'{"Image":"a"}']


@pytest.mark.parametrize(
    ("refusal", "status", "message"),
    [
        ('{"Code": 409, "Message": "not now"}', 409, "not now"),
        ('{"Message": "no"}', 403, "no"),
        ("{}", 403, "adapter one refused this call"),
        ('{"Code": 200, "Message": "odd"}', 403, "odd"),
    ],
)
async def test_refuse_needs_no_http_error(world: HookWorld, refusal: str, status: int, message: str):
    world.adapters["one"].behave = answer(200, f'{{"Refuse": {refusal}}}')
    await world.configure({"* *": {"pre": ["one"]}}, one=TWO)
    got = await world.ask()
    assert (got.status, got.message) == (status, message)
    assert world.lines == ["one pre-hook"]
    assert world.layer.views()[0]["refusals"] == 1


async def test_version_two_still_has_to_say_something(world: HookWorld):
    world.adapters["one"].behave = answer(200, '{"Continue": false}')
    await world.configure({"* *": {"pre": ["one"]}}, one=TWO)
    got = await world.ask()
    assert (got.status, got.message) == (
        502,
        "adapter one answered without ModifiedClientRequest, `Continue` or `Refuse`",
    )


async def test_an_adapter_on_a_unix_socket(world: HookWorld, tmp_path: Path):
    paths: list[str] = []

    async def serve(request: web.Request) -> web.Response:
        paths.append(request.path)
        return echo(await request.json())

    app = web.Application()
    app.router.add_post("/{path:.*}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "a.sock")).start()
    await world.configure({"* *": {"pre": ["one"]}}, one={"url": f"unix://{tmp_path}/a.sock", "path": "/hook"})
    assert (await world.ask()).status == 201
    assert paths == ["/hook"]
    await runner.cleanup()


async def test_an_adapter_behind_https_with_a_client_certificate(world: HookWorld, tmp_path: Path):
    directory = tmp_path / "tls"
    directory.mkdir()
    server_tls, _ = tls_contexts(directory)
    one = world.adapters["one"]
    await one.stop()
    await one.start(tls=server_tls)
    url = f"https://localhost:{one.port}/hook"
    pem = str(directory / "client.pem")
    files = {"url": url, "ca": str(directory / "ca.crt"), "certificate": pem, "key": pem}
    await world.configure({"* *": {"pre": ["one"]}}, one=files)
    assert (await world.ask()).status == 201
    await world.configure({"* *": {"pre": ["one"]}}, one={"url": url})
    assert (await world.ask()).status == 502
    await world.configure({"* *": {"pre": ["one"]}}, one={**files, "ca": str(directory / "none.crt")})
    got = await world.ask()
    assert (got.status, "cannot be asked" in got.message) == (502, True)


async def test_renewed_tls_files_count_from_the_next_apply_on(world: HookWorld, tmp_path: Path):
    for name in ("theirs", "others"):
        (tmp_path / name).mkdir()
    server_tls, _ = tls_contexts(tmp_path / "theirs")
    tls_contexts(tmp_path / "others")
    one = world.adapters["one"]
    await one.stop()
    await one.start(tls=server_tls)
    pem, trusted = str(tmp_path / "theirs" / "client.pem"), tmp_path / "trusted.crt"
    files = {"url": f"https://localhost:{one.port}/", "ca": str(trusted), "certificate": pem, "key": pem}
    for issuer, status in (("others", 502), ("theirs", 201)):
        trusted.write_bytes((tmp_path / issuer / "ca.crt").read_bytes())
        await world.configure({"* *": {"pre": ["one"]}}, one=files)
        assert (await world.ask()).status == status


async def test_many_calls_at_once_keep_their_answers_apart(world: HookWorld):
    async def engine(peer: Peer, head: bytes) -> None:
        await peer.send(ok(b'{"path":"%s"}' % head.split()[1], b"Content-Type: application/json"))

    world.engine.script = engine
    await world.configure({"* *": {"pre": ["one"], "post": ["one"]}})
    got = await asyncio.gather(*(world.ask("GET", f"/v1.41/x{number}", None) for number in range(60)))
    assert [one.json["path"] for one in got] == [f"/v1.41/x{number}" for number in range(60)]
    assert world.layer.views()[0]["calls"] == 120


def test_quantiles_and_numbers_keep_the_last_calls_only():
    stats = AdapterStats()
    for number in range(5000):
        stats.note("changed", float(number), "", 0.0)
    stats.note("failed", 5000.0, "why", 9.0)
    view = stats.view()
    assert (view["calls"], view["errors"], view["last_error"], view["last_error_at"]) == (5001, 1, "why", 9.0)
    assert 4400 < view["p50_s"] < 4600 < view["p99_s"] <= 5000
    assert quantile([], 0.5) == 0.0


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (b"{}", b"{}", []),
        (b'{"a":1}', b'{ "a": 1 }', []),
        (b'{"a":1}', b'{"a":true}', [Change("Body.a", 1, True)]),
        (b'{"a":{"b":[1,2]}}', b'{"a":{"b":[1,3,4]}}', [Change("Body.a.b[1]", 2, 3), Change("Body.a.b[2]", after=4)]),
        (b'{"a":1,"b":2}', b'{"b":2}', [Change("Body.a", before=1)]),
        (b"[]", b"{}", [Change("Body", [], {})]),
        (b"text", b'"json"', [Change("Body", "text", "json")]),
        (None, b"{}", [Change("Body", None, {})]),
    ],
)
def test_bodies_differ_by_field(before: bytes | None, after: bytes, changes: list[Change]):
    assert body_changes(before, after) == changes


def test_a_diff_is_bounded():
    found = body_changes(b"[]", b"[" + b",".join([b"1"] * 1000) + b"]")
    assert (len(found), found[-1].field) == (201, "… and more than 200 others")


@pytest.mark.parametrize("depth", [10, 300, 900, 50_000])
def test_a_diff_of_nested_bodies_never_fails(depth: int):
    before, after = (b'{"a":' * depth + value + b"}" * depth for value in (b"1", b"2"))
    (change,) = body_changes(before, after)
    assert change.field == "Body" + ".a" * depth or "nested too deeply" in change.field


async def test_the_feed_drops_the_oldest_for_a_slow_reader_and_says_how_many():
    feed = Feed()
    made: list[int] = []

    def event(number: int) -> dict[str, Any]:
        made.append(number)
        return {"n": number}

    feed.tell(lambda: event(0))
    assert made == []
    events = feed.listen()
    first = asyncio.create_task(anext(events))
    await until(lambda: feed.heard)
    for number in range(1, 1101):
        feed.tell(lambda number=number: event(number))
    assert [await first, await anext(events)] == [{"lost": 100}, {"n": 101}]
    await events.aclose()
    assert not feed.heard
