"""The gateway's HTTP parser: whatever comes is one unambiguous message, or it is refused; never a crash."""

from __future__ import annotations

import itertools
import random

import h11
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.hostile import damaged, fuzzed

from drover.wire.bodies import Body, Mode, request_framing
from drover.wire.frames import FRAME_LIMIT_BYTES, FrameDecoder
from drover.wire.heads import BadMessage, RequestHead, RequestReader, ResponseReader

METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "PRI", "get", "G\x00T")
TARGETS = ("/_ping", "/v1.41/containers/a/json", "*", "http://a/b", "//x", "/%2e%2e/x", "/a b", "/\x7f", "")
LINES = (
    b"Host: a",
    b"Host: b",
    b"Content-Length: 5",
    b"Content-Length: 5, 5",
    b"Content-Length: +5",
    b"Content-Length: 0x5",
    b"Content-Length: 99999999999999999999",
    b"Content-Length : 5",
    b"Content-Length:\x0b5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding:\x0cchunked",
    b"Transfer-Encoding: identity",
    b"Connection: Upgrade, close",
    b"Upgrade: tcp",
    b"Expect: 100-continue",
    b" folded",
    b"NoColon",
    b": empty",
    b"X: a\rb",
    b"X: a\nTransfer-Encoding: chunked",
    b"X: \x00",
    b"X: " + b"y" * 70_000,
)
BODIES = (
    b"",
    b"hello",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;a=b\r\nhello\r\n0\r\nT: x\r\n\r\n",
    b"-1\r\n",
    b"5\nhello\n0\n\n",
)


def _joined(method: str, target: str, version: str, lines: list[bytes], end: bytes, body: bytes) -> bytes:
    first = f"{method} {target} HTTP/{version}".encode("latin-1")
    return end.join([first, *lines, b"", b""]) + body


_lines = st.lists(st.sampled_from(LINES), max_size=5)
versions = st.sampled_from(("1.1",) * 4 + ("1.0", "2.0", "0.9", "1.10", "x"))
messages = st.builds(
    _joined,
    st.sampled_from(METHODS),
    st.sampled_from(TARGETS),
    versions,
    st.lists(st.sampled_from(LINES), max_size=5).map(lambda lines: [b"Host: a", *lines])
    | st.lists(st.sampled_from(LINES)),
    st.sampled_from((b"\r\n",) * 6 + (b"\n", b"\r")),
    st.sampled_from(BODIES),
)
anything = messages | damaged(messages) | st.binary(max_size=200)


def _read(raw: bytes, cuts: list[int]) -> tuple[RequestHead, bytes] | str | None:
    """The head and all that follows it, why it is refused, or None while it is incomplete."""
    reader, places = RequestReader(), [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    for start, end in itertools.pairwise(places):
        try:
            found = reader.feed(raw[start:end])
        except BadMessage as error:
            return f"refused with {error.status}"
        if found is not None:
            return found[0], found[1] + raw[end:]
    return None


@fuzzed(4)
@given(anything, st.lists(st.integers(0, 10_000), max_size=6))
def test_a_head_is_read_alike_however_it_arrives(raw: bytes, cuts: list[int]) -> None:
    assert _read(raw, cuts) == _read(raw, [])


def _peer_reads(raw: bytes) -> tuple[str, str, bytes, bool] | None:
    """What h11, another parser, makes of the same bytes: method, target, whole body, and whether it is whole."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(raw)
    connection.receive_data(b"")
    try:
        request = connection.next_event()
        if not isinstance(request, h11.Request):
            return None
        body = bytearray()
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
        return request.method.decode(), request.target.decode(), bytes(body), isinstance(event, h11.EndOfMessage)
    except h11.RemoteProtocolError:
        return None


def _whole(head: RequestHead, rest: bytes) -> tuple[bytes, bool] | None:
    """The body and whether it is whole; None if its framing is refused."""
    payload = bytearray()
    body = Body(request_framing(head), payload.extend)
    try:
        body.feed(rest)
    except BadMessage:
        return None
    return bytes(payload), body.done


@fuzzed(4)
@given(anything)
def test_what_is_accepted_means_the_same_to_another_parser(raw: bytes) -> None:
    """Smuggling lives where two parsers disagree: so nothing is accepted whole that h11 reads as another message."""
    found = _read(raw, [])
    theirs = _peer_reads(raw)
    if not isinstance(found, tuple) or theirs is None:
        return
    head, rest = found
    assert (head.method, head.target) == theirs[:2]
    ours = _whole(head, rest)
    if ours is not None and ours[1] and theirs[3]:
        assert ours[0] == theirs[2]


@fuzzed(2)
@given(anything)
def test_what_is_accepted_has_one_framing(raw: bytes) -> None:
    found = _read(raw, [])
    if isinstance(found, tuple):
        head, _ = found
        lines = [
            line for line in head.raw.lower().split(b"\r\n") if line.startswith((b"content-length", b"transfer-enc"))
        ]
        assert len(lines) <= 1
        assert (request_framing(head).mode is Mode.CHUNKED) == head.chunked


answers = st.builds(
    lambda code, lines, body: (
        b"HTTP/1.1 " + code + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body
    ),
    st.sampled_from((b"200 OK", b"204 No Content", b"101 UPGRADED", b"100 Continue", b"999 x", b"abc", b"-1", b"200")),
    st.lists(st.sampled_from(LINES[2:]), max_size=4),
    st.sampled_from(BODIES),
)


@fuzzed(2)
@given(answers | damaged(answers) | st.binary(max_size=200))
def test_an_engines_answer_is_read_or_refused(raw: bytes) -> None:
    reader = ResponseReader()
    try:
        found = reader.feed(raw)
    except BadMessage:
        return
    assert found is None or 100 <= found[0].status <= 999


@fuzzed(2)
@given(st.binary(max_size=400), st.integers(0, 2**32))
def test_a_tunnels_frames_are_read_or_refused(raw: bytes, seed: int) -> None:
    dice, decoder, out, at = random.Random(seed), FrameDecoder(), 0, 0
    try:
        while at < len(raw):
            step = dice.randint(1, 9)
            out += sum(map(len, decoder.feed(raw[at : at + step])))
            at += step
    except BadMessage:
        length = max((int.from_bytes(raw[i : i + 4], "big") for i in range(max(1, len(raw) - 3))), default=0)
        assert decoder.ended or length > FRAME_LIMIT_BYTES
    assert out <= len(raw)
