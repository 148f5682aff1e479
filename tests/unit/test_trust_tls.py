"""Contexts on real loopback connections: who gets in, who does not, and as whom."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from drover.errors import Conflict, Invalid
from drover.trust import certificates, tls
from drover.trust.local import bind_unix


def enrol(directory: Path, authority: certificates.Authority, name: str, address: str = "127.0.0.1") -> Path:
    csr = certificates.request(certificates.host_key(directory), name)
    issued = certificates.issue(authority, csr, name, address, time.time())
    certificates.install(directory, authority, issued)
    return directory


@pytest.fixture
def authority() -> certificates.Authority:
    return certificates.new_authority("test", time.time())


@asynccontextmanager
async def greeting(tls_dir: Path, client_cert: Literal["required", "optional"]) -> AsyncIterator[int]:
    """A server that tells each client its name; yields its port."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"[{tls.peer_name(writer.transport)}]".encode())
        writer.close()

    context = tls.server_context(tls_dir, client_cert)
    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def greeted(port: int, context: ssl.SSLContext, name: str = "127.0.0.1") -> str:
    """The greeting. In TLS 1.3 a client learns only by reading that the server refused it: an end without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        text = (await reader.read()).decode()
        if not text:
            raise ConnectionResetError("the server hung up")
        return text
    finally:
        writer.close()


async def test_the_server_knows_the_peer_s_name(tmp_path: Path, authority: certificates.Authority) -> None:
    h1, h2 = enrol(tmp_path / "h1", authority, "h1"), enrol(tmp_path / "h2", authority, "h2", "192.0.2.2")
    async with greeting(h1, "required") as port:
        assert await greeted(port, tls.client_context(h2)) == "[h2]"


def test_a_connection_that_was_cut_is_not_taken_for_one_that_was_ended(
    tmp_path: Path, authority: certificates.Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's Python begins with the option set, others without."""
    h1 = enrol(tmp_path / "h1", authority, "h1")
    begun = ssl.SSLContext.__new__

    def as_debian_s(kind: type[ssl.SSLContext], *args: int) -> ssl.SSLContext:
        context = begun(kind, *args)
        context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
        return context

    monkeypatch.setattr(ssl.SSLContext, "__new__", as_debian_s)
    made = [tls.server_context(h1), tls.client_context(h1), tls.joining_context(authority.certificate)]
    assert [bool(one.options & ssl.OP_IGNORE_UNEXPECTED_EOF) for one in made] == [False, False, False]


async def test_without_a_certificate_there_is_no_name(tmp_path: Path, authority: certificates.Authority) -> None:
    h1 = enrol(tmp_path / "h1", authority, "h1")
    async with greeting(h1, "optional") as port:
        assert await greeted(port, tls.joining_context(authority.certificate)) == "[]"


async def test_a_required_certificate_is_required(tmp_path: Path, authority: certificates.Authority) -> None:
    h1 = enrol(tmp_path / "h1", authority, "h1")
    async with greeting(h1, "required") as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greeted(port, tls.joining_context(authority.certificate))


@pytest.mark.parametrize("client_cert", ["required", "optional"])
async def test_a_certificate_of_another_ca_is_refused(
    tmp_path: Path, authority: certificates.Authority, client_cert: Literal["required", "optional"]
) -> None:
    h1 = enrol(tmp_path / "h1", authority, "h1")
    stranger = enrol(tmp_path / "x", certificates.new_authority("test", time.time()), "h2")
    context = tls.client_context(stranger)
    context.load_verify_locations(cadata=authority.certificate.decode())
    async with greeting(h1, client_cert) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greeted(port, context)


async def test_the_client_refuses_a_server_of_another_ca(tmp_path: Path, authority: certificates.Authority) -> None:
    h1 = enrol(tmp_path / "h1", authority, "h1")
    stranger = enrol(tmp_path / "x", certificates.new_authority("test", time.time()), "h2")
    async with greeting(stranger, "optional") as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await greeted(port, tls.client_context(h1))


async def test_the_client_refuses_a_host_at_another_s_address(
    tmp_path: Path, authority: certificates.Authority
) -> None:
    h1 = enrol(tmp_path / "h1", authority, "h1")
    async with greeting(h1, "optional") as port:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"192\.0\.2\.9"):
            await greeted(port, tls.client_context(h1), "192.0.2.9")


async def test_older_tls_is_refused(tmp_path: Path, authority: certificates.Authority) -> None:
    h1 = enrol(tmp_path / "h1", authority, "h1")
    old = tls.joining_context(authority.certificate)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    async with greeting(h1, "optional") as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greeted(port, old)


async def test_a_renewed_certificate_is_used_by_new_connections(
    tmp_path: Path, authority: certificates.Authority
) -> None:
    h1 = enrol(tmp_path / "h1", authority, "h1")
    context = tls.client_context(h1)
    async with greeting(h1, "required") as port:
        assert await greeted(port, context) == "[h1]"
        assert certificates.renew_if_due(h1, time.time() + 80 * certificates.DAY_S)
        tls.reload(context, h1)
        # The renewed certificate begins in the future as seen from here, so its use shows as a refusal.
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greeted(port, context)


async def test_unix_peers_are_local_and_tcp_peers_are_not(tmp_path: Path) -> None:
    seen: list[tls.Peer] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(tls.peer_of(writer.transport))
        writer.close()

    unix = await asyncio.start_unix_server(note, sock=bind_unix(tmp_path / "s"))
    tcp = await asyncio.start_server(note, "127.0.0.1", 0)
    async with unix, tcp:
        for reader, writer in (
            await asyncio.open_unix_connection(str(tmp_path / "s")),
            await asyncio.open_connection(*tcp.sockets[0].getsockname()),
        ):
            assert await reader.read() == b""
            writer.close()
    assert seen == [tls.Peer(local=True), tls.Peer(local=False)]
    assert tls.peer_of(None) == tls.Peer()


def test_a_unix_socket_is_for_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    with bind_unix(path, "no-such-group"):
        assert path.stat().st_mode & 0o777 == 0o660


def test_a_dead_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind_unix(path).close()
    with bind_unix(path), pytest.raises(Conflict, match="listens on"):
        bind_unix(path)


def test_a_file_in_the_socket_s_place_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(Conflict, match="not a socket"):
        bind_unix(path)
    assert path.read_text() == "precious"


def test_too_long_a_socket_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="longer than"):
        bind_unix(tmp_path / ("x" * 108))
