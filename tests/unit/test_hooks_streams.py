"""Streams and tunnels with a hook on every endpoint: nothing is buffered, nothing is held back, the log says so.

Every adapter here is listed for `"* /*"`, before and after.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateway_wire_tools import Peer, ok, until
from hooks_tools import CREATE, HookWorld, answer, echo, hook_world, modify, request
from structlog.testing import capture_logs

from drover.gateway.call import Call, Relay, Reply

EVERYWHERE = {"* /*": {"pre": ["one"], "post": ["one"]}}
UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
HIJACK = (b"Connection: Upgrade", b"Upgrade: tcp")
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
JSON = b"Content-Type: application/json"
PROGRESS = [
    ("POST", "/build?t=a"),
    ("POST", "/images/create?fromImage=a"),
    ("POST", "/images/a/b/push"),
    ("POST", "/images/load"),
    ("POST", "/plugins/pull"),
    ("GET", "/events"),
    ("GET", "/containers/a/logs?follow=1"),
    ("GET", "/containers/a/stats"),
    ("POST", "/containers/a/wait?condition=next-exit"),
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[HookWorld]:
    async with hook_world(tmp_path) as built:
        await built.adapter("one")
        await built.configure(EVERYWHERE)
        yield built


@pytest.mark.parametrize(("method", "path"), PROGRESS)
async def test_a_stream_s_head_and_pieces_come_at_once_and_its_post_hooks_are_skipped(
    world: HookWorld, method: str, path: str
):
    steps = [asyncio.Event(), asyncio.Event()]

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(CHUNKED)
        await steps[0].wait()
        await peer.send(b"3\r\n{}\n\r\n")
        await steps[1].wait()
        await peer.send(b"0\r\n\r\n")

    world.engine.script = script
    client = await world.wire.client()
    with capture_logs() as logged:
        await client.send(request(method, f"/v1.41{path}"))
        assert await client.head() == CHUNKED
        steps[0].set()
        assert await client.exactly(8) == b"3\r\n{}\n\r\n"
        steps[1].set()
        assert await client.exactly(5) == b"0\r\n\r\n"
    assert world.lines == ["one pre-hook"]
    assert [entry["why"] for entry in logged if entry["event"] == "post-hooks skipped"]
    client.close()


@pytest.mark.parametrize(("method", "path"), PROGRESS)
async def test_an_error_of_a_streaming_endpoint_reaches_post_hooks(world: HookWorld, method: str, path: str):
    world.engine_answer = ok(b'{"message":"no such thing"}', JSON, status=b"404 Not Found")
    world.adapters["one"].behave = lambda told: (
        echo(told) if told["Type"] == "pre-hook" else modify(Code=410, Body='{"message":"gone"}')(told)
    )
    got = await world.ask(method, f"/v1.41{path}", None)
    assert (got.status, got.message) == (410, "gone")


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/containers/a/export", b"application/octet-stream"),
        ("/containers/a/archive?path=/x", b"application/x-tar"),
        ("/images/get?names=a", b"application/x-tar"),
        ("/images/a/b/get", b"application/x-tar"),
        ("/unknown/new/download", b"application/x-tar"),
    ],
)
async def test_tar_downloads_are_never_buffered(world: HookWorld, path: str, content_type: bytes):
    go = asyncio.Event()

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: " + content_type + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.send(b"1\r\na\r\n")
        await go.wait()
        await peer.send(b"0\r\n\r\n")

    world.engine.script = script
    client = await world.wire.client()
    await client.send(request("GET", f"/v1.41{path}"))
    assert content_type in await client.head()
    assert await client.exactly(6) == b"1\r\na\r\n"
    go.set()
    assert await client.exactly(5) == b"0\r\n\r\n"
    assert world.lines == ["one pre-hook"]
    client.close()


@pytest.mark.parametrize(
    ("method", "path", "content_type"),
    [
        ("PUT", "/containers/a/archive?path=/x", b""),
        ("PUT", "/containers/a/archive?path=/x", b"application/json"),
        ("POST", "/build", b"application/x-tar"),
        ("POST", "/build", b"application/tar"),
        ("POST", "/images/load", b"application/x-tar"),
        ("POST", "/images/create?fromSrc=-", b""),
        ("POST", "/unknown/upload", b"application/x-tar"),
    ],
)
async def test_uploads_stream_through_while_hooks_are_told_null(
    world: HookWorld, method: str, path: str, content_type: bytes
):
    got: list[bytes] = []

    async def script(peer: Peer, head: bytes) -> None:
        got.append(await peer.exactly(1))
        got.append(await peer.exactly(2))
        await peer.send(ok(b"", status=b"200 OK"))

    world.engine.script = script
    world.adapters["one"].behave = lambda told: modify(Body="")(told) if told["Type"] == "pre-hook" else echo(told)
    client = await world.wire.client()
    whole = request(method, f"/v1.41{path}", b"\x00ab", content_type=content_type)
    await client.send(whole[:-2])
    await until(lambda: got == [b"\x00"])
    await client.send(whole[-2:])
    assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert got == [b"\x00", b"ab"]
    assert world.adapters["one"].asked[0]["ClientRequest"]["Body"] is None
    client.close()


async def test_a_chunked_upload_stays_chunked(world: HookWorld):
    chunks = b"3\r\nabc\r\n0\r\n\r\n"

    async def script(peer: Peer, head: bytes) -> None:
        assert await peer.exactly(len(chunks)) == chunks
        await peer.send(ok(b""))

    world.engine.script = script
    client = await world.wire.client()
    head = request("POST", "/v1.41/build", None, b"Content-Type: application/x-tar", b"Transfer-Encoding: chunked")
    await client.send(head + chunks)
    assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
    client.close()


@pytest.mark.parametrize("path", ["/containers/a/attach?stream=1&stdin=1", "/exec/e1/start"])
async def test_tunnels_pass_both_ways_with_half_close(world: HookWorld, path: str):
    said: list[bytes] = []
    body = b'{"Detach":false,"Tty":false}' if path.startswith("/exec") else None

    async def script(peer: Peer, head: bytes) -> None:
        if body:
            assert await peer.exactly(len(body)) == body
        await peer.send(UPGRADED + b"prompt> ")
        said.append(await peer.rest())
        await peer.send(b"bye")
        peer.close()

    world.engine.script = script
    client = await world.wire.client()
    with capture_logs() as logged:
        await client.send(request("POST", f"/v1.41{path}", body, *HIJACK))
        assert await client.head() == UPGRADED
        assert await client.exactly(8) == b"prompt> "
        await client.send(b"ls\nPOST /v1.41/containers/create HTTP/1.1\r\nHost: a\r\n\r\n")
        client.end()
        assert await client.rest() == b"bye"
    assert said == [b"ls\nPOST /v1.41/containers/create HTTP/1.1\r\nHost: a\r\n\r\n"]
    assert world.lines == ["one pre-hook"]
    assert [entry["why"] for entry in logged if entry["event"] == "post-hooks skipped"] == ["it became a tunnel"]
    client.close()


@pytest.mark.parametrize("kind", [b"raw-stream", b"multiplexed-stream"])
async def test_hijacked_responses_without_upgrade_pass_too(world: HookWorld, kind: bytes):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker." + kind + b"\r\n\r\n"

    async def script(peer: Peer, asked: bytes) -> None:
        await peer.send(head + b"out")
        assert await peer.exactly(2) == b"in"
        await peer.send(b"more")
        peer.close()

    world.engine.script = script
    client = await world.wire.client()
    await client.send(request("POST", "/v1.41/containers/a/attach?stream=1"))
    assert await client.head() == head
    assert await client.exactly(3) == b"out"
    await client.send(b"in")
    assert await client.exactly(4) == b"more"
    client.close()
    assert world.lines == ["one pre-hook"]


async def test_docker_run_it_through_three_adapters(tmp_path: Path):
    """create, attach, wait (whose head comes long before its body), start; then output, then wait's body."""
    async with hook_world(tmp_path) as world:
        for name in ("one", "two", "three"):
            await world.adapter(name)
        world_of = {"pre": ["one", "two", "three"], "post": ["one", "two", "three"]}
        await world.configure({"* /*": world_of})
        started, typed = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer, head: bytes) -> None:
            world.lines.append("engine")
            if b"/attach" in head:
                await peer.send(UPGRADED)
                await started.wait()
                await peer.send(b"$ ")
                assert await peer.exactly(5) == b"exit\n"
                typed.set()
                peer.close()
            elif b"/wait" in head:
                await peer.send(CHUNKED)
                await typed.wait()
                await peer.send(b'11\r\n{"StatusCode": 0}\r\n0\r\n\r\n')
            elif b"/start" in head:
                started.set()
                await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            else:
                await peer.exactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                await peer.send(ok(b'{"Id":"c1","Warnings":[]}', JSON, status=b"201 Created"))

        world.engine.script = script
        assert (await world.ask("POST", CREATE, b'{"Image":"a","Tty":true}')).status == 201
        terminal, waiting = await world.wire.client(), await world.wire.client()
        await terminal.send(request("POST", "/v1.41/containers/c1/attach?stdin=1&stdout=1&stream=1", None, *HIJACK))
        assert await terminal.head() == UPGRADED
        await waiting.send(request("POST", "/v1.41/containers/c1/wait?condition=next-exit"))
        assert await waiting.head() == CHUNKED
        assert (await world.ask("POST", "/v1.41/containers/c1/start", None)).status == 204
        assert await terminal.exactly(2) == b"$ "
        await terminal.send(b"exit\n")
        assert await terminal.rest() == b""
        assert b"StatusCode" in await waiting.exactly(28)
        asked = [one["ClientRequest"]["Request"].split("?")[0] for one in world.adapters["three"].asked]
        assert asked == [CREATE] * 2 + [f"/v1.41/containers/c1/{what}" for what in ("attach", "wait", "start", "start")]
        terminal.close()
        waiting.close()


