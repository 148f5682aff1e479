"""DNS on the wire, as far as the responder answers by itself: questions in, complete answers out (RFC 1035).

Theory of operation. `Zone` is one network's names. An answer repeats the question as it came, letter case included,
and its records point back to it, so no name asked for is ever encoded. What is asked decides:

    question                         answer
    A of a known name                its addresses, in turn; cut with TC if they do not fit
    PTR of a known address           its `name.network`
    a known name, any other type     no records, no error
    an unknown name of one label     no such name
    anything else                    `None`: ask the servers of this host
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cached_property
from itertools import count
from socket import inet_aton
from typing import NamedTuple

TTL_S = 5
"""Short, so that a client that caches follows a container that comes, goes or moves."""
HEADER = struct.Struct("!HHHHHH")
"""Id, flags, and the numbers of questions, answers, authorities and additional records."""
RECORD = struct.Struct("!HHHIH")
"""Pointer to the name, type, class, TTL and length of the data."""
QUESTION_POINTER = 0xC000 | HEADER.size
TYPE_A, TYPE_PTR, TYPE_OPT, CLASS_IN = 1, 12, 41, 1
RESPONSE, OPCODE, AUTHORITATIVE, TRUNCATED, RECURSION_DESIRED, RECURSION_AVAILABLE = (
    0x8000,
    0x7800,
    0x0400,
    0x0200,
    0x0100,
    0x0080,
)
FORMAT_ERROR, SERVER_FAILURE, NO_SUCH_NAME, NOT_IMPLEMENTED, REFUSED = 1, 2, 3, 4, 5
PLAIN_UDP_BYTES, LARGEST_UDP_BYTES, LARGEST_BYTES = 512, 1232, 65535
LABEL_BYTES = 63
PLAIN_OPT_BYTES = 11
"""An OPT record without options."""
REVERSE = ".in-addr.arpa"
ADDRESS_RECORD_BYTES = RECORD.size + 4


class Question(NamedTuple):
    """One question. `name` is lower-case, its labels joined by dots (a dot within one is `\\.`); `end` is where the
    question ends in the query."""

    id: int
    flags: int
    name: str
    type: int
    end: int
    udp_limit_bytes: int

    @property
    def is_single_label(self) -> bool:
        """Whether the name has one label, such as `web`: never a matter for servers outside."""
        return self.name != "" and "." not in self.name


class Malformed(Exception):
    """Not a query with one question. `reply` is what to answer, empty for nothing at all."""

    def __init__(self, reply: bytes) -> None:
        super().__init__("not a query with one question")
        self.reply = reply


class Zone:
    """One network's names: those of `names(cluster, network)`, name to addresses in dotted form.

    Made in no time, whatever the size, because tables change often: answers are put together when they are asked for.
    """

    def __init__(self, names: Mapping[str, tuple[str, ...]]) -> None:
        self._names = names
        self._turn = count()

    @cached_property
    def _pointers(self) -> Mapping[str, str]:
        """Reverse name to the first name of each address; made when the first reverse look-up comes."""
        found: dict[str, str] = {}
        for name, ips in self._names.items():
            for ip in ips:
                found.setdefault(ip, name)
        return {_reverse(ip): name for ip, name in found.items() if is_sendable(name)}

    def knows(self, name: str) -> bool:
        return name in self._names or (name.endswith(REVERSE) and name in self._pointers)

    def answer(self, query: bytes, question: Question, limit_bytes: int) -> bytes:
        """The answer for a name that this zone knows."""
        if question.type == TYPE_A and question.name in self._names:
            return self._addresses(query, question, limit_bytes)
        if question.type == TYPE_PTR and question.name.endswith(REVERSE):
            return reply(query, question, 0, _record(TYPE_PTR, wire_name(self._pointers[question.name])), 1)
        return reply(query, question)

    def always_answers_so(self, question: Question) -> bool:
        """Whether the next answer to the question will be the same: several addresses take turns."""
        return question.type != TYPE_A or len(self._names.get(question.name, ())) == 1

    def _addresses(self, query: bytes, question: Question, limit_bytes: int) -> bytes:
        """As many addresses as fit, beginning with another one each time."""
        ips = self._names[question.name]
        shift = next(self._turn) % len(ips)
        room = max(1, (limit_bytes - question.end) // ADDRESS_RECORD_BYTES)
        fitting = (ips[shift:] + ips[:shift])[:room]
        records = b"".join(_record(TYPE_A, inet_aton(ip)) for ip in fitting)
        return reply(query, question, TRUNCATED if len(ips) > room else 0, records, len(fitting))


def parse(query: bytes) -> Question:
    """The question of a query. Raises `Malformed`."""
    if len(query) < HEADER.size:
        raise Malformed(b"")
    number, flags, questions, _, _, additional = HEADER.unpack_from(query)
    if flags & RESPONSE:
        raise Malformed(b"")
    if flags & OPCODE:
        raise Malformed(_error(number, flags, NOT_IMPLEMENTED))
    name, end = _name(query)
    if questions != 1 or name is None or len(query) < end + 4:
        raise Malformed(_error(number, flags, FORMAT_ERROR))
    kind = int.from_bytes(query[end : end + 2], "big")
    limit = _udp_limit_bytes(query[end + 4 :]) if additional else PLAIN_UDP_BYTES
    return Question(number, flags, name, kind, end + 4, limit)


def _name(query: bytes) -> tuple[str | None, int]:
    """The name after the header and where it ends; None if it does not end, or is compressed."""
    labels: list[bytes] = []
    at = HEADER.size
    while at < len(query):
        length = query[at]
        label = query[at + 1 : at + 1 + length]
        at += 1 + length
        if length > LABEL_BYTES:
            return None, at
        if length == 0:
            return b".".join(labels).decode("latin-1").lower(), at
        labels.append(label.replace(b".", b"\\."))
    return None, at


def _udp_limit_bytes(additional: bytes) -> int:
    """How large an answer the client takes over UDP: what its OPT record says, within reason."""
    if additional[:3] != b"\0" + TYPE_OPT.to_bytes(2, "big") or len(additional) < 5:
        return PLAIN_UDP_BYTES
    return min(max(int.from_bytes(additional[3:5], "big"), PLAIN_UDP_BYTES), LARGEST_UDP_BYTES)


def reply(query: bytes, question: Question, flags: int = 0, records: bytes = b"", answers: int = 0) -> bytes:
    """An answer with the question as it came; `flags` are added to those of every answer (an error code, TC)."""
    asked = question.flags & RECURSION_DESIRED
    flags |= RESPONSE | AUTHORITATIVE | RECURSION_AVAILABLE | asked
    return HEADER.pack(question.id, flags, 1, answers, 0, 0) + query[HEADER.size : question.end] + records


def _error(number: int, flags: int, code: int) -> bytes:
    return HEADER.pack(number, RESPONSE | (flags & (OPCODE | RECURSION_DESIRED)) | code, 0, 0, 0, 0)


def is_sendable(name: str) -> bool:
    """Whether a name can be asked for at all: ASCII, labels of 1 to 63 bytes, 255 in all."""
    labels = name.split(".")
    return name.isascii() and len(name) < 254 and all(0 < len(label) <= LABEL_BYTES for label in labels)


def wire_name(name: str) -> bytes:
    """`web.app` as length-prefixed labels, lower-case."""
    labels = name.lower().encode("ascii").split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _reverse(ip: str) -> str:
    return ".".join(reversed(ip.split("."))) + REVERSE


def _record(kind: int, data: bytes) -> bytes:
    return RECORD.pack(QUESTION_POINTER, kind, CLASS_IN, TTL_S, len(data)) + data
