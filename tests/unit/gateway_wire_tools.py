"""Tools for the wire tests: a scripted engine on a Unix socket, certificates, a gateway, raw clients."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from drover.gateway.call import Handler, Relay
from drover.gateway.links import EngineLinks
from drover.gateway.server import GatewayServer
from drover.gateway.tunnel import TunnelServer
from drover.trust import tls

DEADLINE_S = 10.0


async def until(condition: Callable[[], bool]) -> None:
    """Poll until true; the test fails by its deadline otherwise."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the conditions are counters of the code under test
            await asyncio.sleep(0.005)


class Peer:
    """One connection with buffered reading and a deadline on everything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def head(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """Everything up to the end of the peer's direction."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.read()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            await self.writer.drain()

    def end(self) -> None:
        self.writer.write_eof()

    def close(self) -> None:
        self.writer.close()

    async def ask(self, raw: bytes) -> tuple[bytes, bytes]:
        """A request whose response has Content-Length or no body: its head and body."""
        await self.send(raw)
        head = await self.head()
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return head, await self.exactly(int(lengths[0].split(b":")[1])) if lengths else b""


Script = Callable[[Peer, bytes], Awaitable[None]]


def ok(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole response with Content-Length."""
    head = (b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *lines)
    return b"\r\n".join(head) + b"\r\n\r\n" + body


class FakeEngine:
    """Serves `script(peer, head)` for each request head; records heads, and which connections have ended."""

    def __init__(self, path: Path, script: Script) -> None:
        self.path = path
        self.script = script
        self.heads: list[bytes] = []
        self.opened = 0
        self.ended = 0
        self.peers: list[Peer] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.opened += 1
        self.peers.append(peer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                await self.script(peer, head)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return
        finally:
            self.ended += 1
            writer.close()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for peer in self.peers:
            peer.writer.transport.abort()
        await asyncio.sleep(0)


def pong(body: bytes = b"OK") -> Script:
    """Answers every request with `body`."""

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(ok(body))

    return script


class World:
    """A gateway on host h1 with its engine, and host h2's engine behind a tunnel."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.engine = FakeEngine(tmp / "engine.sock", pong())
        self.remote_engine = FakeEngine(tmp / "engine2.sock", pong())
        self.down: dict[str, str] = {}
        self.handler: Handler = relay_to("h1")
        self.tunnel_port = 0
        server_tls, client_tls = tls_contexts(tmp)
        self.server_tls, self.client_tls = server_tls, client_tls
        self.tunnel = TunnelServer(str(self.remote_engine.path), server_tls)
        self.links = EngineLinks(
            str(self.engine.path),
            locate=lambda host: ("127.0.0.1", self.tunnel_port) if host == "h2" else None,
            down=self.down.get,
            tls=client_tls,
            server_hostname=lambda host: "localhost",
        )
        self.server = GatewayServer(lambda call: self.handler(call), self.links)
        self.path = tmp / "gw.sock"

    def engine_of(self, host: str) -> FakeEngine:
        return self.engine if host == "h1" else self.remote_engine

    async def client(self) -> Peer:
        return Peer(*await asyncio.open_unix_connection(str(self.path)))

    async def start(self) -> None:
        await self.engine.start()
        await self.remote_engine.start()
        self.tunnel_port = await self.tunnel.start("127.0.0.1", 0)
        await self.server.listen_unix(self.path)

    async def stop(self) -> None:
        await self.server.close()
        await self.links.close()
        await self.tunnel.close()
        await self.engine.stop()
        await self.remote_engine.stop()


@contextlib.asynccontextmanager
async def running(tmp: Path) -> AsyncIterator[World]:
    world = World(tmp)
    await world.start()
    try:
        yield world
    finally:
        await world.stop()


def relay_to(host: str, **edits: object) -> Handler:
    """A handler that relays everything to one host."""

    async def handler(call: object) -> Relay:
        return Relay(host=host, **edits)  # type: ignore[arg-type]

    return handler


def tls_contexts(tmp: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Server and client contexts for mutual TLS under one fresh CA."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("ca", ca_key, None, ca_key)
    (tmp / "ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    contexts = []
    for name, protocol in (("server", ssl.PROTOCOL_TLS_SERVER), ("client", ssl.PROTOCOL_TLS_CLIENT)):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(name, key, ca, ca_key)
        pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (tmp / f"{name}.pem").write_bytes(pem)
        context = tls.modern(ssl.SSLContext(protocol))
        context.load_cert_chain(tmp / f"{name}.pem")
        context.load_verify_locations(tmp / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        contexts.append(context)
    return contexts[0], contexts[1]


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return builder.sign(signer, hashes.SHA256())
