"""The hooks' contract over real sockets: order, what is modified, refusals, and the engine's errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gateway_wire_tools import ok
from hooks_tools import CREATE, HookWorld, answer, append_to_body, echo, hook_world, modify

from drover.gateway.call import Call, Reply

BOTH = {"pre": ["one", "two", "three"], "post": ["one", "two", "three"]}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[HookWorld]:
    async with hook_world(tmp_path) as built:
        yield built


async def test_no_configuration_leaves_calls_alone(world: HookWorld):
    assert (await world.ask()).status == 201
    assert world.lines == ["engine"]


async def test_pre_hooks_run_in_list_order_then_the_engine_then_post_hooks_in_list_order(world: HookWorld):
    for name in ("one", "two", "three"):
        await world.adapter(name)
    await world.configure({"POST /*/containers/create": BOTH})
    assert (await world.ask()).status == 201
    pre = [f"{name} pre-hook" for name in ("one", "two", "three")]
    assert world.lines == [*pre, "engine", *(line.replace("pre", "post") for line in pre)]


async def test_several_expressions_run_in_file_order(world: HookWorld):
    for name in ("one", "two", "three"):
        await world.adapter(name)
    await world.configure({"POST /*/containers/create": {"pre": ["three"]}, "* /*": {"pre": ["one", "two"]}})
    await world.ask()
    assert world.lines == ["three pre-hook", "one pre-hook", "two pre-hook", "engine"]


async def test_an_adapter_listed_twice_is_called_twice(world: HookWorld):
    await world.adapter("one")
    await world.configure({"* *": {"pre": ["one", "one"]}})
    await world.ask()
    assert world.lines == ["one pre-hook", "one pre-hook", "engine"]


async def test_a_pre_hook_is_told_method_request_and_body(world: HookWorld):
    one = await world.adapter("one")
    await world.configure({"* *": {"pre": ["one"]}})
    await world.ask("POST", f"{CREATE}?name=web", b'{"Image":"a"}')
    assert one.asked == [
        {
            "PowerstripProtocolVersion": 1,
            "Type": "pre-hook",
            "ClientRequest": {"Method": "POST", "Request": f"{CREATE}?name=web", "Body": '{"Image":"a"}'},
        }
    ]


async def test_a_post_hook_is_told_both_sides_and_the_original_request(world: HookWorld):
    await world.adapter("changes", modify(Body='{"Image":"b"}', Request=f"{CREATE}?name=other"))
    post = await world.adapter("post")
    await world.configure({"* *": {"pre": ["changes"], "post": ["post"]}})
    await world.ask("POST", f"{CREATE}?name=web", b'{"Image":"a"}')
    assert post.asked == [
        {
            "PowerstripProtocolVersion": 1,
            "Type": "post-hook",
            "ClientRequest": {"Method": "POST", "Request": f"{CREATE}?name=web", "Body": '{"Image":"a"}'},
            "ServerResponse": {
                "ContentType": "application/json",
                "Body": '{"Id":"e1","Warnings":[]}\n',
                "Code": 201,
            },
        }
    ]


async def test_each_hook_gets_the_body_the_one_before_it_made_and_the_engine_the_last(world: HookWorld):
    for name in ("one", "two", "three"):
        await world.adapter(name, append_to_body(name))
    await world.configure({"* *": BOTH})
    got = await world.ask()
    assert json.loads(world.engine_bodies[0])["Marks"] == ["one", "two", "three"]
    assert got.json["Marks"] == ["one", "two", "three"]
    assert json.loads(world.adapters["three"].asked[0]["ClientRequest"]["Body"])["Marks"] == ["one", "two"]


async def test_an_unchanged_call_reaches_engine_and_client_byte_for_byte(world: HookWorld):
    await world.adapter("one")
    await world.configure({"* *": {"pre": ["one"], "post": ["one"]}})
    world.engine_answer = ok(
        b'{ "Id": "\xc3\xa9" }', b"X-Odd: 1", b"Content-Type: application/json", status=b"201 Made"
    )
    body = b'{ "Image" : "a", "N": 1.0e3, "U": "\\u00e9\xc3\xa9" }'
    got = await world.ask("POST", CREATE, body)
    assert world.engine_bodies == [body]
    assert got.body == b'{ "Id": "\xc3\xa9" }'
    assert (got.status, got.header("X-Odd")) == (201, "1")
    assert got.head.startswith(b"HTTP/1.1 201 Made\r\n")


async def test_the_query_may_be_changed_and_the_next_hook_sees_it(world: HookWorld):
    await world.adapter("one", modify(Request=f"{CREATE}?name=b&x=%2F"))
    two = await world.adapter("two")
    await world.configure({"* *": {"pre": ["one", "two"]}})
    await world.ask("POST", f"{CREATE}?name=a")
    assert two.asked[0]["ClientRequest"]["Request"] == f"{CREATE}?name=b&x=%2F"
    assert world.engine.heads[0].startswith(b"POST " + CREATE.encode() + b"?name=b&x=%2F HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "other",
    ["/flocker-adapter", "/v1.41/containers/other/start?x=1", "", "/v1.41/../containers/create", "nonsense", 7, None],
)
async def test_a_request_that_leads_to_another_end_point_is_ignored(world: HookWorld, other: object):
    await world.adapter("one", modify(Request=other))
    await world.configure({"* *": {"pre": ["one"]}})
    assert (await world.ask("POST", f"{CREATE}?name=a")).status == 201
    assert world.engine.heads[0].startswith(b"POST " + CREATE.encode() + b"?name=a HTTP/1.1\r\n")


async def test_a_changed_query_cannot_smuggle_another_request(world: HookWorld):
    await world.adapter("one", modify(Request=f"{CREATE}?a=1 HTTP/1.1\r\nX-Evil: 1\r\n\r\nGET /x"))
    await world.configure({"* *": {"pre": ["one"]}})
    await world.ask()
    assert len(world.engine.heads) == 1
    assert b"?a=1%20HTTP/1.1%0D%0AX-Evil:%201" in world.engine.heads[0]


@pytest.mark.parametrize("method", ["GET", "DELETE", "", None, 5])
async def test_another_method_is_ignored(world: HookWorld, method: object):
    await world.adapter("one", modify(Method=method))
    await world.configure({"* *": {"pre": ["one"]}})
    assert (await world.ask()).status == 201
    assert world.engine.heads[0].startswith(b"POST ")


async def test_the_query_is_no_part_of_what_is_matched(world: HookWorld):
    await world.adapter("one")
    await world.configure({"POST /*/containers/create": {"pre": ["one"]}, "* *secret*": {"pre": ["one", "one"]}})
    await world.ask("POST", f"{CREATE}?x=secret")
    assert world.lines == ["one pre-hook", "engine"]


async def test_a_refused_request_never_reaches_an_engine(world: HookWorld):
    await world.adapter("one")
    await world.adapter("two", answer(403, '{"message":"no"}'))
    await world.adapter("three")
    await world.configure({"* *": BOTH})
    got = await world.ask()
    assert (got.status, got.body, got.header("Content-Type")) == (
        403,
        b'{"message":"no"}',
        "application/json; charset=utf-8",
    )
    assert world.lines == ["one pre-hook", "two pre-hook"]


async def test_a_refused_call_never_reaches_the_handler(world: HookWorld):
    await world.adapter("one", answer(409))
    await world.configure({"* *": {"pre": ["one"]}})
    called: list[str] = []

    async def handler(call: Call) -> Reply:
        called.append(call.path)
        return Reply()

    world.handle_with(handler)
    assert (await world.ask()).status == 409
    assert called == []


@pytest.mark.parametrize(
    ("text", "content_type", "message"),
    [
        ("", "text/html", "adapter one refused this call with status 403"),
        ("not you", "text/plain", "adapter one refused this call with status 403: not you"),
        ("<html><b>Forbidden</b></html>", "text/html", "adapter one refused this call with status 403"),
    ],
)
async def test_a_refusal_that_is_no_json_gets_a_message(world: HookWorld, text: str, content_type: str, message: str):
    await world.adapter("one", answer(403, text, content_type))
    await world.configure({"* *": {"pre": ["one"]}})
    got = await world.ask()
    assert (got.status, got.json, got.header("content-type")) == (403, {"message": message}, "application/json")


@pytest.mark.parametrize("status", [400, 401, 404, 409, 418, 500, 503])
@pytest.mark.parametrize("kind", ["pre", "post"])
async def test_every_error_status_of_a_hook_is_the_clients(world: HookWorld, kind: str, status: int):
    await world.adapter("one", answer(status, '{"message":"as said","extra":1}'))
    await world.adapter("two")
    await world.configure({"GET /*": {kind: ["one", "two"]}})
    got = await world.ask("GET", "/v1.41/info", None)
    assert (got.status, got.json) == (status, {"message": "as said", "extra": 1})
    assert "two pre-hook" not in world.lines
    assert "two post-hook" not in world.lines


async def test_post_hooks_see_an_engines_error_and_may_turn_it_into_success(world: HookWorld):
    world.engine_answer = ok(
        b'{"message":"No such image"}\n', b"Content-Type: application/json", status=b"404 Not Found"
    )
    post = await world.adapter("post", modify(Code=200, Body='{"Id":"made up"}', ContentType="application/vnd.mine"))
    last = await world.adapter("last")
    await world.configure({"* *": {"post": ["post", "last"]}})
    got = await world.ask()
    assert post.asked[0]["ServerResponse"]["Code"] == 404
    assert (got.status, got.body, got.header("content-type")) == (200, b'{"Id":"made up"}', "application/vnd.mine")
    assert last.asked[0]["ServerResponse"] == {
        "ContentType": "application/vnd.mine",
        "Body": '{"Id":"made up"}',
        "Code": 200,
    }


async def test_a_post_hook_may_turn_success_into_an_error(world: HookWorld):
    await world.adapter("post", modify(Code=507, Body='{"message":"full"}'))
    await world.configure({"* *": {"post": ["post"]}})
    got = await world.ask()
    assert (got.status, got.message) == (507, "full")


async def test_post_hooks_see_an_unreachable_engine_as_its_error(world: HookWorld):
    post = await world.adapter("post")
    await world.configure({"* *": {"post": ["post"]}})
    world.wire.down["h1"] = "host h1 is down"
    got = await world.ask()
    assert (got.status, got.message) == (503, "host h1 is down")
    assert post.asked[0]["ServerResponse"]["Code"] == 503


async def test_fields_that_an_answer_leaves_out_stay(world: HookWorld):
    await world.adapter("pre", answer(200, '{"ModifiedClientRequest": {}}'))
    await world.adapter("post", answer(200, '{"ModifiedServerResponse": {"Code": 299}}'))
    await world.configure({"* *": {"pre": ["pre"], "post": ["post"]}})
    got = await world.ask()
    assert world.engine_bodies == [b'{"Image":"a"}']
    assert (got.status, got.json["Id"]) == (299, "e1")


async def test_answers_are_json_whatever_their_type_and_version(world: HookWorld):
    def behave(told):
        text = json.dumps(
            {"PowerstripProtocolVersion": 99, "ModifiedClientRequest": {"Body": '{"Image":"b"}'}}, indent=4
        )
        return answer(200, text, "text/html")(told)

    await world.adapter("one", behave)
    await world.configure({"* *": {"pre": ["one"]}})
    assert (await world.ask()).status == 201
    assert world.engine_bodies == [b'{"Image":"b"}']


async def test_the_gateways_own_answers_pass_the_hooks_too(world: HookWorld):
    await world.adapter("pre", append_to_body("pre"))
    await world.adapter("post", append_to_body("post"))
    await world.configure({"* *": {"pre": ["pre"], "post": ["post"]}})

    async def handler(call: Call) -> Reply:
        return Reply(status=201, body=await call.json_body(), headers=((b"X-Kept", b"1"),))

    world.handle_with(handler)
    got = await world.ask()
    assert got.json == {"Image": "a", "Marks": ["pre", "post"]}
    assert (got.status, got.header("X-Kept")) == (201, "1")


async def test_a_handler_sees_the_changed_query(world: HookWorld):
    await world.adapter("one", modify(Request=f"{CREATE}?name=changed"))
    await world.configure({"* *": {"pre": ["one"]}})

    async def handler(call: Call) -> Reply:
        return Reply(body=json.dumps([call.query("name"), call.path]).encode())

    world.handle_with(handler)
    assert (await world.ask("POST", f"{CREATE}?name=a")).json == ["changed", "/containers/create"]


async def test_a_change_counts_from_the_next_call_on(world: HookWorld):
    await world.adapter("one", echo)
    client = await world.wire.client()
    raw = b"GET /v1.41/info HTTP/1.1\r\nHost: a\r\n\r\n"
    await client.ask(raw)
    await world.configure({"* *": {"pre": ["one"]}})
    await client.ask(raw)
    await world.configure({})
    await client.ask(raw)
    assert world.lines == ["engine", "one pre-hook", "engine", "engine"]
    client.close()


async def test_a_configuration_that_cannot_be_read_leaves_the_last_one(world: HookWorld):
    await world.adapter("one", answer(403))
    await world.configure({"* *": {"pre": ["one"]}})
    assert (await world.ask()).status == 403
    await world.apply("version: 2\nnewer: things\n")
    assert (await world.ask()).status == 403
    assert world.lines.count("engine") == 0


async def test_without_any_readable_configuration_calls_are_refused_rather_than_let_through(world: HookWorld):
    await world.apply("version: 2\nnewer: things\n")
    got = await world.ask()
    assert got.status == 503
    assert "cannot read the cluster's adapters" in got.message
    await world.apply("endpoints: {}\nadapters: {}\n")
    assert (await world.ask()).status == 201
