"""The gateway's own answers: replies, errors, bodies, streams, garbage, deadlines, listeners."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gateway_wire_tools import FakeEngine, Peer, World, pong, relay_to, running, until
from test_wire_heads import SMUGGLING

from drover.errors import Conflict, DroverError, EngineError, NoPlacement, NotFound, Unavailable
from drover.gateway.call import Call, Outcome, Reply
from drover.gateway.server import GatewayServer

GET = b"GET /v1.41/x?a=b%20c HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as built:
        yield built


def always(world: World, outcome: Outcome) -> list[Call]:
    calls: list[Call] = []

    async def handler(call: Call) -> Outcome:
        calls.append(call)
        return outcome

    world.handler = handler
    return calls


def raising(world: World, error: Exception) -> None:
    async def handler(call: Call) -> Outcome:
        raise error

    world.handler = handler


async def test_a_reply_has_length_type_and_headers(world: World):
    world.server.default_headers = ((b"Api-Version", b"1.41"),)
    calls = always(world, Reply(status=201, body=b"{}", headers=((b"X-A", b"b"),)))
    client = await world.client()
    head, body = await client.ask(GET)
    lines = b"Api-Version: 1.41\r\nX-A: b\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    assert head == b"HTTP/1.1 201 Created\r\n" + lines
    assert body == b"{}"
    call = calls[0]
    assert (call.method, call.path, call.version, call.target) == ("GET", "/x", "1.41", "/v1.41/x?a=b%20c")
    assert call.query("a") == "b c"
    assert call.header("HOST") == "a"
    client.close()


@pytest.mark.parametrize(("method", "status"), [(b"GET", 204), (b"GET", 304), (b"HEAD", 200)])
async def test_a_reply_without_body_keeps_the_connection_in_step(world: World, method: bytes, status: int):
    always(world, Reply(status=status, body=b"four"))
    client = await world.client()
    await client.send(method + b" /x HTTP/1.1\r\nHost: a\r\n\r\n")
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 %d" % status)
    assert (b"Content-Length: 4" in head) == (method == b"HEAD")
    always(world, Reply(body=b"five!"))
    assert (await client.ask(GET))[1] == b"five!"
    client.close()


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (NotFound("No such container: web"), 404, "No such container: web"),
        (EngineError(409, "Conflict. The name is taken."), 409, "Conflict. The name is taken."),
        (
            Unavailable("Host h2 is lost since 12:00.", hint="Revive it."),
            503,
            "Host h2 is lost since 12:00. Revive it.",
        ),
        (NoPlacement("No host can take web", {"h1": "it is full"}), 503, "No host can take web\n  h1: it is full"),
        (ValueError("odd"), 500, "The gateway failed unexpectedly: odd"),
    ],
)
async def test_errors_become_dockers_json(world: World, error: Exception, status: int, message: str):
    raising(world, error)
    client = await world.client()
    head, body = await client.ask(GET)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Type: application/json" in head
    assert json.loads(body) == {"message": message}
    always(world, Reply(body=b"next"))
    assert (await client.ask(GET))[1] == b"next"
    client.close()


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
)
async def test_a_handler_reads_a_body(world: World, framing: bytes):
    async def handler(call: Call) -> Outcome:
        return Reply(body=await call.read_body(5) + await call.read_body(5))

    world.handler = handler
    client = await world.client()
    for _ in range(2):
        assert (await client.ask(b"POST /x HTTP/1.1\r\nHost: a\r\n" + framing))[1] == b"hellohello"
    client.close()


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 6\r\n\r\nhello!", b"Transfer-Encoding: chunked\r\n\r\n6\r\nhello!\r\n0\r\n\r\n"]
)
async def test_a_body_larger_than_the_handler_allows_is_refused(world: World, framing: bytes):
    async def handler(call: Call) -> Outcome:
        return Reply(body=await call.read_body(5))

    world.handler = handler
    client = await world.client()
    head, body = await client.ask(b"POST /x HTTP/1.1\r\nHost: a\r\n" + framing)
    assert head.startswith(b"HTTP/1.1 400")
    assert b"larger than 5 bytes" in body
    client.close()


async def test_the_body_is_asked_for_when_the_client_waits_to_be_asked(world: World):
    async def handler(call: Call) -> Outcome:
        return Reply(body=await call.read_body(100))

    world.handler = handler
    client = await world.client()
    await client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await client.ask(b"hi"))[1] == b"hi"
    client.close()


async def test_an_unread_body_is_dropped_and_the_connection_kept(world: World):
    always(world, Reply(body=b"ok"))
    client = await world.client()
    for _ in range(3):
        raw = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
        assert (await client.ask(raw))[1] == b"ok"
    client.close()


async def test_a_large_unread_body_costs_the_connection(world: World):
    always(world, Reply(body=b"ok"))
    client = await world.client()
    head, body = await client.ask(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\nabc")
    assert b"Connection: close" in head
    assert body == b"ok"
    assert await client.rest() == b""
    client.close()
    await until(lambda: world.server.counters.open_connections == 0)


async def test_what_is_held_for_a_thinking_handler_is_bounded(world: World):
    go = asyncio.Event()

    async def handler(call: Call) -> Outcome:
        await go.wait()
        return Reply(body=b"%d" % len(await call.read_body(20_000_000)))

    world.handler = handler
    client = await world.client()
    await client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n")
    client.writer.write(b"x" * 10_000_000)
    transport = client.writer.transport
    before = -1
    while before != transport.get_write_buffer_size():
        before = transport.get_write_buffer_size()
        await asyncio.sleep(0.1)
    assert before > 8_000_000
    go.set()
    assert (await client.ask(b""))[1] == b"10000000"
    client.close()


def pieces(*parts: bytes, then: Exception | None = None) -> AsyncIterator[bytes]:
    async def generate() -> AsyncIterator[bytes]:
        for part in parts:
            yield part
        if then is not None:
            raise then

    return generate()


async def test_a_stream_is_sent_chunked(world: World):
    always(world, Reply(stream=pieces(b"one", b"", b"three")))
    client = await world.client()
    await client.send(GET)
    assert b"Transfer-Encoding: chunked" in await client.head()
    assert await client.exactly(23) == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"
    always(world, Reply(body=b"next"))
    assert (await client.ask(GET))[1] == b"next"
    client.close()


async def test_a_stream_to_http_1_0_ends_with_the_connection(world: World):
    always(world, Reply(stream=pieces(b"one", b"two")))
    client = await world.client()
    await client.send(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    head = await client.head()
    assert b"chunked" not in head
    assert b"Connection: close" in head
    assert await client.rest() == b"onetwo"


async def test_a_stream_that_fails_cuts_the_connection(world: World):
    always(world, Reply(stream=pieces(b"one", then=DroverError("odd"))))
    client = await world.client()
    await client.send(GET)
    await client.head()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.exactly(100)


async def test_a_stream_is_closed_when_its_client_leaves(world: World):
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            closed.set()

    always(world, Reply(stream=endless()))
    client = await world.client()
    await client.send(GET)
    await client.head()
    client.close()
    async with asyncio.timeout(10):
        await closed.wait()


async def test_a_handler_cancelled_from_within_is_not_a_hang(world: World):
    raising(world, asyncio.CancelledError())  # type: ignore[arg-type]
    client = await world.client()
    await client.send(GET)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.head()


async def test_a_stream_nobody_reads_is_not_produced(world: World):
    produced = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal produced
        while True:
            produced += 100_000
            yield b"x" * 100_000

    always(world, Reply(stream=endless()))
    client = await world.client()
    client.writer.transport.pause_reading()
    await client.send(GET)
    await until(lambda: produced > 1_000_000)
    before = -1
    while before != produced:
        before = produced
        await asyncio.sleep(0.1)
    assert produced < 4_000_000
    client.writer.transport.abort()
    await until(lambda: world.server.counters.open_connections == 0)


async def test_a_handler_is_cancelled_when_its_client_leaves(world: World):
    cancelled = asyncio.Event()
    entered = asyncio.Event()

    async def handler(call: Call) -> Outcome:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError("unreachable")

    world.handler = handler
    client = await world.client()
    await client.send(GET)
    await entered.wait()
    client.close()
    async with asyncio.timeout(10):
        await cancelled.wait()
    await until(lambda: world.server.counters.open_connections == 0)


async def test_a_client_that_only_stops_writing_is_still_answered(world: World):
    go = asyncio.Event()

    async def handler(call: Call) -> Outcome:
        await go.wait()
        return Reply(body=call.path.encode())

    world.handler = handler
    client = await world.client()
    await client.send(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\n\r\n")
    client.end()
    go.set()
    answers = await client.rest()
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert answers.endswith(b"/two")


@pytest.mark.parametrize("raw", SMUGGLING.values(), ids=SMUGGLING.keys())
async def test_smuggling_and_garbage_are_refused(world: World, raw: bytes):
    client = await world.client()
    await client.send(raw + b"GET /secret HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = await client.rest()
    assert answer.split(b" ")[1] in (b"400", b"501", b"505")
    assert answer.count(b"HTTP/1.1 4") + answer.count(b"HTTP/1.1 5") == answer.count(b"Content-Length:") == 1
    assert world.engine.heads == []
    client.close()


async def test_an_oversized_head_is_refused(world: World):
    client = await world.client()
    await client.send(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000)
    assert (await client.head()).startswith(b"HTTP/1.1 400")
    client.close()


async def test_bad_chunks_are_refused_while_being_read_and_while_being_relayed(world: World):
    async def handler(call: Call) -> Outcome:
        return Reply(body=await call.read_body(100))

    raw = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n"
    engine_saw: list[bytes] = []

    async def script(peer: Peer, head: bytes) -> None:
        engine_saw.append(await peer.rest())

    for each in (handler, relay_to("h1")):
        world.handler, world.engine.script = each, script
        client = await world.client()
        await client.send(raw)
        assert (await client.head()).startswith(b"HTTP/1.1 400")
        client.close()
    await until(lambda: len(engine_saw) == 1)
    assert b"nonsense" not in engine_saw[0]


@pytest.mark.parametrize(
    "target", [b"/a/../b", b"/a/%2e%2e/b", b"/a/./b", b"/%zz", b"/%00", b"/%ff", b"http://a/b", b"*", b"/%0d%0aX"]
)
async def test_targets_that_can_be_read_in_two_ways_are_refused(world: World, target: bytes):
    always(world, Reply())
    client = await world.client()
    head, _ = await client.ask(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    client.close()


async def test_a_target_is_normalised_for_handlers_and_engines_alike(world: World):
    client = await world.client()
    await client.ask(b"GET //v1.41//images/a%2Fb/json?p=//x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert world.engine.heads[0].startswith(b"GET /v1.41/images/a%2Fb/json?p=//x HTTP/1.1\r\n")
    calls = always(world, Reply())
    await client.ask(b"GET //v1.41//images/a%2Fb/json HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (calls[0].version, calls[0].path) == ("1.41", "/images/a/b/json")
    client.close()


async def test_a_head_that_does_not_end_is_given_up(world: World, tmp_path: Path):
    server = GatewayServer(world.handler, world.links, head_deadline_s=0.05)
    await server.listen_unix(tmp_path / "slow.sock")
    idle = Peer(*await asyncio.open_unix_connection(str(tmp_path / "slow.sock")))
    slow = Peer(*await asyncio.open_unix_connection(str(tmp_path / "slow.sock")))
    await slow.send(b"GET / HT")
    assert (await slow.head()).startswith(b"HTTP/1.1 408")
    assert (await idle.ask(GET))[1] == b"OK"
    idle.close()
    slow.close()
    await server.close()


async def test_a_socket_in_use_is_not_taken_over_and_a_stale_one_is(world: World, tmp_path: Path):
    second = GatewayServer(world.handler, world.links)
    with pytest.raises(Conflict):
        await second.listen_unix(world.path)
    stale = FakeEngine(tmp_path / "stale.sock", pong())
    await stale.start()
    await stale.stop()
    await second.listen_unix(stale.path)
    client = Peer(*await asyncio.open_unix_connection(str(stale.path)))
    assert (await client.ask(GET))[1] == b"OK"
    client.close()
    await second.close()
    assert not stale.path.exists()


@pytest.mark.parametrize("tls", [False, True])
async def test_tcp_with_and_without_tls(world: World, tls: bool):
    port = await world.server.listen_tcp("127.0.0.1", 0, world.server_tls if tls else None)
    context = world.client_tls if tls else None
    name = "localhost" if tls else None
    client = Peer(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name))
    for _ in range(3):
        assert (await client.ask(GET))[1] == b"OK"
    client.close()
    await until(lambda: world.server.counters.open_connections == 0)


async def test_a_tls_client_that_leaves_cancels_its_handler(world: World):
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(call: Call) -> Outcome:
        entered.set()
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    world.handler = handler
    port = await world.server.listen_tcp("127.0.0.1", 0, world.server_tls)
    client = Peer(*await asyncio.open_connection("127.0.0.1", port, ssl=world.client_tls, server_hostname="localhost"))
    await client.send(GET)
    async with asyncio.timeout(10):
        await entered.wait()
        client.close()
        await cancelled.wait()


async def test_clients_that_misbehave_harm_nobody_else(world: World):
    good = await world.client()
    bad = [await world.client() for _ in range(20)]
    for number, client in enumerate(bad):
        await client.send(
            [b"\x00" * 100, b"GET / HT", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", GET][number % 4]
        )
        if number % 2:
            client.writer.transport.abort()
    for _ in range(20):
        assert (await good.ask(GET))[1] == b"OK"
    for client in bad:
        client.close()
    await until(lambda: world.server.counters.open_connections == 1)
    good.close()
