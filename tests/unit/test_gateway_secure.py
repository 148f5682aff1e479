"""TLS over TCP: bytes, fullness, ends and failures; and the buffer that all connections share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from gateway_wire_tools import Peer, World, ok, running, tls_contexts, until

from drover.errors import Unavailable
from drover.gateway.accepting import TlsListener
from drover.gateway.receiving import Receiving, pass_on
from drover.gateway.secure import Secured, TlsTransport, connect_tls
from drover.gateway.tunnel import TunnelServer

SOME = bytes(range(256)) * 4096


class Recorder(Receiving):
    """Notes what it is told; keeps its direction open after the peer's end if it should."""

    def __init__(self, keep_open: bool = False) -> None:
        self.received = bytearray()
        self.told: list[object] = []
        self.keep_open = keep_open
        self.wire: TlsTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TlsTransport)
        self.wire = transport

    def data_received(self, data: bytes | memoryview) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.told.append("end")
        return self.keep_open

    def pause_writing(self) -> None:
        self.told.append("full")

    def resume_writing(self) -> None:
        self.told.append("drained")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost" if exc is None else exc)


Pair = Callable[..., Awaitable[tuple[Recorder, Recorder]]]


@pytest.fixture
async def pair(tmp_path: Path):
    """Makes two connected recorders: the server's, the client's."""
    server_tls, client_tls = tls_contexts(tmp_path)
    accepted: list[Recorder] = []
    keep = False

    def make() -> Recorder:
        accepted.append(Recorder(keep))
        return accepted[-1]

    listener = TlsListener("127.0.0.1", 0, server_tls, make)
    listener.start()
    clients: list[Recorder] = []

    async def connect(keep_open: bool = False) -> tuple[Recorder, Recorder]:
        nonlocal keep
        keep = keep_open
        client = Recorder()
        await connect_tls(client, ("127.0.0.1", listener.port), client_tls, "localhost")
        await until(lambda: bool(accepted) and hasattr(accepted[-1], "wire"))
        clients.append(client)
        return accepted[-1], client

    yield connect
    listener.close()
    for recorder in (*accepted, *clients):
        recorder.wire.abort()


async def test_bytes_arrive_in_order_in_both_directions(pair: Pair):
    server, client = await pair()
    for at in range(0, len(SOME), 100_000):
        client.wire.write(SOME[at : at + 100_000])
        server.wire.write(SOME[at : at + 100_000][::-1])
    await until(lambda: len(server.received) == len(client.received) == len(SOME))
    assert server.received == SOME
    assert client.received[:100_000] == SOME[:100_000][::-1]


