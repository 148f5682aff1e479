"""What happens when adapters fail, engines fail or clients go: clear errors, nothing half-made, unwinding."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from gateway_wire_tools import DEADLINE_S, Peer, ok, until
from hooks_tools import CREATE, HookWorld, answer, echo, hook_world, modify, never, request

from drover.gateway.call import Call, Outcome, Relay, Reply

ONE = {"* *": {"pre": ["one"]}}
LONG_S = 300.0
QUICK = {"deadline_s": 0.2}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[HookWorld]:
    async with hook_world(tmp_path) as built:
        yield built


class Containers:
    """A handler with Docker's idea of a container's name: taken while it exists."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.calls: list[str] = []

    async def handle(self, call: Call) -> Outcome:
        self.calls.append(f"{call.method} {call.path}?{call.query_string}")
        if call.method == "DELETE":
            self.ids = {name: ident for name, ident in self.ids.items() if ident != call.path.rsplit("/", 1)[1]}
            return Reply(status=204)
        name = call.query("name")
        if name in self.ids:
            return Reply(status=409, body=b'{"message":"name taken"}')
        self.ids[name] = f"id-of-{name}"
        return Reply(status=201, body=json.dumps({"Id": self.ids[name]}).encode())


async def test_a_dead_adapter_is_a_clear_error_and_the_handler_is_not_called(world: HookWorld):
    one = await world.adapter("one")
    await world.configure(ONE)
    await one.stop()
    containers = Containers()
    world.handle_with(containers.handle)
    got = await world.ask("POST", f"{CREATE}?name=a")
    assert got.status == 502
    assert got.message.startswith("adapter one cannot be asked: ")
    assert containers.calls == []


async def test_an_adapter_that_never_answers_ends_the_call_at_its_deadline(world: HookWorld):
    one = await world.adapter("one", never())
    await world.configure(ONE, one=QUICK)
    got = await world.ask()
    assert (got.status, got.message) == (504, "adapter one did not answer within 0.2 s")
    assert world.lines == ["one pre-hook"]
    await until(lambda: one.gone == 1)


async def test_the_default_deadline_is_ten_seconds(world: HookWorld):
    await world.adapter("one")
    await world.configure(ONE)
    await world.ask()
    assert world.layer.config.adapters["one"].deadline_s == 10.0


async def test_an_adapter_that_dribbles_ends_at_the_deadline_of_the_whole(world: HookWorld):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    await world.configure(ONE, one={"url": url, **QUICK})
    got = await world.ask()
    assert (got.status, got.message) == (504, "adapter one did not answer within 0.2 s")
    server.close()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not a hook's answer"),
        ("OK", "is not a hook's answer"),
        ("<html>", "is not a hook's answer"),
        ("[]", "is not a hook's answer"),
        ('{"ModifiedClientRequest": 7}', "is not a hook's answer"),
        ('{"ModifiedClientRequest": {"Body": {"Image": "a"}}}', "is not a hook's answer"),
        ("{}", "answered without ModifiedClientRequest"),
        ('{"ModifiedClientRequest": null}', "answered without ModifiedClientRequest"),
        ('{"Continue": true}', "answered without ModifiedClientRequest"),
        ('{"Refuse": {"Code": 403}}', "answered without ModifiedClientRequest"),
        ('{"ModifiedServerResponse": {"Code": 200}}', "answered without ModifiedClientRequest"),
        ("[" * 100_000, "is not a hook's answer"),
        ('{"x": ' * 100_000, "is not a hook's answer"),
    ],
)
async def test_garbage_is_an_error_that_says_what_is_wrong(world: HookWorld, text: str, complaint: str):
    await world.adapter("one", answer(200, text))
    await world.configure(ONE)
    got = await world.ask()
    assert got.status == 502
    assert complaint in got.message
    assert world.lines == ["one pre-hook"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}", "without ModifiedServerResponse"),
        ('{"ModifiedServerResponse": {"Code": 99}}', "Code 99"),
        ('{"ModifiedServerResponse": {"Code": 101}}', "Code 101"),
        ('{"ModifiedServerResponse": {"Code": "200"}}', "is not a hook's answer"),
        ('{"ModifiedServerResponse": {"ContentType": "a\\r\\nX: b"}}', "cannot be a header"),
    ],
)
async def test_a_post_hooks_garbage_is_an_error_too(world: HookWorld, text: str, complaint: str):
    await world.adapter("one", answer(200, text))
    await world.configure({"* *": {"post": ["one"]}})
    got = await world.ask("GET", "/v1.41/info", None)
    assert got.status == 502
    assert complaint in got.message


