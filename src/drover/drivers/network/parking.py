"""Parking: first packets of new connections to an address wait here until they are let go.

Theory of operation. Netfilter hands every SYN to a parked address to this process (`NFQUEUE`) and waits for a verdict:

    where                             rule                catches
    mangle PREROUTING                 -i BRIDGE -d IP     frames that cross the bridge, from here and from other hosts
    mangle POSTROUTING                -o BRIDGE -d IP     what this host sends there: redirected ports, its own programs
    passing                           as let go, at once, while the rules stand: what comes late by VXLAN would be lost
    let go, came by VXLAN             dropped, and sent again as a raw packet: a bridge returns nothing to where it came
                                      from, and the address may be behind that very device by now
    let go, any other                 accepted: it goes on as the networks are now

What is let go carries a mark that both rules let pass: it may be sent on while they still stand, and the copies of a
frame that a bridge sends to all its ports must not be queued (all would leave by the last port).

A connection attempt that is repeated meanwhile is dropped: the first will do. `--queue-bypass` lets everything pass
where nobody listens, so a daemon that dies parks nothing; and nothing is parked for longer than `LIMIT_S`.

Netlink messages here are those of linux/netfilter/nfnetlink_queue.h: a header, then attributes, all numbers big-endian.
"""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator

import msgspec

from drover.decide.parking import Parked
from drover.drivers.network import filter as packet_filter
from drover.errors import DroverError, MissingTool

QUEUE = 4740
LIMIT_S = 20.0
CHAINS = {"DROVER-PARK-IN": ("PREROUTING", "-i"), "DROVER-PARK-OUT": ("POSTROUTING", "-o")}
MAX_HELD = 4096
BUFFER_BYTES = 128 * 1024

NETLINK_NETFILTER = 12
PACKET, VERDICT, CONFIG = 0x300, 0x301, 0x302
"""Message types of the subsystem nfnetlink_queue (3)."""
REQUEST, ACK, ERROR = 1, 4, 2
HEADER = struct.Struct("=IHHII")
ABOUT = struct.Struct("!BBH")
ATTRIBUTE = struct.Struct("=HH")
PACKET_HEADER = struct.Struct("!IHB")
A_PACKET, A_VERDICT, A_MARK, A_PHYSICAL_IN, A_PAYLOAD = 1, 2, 3, 7, 10
C_COMMAND, C_PARAMETERS, C_MAX_HELD = 1, 2, 3
BIND, COPY_PACKET = 1, 2
DROP, ACCEPT = 0, 1
LET_GO, MASK = 0x44000000, 0xFF000000
"""The mark of what has been let go, and the bits of it that are ours."""
IP_TCP_BYTES = 40


class Held(msgspec.Struct, frozen=True):
    """A packet that waits: its number in the queue, the index of the bridge port it came by (0: none), and itself."""

    number: int
    port: int
    packet: bytes

    @property
    def address(self) -> str:
        return socket.inet_ntoa(self.packet[16:20])

    @property
    def attempt(self) -> bytes:
        """What is the same when the attempt is repeated: addresses, ports and the first sequence number."""
        header_bytes = (self.packet[0] & 15) * 4
        return self.packet[12:20] + self.packet[header_bytes : header_bytes + 8]


def rules(parked: Iterable[Parked]) -> str:
    """The input of `iptables-restore --noflush` after which exactly these are parked."""
    wanted = sorted({(one.bridge, one.ip) for one in parked})
    lines = ["*mangle", *(f":{chain} - [0:0]" for chain in CHAINS)]
    for chain, (_, side) in CHAINS.items():
        for bridge, ip in wanted:
            match = f"-A {chain} {side} {bridge} -d {ip}/32 -p tcp --syn -m mark ! --mark {LET_GO:#x}/{MASK:#x}"
            lines.append(f"{match} -j NFQUEUE --queue-num {QUEUE} --queue-bypass")
    return "\n".join([*lines, "COMMIT", ""])


def write_rules(parked: Iterable[Parked]) -> None:
    """Raises `MissingTool` where the kernel or machine lacks what it needs."""
    done = packet_filter.run(["iptables-restore", "-w", "10", "--noflush"], rules(parked))
    if done.returncode != 0:
        raise MissingTool(
            f"new connections cannot be parked: {done.stderr.strip()}", hint="iptables with NFQUEUE is needed"
        )


def ensure_jumps() -> None:
    """Have packets come by the rules. It takes longer than the rules themselves, and is not needed each time."""
    for chain, (hook, _) in CHAINS.items():
        if _mangle("-C", hook, "-j", chain).returncode != 0:
            _mangle("-I", hook, "-j", chain)


def remove_rules() -> None:
    """No trace of parking; nothing there is success."""
    for chain, (hook, _) in CHAINS.items():
        while _mangle("-D", hook, "-j", chain).returncode == 0:
            pass
        _mangle("-F", chain)
        _mangle("-X", chain)


