"""The name server of a host: one UDP and one TCP socket on the gateway address of each network.

Theory of operation. The engine's own resolver in a container (127.0.0.11) knows the containers of its engine and asks
this one for every other name, from inside the container's namespace; the gateway address is there on every host. The
socket tells the network that is asked from, the client's address the container, and with it the other networks
whose names it may know.

    question                                   answered from
    by a client outside the network's subnet   nowhere: refused (the host would let other networks, and neighbours, ask)
    of this network                            its zone (`messages`)
    of another network of the same container   that network's zone
    any other, of a container with servers     those, in order, each with a deadline
    of its own (`--dns`)
    of one label, known to neither             nowhere: it does not exist
    any other                                  the servers of /etc/resolv.conf, in order, each with a deadline

Most questions are asked again and again, by many: an answer that depends on nothing but the question is kept until the
names change (`_Served.quick`), and given without another look at the question. Datagrams are read as they lie there, up
to BURST at a time.

A new table of names replaces the old one in one assignment. The sockets are bound before or after the address is there
(IP_FREEBIND), so it does not matter what comes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from ipaddress import IPv4Interface
from pathlib import Path
from typing import cast

from drover.drivers.network import messages
from drover.drivers.network.messages import Malformed, Question, Zone
from drover.errors import DroverError

DNS_PORT = 53
IP_FREEBIND = 15
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
UPSTREAM_DEADLINE_S = 2.0
UPSTREAMS = 3
IDLE_S = 10.0
BURST = 64
"""After so many questions others have their turn."""
QUICK = 8192
LARGEST_QUESTION_BYTES = 4096
OUTSIDE_AT_ONCE = 256
OUTSIDE_WAITING = 2048
"""Questions passed on at one time; as many more as that wait their turn; what comes then is dropped, as UDP may."""
RESOLV_CONF = Path("/etc/resolv.conf")

Names = Mapping[str, tuple[str, ...]]
Shared = Mapping[str, tuple[str, ...]]
Upstream = tuple[str, int]


class _Served:
    """One network: who may ask, its zone, its clients with other networks, its sockets."""

    def __init__(self, gateway: IPv4Interface) -> None:
        self.gateway = gateway
        self._mask = int(gateway.network.netmask)
        self._subnet = int(gateway.network.network_address)
        self.zone = Zone({})
        self.shared: Shared = {}
        self.links: dict[str, Zone] = {}
        self.servers: Names = {}
        self.quick: dict[bytes, bytes] = {}
        """Question to answer, both without their two bytes of id."""
        self.udp: socket.socket | None = None
        self.tcp: asyncio.Server | None = None

    def admits(self, client: str) -> bool:
        """Whether an address is in the network's subnet; asked with every question, hence no `IPv4Address`."""
        return int.from_bytes(socket.inet_aton(client), "big") & self._mask == self._subnet

    def keep(self, query: bytes, question: Question, answer: bytes) -> None:
        """Give this answer whenever the same is asked. A question that carries something of its own (a cookie, say) is
        never asked again."""
        if len(query) - question.end <= messages.PLAIN_OPT_BYTES:
            if len(self.quick) >= QUICK:
                self.quick.clear()
            self.quick[query[2:]] = answer[2:]

    def close(self) -> None:
        """Close the sockets; afterwards the address can be bound again."""
        if self.tcp is not None:
            self.tcp.close()
        if self.udp is not None:
            asyncio.get_running_loop().remove_reader(self.udp)
            self.udp.close()