async def test_not_even_http_is_an_error(world: HookWorld):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x00\x01\x02 garbage\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    await world.configure(ONE, one=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    got = await world.ask()
    assert got.status == 502
    assert "adapter one cannot be asked" in got.message
    server.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_ten_megabytes_are_an_error(world: HookWorld, chunked: bool):
    def behave(told: dict[str, Any]) -> web.Response:
        response = web.Response(body=b"{" + b" " * 10_000_000)
        if chunked:
            response.enable_chunked_encoding()
        return response

    await world.adapter("one", behave)
    await world.configure(ONE)
    got = await world.ask()
    assert (got.status, world.lines) == (502, ["one pre-hook"])
    assert got.message.startswith("adapter one answered with more than 8388608 bytes")


async def test_a_compressed_bomb_is_not_unpacked(world: HookWorld):
    import gzip

    packed = gzip.compress(b" " * 50_000_000)
    await world.adapter("one", lambda told: web.Response(body=packed, headers={"Content-Encoding": "gzip"}))
    await world.configure(ONE)
    got = await world.ask()
    assert got.status == 502
    assert "not a hook's answer" in got.message


@pytest.mark.parametrize("status", [301, 302, 307, 308, 304])
async def test_a_redirect_is_not_followed(world: HookWorld, status: int):
    other = await world.adapter("other")
    await world.adapter("one", answer(status, "", Location=other.url))
    await world.configure(ONE)
    got = await world.ask()
    assert (got.status, got.message) == (
        502,
        f"adapter one answered with status {status}, which hooks do not follow",
    )
    assert other.asked == []


async def test_an_adapter_that_dies_in_the_middle_of_a_chain_leaves_nothing(world: HookWorld):
    cut: list[str] = []

    def die(told: dict[str, Any]) -> web.Response:
        cut.append(told["Type"])
        raise asyncio.CancelledError

    await world.adapter("one")
    await world.adapter("two", die)
    await world.adapter("three")
    await world.configure({"* *": {"pre": ["one", "two", "three"]}})
    containers = Containers()
    world.handle_with(containers.handle)
    got = await world.ask("POST", f"{CREATE}?name=a")
    assert (got.status, cut) == (502, ["pre-hook"])
    assert world.lines == ["one pre-hook", "two pre-hook"]
    assert containers.calls == []


async def test_other_endpoints_are_unaffected_by_a_hanging_adapter(world: HookWorld):
    await world.adapter("one", never())
    await world.configure({"POST /*/containers/create": {"pre": ["one"]}}, one={"deadline_s": LONG_S})
    hanging = asyncio.create_task(world.ask())
    await until(lambda: world.lines == ["one pre-hook"])
    assert (await world.ask("GET", "/v1.41/info", None)).status == 201
    hanging.cancel()


@pytest.mark.parametrize("behave", [answer(200, "junk"), answer(500, '{"message":"x"}'), answer(302), never()])
async def test_on_error_skip_goes_on_as_if_the_adapter_were_not_listed(world: HookWorld, behave: Any):
    await world.adapter("one", behave)
    await world.configure({"* *": {"pre": ["one"], "post": ["one"]}}, one={"on_error": "skip", **QUICK})
    got = await world.ask()
    assert (got.status, world.engine_bodies) == (201, [b'{"Image":"a"}'])
    assert world.layer.views()[0]["errors"] == 2


async def test_a_refusal_refuses_under_on_error_skip_too(world: HookWorld):
    await world.adapter("one", answer(403))
    await world.configure(ONE, one={"on_error": "skip"})
    assert (await world.ask()).status == 403
    assert world.engine_bodies == []


async def test_the_client_that_goes_cancels_the_chain(world: HookWorld):
    one = await world.adapter("one", never())
    await world.adapter("two")
    await world.configure({"* *": {"pre": ["one", "two"]}}, one={"deadline_s": LONG_S})
    client = await world.wire.client()
    await client.send(request("POST", CREATE, b"{}"))
    await until(lambda: len(one.asked) == 1)
    client.close()
    await until(lambda: one.gone == 1)
    assert world.lines == ["one pre-hook"]


async def test_the_client_that_goes_during_post_hooks_ends_the_chain_and_nothing_is_undone(world: HookWorld):
    one = await world.adapter("one", lambda told: echo(told) if told["Type"] == "pre-hook" else never()(told))
    await world.configure({"* *": {"pre": ["one"], "post": ["one"]}}, one={"deadline_s": LONG_S, "unwind": True})
    containers = Containers()
    world.handle_with(containers.handle)
    client = await world.wire.client()
    await client.send(request("POST", f"{CREATE}?name=a", b"{}"))
    await until(lambda: len(one.asked) == 2)
    client.close()
    await until(lambda: one.gone == 1)
    await world.quiet()
    assert containers.calls == ["POST /containers/create?name=a"]
    assert [told["Type"] for told in one.asked] == ["pre-hook", "post-hook"]


@pytest.mark.parametrize("behave", [answer(403), answer(200, "junk"), answer(500)])
async def test_a_post_hook_that_fails_on_create_leaves_no_container_and_the_name_free(world: HookWorld, behave: Any):
    post = await world.adapter("post", behave)
    await world.configure({"* *": {"post": ["post"]}})
    containers = Containers()
    world.handle_with(containers.handle)
    assert (await world.ask("POST", f"{CREATE}?name=a")).status in (403, 500, 502)
    assert containers.ids == {}
    assert containers.calls[1] == "DELETE /containers/id-of-a?force=1&v=1"
    post.behave = echo
    assert (await world.ask("POST", f"{CREATE}?name=a")).status == 201


async def test_the_client_that_goes_while_its_creation_is_undone_changes_nothing_about_that(world: HookWorld):
    options = await unwinding(world, "one")
    await world.adapter("post", answer(403))
    await world.configure({"* *": {"pre": ["one"], "post": ["post"]}}, **options)
    containers, deleting, go = Containers(), asyncio.Event(), asyncio.Event()

    async def slow(call: Call) -> Outcome:
        if call.method == "DELETE":
            deleting.set()
            await go.wait()
        return await containers.handle(call)

    world.handle_with(slow)
    client = await world.wire.client()
    await client.send(request("POST", f"{CREATE}?name=a", b"{}"))
    await deleting.wait()
    client.close()
    await until(lambda: unwound(world) == ["one"])
    go.set()
    await until(lambda: containers.ids == {})


async def test_what_a_relayed_creation_made_goes_again_at_that_engine(world: HookWorld):
    await world.adapter("post", answer(403))
    await world.configure({"* *": {"post": ["post"]}})
    world.engine_answer = ok(b'{"Id":"n1"}', b"Content-Type: application/json", status=b"201 Created")
    assert (await world.ask("POST", "/v1.41/networks/create")).status == 403
    assert world.engine.heads[1].startswith(b"DELETE /networks/n1 HTTP/1.1\r\n")


async def test_a_post_hook_that_fails_elsewhere_leaves_what_the_engine_did(world: HookWorld):
    await world.adapter("post", answer(403))
    await world.configure({"* *": {"post": ["post"]}})
    assert (await world.ask("POST", "/v1.41/containers/a/start", None)).status == 403
    assert world.lines == ["engine", "post post-hook"]


async def unwinding(world: HookWorld, *names: str) -> dict[str, dict[str, Any]]:
    for name in names:
        await world.adapter(name)
    return {name: {"unwind": True} for name in names}


def unwound(world: HookWorld) -> list[str]:
    return [line.split()[0] for line in world.lines if line.endswith("unwind-hook")]


async def test_a_refusal_unwinds_those_before_it_in_reverse_order(world: HookWorld):
    options = await unwinding(world, "one", "two", "three")
    await world.adapter("refuses", answer(403, '{"message":"no"}'))
    await world.configure({"* *": {"pre": ["one", "two", "refuses", "three"]}}, **options, refuses={"unwind": True})
    await world.ask()
    await world.quiet()
    assert unwound(world) == ["two", "one"]
    assert world.adapters["one"].asked[1] == {
        "PowerstripProtocolVersion": 1,
        "Type": "unwind-hook",
        "ClientRequest": {"Method": "POST", "Request": CREATE, "Body": '{"Image":"a"}'},
        "ServerResponse": None,
        "Failure": {"Stage": "pre-hook", "Adapter": "refuses", "Code": 403, "Message": "no"},
    }


async def test_only_adapters_that_opt_in_are_unwound(world: HookWorld):
    options = await unwinding(world, "one", "two")
    await world.adapter("refuses", answer(403))
    await world.configure({"* *": {"pre": ["one", "two", "refuses"]}}, two=options["two"])
    await world.ask()
    await world.quiet()
    assert unwound(world) == ["two"]


async def test_an_adapter_that_failed_is_unwound_because_it_may_have_acted(world: HookWorld):
    options = await unwinding(world, "one", "two")
    world.adapters["two"].behave = answer(200, "junk")
    await world.configure({"* *": {"pre": ["one", "two"]}}, **options)
    await world.ask()
    await world.quiet()
    assert unwound(world) == ["two", "one"]


async def test_an_engines_refusal_unwinds_all(world: HookWorld):
    options = await unwinding(world, "one", "two")
    world.engine_answer = ok(b'{"message":"taken"}', b"Content-Type: application/json", status=b"409 Conflict")
    await world.configure({"* *": {"pre": ["one", "two"]}}, **options)
    assert (await world.ask()).message == "taken"
    await world.quiet()
    assert unwound(world) == ["two", "one"]
    told = world.adapters["one"].asked[1]
    assert told["Failure"] == {"Stage": "engine", "Adapter": "", "Code": 409, "Message": "taken"}
    assert told["ServerResponse"] == {
        "ContentType": "application/json",
        "Body": '{"message":"taken"}',
        "Code": 409,
    }


async def test_a_handlers_error_unwinds_all(world: HookWorld):
    options = await unwinding(world, "one")
    await world.configure(ONE, **options)

    async def handler(call: Call) -> Reply:
        return Reply(status=404, body=b'{"message":"page not found"}')

    world.handle_with(handler)
    assert (await world.ask()).status == 404
    await world.quiet()
    assert unwound(world) == ["one"]


async def test_an_unreachable_engine_unwinds_all(world: HookWorld):
    options = await unwinding(world, "one")
    await world.configure(ONE, **options)
    world.wire.down["h1"] = "host h1 is down"
    assert (await world.ask()).status == 503
    await world.quiet()
    assert unwound(world) == ["one"]
    assert world.adapters["one"].asked[1]["Failure"]["Message"] == "host h1 is down"


async def test_an_engine_that_breaks_off_unwinds_all(world: HookWorld):
    options = await unwinding(world, "one")
    await world.configure(ONE, **options)

    async def cut(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        peer.close()

    world.engine.script = cut
    client = await world.wire.client()
    await client.send(request("GET", "/v1.41/images/json"))
    assert (await client.rest()).endswith(b"half")
    await until(lambda: unwound(world) == ["one"])


async def test_a_post_hook_that_makes_it_a_success_unwinds_nothing(world: HookWorld):
    options = await unwinding(world, "one")
    await world.adapter("post", modify(Code=200, Body="{}"))
    world.engine_answer = ok(b'{"message":"no"}', b"Content-Type: application/json", status=b"500 Oops")
    await world.configure({"* *": {"pre": ["one"], "post": ["post"]}}, **options)
    assert (await world.ask()).status == 200
    await world.quiet()
    assert unwound(world) == []


async def test_a_failing_post_hook_unwinds_all_and_tells_what_the_engine_said(world: HookWorld):
    options = await unwinding(world, "one", "two")
    await world.adapter("post", answer(200, "junk"))
    await world.configure({"* *": {"pre": ["one", "two"], "post": ["post"]}}, **options)
    assert (await world.ask("POST", "/v1.41/containers/a/start", None)).status == 502
    await world.quiet()
    assert unwound(world) == ["two", "one"]
    told = world.adapters["one"].asked[-1]
    assert (told["Failure"]["Stage"], told["Failure"]["Adapter"]) == ("post-hook", "post")
    assert told["ServerResponse"]["Code"] == 201


async def test_success_unwinds_nothing(world: HookWorld):
    options = await unwinding(world, "one")
    await world.configure({"* *": {"pre": ["one"], "post": ["one"]}}, **options)
    assert (await world.ask()).status == 201
    await world.quiet()
    assert unwound(world) == []


async def test_the_client_that_goes_during_pre_hooks_unwinds_those_that_were_asked(world: HookWorld):
    options = await unwinding(world, "one", "two", "three")
    world.adapters["two"].behave = lambda told: never()(told) if told["Type"] == "pre-hook" else echo(told)
    await world.configure({"* *": {"pre": ["one", "two", "three"]}}, **options)
    client = await world.wire.client()
    await client.send(request("POST", CREATE, b"{}"))
    await until(lambda: len(world.adapters["two"].asked) == 1)
    client.close()
    await until(lambda: unwound(world) == ["two", "one"])
    assert world.adapters["one"].asked[-1]["Failure"]["Stage"] == "client"


async def test_an_unwinding_that_fails_hinders_neither_the_client_nor_the_others(world: HookWorld):
    options = await unwinding(world, "one", "two")
    world.adapters["two"].behave = lambda told: echo(told) if told["Type"] == "pre-hook" else answer(500)(told)
    await world.adapter("refuses", answer(403))
    await world.configure({"* *": {"pre": ["one", "two", "refuses"]}}, **options)
    assert (await world.ask()).status == 403
    await world.quiet()
    assert unwound(world) == ["two", "one"]


async def test_calls_go_on_with_the_configuration_they_began_with(world: HookWorld):
    gate = asyncio.Event()

    async def wait(told: dict[str, Any]) -> web.Response:
        await gate.wait()
        return echo(told)

    await world.adapter("one", wait)
    await world.adapter("two")
    await world.configure({"* *": {"pre": ["one", "two"]}})
    waiting = asyncio.create_task(world.ask())
    await until(lambda: len(world.adapters["one"].asked) == 1)
    await world.configure({})
    assert (await world.ask("GET", "/v1.41/info", None)).status == 201
    gate.set()
    async with asyncio.timeout(DEADLINE_S):
        assert (await waiting).status == 201
    assert world.lines == ["one pre-hook", "engine", "two pre-hook", "engine"]


async def test_a_request_body_beyond_the_limit_is_refused_before_any_hook(world: HookWorld):
    await world.adapter("one")
    await world.configure(ONE)
    client = await world.wire.client()
    await client.send(request("POST", CREATE, None, b"Content-Type: application/json", b"Content-Length: 9000000"))
    assert (await client.head()).startswith(b"HTTP/1.1 400 ")
    client.close()
    assert world.lines == []


async def test_a_hook_on_an_engine_of_another_host(world: HookWorld):
    await world.adapter("one", modify(Body='{"Image":"b"}'))
    await world.configure({"* *": {"pre": ["one"], "post": ["one"]}})
    seen: list[bytes] = []

    async def script(peer: Peer, head: bytes) -> None:
        seen.append(await peer.exactly(13))
        await peer.send(ok(b'{"Id":"e2"}', b"Content-Type: application/json"))

    world.wire.remote_engine.script = script

    async def handler(call: Call) -> Relay:
        return Relay(host="h2")

    world.handle_with(handler)
    got = await world.ask()
    assert seen == [b'{"Image":"b"}']
    assert got.json == {"Image": "b"}