async def test_an_engine_s_204_has_no_type_and_an_empty_body_and_stays_so(world: HookWorld):
    world.engine_answer = b"HTTP/1.1 204 No Content\r\nApi-Version: 1.41\r\n\r\n"
    got = await world.ask("POST", "/v1.41/containers/a/start", None)
    assert world.adapters["one"].asked[1]["ServerResponse"] == {"ContentType": None, "Body": "", "Code": 204}
    assert got.head == world.engine_answer


@pytest.mark.parametrize(
    ("method", "engine", "fields"),
    [
        ("POST", b"HTTP/1.1 204 No Content\r\n\r\n", {"Body": '{"a":1}'}),
        ("POST", ok(b"{}", JSON), {"Code": 204}),
        ("POST", ok(b"{}", JSON), {"Code": 304, "Body": '{"a":1}'}),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", {"Code": 404, "Body": '{"a":1}'}),
    ],
)
async def test_a_changed_answer_that_may_have_no_body_gets_none(
    world: HookWorld, method: str, engine: bytes, fields: dict[str, Any]
):
    """Else the next call's head on this connection would be read out of it."""
    world.engine_answer = engine
    world.adapters["one"].behave = lambda told: echo(told) if told["Type"] == "pre-hook" else modify(**fields)(told)
    client = await world.wire.client()
    for _ in range(2):
        await client.send(request(method, "/v1.41/containers/a/start"))
        assert int((await client.head()).split()[1]) in (204, 304, 404)
    client.close()


