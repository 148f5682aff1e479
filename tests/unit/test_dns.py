"""The responder over real sockets on loopback addresses, asked with an independent client (dnspython)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import dns.asyncquery
import dns.edns
import dns.message
import dns.rcode
import pytest

from drover.drivers.network.dns import Responder, Upstream, configured_upstreams
from drover.errors import DroverError

WEB = {"web.app": ("10.44.0.2",), "web": ("10.44.0.2",)}
STORE = {"store.back": ("10.45.0.9",), "store": ("10.45.0.9",)}
OUTSIDE = {
    "example.com": ("192.0.2.1",),
    "single": ("192.0.2.7",),
    "many.example.com": tuple(f"192.0.2.{n}" for n in range(1, 101)),
}
ONE, TWO, SERVER = "127.9.4.1", "127.9.4.2", "127.9.4.3"


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((ONE, 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def upstreams() -> list[Upstream]:
    """The servers outside; tests fill the list."""
    return []


@pytest.fixture
async def responder(port: int, upstreams: list[Upstream]) -> AsyncIterator[Responder]:
    made = Responder(port=port, upstreams=lambda: upstreams)
    yield made
    await made.close()


@pytest.fixture
async def outside(port: int) -> AsyncIterator[Upstream]:
    """A server outside: another responder whose zone is `OUTSIDE`."""
    made = Responder(port=port, upstreams=list)
    await made.serve("outside", f"{SERVER}/8", OUTSIDE)
    yield SERVER, port
    await made.close()


async def ask(
    server: str, port: int, name: str, kind: str = "A", *, tcp: bool = False, source: str | None = None
) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    send = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await send(query, server, timeout=10, port=port, source=source)


def found(answer: dns.message.Message) -> list[str]:
    return [str(record) for rrset in answer.answer for record in rrset]


@pytest.mark.parametrize("tcp", [False, True])
async def test_names_are_answered_over_udp_and_tcp(responder: Responder, port: int, tcp: bool) -> None:
    await responder.serve("app", f"{ONE}/8", WEB)
    assert found(await ask(ONE, port, "web", tcp=tcp)) == ["10.44.0.2"]
    assert found(await ask(ONE, port, "2.0.44.10.in-addr.arpa", "PTR", tcp=tcp)) == ["web.app."]
    missing = await ask(ONE, port, "nobody", tcp=tcp)
    assert missing.rcode() == dns.rcode.NXDOMAIN


async def test_each_address_answers_for_its_own_network(responder: Responder, port: int) -> None:
    await responder.serve("app", f"{ONE}/8", WEB)
    await responder.serve("back", f"{TWO}/8", STORE)
    assert found(await ask(TWO, port, "store")) == ["10.45.0.9"]
    assert (await ask(ONE, port, "store")).rcode() == dns.rcode.NXDOMAIN


async def test_a_client_on_two_networks_may_know_both(responder: Responder, port: int) -> None:
    await responder.serve("back", f"{TWO}/8", STORE)
    await responder.serve("app", f"{ONE}/8", WEB, {"127.9.4.77": ("back", "not served here")})
    assert found(await ask(ONE, port, "store", source="127.9.4.77")) == ["10.45.0.9"]
    assert (await ask(ONE, port, "store", source="127.9.4.78")).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_client_outside_the_subnet_is_refused(responder: Responder, port: int, tcp: bool) -> None:
    await responder.serve("app", f"{ONE}/24", WEB)
    assert found(await ask(ONE, port, "web", tcp=tcp, source="127.9.4.77")) == ["10.44.0.2"]
    assert (await ask(ONE, port, "web", tcp=tcp, source="127.9.5.77")).rcode() == dns.rcode.REFUSED


async def test_a_new_table_replaces_the_old_one(responder: Responder, port: int) -> None:
    await responder.serve("app", f"{ONE}/8", WEB)
    await responder.serve("app", f"{ONE}/8", {"db": ("10.44.0.7",)})
    assert found(await ask(ONE, port, "db")) == ["10.44.0.7"]
    assert (await ask(ONE, port, "web")).rcode() == dns.rcode.NXDOMAIN
    responder.set_names("app", WEB)
    assert found(await ask(ONE, port, "web")) == ["10.44.0.2"]


async def test_a_network_follows_its_gateway_and_its_port_is_free_after_stop(responder: Responder, port: int) -> None:
    await responder.serve("app", f"{ONE}/8", WEB)
    await responder.serve("app", f"{TWO}/8", WEB)
    await responder.serve("back", f"{ONE}/8", STORE)
    assert found(await ask(TWO, port, "web")) == ["10.44.0.2"]
    assert found(await ask(ONE, port, "store")) == ["10.45.0.9"]
    for _ in range(2):
        await responder.stop("back")
    await responder.serve("back", f"{ONE}/8", STORE)
    assert found(await ask(ONE, port, "store", tcp=True)) == ["10.45.0.9"]


async def test_an_address_that_another_server_has_is_refused(responder: Responder, port: int) -> None:
    await responder.serve("app", f"{ONE}/8", WEB)
    other = Responder(port=port, upstreams=list)
    with pytest.raises(DroverError, match="cannot be served"):
        await other.serve("app", f"{ONE}/8", WEB)
    await other.close()


async def test_an_address_that_is_not_there_yet_can_be_served(responder: Responder) -> None:
    await responder.serve("app", "198.51.100.9/24", WEB)
    responder.set_names("app", STORE)
    await responder.stop("app")
    with pytest.raises(KeyError):
        responder.set_names("app", WEB)


@pytest.mark.parametrize("tcp", [False, True])
async def test_names_outside_come_from_the_hosts_servers(
    responder: Responder, port: int, upstreams: list[Upstream], outside: Upstream, tcp: bool
) -> None:
    upstreams.append(outside)
    await responder.serve("app", f"{ONE}/8", WEB)
    assert found(await ask(ONE, port, "example.com", tcp=tcp)) == ["192.0.2.1"]


async def test_a_large_answer_from_outside_is_had_over_tcp(
    responder: Responder, port: int, upstreams: list[Upstream], outside: Upstream
) -> None:
    upstreams.append(outside)
    await responder.serve("app", f"{ONE}/8", WEB)
    query = dns.message.make_query("many.example.com", "A")
    answer, by_tcp = await dns.asyncquery.udp_with_fallback(query, ONE, timeout=10, port=port)
    assert (by_tcp, len(found(answer))) == (True, 100)


async def test_the_next_server_is_asked_when_one_refuses(
    responder: Responder, port: int, upstreams: list[Upstream], outside: Upstream
) -> None:
    upstreams += [("127.9.4.9", port), outside]
    await responder.serve("app", f"{ONE}/8", WEB)
    assert found(await ask(ONE, port, "example.com")) == ["192.0.2.1"]


@pytest.mark.parametrize("tcp", [False, True])
async def test_without_servers_outside_names_fail_at_once(responder: Responder, port: int, tcp: bool) -> None:
    await responder.serve("app", f"{ONE}/8", WEB)
    assert (await ask(ONE, port, "example.com", tcp=tcp)).rcode() == dns.rcode.SERVFAIL


async def test_a_single_label_is_never_asked_outside(
    responder: Responder, port: int, upstreams: list[Upstream]
) -> None:
    class Listener(asyncio.DatagramProtocol):
        heard = 0

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.heard += 1

    transport, listener = await asyncio.get_running_loop().create_datagram_endpoint(Listener, local_addr=(SERVER, port))
    upstreams.append((SERVER, port))
    await responder.serve("app", f"{ONE}/8", WEB)
    assert (await ask(ONE, port, "nobody")).rcode() == dns.rcode.NXDOMAIN
    assert listener.heard == 0
    transport.close()


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_client_with_servers_of_its_own_has_outside_names_from_them(
    responder: Responder, port: int, outside: Upstream, tcp: bool
) -> None:
    await responder.serve("app", f"{ONE}/8", WEB, servers={"127.9.4.77": ("127.9.4.9", SERVER)})
    assert found(await ask(ONE, port, "web", tcp=tcp, source="127.9.4.77")) == ["10.44.0.2"]
    assert found(await ask(ONE, port, "example.com", tcp=tcp, source="127.9.4.77")) == ["192.0.2.1"]
    assert found(await ask(ONE, port, "single", tcp=tcp, source="127.9.4.77")) == ["192.0.2.7"]
    assert (await ask(ONE, port, "example.com", tcp=tcp)).rcode() == dns.rcode.SERVFAIL


async def test_garbage_harms_nobody(responder: Responder, port: int) -> None:
    await responder.serve("app", f"{ONE}/8", WEB)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for junk in (b"", b"x", b"\xff" * 100, b"\0" * 12):
            client.sendto(junk, (ONE, port))
    _, writer = await asyncio.open_connection(ONE, port)
    writer.write(b"\x00\x05hello")
    await writer.drain()
    assert found(await ask(ONE, port, "web")) == ["10.44.0.2"]
    assert found(await ask(ONE, port, "web", tcp=True)) == ["10.44.0.2"]
    writer.close()


async def test_several_questions_over_one_connection(responder: Responder, port: int) -> None:
    await responder.serve("app", f"{ONE}/8", WEB)
    reader, writer = await asyncio.open_connection(ONE, port)
    queries = [dns.message.make_query("web", kind) for kind in ("A", "AAAA", "A")]
    writer.write(b"".join(query.to_wire(prepend_length=True) for query in queries))
    for query in queries:
        length = int.from_bytes(await reader.readexactly(2), "big")
        assert query.is_response(dns.message.from_wire(await reader.readexactly(length)))
    writer.close()


def test_the_hosts_servers_are_those_of_resolv_conf(tmp_path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# comment\nsearch corp.example\nnameserver 192.0.2.53\nnameserver 192.0.2.54 \nnameserver\n")
    assert configured_upstreams(file) == [("192.0.2.53", 53), ("192.0.2.54", 53)]
    assert configured_upstreams(tmp_path / "missing") == []


async def test_a_link_is_known_to_its_own_client_only(responder: Responder, port: int) -> None:
    await responder.serve("app", f"{ONE}/8", WEB, {}, {TWO: {"bar": ("10.44.0.2",)}})
    assert found(await ask(ONE, port, "bar", source=TWO)) == ["10.44.0.2"]
    assert (await ask(ONE, port, "bar", source=SERVER)).rcode() == dns.rcode.NXDOMAIN


async def test_a_question_asked_again_is_answered_as_before_and_anew_when_names_change(
    responder: Responder, port: int
) -> None:
    await responder.serve("app", f"{ONE}/8", {**WEB, "db": ("10.44.0.3", "10.44.0.4")})
    for _ in range(3):
        assert found(await ask(ONE, port, "web")) == ["10.44.0.2"]
        assert found(await ask(ONE, port, "web", "AAAA")) == []
        assert (await ask(ONE, port, "WEB")).answer[0].name.to_text() == "WEB."
    assert len({found(await ask(ONE, port, "db"))[0] for _ in range(4)}) == 2
    responder.set_names("app", {"web": ("10.44.0.9",)})
    assert found(await ask(ONE, port, "web")) == ["10.44.0.9"]
    assert (await ask(ONE, port, "db")).rcode() == dns.rcode.NXDOMAIN


async def test_what_was_answered_to_one_client_is_not_another_clients(responder: Responder, port: int) -> None:
    await responder.serve("app", f"{ONE}/24", WEB, links={TWO: {"web": ("10.44.0.7",)}})
    for _ in range(2):
        assert found(await ask(ONE, port, "web", source=ONE)) == ["10.44.0.2"]
        assert found(await ask(ONE, port, "web", source=TWO)) == ["10.44.0.7"]
        assert (await ask(ONE, port, "web", source="127.8.0.1")).rcode() == dns.rcode.REFUSED


async def test_only_questions_that_can_come_again_are_kept(
    responder: Responder, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drover.drivers.network.dns.QUICK", 2)
    await responder.serve("app", f"{ONE}/8", {**WEB, "db": ("10.44.0.3", "10.44.0.4")})
    kept = responder._served["app"].quick
    cookie = dns.message.make_query("web", "A", use_edns=0, options=[dns.edns.GenericOption(10, b"12345678")])
    assert found(await dns.asyncquery.udp(cookie, ONE, timeout=10, port=port)) == ["10.44.0.2"]
    assert len(found(await ask(ONE, port, "db"))) == 2
    assert len(kept) == 0
    plain = dns.message.make_query("web", "A", use_edns=0)
    assert found(await dns.asyncquery.udp(plain, ONE, timeout=10, port=port)) == ["10.44.0.2"]
    assert len(kept) == 1
    for name in ("web.app", "WEB.app", "web.APP"):
        assert found(await ask(ONE, port, name)) == ["10.44.0.2"]
        assert 1 <= len(kept) <= 2


async def test_a_burst_is_answered_whole(responder: Responder, port: int) -> None:
    """More questions than are read at a time, from one socket."""
    await responder.serve("app", f"{ONE}/8", WEB)
    query = dns.message.make_query("web", "A").to_wire()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((TWO, 0))
        client.setblocking(False)
        for number in range(300):
            client.sendto(number.to_bytes(2, "big") + query[2:], (ONE, port))
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            answers = [await loop.sock_recv(client, 600) for _ in range(300)]
    assert {int.from_bytes(one[:2], "big") for one in answers} == set(range(300))
