"""Bodies: where they end, however they are cut, and when there is a tunnel instead."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.wire.bodies import Body, Framing, Mode, becomes_tunnel, request_framing, response_framing
from drover.wire.heads import BadMessage, RequestHead, RequestReader, ResponseHead, ResponseReader

CHUNKS = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: t\r\n\r\n"


def request(method: str = "POST", target: str = "/x", *lines: bytes) -> RequestHead:
    raw = f"{method} {target} HTTP/1.1\r\nHost: a\r\n".encode() + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    found = RequestReader().feed(raw)
    assert found is not None
    return found[0]


def response(status: int, *lines: bytes) -> ResponseHead:
    raw = f"HTTP/1.1 {status} X\r\n".encode() + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    found = ResponseReader().feed(raw)
    assert found is not None
    return found[0]


def test_requests_have_a_body_only_if_they_declare_one():
    assert request_framing(request()) == Framing(Mode.NONE)
    assert request_framing(request("POST", "/x", b"Content-Length: 7")) == Framing(Mode.LENGTH, 7)
    assert request_framing(request("POST", "/x", b"Transfer-Encoding: chunked")) == Framing(Mode.CHUNKED)


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [
        ("GET", 200, Mode.LENGTH),
        ("HEAD", 200, Mode.NONE),
        ("GET", 204, Mode.NONE),
        ("GET", 304, Mode.NONE),
        ("POST", 100, Mode.NONE),
    ],
)
def test_some_responses_have_no_body_whatever_they_declare(method, status, expected):
    assert response_framing(method, response(status, b"Content-Length: 7")).mode is expected


def test_a_response_that_declares_nothing_ends_with_its_connection():
    assert response_framing("GET", response(200)).mode is Mode.EOF


@given(st.lists(st.integers(0, len(CHUNKS)), max_size=8))
def test_a_chunked_body_ends_at_the_same_byte_however_it_is_cut(cuts):
    raw = CHUNKS + b"NEXT"
    places = [0, *sorted(cuts), len(raw)]
    payload = bytearray()
    body = Body(Framing(Mode.CHUNKED), payload.extend)
    used = sum(body.feed(raw[a:b]) for a, b in itertools.pairwise(places))
    assert used == len(CHUNKS)
    assert body.done
    assert payload == b"hello world"


@given(st.lists(st.binary(max_size=20), max_size=6), st.integers(0, 60))
def test_a_body_of_known_length_takes_that_many_bytes(pieces, length):
    body = Body(Framing(Mode.LENGTH, length))
    total = sum(map(len, pieces))
    assert sum(body.feed(piece) for piece in pieces) == min(total, length)
    assert body.done == (total >= length)


def test_a_body_without_length_takes_everything_until_the_end():
    body = Body(Framing(Mode.EOF))
    assert body.feed(b"abc") == 3
    assert not body.done
    body.end()
    assert body.done


def test_a_body_cut_short_is_told():
    body = Body(Framing(Mode.LENGTH, 5))
    body.feed(b"abc")
    with pytest.raises(BadMessage):
        body.end()


BAD_CHUNKS = {
    "no size": b"\r\nhello",
    "not hexadecimal": b"g\r\n",
    "a prefix": b"0x5\r\nhello\r\n",
    "a sign": b"-5\r\nhello\r\n",
    "a plus": b"+5\r\nhello\r\n",
    "a blank before": b" 5\r\nhello\r\n",
    "a blank after": b"5 \r\nhello\r\n",
    "a size of 16 digits": b"1000000000000000\r\n",
    "a bare line feed": b"5\nhello\n",
    "a bare carriage return in an extension": b"5;a\rb\r\nhello\r\n",
    "NUL in an extension": b"5;\x00\r\nhello\r\n",
    "more than the size": b"5\r\nhelloo\r\n",
    "less than the size": b"5\r\nhell\r\n0\r\n\r\n",
    "an endless size line": b"5;" + b"a" * 5000,
    "a bad trailer": b"0\r\nno colon\r\n\r\n",
    "a folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "endless trailers": b"0\r\n" + b"A: bbbbbbbbbbbbbbbbb\r\n" * 1000,
}


def feed_in_steps(raw: bytes, step: int) -> None:
    body = Body(Framing(Mode.CHUNKED))
    for at in range(0, len(raw), step):
        body.feed(raw[at : at + step])


@pytest.mark.parametrize("raw", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
@pytest.mark.parametrize("step", [1, 100_000])
def test_malformed_chunks_are_refused(raw, step):
    with pytest.raises(BadMessage):
        feed_in_steps(raw, step)


RAW = b"Content-Type: application/vnd.docker.raw-stream"
MULTIPLEXED = b"Content-Type: application/vnd.docker.multiplexed-stream"
UPGRADE = (b"Connection: Upgrade", b"Upgrade: tcp")


@pytest.mark.parametrize(
    ("asked", "answered", "expected"),
    [
        (request("POST", "/containers/a/attach", *UPGRADE), response(101, *UPGRADE, RAW), True),
        (request("GET", "/containers/a/attach/ws"), response(101, *UPGRADE), True),
        (request("POST", "/containers/a/attach?stream=1"), response(200, RAW), True),
        (request("POST", "/v1.41/exec/a/start"), response(200, MULTIPLEXED), True),
        (request("POST", "/session", *UPGRADE), response(200, RAW), True),
        (request("GET", "/containers/a/logs"), response(200, RAW), False),
        (request("GET", "/containers/a/logs"), response(200, MULTIPLEXED, b"Transfer-Encoding: chunked"), False),
        (request("POST", "/exec/a/start"), response(200, RAW, b"Content-Length: 0"), False),
        (request("POST", "/containers/a/attach"), response(404, b"Content-Type: application/json"), False),
        (request("POST", "/containers/a/start"), response(204), False),
    ],
)
def test_when_a_response_opens_a_tunnel(asked, answered, expected):
    assert becomes_tunnel(asked, answered) is expected
