"""Ways to engines: pools, stale connections, lost hosts, deadlines, the gateway's own questions, tunnels."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gateway_wire_tools import Peer, World, ok, pong, relay_to, running, until

from drover.errors import EngineError, Unavailable
from drover.gateway.links import EngineLinks
from drover.wire.frames import END, frame

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
HOSTS = pytest.mark.parametrize("host", ["h1", "h2"])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as built:
        yield built


def dropping_second(world: World, host: str) -> None:
    """The engine answers the first request of a connection and drops the connection at the second."""
    seen: set[int] = set()

    async def script(peer: Peer, head: bytes) -> None:
        if id(peer) in seen:
            raise ConnectionError
        seen.add(id(peer))
        await peer.send(ok(b"OK"))

    world.engine_of(host).script = script


@HOSTS
async def test_an_idempotent_request_on_a_stale_connection_is_made_again(world: World, host: str):
    dropping_second(world, host)
    world.handler = relay_to(host)
    client = await world.client()
    for _ in range(3):
        assert (await client.ask(GET))[1] == b"OK"
    assert world.engine_of(host).opened == 3
    assert len(world.engine_of(host).heads) == 5
    client.close()


@HOSTS
async def test_other_requests_are_never_made_twice(world: World, host: str):
    dropping_second(world, host)
    world.handler = relay_to(host)
    client = await world.client()
    post = GET.replace(b"GET", b"POST")
    assert (await client.ask(post))[1] == b"OK"
    head, body = await client.ask(post)
    assert head.startswith(b"HTTP/1.1 503")
    assert host in json.loads(body)["message"]
    assert len(world.engine_of(host).heads) == 2
    client.close()


@HOSTS
async def test_own_questions_are_retried_too(world: World, host: str):
    dropping_second(world, host)
    for _ in range(3):
        assert (await world.links.request(host, "GET", "/x")).body == b"OK"


@HOSTS
async def test_an_idle_connection_that_its_engine_closed_is_not_used(world: World, host: str):
    await world.links.request(host, "GET", "/x")
    world.engine_of(host).peers[0].close()
    await until(lambda: world.links.open_count(host) == 0)
    assert (await world.links.request(host, "POST", "/x")).body == b"OK"


async def test_an_idle_connection_is_closed_in_the_end(world: World):
    links = EngineLinks(str(world.engine.path), locate=lambda host: None, idle_s=0.05)
    await links.request("h1", "GET", "/x")
    assert links.open_count("h1") == 1
    await until(lambda: links.open_count("h1") == 0)
    await until(lambda: world.engine.ended == 1)


async def test_a_connection_to_a_former_address_is_not_used(world: World):
    await world.links.request("h2", "GET", "/x")
    await world.tunnel.close()
    world.tunnel_port = await world.tunnel.start("127.0.0.1", 0)
    assert (await world.links.request("h2", "GET", "/x")).body == b"OK"
    assert world.remote_engine.opened == 2


@HOSTS
async def test_a_whole_answer_of_an_engine(world: World, host: str):
    async def script(peer: Peer, head: bytes) -> None:
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await peer.exactly(length)
        await peer.send(
            b"HTTP/1.1 409 Conflict\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n" + body + b"\r\n0\r\n\r\n"
        )

    world.engine_of(host).script = script
    answer = await world.links.request(host, "POST", "/x", body=b"{}", headers=((b"X-Mine", b"1"),))
    assert (answer.status, answer.body) == (409, b"{}")
    assert (b"X", b"y") in answer.headers
    assert b"Content-Type: application/json\r\nX-Mine: 1\r\n" in world.engine_of(host).heads[0]
    assert world.links.open_count(host) == 1


async def test_a_question_has_a_deadline(world: World):
    async def script(peer: Peer, head: bytes) -> None:
        await asyncio.Event().wait()

    world.engine.script = script
    with pytest.raises(Unavailable, match="h1 did not answer within"):
        await world.links.request("h1", "GET", "/x", deadline_s=0.05)
    await until(lambda: world.links.open_count("h1") == 0)


@HOSTS
async def test_a_stream_of_pieces_with_back_pressure(world: World, host: str):
    sent = 0

    async def script(peer: Peer, head: bytes) -> None:
        nonlocal sent
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(160):
            peer.writer.write(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
            await peer.writer.drain()
            sent += 100_000
        await peer.send(b"0\r\n\r\n")

    world.engine_of(host).script = script
    stream = aiter(world.links.stream(host, "GET", "/events"))
    received = len(await anext(stream))
    before = 0
    while before != sent:
        before = sent
        await asyncio.sleep(0.1)
    assert sent < 12_000_000
    async for piece in stream:
        received += len(piece)
    assert received == 16_000_000


async def test_a_stream_that_is_left_closes_its_connection(world: World):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await peer.rest()
        raise ConnectionError

    world.engine.script = script
    stream = world.links.stream("h1", "GET", "/events")
    assert await anext(aiter(stream)) == b"a"
    await stream.aclose()
    await until(lambda: world.engine.ended == 1 and world.links.open_count("h1") == 0)


async def test_a_refused_stream_raises_the_engines_error(world: World):
    world.engine.script = lambda peer, head: peer.send(ok(b'{"message":"no such thing"}', status=b"404 Not Found"))
    with pytest.raises(EngineError, match="no such thing") as refused:
        [piece async for piece in world.links.stream("h1", "GET", "/events")]
    assert refused.value.status == 404


@HOSTS
async def test_a_stream_cut_short_says_so(world: World, host: str):
    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        raise ConnectionError

    world.engine_of(host).script = script
    with pytest.raises(Unavailable, match="in the middle"):
        [piece async for piece in world.links.stream(host, "GET", "/events")]


async def test_a_host_known_dead_is_not_tried(world: World):
    world.down["h2"] = "Host h2 is lost since 12:00."
    world.handler = relay_to("h2")
    client = await world.client()
    head, body = await client.ask(GET)
    assert head.startswith(b"HTTP/1.1 503")
    assert json.loads(body) == {"message": "Host h2 is lost since 12:00."}
    assert world.remote_engine.opened == 0
    client.close()


async def test_everyone_who_waits_on_a_lost_host_is_told_at_once(world: World):
    async def script(peer: Peer, head: bytes) -> None:
        if b"/stream" in head:
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.Event().wait()

    world.remote_engine.script = script
    world.handler = relay_to("h2")
    waiting, streaming = await world.client(), await world.client()
    await waiting.send(GET)
    await streaming.send(GET.replace(b"/x", b"/stream"))
    await streaming.head()
    own = asyncio.create_task(world.links.request("h2", "GET", "/x"))
    await until(lambda: len(world.remote_engine.heads) == 3)
    world.links.host_lost("h2", "Host h2 is lost.")
    assert (await waiting.head()).startswith(b"HTTP/1.1 503")
    assert json.loads(await waiting.exactly(31)) == {"message": "Host h2 is lost."}
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await streaming.exactly(1)
    with pytest.raises(Unavailable, match="Host h2 is lost"):
        await own
    await until(lambda: world.links.open_count("h2") == 0)
    assert (await world.links.request("h1", "GET", "/x")).body == b"OK"
    waiting.close()


async def test_an_engine_that_refuses_is_named(world: World):
    await world.engine.stop()
    world.engine.path.unlink(missing_ok=True)
    with pytest.raises(Unavailable, match="engine of host h1 cannot be reached"):
        await world.links.request("h1", "GET", "/x")


async def test_a_remote_engine_that_refuses_is_named(world: World):
    await world.remote_engine.stop()
    world.remote_engine.path.unlink(missing_ok=True)
    with pytest.raises(Unavailable, match="h2"):
        await world.links.request("h2", "GET", "/x")
    await until(lambda: not world.tunnel.accepted)


async def test_a_daemon_that_does_not_listen_is_named(world: World):
    await world.tunnel.close()
    with pytest.raises(Unavailable, match="engine of host h2 cannot be reached"):
        await world.links.request("h2", "GET", "/x")


async def test_an_engine_that_does_not_speak_http_is_named(world: World):
    world.engine.script = lambda peer, head: peer.send(b"SSH-2.0-OpenSSH\r\n\r\n")
    with pytest.raises(Unavailable, match="h1 did not answer in HTTP"):
        await world.links.request("h1", "GET", "/x")


async def ask_through_tunnel(port: int, tls: ssl.SSLContext) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost")
    writer.write(frame(GET))
    return await reader.readexactly(1)


async def test_a_tunnel_wants_a_certificate(world: World):
    context = ssl.create_default_context(cafile=str(world.tmp / "ca.crt"))
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await ask_through_tunnel(world.tunnel_port, context)
    assert world.remote_engine.heads == []


async def test_another_name_in_the_certificate_is_refused(world: World):
    links = EngineLinks("", locate=lambda host: ("127.0.0.1", world.tunnel_port), tls=world.client_tls)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await links.request("h2", "GET", "/x")
    assert world.remote_engine.opened == 0


@pytest.mark.parametrize("garbage", [b"\xff" * 100, END + frame(b"x")])
async def test_garbage_in_a_tunnel_closes_only_that_connection(world: World, garbage: bytes):
    _, writer = await asyncio.open_connection(
        "127.0.0.1", world.tunnel_port, ssl=world.client_tls, server_hostname="localhost"
    )
    await until(lambda: world.remote_engine.opened == 1)
    writer.write(garbage)
    await until(lambda: world.remote_engine.ended == 1)
    writer.close()
    assert (await world.links.request("h2", "GET", "/x")).body == b"OK"


async def test_a_tunnel_cut_without_end_aborts_the_engines_connection(world: World):
    world.remote_engine.script = pong()
    _, writer = await asyncio.open_connection(
        "127.0.0.1", world.tunnel_port, ssl=world.client_tls, server_hostname="localhost"
    )
    await until(lambda: world.remote_engine.opened == 1)
    writer.transport.abort()
    await until(lambda: world.remote_engine.ended == 1 and not world.tunnel.accepted)


async def test_many_at_once_share_few_handshakes_and_one_failure(world: World):
    await world.tunnel.close()
    attempts = [world.links.request("h2", "GET", "/x") for _ in range(100)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)


async def test_a_tunnel_refuses_a_host_that_is_no_member(world: World):
    world.tunnel.admit = lambda name: False
    with pytest.raises(Unavailable):
        await world.links.request("h2", "GET", "/_ping", deadline_s=5)
    assert world.remote_engine.opened == 0
    world.tunnel.admit = lambda name: True
    assert (await world.links.request("h2", "GET", "/_ping", deadline_s=5)).body == b"OK"
