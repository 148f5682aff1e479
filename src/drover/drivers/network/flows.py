"""Connections that the kernel tracks: those to a backend that has ended are forgotten.

Theory of operation. What was redirected to a backend goes on being sent there until the kernel forgets it. `forget`
asks for the entries whose replies come from an address, and deletes those that were redirected, each by the very words
the kernel named it with. Kernels from 5.8 on give those alone; older ones ignore the filter and give all, which costs
time and changes nothing. Where there are very many, the program `conntrack` is faster.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from itertools import islice

from drover.drivers.network import filter as packet_filter
from drover.errors import DroverError

NETLINK_NETFILTER = 12
SUBSYSTEM = 1 << 8
NEW, GET, DELETE = SUBSYSTEM | 0, SUBSYSTEM | 1, SUBSYSTEM | 2
REQUEST, ACK, DUMP = 1, 4, 0x300
ERROR, DONE = 2, 3
TUPLE_ORIGINAL, TUPLE_REPLY, STATUS, ID, ZONE, FILTER = 1, 2, 3, 12, 18, 25
TUPLE_IP, IP_SOURCE = 1, 1
FILTER_ORIGINAL_FLAGS, FILTER_REPLY_FLAGS = 1, 2
BY_SOURCE = 1
NESTED, TYPE_MASK = 0x8000, 0x3FFF
REDIRECTED = 1 << 5
"""IPS_DST_NAT in an entry's status."""
HEAD = struct.Struct("=IHHII")
FAMILY = struct.pack("=BBH", socket.AF_INET, 0, 0)
ATTRIBUTE = struct.Struct("=HH")
NAMED = ((TUPLE_ORIGINAL, NESTED), (ZONE, 0), (ID, 0))
"""What names an entry."""
MANY = 1000
RECEIVE_BYTES = 1 << 17
DEADLINE_S = 10.0


def forget(addresses: Iterable[str]) -> None:
    """Make the kernel forget connections that were redirected to these addresses: their clients' next packets find a
    backend that lives."""
    asked = sorted(addresses)
    if not asked:
        return
    try:
        crowded = [ip for ip in asked if not _forget(ip)]
    except OSError as error:
        raise DroverError(f"The kernel's connections to {asked[0]} cannot be forgotten: {error}") from error
    for ip in crowded:
        packet_filter.run(["conntrack", "-D", "--dst-nat", "--reply-src", ip])


def _forget(ip: str) -> bool:
    """False, and nothing is done, if there are too many to look at. What the kernel has yet to say goes with the
    socket."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
        kernel.bind((0, 0))
        kernel.settimeout(DEADLINE_S)
        found = list(islice(_entries(kernel, ip), MANY + 1))
        if len(found) > MANY:
            return False
        _delete(kernel, [entry for entry in found if _leads_to(entry, ip)])
    return True


def _delete(kernel: socket.socket, entries: Iterable[dict[int, bytes]]) -> None:
    """One that has ended meanwhile is as good as deleted."""
    for entry in entries:
        named = b"".join(_attribute(flag | kind, entry[kind]) for kind, flag in NAMED if kind in entry)
        kernel.send(_message(DELETE, REQUEST | ACK, named))
        for kind, body in _received(kernel):
            if kind == ERROR and (code := _code(body)) not in (0, errno.ENOENT):
                raise OSError(code, os.strerror(code))


def _entries(kernel: socket.socket, ip: str) -> Iterator[dict[int, bytes]]:
    """The kernel's IPv4 entries; only those with replies from `ip` where it can choose."""
    source = _attribute(NESTED | TUPLE_IP, _attribute(IP_SOURCE, socket.inet_aton(ip)))
    flags = _attribute(FILTER_ORIGINAL_FLAGS, _number(0)) + _attribute(FILTER_REPLY_FLAGS, _number(BY_SOURCE))
    wanted = _attribute(NESTED | TUPLE_REPLY, source) + _attribute(NESTED | FILTER, flags)
    kernel.send(_message(GET, REQUEST | DUMP, wanted))
    while True:
        for kind, body in _received(kernel):
            if kind == NEW:
                yield _attributes(body[len(FAMILY) :])
            elif kind == DONE:
                return
            elif kind == ERROR and (code := _code(body)):
                raise OSError(code, os.strerror(code))


def _leads_to(entry: dict[int, bytes], ip: str) -> bool:
    source = _attributes(_attributes(entry.get(TUPLE_REPLY, b"")).get(TUPLE_IP, b"")).get(IP_SOURCE)
    return source == socket.inet_aton(ip) and bool(int.from_bytes(entry.get(STATUS, b""), "big") & REDIRECTED)


def _received(kernel: socket.socket) -> Iterator[tuple[int, bytes]]:
    """The messages of one datagram: type and body."""
    data, at = kernel.recv(RECEIVE_BYTES), 0
    while at + HEAD.size <= len(data):
        length, kind, *_ = HEAD.unpack_from(data, at)
        yield kind, data[at + HEAD.size : at + length]
        at += (length + 3) & ~3


def _code(body: bytes) -> int:
    return -int.from_bytes(body[:4], sys.byteorder, signed=True)


def _message(kind: int, flags: int, attributes: bytes) -> bytes:
    body = FAMILY + attributes
    return HEAD.pack(HEAD.size + len(body), kind, flags, 0, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    length = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(length, kind) + value + bytes(-length & 3)


def _number(value: int) -> bytes:
    """Native order: the flags are the kernel's own."""
    return struct.pack("=I", value)


def _attributes(data: bytes) -> dict[int, bytes]:
    """By type without its flags; of one that comes twice the last."""
    found, at = {}, 0
    while at + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size:
            break
        found[kind & TYPE_MASK] = data[at + ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found