async def test_a_head_request_has_post_hooks_and_keeps_its_head(world: HookWorld):
    raw = b"HTTP/1.1 200 OK\r\nX-Docker-Container-Path-Stat: e30=\r\nContent-Length: 7\r\n\r\n"

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(raw)

    world.engine.script = script
    client = await world.wire.client()
    await client.send(request("HEAD", "/v1.41/containers/a/archive?path=/x"))
    assert await client.head() == raw
    assert world.lines == ["one pre-hook", "one post-hook"]
    client.close()


NESTED = b"[" * 50_000 + b"]" * 50_000


@pytest.mark.parametrize("body", [b"OK", b"\xff\xfe{}", b"{} {}", b'{"a":', b"NaN", b" ", NESTED], ids=range(7))
async def test_a_response_that_is_no_json_is_null_and_keeps_its_bytes(world: HookWorld, body: bytes):
    world.engine_answer = ok(body, b"Content-Type: text/plain")
    got = await world.ask("GET", "/_ping", None)
    assert world.adapters["one"].asked[1]["ServerResponse"]["Body"] is None
    assert (got.body, got.header("content-type")) == (body, "text/plain")


@pytest.mark.parametrize("body", [b"not json", b"\xff\xfe{}", b"{} {}", b'{"a":', NESTED], ids=range(5))
@pytest.mark.parametrize("returned", [None, ""])
async def test_a_request_that_is_no_json_is_null_and_keeps_its_bytes(world: HookWorld, body: bytes, returned: Any):
    world.adapters["one"].behave = lambda told: (
        modify(Body=returned)(told) if told["Type"] == "pre-hook" else echo(told)
    )
    await world.ask("POST", CREATE, body)
    assert world.adapters["one"].asked[0]["ClientRequest"]["Body"] is None
    assert world.engine_bodies == [body]


@pytest.mark.parametrize(
    "content_type", [b"application/json", b"application/json; charset=utf-8", b"Application/JSON", b""]
)
async def test_a_json_body_is_given_whatever_its_type_looks_like(world: HookWorld, content_type: bytes):
    client = await world.wire.client()
    await client.ask(request("POST", CREATE, b'{"Image":"a"}', content_type=content_type))
    assert world.adapters["one"].asked[0]["ClientRequest"]["Body"] == '{"Image":"a"}'
    client.close()


