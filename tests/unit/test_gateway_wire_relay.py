"""Relays, to the local engine and through a tunnel: bodies, heads at once, tunnels, back-pressure, disconnections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop
from gateway_wire_tools import Peer, World, ok, relay_to, running, until

from drover.gateway.call import Call, Outcome, Relay

GET = b"GET /v1.41/x HTTP/1.1\r\nHost: a\r\n\r\n"
ATTACH = b"POST /v1.41/containers/a/attach?stream=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
HOSTS = pytest.mark.parametrize("host", ["h1", "h2"])
MIB = 1024 * 1024
# The hook that replaces the policy fixture can only live in a conftest, and would change every other test's loop.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the:pytest.PytestDeprecationWarning")


@pytest.fixture(
    params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"], scope="module"
)
def event_loop_policy(request):
    return request.param()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as built:
        yield built


def use(world: World, host: str, script, **edits) -> None:
    world.engine_of(host).script = script
    world.handler = relay_to(host, **edits)


@HOSTS
async def test_a_call_passes_unchanged_both_ways(world: World, host: str):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(ok(await peer.exactly(5), b"X-Odd: \xe9", status=b"299 Odd"))

    use(world, host, script)
    raw = b"POST /v1.41/x?q=%2F HTTP/1.1\r\nhost: a\r\nX-Mine: 1\r\nContent-Length: 5\r\n\r\n"
    client = await world.client()
    head, body = await client.ask(raw + b"hello")
    assert world.engine_of(host).heads == [raw]
    assert head == b"HTTP/1.1 299 Odd\r\nContent-Length: 5\r\nX-Odd: \xe9\r\n\r\n"
    assert body == b"hello"
    client.close()


@HOSTS
async def test_connections_are_kept_on_both_sides(world: World, host: str):
    use(world, host, world.engine_of(host).script)
    client = await world.client()
    for _ in range(5):
        assert (await client.ask(GET))[1] == b"OK"
    assert world.engine_of(host).opened == 1
    assert world.server.counters.requests == 5
    client.close()


async def test_pipelined_requests_are_answered_in_order(world: World):
    async def script(peer: Peer, head: bytes) -> None:
        body = await peer.exactly(1) if head.startswith(b"POST") else b"-"
        await peer.send(ok(head.split()[1] + body))

    use(world, "h1", script)
    client = await world.client()
    requests = [
        b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        b"GET /c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ]
    await client.send(b"".join(requests))
    assert await client.rest() == ok(b"/a-") + ok(b"/bx") + ok(b"/c-")


@HOSTS
async def test_the_head_is_forwarded_before_any_body_comes(world: World, host: str):
    go = asyncio.Event()

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await go.wait()
        await peer.send(b"2\r\nhi\r\n0\r\n\r\n")

    use(world, host, script)
    client = await world.client()
    await client.send(GET)
    assert b"chunked" in await client.head()
    go.set()
    assert await client.exactly(12) == b"2\r\nhi\r\n0\r\n\r\n"
    client.close()


async def test_a_hundred_continue_is_the_engines(world: World):
    async def script(peer: Peer, head: bytes) -> None:
        assert b"Expect" in head
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.send(ok(await peer.exactly(2)))

    use(world, "h1", script)
    client = await world.client()
    await client.send(b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"ab")
    assert await client.head() + await client.exactly(2) == ok(b"ab")
    client.close()


@HOSTS
async def test_a_tunnel_half_closes_from_the_client(world: World, host: str):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(UPGRADED + b"first")
        said = await peer.rest()
        await peer.send(b"you said " + said)
        peer.close()

    use(world, host, script)
    client = await world.client()
    await client.send(ATTACH)
    assert await client.head() == UPGRADED
    await client.send(b"hello")
    client.end()
    assert await client.rest() == b"firstyou said hello"


@HOSTS
async def test_a_tunnel_half_closes_from_the_engine(world: World, host: str):
    heard: list[bytes] = []

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\nbye")
        peer.end()
        heard.append(await peer.rest())

    use(world, host, script)
    client = await world.client()
    await client.send(ATTACH)
    await client.head()
    assert await client.rest() == b"bye"
    await client.send(b"still here")
    client.end()
    await until(lambda: heard == [b"still here"])


@HOSTS
async def test_an_end_sent_with_the_request_reaches_the_engine(world: World, host: str):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(UPGRADED)
        await peer.send(b"got " + await peer.rest())
        peer.close()

    use(world, host, script)
    client = await world.client()
    await client.send(ATTACH + b"all of it")
    client.end()
    assert await client.rest() == UPGRADED + b"got all of it"


@HOSTS
async def test_what_a_client_said_before_it_left_a_tunnel_is_delivered(world: World, host: str):
    heard: list[bytes] = []

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(UPGRADED)
        heard.append(await peer.rest())

    use(world, host, script)
    client = await world.client()
    await client.send(ATTACH)
    await client.head()
    await client.send(b"x" * MIB)
    client.close()
    await until(lambda: heard == [b"x" * MIB])


async def test_an_engine_that_leaves_a_tunnel_closes_the_clients_connection(world: World):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(UPGRADED + b"bye")
        raise ConnectionError

    use(world, "h1", script)
    client = await world.client()
    await client.send(ATTACH)
    assert await client.rest() == UPGRADED + b"bye"
    await until(lambda: world.server.counters.open_connections == 0)


@HOSTS
async def test_a_client_that_leaves_aborts_the_engines_stream(world: World, host: str):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.rest()
        raise ConnectionError

    use(world, host, script)
    client = await world.client()
    await client.send(GET)
    await client.head()
    client.close()
    await until(lambda: world.engine_of(host).ended == 1 and world.links.open_count(host) == 0)
    assert world.server.counters.open_connections == 0


@HOSTS
async def test_a_slow_reader_only_stops_its_engine(world: World, host: str):
    sent = 0

    async def script(peer: Peer, head: bytes) -> None:
        nonlocal sent
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (16 * MIB))
        for _ in range(16 * 4):
            peer.writer.write(b"x" * (MIB // 4))
            await peer.writer.drain()
            sent += MIB // 4

    use(world, host, script)
    client = await world.client()
    client.writer.transport.pause_reading()
    await client.send(GET)
    await stalled(lambda: sent)
    assert 0 < sent < 12 * MIB
    other = await world.client()
    world.handler = relay_to("h1" if host == "h2" else "h2")
    assert (await other.ask(GET))[1] == b"OK"
    client.writer.transport.resume_reading()
    await client.head()
    assert len(await client.exactly(16 * MIB)) == 16 * MIB
    client.close()
    other.close()


async def stalled(progress) -> None:
    """Wait until a counter has begun to grow and has stopped for 0.1 s."""
    before = 0
    async with asyncio.timeout(10):
        while progress() == 0 or progress() != before:
            before = progress()
            await asyncio.sleep(0.1)


@HOSTS
async def test_a_slow_engine_only_stops_its_client(world: World, host: str):
    go = asyncio.Event()

    async def script(peer: Peer, head: bytes) -> None:
        await go.wait()
        received = 0
        while received < 16 * MIB:
            received += len(await peer.reader.read(MIB))
        await peer.send(ok(b"%d" % received))

    use(world, host, script)
    client = await world.client()
    await client.send(b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (16 * MIB))
    sent = 0

    async def upload() -> None:
        nonlocal sent
        for _ in range(16 * 4):
            client.writer.write(b"x" * (MIB // 4))
            await client.writer.drain()
            sent += MIB // 4

    task = asyncio.create_task(upload())
    await stalled(lambda: sent)
    assert sent < 12 * MIB
    go.set()
    await task
    assert (await client.head()).startswith(b"HTTP/1.1 200")
    assert await client.exactly(8) == b"%d" % (16 * MIB)
    client.close()


async def test_an_early_answer_to_an_unfinished_upload_arrives(world: World):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(ok(b"no", b"Connection: close", status=b"400 Bad Request"))
        peer.close()

    use(world, "h1", script)
    client = await world.client()
    await client.send(b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    assert (await client.head()).startswith(b"HTTP/1.1 400")
    assert await client.rest() == b"no"


async def test_a_body_is_replaced_and_the_target_too(world: World):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(ok(await peer.exactly(3)))

    use(world, "h1", script, body=b"new", target="/v1.41/y?z=1")

    client = await world.client()
    raw = b"POST /v1.41/x HTTP/1.1\r\nHost: a\r\nX: y\r\nContent-Length: 5\r\n\r\nolder"
    first, second = await client.ask(raw), await client.ask(raw)
    assert first[1] == second[1] == b"new"
    assert world.engine.heads[0] == b"POST /v1.41/y?z=1 HTTP/1.1\r\nHost: a\r\nX: y\r\nContent-Length: 3\r\n\r\n"
    client.close()


async def test_a_body_the_handler_has_read_is_still_relayed(world: World):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(ok(await peer.exactly(10)))

    async def handler(call: Call) -> Outcome:
        assert await call.read_body(100) == b"helloworld"
        return Relay(host="h1")

    use(world, "h1", script)
    world.handler = handler
    client = await world.client()
    chunked = b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert (await client.ask(head + chunked))[1] == b"helloworld"
    assert b"Transfer-Encoding" not in world.engine.heads[0]
    client.close()


JSON = b"Content-Type: application/json"


async def test_a_json_response_is_edited_and_seen(world: World):
    seen: list[tuple[int, bytes]] = []

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(
            b"HTTP/1.1 201 Created\r\n"
            + JSON
            + b"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n"
        )

    use(world, "h1", script, edit=lambda body: body + b"\n", seen=lambda status, body: seen.append((status, body)))
    client = await world.client()
    head, body = await client.ask(GET)
    assert head == b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 6\r\n\r\n"
    assert body == b"[1,2]\n"
    assert seen == [(201, b"[1,2]")]
    assert (await client.ask(GET))[1] == b"[1,2]\n"
    client.close()


async def test_a_response_that_is_not_json_is_not_edited(world: World):
    use(world, "h1", world.engine.script, edit=lambda body: b"edited")
    client = await world.client()
    assert (await client.ask(GET))[1] == b"OK"
    client.close()


async def test_seen_hears_of_a_response_without_body(world: World):
    seen: list[tuple[int, bytes]] = []

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    use(world, "h1", script, seen=lambda status, body: seen.append((status, body)))
    client = await world.client()
    assert await client.ask(GET) == (b"HTTP/1.1 204 No Content\r\n\r\n", b"")
    assert await client.ask(GET) == (b"HTTP/1.1 204 No Content\r\n\r\n", b"")
    assert seen == [(204, b""), (204, b"")]
    client.close()


async def test_a_json_response_beyond_the_limit_is_refused(world: World):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\nContent-Length: %d\r\n\r\n" % (40 * MIB))
        for _ in range(40):
            await peer.send(b"x" * MIB)

    use(world, "h1", script, edit=lambda body: body)
    client = await world.client()
    head, body = await client.ask(GET)
    assert head.startswith(b"HTTP/1.1 502")
    assert b"larger than" in body
    client.close()


async def test_lines_are_edited_one_by_one_at_once(world: World):
    go = asyncio.Event()

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        await go.wait()
        await peer.send(b"6\r\na\nb\nc1\r\n")
        await go.wait()
        await peer.send(b"4\r\n2\nd3\r\n0\r\n\r\n")

    use(world, "h1", script, edit_lines=lambda line: b"<" + line + b">")
    client = await world.client()
    await client.send(GET)
    assert b"chunked" in await client.head()
    go.set()
    assert await client.exactly(13) == b"8\r\n<a\n><b\n>\r\n"
    assert await client.exactly(25) == b"6\r\n<c12\n>\r\n4\r\n<d3>\r\n0\r\n\r\n"
    client.close()


@HOSTS
async def test_lines_that_must_settle_come_after_their_head(world: World, host: str):
    asked, agreed = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.send(b"6\r\na\nb\nc\n\r\n0\r\n\r\n")

    async def settled() -> None:
        asked.set()
        await agreed.wait()

    use(world, host, script, edit_lines=lambda line: b"<" + line + b">", settled=settled)
    client = await world.client()
    for _ in range(2):  # the connection is kept
        asked.clear()
        agreed.clear()
        await client.send(GET)
        assert b"chunked" in await client.head()
        await asyncio.wait_for(asked.wait(), 10)
        begun = asyncio.ensure_future(client.exactly(1))
        assert not (await asyncio.wait({begun}, timeout=0.05))[0]
        agreed.set()
        assert await begun + await client.exactly(21) == b"c\r\n<a\n><b\n><c\n>\r\n0\r\n\r\n"
    client.close()


async def test_a_refusal_waits_for_nothing(world: World):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(ok(b'{"message":"no"}', JSON, status=b"404 Not Found"))

    async def settled() -> None:
        raise AssertionError

    use(world, "h1", script, edit=bytes.upper, edit_lines=bytes.upper, settled=settled)
    client = await world.client()
    assert (await client.ask(GET))[1] == b'{"MESSAGE":"NO"}'
    client.close()


async def test_an_edit_that_fails_is_a_500_and_the_next_call_works(world: World):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(ok(b"{}", JSON))

    def edit(body: bytes) -> bytes:
        raise KeyError("Id")

    use(world, "h1", script, edit=edit)
    client = await world.client()
    head, body = await client.ask(GET)
    assert head.startswith(b"HTTP/1.1 500")
    assert b'"message"' in body
    world.handler = relay_to("h1")
    assert (await client.ask(GET))[1] == b"{}"
    client.close()


@HOSTS
async def test_a_response_cut_short_cuts_the_client(world: World, host: str):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        raise ConnectionError

    use(world, host, script)
    client = await world.client()
    await client.send(GET)
    await client.head()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.exactly(10)


@HOSTS
async def test_a_response_without_length_ends_with_the_connection(world: World, host: str):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.0 200 OK\r\n\r\nall")
        raise ConnectionError

    use(world, host, script)
    client = await world.client()
    await client.send(b"GET /x HTTP/1.0\r\n\r\n")
    assert await client.rest() == b"HTTP/1.0 200 OK\r\n\r\nall"


@pytest.mark.parametrize(("host", "clients"), [("h1", 200), ("h2", 50)])
async def test_many_clients_at_once(world: World, host: str, clients: int):
    async def script(peer: Peer, head: bytes) -> None:
        await asyncio.sleep(0.01)
        await peer.send(ok(head.split()[1]))

    use(world, host, script)

    async def one(number: int) -> None:
        client = await world.client()
        for round_ in range(3):
            path = b"/%d/%d" % (number, round_)
            assert (await client.ask(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n"))[1] == path
        client.close()

    await asyncio.gather(*(one(number) for number in range(clients)))
    assert world.server.counters.requests == 3 * clients
    assert world.server.counters.errors == 0
    await until(lambda: world.server.counters.open_connections == 0 and world.links.open_count(host) <= 32)