def has_rules() -> bool:
    return _mangle("-n", "-L", next(iter(CHAINS))).returncode == 0


def _mangle(*argv: str) -> subprocess.CompletedProcess[str]:
    return packet_filter.run(["iptables", "-w", "10", "-t", "mangle", *argv])


class Queue:
    """The queue of the network namespace it is made in. Not safe for use by several threads at once."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, LET_GO)
        self._held: dict[bytes, Held] = {}
        self._parked: frozenset[str] = frozenset()
        self._tunnels: frozenset[int] = frozenset()
        self._socket.bind((0, 0))
        self._configure()
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """What is held is dropped by the kernel, and tried again by its sender."""
        self._socket.close()
        self._raw.close()

    @property
    def held(self) -> int:
        return len(self._held)

    def _configure(self) -> None:
        """Raises `DroverError` with the kernel's word if another process has the queue."""
        command = struct.pack("!BxH", BIND, socket.AF_INET)
        parameters = struct.pack("!IB", 0xFFFF, COPY_PACKET)
        attributes = ((C_COMMAND, command), (C_PARAMETERS, parameters), (C_MAX_HELD, struct.pack("!I", MAX_HELD)))
        for kind, value in attributes:
            self._socket.send(_message(CONFIG, REQUEST | ACK, [(kind, value)]))
            answer = self._socket.recv(BUFFER_BYTES)
            code = -struct.unpack_from("=i", answer, HEADER.size)[0]
            if code:
                raise DroverError(f"new connections cannot be parked: the kernel says {code}")

    def take(self) -> None:
        """Take what has come. The first packet of an attempt is held, its repetitions are dropped; what is for an
        address that is not parked (any more) goes on at once, though its rule is still there."""
        while True:
            try:
                data = self._socket.recv(BUFFER_BYTES)
            except (BlockingIOError, OSError):
                return
            for held in packets(data):
                if held.address not in self._parked:
                    self._let_go(held)
                elif self._held.setdefault(held.attempt, held) is not held:
                    self._decide(held, DROP)

    def park(self, parked: frozenset[str], tunnels: frozenset[int]) -> None:
        """Hold what is for exactly these addresses, and let all others go. `tunnels`: the indexes of the VXLAN
        devices."""
        self._parked, self._tunnels = parked, tunnels
        self.take()
        for attempt, held in list(self._held.items()):
            if held.address not in parked:
                del self._held[attempt]
                self._let_go(held)

    def _let_go(self, held: Held) -> None:
        self._decide(held, DROP if held.port in self._tunnels else ACCEPT)
        if held.port in self._tunnels:
            self._send_again(held)

    def _decide(self, held: Held, verdict: int) -> None:
        value = struct.pack("!II", verdict, held.number)
        mark = struct.pack("!I", LET_GO)
        self._socket.send(_message(VERDICT, REQUEST, [(A_VERDICT, value), (A_MARK, mark)]))

    def _send_again(self, held: Held) -> None:
        try:
            self._raw.sendto(with_checksum(held.packet), (held.address, 0))
        except OSError:
            return  # its sender tries again


def _message(kind: int, flags: int, attributes: Iterable[tuple[int, bytes]]) -> bytes:
    body = ABOUT.pack(0, 0, QUEUE)
    for number, value in attributes:
        body += ATTRIBUTE.pack(ATTRIBUTE.size + len(value), number) + value + bytes(-len(value) % 4)
    return HEADER.pack(HEADER.size + len(body), kind, flags, 0, 0) + body


def packets(data: bytes) -> Iterator[Held]:
    """The packets in what a read of the socket gave."""
    while len(data) >= HEADER.size:
        length, kind, *_ = HEADER.unpack_from(data)
        if kind == PACKET:
            found = dict(_attributes(data[HEADER.size + ABOUT.size : length]))
            packet = found.get(A_PAYLOAD, b"")
            if len(packet) >= IP_TCP_BYTES:
                number, _, _ = PACKET_HEADER.unpack_from(found[A_PACKET])
                yield Held(number, int.from_bytes(found.get(A_PHYSICAL_IN, b""), "big"), packet)
        data = data[(length + 3) & ~3 :] if length else b""


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data)
        if length < ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]


def with_checksum(packet: bytes) -> bytes:
    """The IPv4 packet with its TCP checksum: the kernel leaves that to a device that will not see this packet."""
    start = (packet[0] & 15) * 4
    segment = packet[start : start + 16] + b"\0\0" + packet[start + 18 :]
    pseudo = packet[12:20] + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(segment))
    return packet[:start] + segment[:16] + struct.pack("!H", _checksum(pseudo + segment)) + segment[18:]


def _checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