async def test_null_from_a_hook_keeps_the_body_and_an_empty_text_empties_it(world: HookWorld):
    for returned, kept in ((None, b'{"Image":"a"}'), ("", b"")):
        world.engine_bodies.clear()
        world.adapters["one"].behave = lambda told, returned=returned: (
            modify(Body=returned)(told) if told["Type"] == "pre-hook" else echo(told)
        )
        await world.ask()
        assert world.engine_bodies == [kept]


async def test_a_call_without_body_has_a_null_body_and_its_bytes_stay(world: HookWorld):
    raw = request("GET", "/v1.41/containers/json?all=1")
    client = await world.wire.client()
    await client.ask(raw)
    assert world.engine.heads == [raw]
    assert world.adapters["one"].asked[0]["ClientRequest"]["Body"] is None
    client.close()


async def test_a_chunked_json_answer_reaches_post_hooks_whole(world: HookWorld):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(CHUNKED + b"2\r\n[{\r\n3\r\n}]\n\r\n0\r\n\r\n")

    world.engine.script = script
    got = await world.ask("GET", "/v1.41/containers/json", None)
    assert world.adapters["one"].asked[1]["ServerResponse"]["Body"] == "[{}]\n"
    assert got.body == b"[{}]\n"


async def test_the_gateways_own_streams_and_line_edits_pass_by(world: HookWorld):
    async def pieces() -> AsyncIterator[bytes]:
        yield b"{}\n"

    async def stream(call: Call) -> Reply:
        return Reply(stream=pieces())

    world.handle_with(stream)
    client = await world.wire.client()
    await client.send(request("GET", "/v1.41/anything"))
    assert b"chunked" in await client.head()
    assert await client.exactly(13) == b"3\r\n{}\n\r\n0\r\n\r\n"
    client.close()

    async def lines(call: Call) -> Relay:
        return Relay(host="h1", edit_lines=bytes.upper)

    world.handle_with(lines)
    world.engine_answer = ok(b"ab\ncd\n", JSON)
    client = await world.wire.client()
    await client.send(request("GET", "/v1.41/anything"))
    assert b"chunked" in await client.head()
    assert await client.exactly(6 + 5) == b"6\r\nAB\nCD\n\r\n"
    client.close()
    assert [line for line in world.lines if "post" in line] == []


async def test_a_handlers_edit_comes_before_the_post_hooks(world: HookWorld):
    seen: list[tuple[int, bytes]] = []

    async def handler(call: Call) -> Relay:
        return Relay(
            host="h1",
            edit=lambda body: body.replace(b"e1", b"c1"),
            seen=lambda status, body: seen.append((status, body)),
        )

    world.handle_with(handler)
    got = await world.ask()
    assert "c1" in world.adapters["one"].asked[1]["ServerResponse"]["Body"]
    assert got.json["Id"] == "c1"
    assert seen == [(201, b'{"Id":"e1","Warnings":[]}\n')]


async def test_an_answer_beyond_the_limit_is_a_clear_error(world: HookWorld):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 40000000\r\n\r\n")
        for _ in range(40):
            await peer.send(b" " * 1_000_000)

    world.engine.script = script
    client = await world.wire.client()
    await client.send(request("GET", "/v1.41/containers/json"))
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    client.close()


async def test_a_kept_connection_serves_the_next_call_after_a_changed_answer(world: HookWorld):
    world.adapters["one"].behave = lambda told: (
        echo(told) if told["Type"] == "pre-hook" else modify(Body='{"longer":"than before, by far"}')(told)
    )
    client = await world.wire.client()
    for _ in range(3):
        head, body = await client.ask(request("POST", CREATE, b"{}"))
        assert body == b'{"longer":"than before, by far"}'
        assert b"connection: close" not in head.lower()
    client.close()


@pytest.mark.parametrize("path", ["/info", "/containers/json", "/_ping"])
async def test_no_call_goes_on_in_http2_past_the_hooks(world: HookWorld, path: str):
    lines = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")
    got = await world.ask("GET", f"/v1.41{path}", None, *lines)
    assert got.status == 403
    assert world.engine.heads == []


async def test_an_upgrade_that_the_engine_ignores_leaves_the_next_request_to_the_hooks(world: HookWorld):
    world.adapters["one"].behave = lambda told: (
        answer(403)(told) if "create" in told["ClientRequest"]["Request"] else echo(told)
    )
    world.engine_answer = ok(b"{}", JSON)
    client = await world.wire.client()
    await client.send(request("GET", "/v1.41/info", None, *HIJACK) + request("POST", CREATE, b"{}"))
    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    assert await client.exactly(2) == b"{}"
    assert (await client.head()).startswith(b"HTTP/1.1 403 ")
    assert len(world.engine.heads) == 1
    client.close()