class Responder:
    """`upstreams` gives the servers for names outside, anew for each question; by default those of resolv.conf."""

    def __init__(self, *, port: int = DNS_PORT, upstreams: Callable[[], list[Upstream]] | None = None) -> None:
        self._port = port
        self._upstreams = upstreams or configured_upstreams
        self._served: dict[str, _Served] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._outside = asyncio.Semaphore(OUTSIDE_AT_ONCE)

    async def serve(
        self,
        network: str,
        gateway: str,
        names: Names,
        shared: Shared | None = None,
        links: Mapping[str, Names] | None = None,
        servers: Names | None = None,
    ) -> None:
        """Answer on a network's gateway address with these names; again with others when they change.

        `gateway` has the prefix length of the subnet whose addresses may ask: `10.44.0.1/16`. `shared`: client address
        to the other networks whose names it may know (`decide.names.shared`); `links`: client address to names of its
        own (`decide.names.links`); `servers`: to the servers that it asks for others. Raises `DroverError` if another
        name server has the address.
        """
        served = self._served.get(network)
        interface = IPv4Interface(gateway)
        if served is None or served.gateway != interface:
            await self.stop(network)
            await self._open(network, interface)
        self.set_names(network, names, shared, links, servers)

    def set_names(
        self,
        network: str,
        names: Names,
        shared: Shared | None = None,
        links: Mapping[str, Names] | None = None,
        servers: Names | None = None,
    ) -> None:
        """Replace a served network's names, all at once. KeyError if it is not served."""
        served = self._served[network]
        served.zone, served.shared = Zone(names), shared or {}
        served.links = {client: Zone(own) for client, own in (links or {}).items()}
        served.servers, served.quick = servers or {}, {}

    async def stop(self, network: str) -> None:
        """Close a network's sockets; no error if it is not served."""
        served = self._served.pop(network, None)
        if served is not None:
            served.close()

    async def close(self) -> None:
        for network in list(self._served):
            await self.stop(network)
        for task in self._tasks:
            task.cancel()

    async def answer(self, network: str, query: bytes, client: str, *, tcp: bool = False) -> bytes:
        """The answer to a query from a client's address on a network; empty for what deserves none."""
        known = self._known(network, query, client, tcp)
        return known if isinstance(known, bytes) else await self._from_outside(network, query, known, client, tcp)

    def _known(self, network: str, query: bytes, client: str, tcp: bool) -> bytes | Question:
        """The answer that the host itself has; else the question, for the servers outside."""
        served = self._served.get(network)
        if served is None:
            return b""
        try:
            question = messages.parse(query)
        except Malformed as error:
            return error.reply
        if not served.admits(client):
            return messages.reply(query, question, messages.REFUSED)
        limit = messages.LARGEST_BYTES if tcp else question.udp_limit_bytes
        for zone in (*self._own_zone(served, client), served.zone, *self._other_zones(served, client)):
            if zone.knows(question.name):
                answer = zone.answer(query, question, limit)
                if zone is served.zone and not tcp and zone.always_answers_so(question):
                    served.keep(query, question, answer)
                return answer
        own = client in served.servers
        return (
            question if own or not question.is_single_label else messages.reply(query, question, messages.NO_SUCH_NAME)
        )

    @staticmethod
    def _own_zone(served: _Served, client: str) -> list[Zone]:
        return [served.links[client]] if client in served.links else []

    def _other_zones(self, served: _Served, client: str) -> list[Zone]:
        others = served.shared.get(client, ())
        return [self._served[other].zone for other in others if other in self._served]

    def _servers(self, network: str, client: str) -> list[Upstream]:
        """The client's own servers, else those of this host."""
        served = self._served.get(network)
        own = served.servers.get(client, ()) if served is not None else ()
        return [(address, self._port) for address in own] or self._upstreams()

    async def _from_outside(self, network: str, query: bytes, question: Question, client: str, tcp: bool) -> bytes:
        """The first answer of the client's servers; a server failure if none gives one."""
        ask = _ask_tcp if tcp else _ask_udp
        async with self._outside:
            for upstream in self._servers(network, client)[:UPSTREAMS]:
                with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                    return await asyncio.wait_for(ask(upstream, query), UPSTREAM_DEADLINE_S)
        return messages.reply(query, question, messages.SERVER_FAILURE)

    async def _open(self, network: str, gateway: IPv4Interface) -> None:
        served = _Served(gateway)
        address = str(gateway.ip)
        loop = asyncio.get_running_loop()
        try:
            served.udp = _socket(socket.SOCK_DGRAM, address, self._port)
            tcp = _socket(socket.SOCK_STREAM, address, self._port)
            served.tcp = await asyncio.start_server(lambda r, w: self._connection(network, r, w), sock=tcp)
        except OSError as error:
            served.close()
            raise DroverError(
                f"The names of network {network} cannot be served on {address} port {self._port}: {error}",
                hint="See with `ss -lnp` who listens on the port.",
            ) from error
        self._served[network] = served
        loop.add_reader(served.udp, self._readable, network, served, served.udp)

    def _readable(self, network: str, served: _Served, udp: socket.socket) -> None:
        """Answer the datagrams that lie there."""
        receive = udp.recvfrom
        for _ in range(BURST):
            try:
                query, client = receive(LARGEST_QUESTION_BYTES)
            except OSError:  # there is none left, or what one of ours met outside
                return
            quick = served.quick.get(query[2:]) if client[0] not in served.links else None
            if quick is not None and served.admits(client[0]):
                _send(udp, query[:2] + quick, client)
            else:
                self._datagram(network, query, client, udp)

    def _datagram(self, network: str, query: bytes, client: tuple[str, int], udp: socket.socket) -> None:
        """Answer one: at once if it can be, else in a task of its own."""
        known = self._known(network, query, client[0], False)
        if isinstance(known, Question):
            if len(self._tasks) < OUTSIDE_WAITING:
                task = asyncio.ensure_future(self._pass_on(network, query, known, client, udp))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        elif known:
            _send(udp, known, client)

    async def _pass_on(
        self,
        network: str,
        query: bytes,
        question: Question,
        client: tuple[str, int],
        udp: socket.socket,
    ) -> None:
        _send(udp, await self._from_outside(network, query, question, client[0], False), client)

    async def _connection(self, network: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the queries of one TCP connection until the client is done or idle."""
        client = writer.get_extra_info("peername")[0]
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            while True:
                query = await asyncio.wait_for(_read_framed(reader), IDLE_S)
                answer = await self.answer(network, query, client, tcp=True)
                if not answer:
                    break
                writer.write(_framed(answer))
                await asyncio.wait_for(writer.drain(), IDLE_S)
        writer.close()


def _send(udp: socket.socket, answer: bytes, client: tuple[str, int]) -> None:
    """Dropped, as UDP may, if there is no room for it or the socket is closed."""
    with contextlib.suppress(OSError):
        udp.sendto(answer, client)


class _OneAnswer(asyncio.DatagramProtocol):
    """Waits for the answer to one query sent outside: the same id, and over a connected socket from that server."""

    def __init__(self, query: bytes) -> None:
        self._query = query
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.DatagramTransport, transport).sendto(self._query)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if data[:2] == self._query[:2] and not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


def configured_upstreams(path: Path = RESOLV_CONF) -> list[Upstream]:
    """The name servers of this host, as (address, port); empty if its file cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    fields = [line.split() for line in lines]
    return [(field[1], DNS_PORT) for field in fields if len(field) > 1 and field[0] == "nameserver"]


async def _ask_udp(upstream: Upstream, query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: _OneAnswer(query), remote_addr=upstream)
    try:
        return await protocol.answer
    finally:
        transport.close()


async def _ask_tcp(upstream: Upstream, query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*upstream)
    try:
        writer.write(_framed(query))
        return await _read_framed(reader)
    finally:
        writer.close()


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


async def _read_framed(reader: asyncio.StreamReader) -> bytes:
    """One message after its two bytes of length. Raises `IncompleteReadError` at the end of the stream."""
    length = int.from_bytes(await reader.readexactly(2), "big")
    return await reader.readexactly(length)


def _socket(kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    """A bound socket that does not block; the address need not be there yet."""
    made = socket.socket(socket.AF_INET, kind)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    if kind == socket.SOCK_DGRAM:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    else:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made
