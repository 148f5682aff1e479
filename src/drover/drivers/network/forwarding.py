"""A network's static entries in the kernel: what to write, and writing it in bulk.

Theory of operation. Each remote address is three entries, all of one netlink message type (`ndmsg`):

    entry              key  value  family     device  state      flags
    tunnel (VXLAN FDB) MAC  VTEP   AF_BRIDGE  vxlan   permanent  self
    port (bridge FDB)  MAC  -      AF_BRIDGE  vxlan   noarp      master     ("static": never aged or learned over)
    neighbour          IP   MAC    AF_INET    bridge  permanent  -
    flood (VXLAN FDB)  VTEP -      AF_BRIDGE  vxlan   permanent  self       under the MAC of zeros, one per host: where
                                                                            broadcasts go, on networks that ask for it

A `Table` maps (entry, key) to value; the difference of two tables is a list of messages. The messages are packed here
and sent many to a system call: pyroute2, used for everything else, takes 0.7 ms for each, which is ten seconds
for 5,000 addresses. The kernel handles a packet of messages before `send` returns and acknowledges each.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from drover.decide.overlay import Remote

Entry = Literal["tunnel", "port", "neighbour", "flood"]
Table = dict[tuple[Entry, str], str]

NEW, DELETE, GET = 28, 29, 30
ERROR, DONE = 2, 3
REQUEST, ACK, REPLACE, CREATE, APPEND, DUMP = 0x1, 0x4, 0x100, 0x400, 0x800, 0x300
ANY_MAC = "00:00:00:00:00:00"
ATTR_DST, ATTR_LLADDR = 1, 2
KIND = 0x3FFF
PERMANENT, NOARP = 0x80, 0x40
SELF, MASTER = 0x2, 0x4
AF_BRIDGE = 7
HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence number, port id."""
NDMSG = struct.Struct("=B3xiHBB")
"""Family, device index, state, flags, type."""
IFINFO = struct.Struct("=B3xiII")
ATTRIBUTE = struct.Struct("=HH")
ANSWER_TIMEOUT_S = 5.0
BATCH = 64
BUFFER_BYTES = 1 << 20


class Devices(NamedTuple):
    """Interface indexes of one network."""

    bridge: int
    vxlan: int


class Change(NamedTuple):
    """One entry to write, or with `value` None to delete."""

    entry: Entry
    key: str
    value: str | None


class Refusal(NamedTuple):
    change: Change
    errno: int


def table_of(remotes: Iterable[Remote], flood: Iterable[str] = ()) -> Table:
    """The entries that carry these addresses, and broadcasts to these hosts (their VTEPs)."""
    table: Table = {("flood", vtep): "" for vtep in flood}
    for remote in remotes:
        table["tunnel", remote.mac] = remote.vtep
        table["port", remote.mac] = ""
        table["neighbour", remote.ip] = remote.mac
    return table


def remotes_of(table: Mapping[tuple[Entry, str], str]) -> frozenset[Remote]:
    """The addresses that a table carries whole: neighbour, tunnel and port entry."""
    return frozenset(
        Remote(ip, mac, table["tunnel", mac])
        for (entry, ip), mac in table.items()
        if entry == "neighbour" and ("tunnel", mac) in table and ("port", mac) in table
    )


def flood_of(table: Mapping[tuple[Entry, str], str]) -> frozenset[str]:
    """The hosts (their VTEPs) to which a table floods."""
    return frozenset(vtep for entry, vtep in table if entry == "flood")


def difference(have: Table, want: Table) -> list[Change]:
    """What makes `want` of `have`: writes first, so that a moved address is never without an entry."""
    writes = [Change(entry, key, value) for (entry, key), value in want.items() if have.get((entry, key)) != value]
    return writes + [Change(entry, key, None) for entry, key in have if (entry, key) not in want]


def flood_changes(written: frozenset[str], wanted: frozenset[str]) -> list[Change]:
    return difference(table_of((), written), table_of((), wanted))


def changes(written: frozenset[Remote], wanted: frozenset[Remote]) -> list[Change]:
    """What makes `wanted` of `written`, in time that grows with their difference.

    An address that stays but shares its MAC with one that goes is looked at too, so that it keeps its entries.
    """
    gone = written - wanted
    macs = {remote.mac for remote in gone}
    sharing = {remote for remote in wanted if remote.mac in macs} if macs else frozenset()
    return difference(table_of(gone), table_of((wanted - written) | sharing))