async def test_a_peer_that_does_not_read_fills_the_buffer_which_drains_when_it_does(pair: Pair):
    server, client = await pair()
    server.wire.pause_reading()
    sent = 0
    while "full" not in client.told:
        client.wire.write(SOME)
        sent += len(SOME)
    assert client.wire.get_write_buffer_size() > 0
    server.wire.resume_reading()
    await until(lambda: len(server.received) == sent)
    assert client.told == ["full", "drained"]
    assert server.received == SOME * (sent // len(SOME))


async def test_all_that_was_written_arrives_before_the_end(pair: Pair):
    server, client = await pair()
    server.wire.pause_reading()
    for _ in range(8):
        client.wire.write(SOME)
    client.wire.close()
    assert client.wire.is_closing()
    server.wire.resume_reading()
    await until(lambda: "end" in server.told)
    assert server.received == SOME * 8
    await until(lambda: client.told[-1] == "lost" and server.told[-1] == "lost")


async def test_a_protocol_may_pause_after_every_piece(pair: Pair):
    server, client = await pair()
    record, loop = server.data_received, asyncio.get_running_loop()

    def and_pause(data: bytes | memoryview) -> None:
        record(data)
        server.wire.pause_reading()
        loop.call_soon(server.wire.resume_reading)

    server.data_received = and_pause  # type: ignore[method-assign]
    for _ in range(4):
        client.wire.write(SOME)
    await until(lambda: len(server.received) == 4 * len(SOME))
    assert server.received == SOME * 4


def comes_at_once(server: Recorder, client: Recorder) -> None:
    """All of `SOME` is with the server's TLS, many buffers of it, and the socket has nothing more to say."""
    client.wire._secured.tls.write(SOME)
    server.wire._secured.took(client.wire._secured.outgoing.read())


async def test_what_came_while_paused_is_kept_until_reading_goes_on(pair: Pair):
    server, client = await pair()
    record = server.data_received

    def and_pause(data: bytes | memoryview) -> None:
        record(data)
        server.wire.pause_reading()

    server.data_received = and_pause  # type: ignore[method-assign]
    comes_at_once(server, client)
    server.wire._take()
    pauses = 1
    while len(server.received) < len(SOME):
        before = len(server.received)
        server.wire.resume_reading()
        await until(lambda before=before: len(server.received) > before)
        pauses += 1
    assert server.received == SOME
    assert pauses > 5


async def test_who_aborts_at_the_first_piece_hears_of_no_other(pair: Pair):
    server, client = await pair()
    record = server.data_received

    def and_abort(data: bytes | memoryview) -> None:
        record(data)
        server.wire.abort()

    server.data_received = and_abort  # type: ignore[method-assign]
    comes_at_once(server, client)
    server.wire._take()
    await until(lambda: "lost" in server.told)
    assert 0 < len(server.received) < 150_000


async def test_what_comes_together_with_the_end_of_the_handshake_is_read(tmp_path: Path):
    server_tls, client_tls = tls_contexts(tmp_path)
    loop, accepted = asyncio.get_running_loop(), Recorder()
    listener = TlsListener("127.0.0.1", 0, server_tls, lambda: accepted)
    listener.start()
    with socket.create_connection(("127.0.0.1", listener.port)) as sock:
        sock.setblocking(False)
        secured = Secured(sock, client_tls, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            secured.tls.do_handshake()
        while True:
            await loop.sock_sendall(sock, secured.outgoing.read())
            secured.took(await loop.sock_recv(sock, 65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                secured.tls.do_handshake()
                break
        secured.tls.write(b"early")
        await loop.sock_sendall(sock, secured.outgoing.read())
        await until(lambda: accepted.received == b"early")
    listener.close()
    accepted.wire.abort()


async def test_an_end_without_close_notify_is_a_failure(pair: Pair):
    server, client = await pair(keep_open=True)
    client.wire.abort()
    await until(lambda: bool(server.told))
    assert isinstance(server.told[0], OSError)
    assert server.wire.is_closing()


async def test_who_goes_on_after_the_end_is_cut(pair: Pair):
    server, client = await pair(keep_open=True)
    raw = socket.socket(fileno=socket.dup(client.wire.get_extra_info("socket").fileno()))
    with pytest.raises(OSError):
        client.wire._tls.unwrap()
    raw.send(client.wire._secured.outgoing.read())
    await until(lambda: "end" in server.told)
    raw.send(b"more")
    raw.close()
    await until(lambda: len(server.told) == 2)
    assert isinstance(server.told[1], ConnectionResetError)


async def test_who_does_not_shake_hands_is_let_go(tmp_path: Path):
    server_tls, _ = tls_contexts(tmp_path)
    listener = TlsListener("127.0.0.1", 0, server_tls, Recorder)
    listener.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(10):
            await reader.read()
    assert reader.at_eof() or reader.exception() is not None
    writer.close()
    listener.close()


async def test_a_tls_client_may_end_its_direction_and_still_gets_the_answer(tmp_path: Path):
    async with running(tmp_path) as world:
        port = await world.server.listen_tcp("127.0.0.1", 0, world.server_tls)
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer, head: bytes) -> None:
            asked.set()
            await go_on.wait()
            await peer.send(ok(b"late"))

        world.engine.script = script
        answer = await asyncio.to_thread(_ask_and_end, world, port, asyncio.get_running_loop(), asked, go_on)
        assert answer.endswith(b"late")


def _ask_and_end(
    world: World, port: int, loop: asyncio.AbstractEventLoop, asked: asyncio.Event, go_on: asyncio.Event
) -> bytes:
    """A blocking client that ends its direction once the engine has been asked, and reads on."""
    sock = socket.create_connection(("127.0.0.1", port), 10)
    with world.client_tls.wrap_socket(sock, server_hostname="localhost") as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        asyncio.run_coroutine_threadsafe(asked.wait(), loop).result(10)
        client.settimeout(0.05)
        with pytest.raises(OSError):
            client.unwrap()  # says close_notify, and does not wait for the server's
        loop.call_soon_threadsafe(go_on.set)
        client.settimeout(10)
        answer = b""
        while not answer.endswith(b"late"):
            answer += client.recv(4096)
        return answer


async def test_a_port_that_is_taken_is_an_error_that_names_it(tmp_path: Path):
    server_tls, _ = tls_contexts(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1 port {port}: Address already in use") as error:
            await TunnelServer("", server_tls).start("127.0.0.1", port)
    assert f"sport = :{port}" in error.value.hint


class Keeping(asyncio.WriteTransport):
    """A transport that sends nothing and keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[bytes | memoryview] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.kept.append(data)

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.kept))


def test_what_a_transport_keeps_is_not_written_over():
    receiving, transport = Recorder(), Keeping()
    for text in (b"first", b"second"):
        receiving.get_buffer(-1)[: len(text)] = text
        pass_on(transport, receiving.get_buffer(-1)[: len(text)])
    assert list(map(bytes, transport.kept)) == [b"first", b"second"]