class NeighbourSocket:
    """A netlink socket for these entries. Not safe for use by several threads at once."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def apply(self, devices: Devices, changes: list[Change]) -> list[Refusal]:
        """Make the changes; returns those the kernel refused. Deleting what is not there is no refusal."""
        refused: list[Refusal] = []
        for start in range(0, len(changes), BATCH):
            batch = changes[start : start + BATCH]
            self._socket.send(b"".join(_pack(devices, change, n) for n, change in enumerate(batch)))
            refused += [Refusal(batch[n], code) for n, code in self._answers(len(batch)) if code]
        return [r for r in refused if not (r.change.value is None and r.errno in (errno.ENOENT, errno.ESRCH))]

    def read(self, devices: Devices) -> Table:
        """The static entries of these two devices as the kernel has them."""
        table: Table = {}
        for request in (IFINFO.pack(AF_BRIDGE, devices.vxlan, 0, 0), NDMSG.pack(socket.AF_INET, 0, 0, 0, 0)):
            for payload in self.dump(GET, request):
                table.update(_unpack(devices, payload))
        return table

    def dump(self, kind: int, request: bytes) -> Iterator[bytes]:
        """The payloads that the kernel answers a dump with. To be read to the end."""
        self._socket.send(_message(kind, REQUEST | DUMP, 0, request))
        return self._dump()

    def _messages(self) -> Iterator[tuple[int, int, bytes]]:
        """Type, sequence number and payload of each message of the next packet."""
        packet = self._socket.recv(BUFFER_BYTES)
        while len(packet) >= HEADER.size:
            length, kind, _, number, _ = HEADER.unpack_from(packet)
            yield kind, number, packet[HEADER.size : length]
            packet = packet[(length + 3) & ~3 :]

    def _answers(self, count: int) -> Iterator[tuple[int, int]]:
        """Sequence number and errno (0: done) of `count` acknowledgements."""
        while count > 0:
            for kind, number, payload in self._messages():
                if kind == ERROR:
                    count -= 1
                    yield number, -struct.unpack_from("=i", payload)[0]

    def _dump(self) -> Iterator[bytes]:
        while True:
            for kind, _, payload in self._messages():
                if kind == DONE:
                    return
                if kind == ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise OSError(code, os.strerror(code))
                yield payload


def _pack(devices: Devices, change: Change, number: int) -> bytes:
    writes = CREATE | (APPEND if change.entry == "flood" else REPLACE)
    return _message(
        DELETE if change.value is None else NEW,
        REQUEST | ACK | (0 if change.value is None else writes),
        number,
        _body(devices, change.entry, change.key, change.value),
    )


def _message(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(payload), kind, flags, number, 0) + payload


def _body(devices: Devices, entry: Entry, key: str, value: str | None) -> bytes:
    if entry == "neighbour":
        head = NDMSG.pack(socket.AF_INET, devices.bridge, PERMANENT, 0, 0)
        return head + _ip(key) + (_mac(value) if value else b"")
    if entry in ("tunnel", "flood"):
        mac, vtep = (ANY_MAC, key) if entry == "flood" else (key, value)
        head = NDMSG.pack(AF_BRIDGE, devices.vxlan, PERMANENT, SELF, 0)
        return head + _mac(mac) + (_ip(vtep) if vtep else b"")
    return NDMSG.pack(AF_BRIDGE, devices.vxlan, NOARP, MASTER, 0) + _mac(key)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute of a message, padded."""
    length = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(length, kind) + value + b"\0" * (-length % 4)


def _ip(text: str) -> bytes:
    return attribute(ATTR_DST, socket.inet_aton(text))


def _mac(text: str) -> bytes:
    return attribute(ATTR_LLADDR, bytes.fromhex(text.replace(":", "")))


def _unpack(devices: Devices, payload: bytes) -> Table:
    """The entry in a dumped message, if it is a static one of these devices; else an empty table."""
    family, index, state, flags, _ = NDMSG.unpack_from(payload)
    values = dict(attributes(payload[NDMSG.size :]))
    mac = values.get(ATTR_LLADDR, b"").hex(":")
    ip = socket.inet_ntoa(values[ATTR_DST]) if len(values.get(ATTR_DST, b"")) == 4 else ""
    if family == socket.AF_INET and index == devices.bridge and state & PERMANENT:
        return {("neighbour", ip): mac}
    if family == AF_BRIDGE and index == devices.vxlan and flags & SELF and ip:
        return {("flood", ip): ""} if mac == ANY_MAC else {("tunnel", mac): ip}
    if family == AF_BRIDGE and index == devices.vxlan and state & NOARP:
        return {("port", mac): ""}
    return {}


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each attribute; the kind without its flags (nested, network byte order)."""
    while len(data) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data)
        yield kind & KIND, data[ATTRIBUTE.size : length]
        data = data[max(ATTRIBUTE.size, (length + 3) & ~3) :]
