"""Heads: what is read, what is refused, and that the place where bytes are cut never matters."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drover.wire.bodies import Body, request_framing
from drover.wire.heads import (
    HEAD_LIMIT_BYTES,
    BadMessage,
    RequestHead,
    RequestReader,
    ResponseReader,
    render,
    without,
)

GET = b"GET /v1.41/containers/json?all=1 HTTP/1.1\r\nHost: docker\r\nX-A: 1\r\nx-a: 2\r\n\r\n"


def read(raw: bytes) -> tuple[RequestHead, bytes]:
    found = RequestReader().feed(raw)
    assert found is not None
    return found


def post(*lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"POST /x HTTP/" + version + b"\r\n" + b"".join(line + b"\r\n" for line in (b"Host: a", *lines)) + b"\r\n"


def test_a_request_head_is_taken_apart():
    head, rest = read(GET + b"more")
    assert (head.method, head.target, head.version, rest) == ("GET", "/v1.41/containers/json?all=1", "1.1", b"more")
    assert head.index[b"x-a"] == [b"1", b"2"]
    assert head.raw == GET
    assert head.keep_alive
    assert not head.expects_continue
    assert not head.upgrades


@pytest.mark.parametrize("cut", range(1, len(GET)))
def test_a_head_may_arrive_in_any_two_pieces(cut):
    reader = RequestReader()
    assert reader.feed(GET[:cut]) is None
    found = reader.feed(GET[cut:] + b"!")
    assert found is not None
    assert found[0].raw == GET
    assert found[1] == b"!"


def test_a_head_may_arrive_byte_by_byte():
    reader = RequestReader()
    results = [reader.feed(GET[i : i + 1]) for i in range(len(GET))]
    assert all(result is None for result in results[:-1])
    assert results[-1] is not None
    assert results[-1][0].value(b"host") == b"docker"


def test_an_upgrade_is_seen_and_the_bytes_after_the_head_are_kept():
    head, rest = read(post(b"Connection: Upgrade", b"Upgrade: tcp", b"Content-Length: 2") + b"{}")
    assert head.upgrades
    assert head.length_bytes == 2
    assert rest == b"{}"


def test_expect_is_seen_in_http_1_1_only():
    assert read(post(b"Expect: 100-Continue"))[0].expects_continue
    assert not read(post(b"Expect: 100-continue", version=b"1.0"))[0].expects_continue


@pytest.mark.parametrize(
    ("version", "connection", "expected"),
    [
        (b"1.1", b"keep-alive", True),
        (b"1.1", b"close", False),
        (b"1.1", b"Upgrade, Close", False),
        (b"1.0", b"x", False),
        (b"1.0", b"Keep-Alive", True),
    ],
)
def test_keep_alive_follows_version_and_connection(version, connection, expected):
    assert read(post(b"Connection: " + connection, version=version))[0].keep_alive is expected


def feed_in_steps(raw: bytes, step: int) -> None:
    reader = RequestReader()
    for at in range(0, len(raw), step):
        reader.feed(raw[at : at + step])


SMUGGLING = {
    "length and coding": post(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "coding and length": post(b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "two equal lengths": post(b"Content-Length: 5", b"Content-Length: 5"),
    "two lengths": post(b"Content-Length: 5", b"Content-Length: 6"),
    "a list of lengths": post(b"Content-Length: 5, 5"),
    "a signed length": post(b"Content-Length: +5"),
    "a negative length": post(b"Content-Length: -5"),
    "a hexadecimal length": post(b"Content-Length: 0x5"),
    "an empty length": post(b"Content-Length:"),
    "a length beyond all bounds": post(b"Content-Length: 99999999999999999999999"),
    "two codings": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "a list of codings": post(b"Transfer-Encoding: gzip, chunked"),
    "another coding": post(b"Transfer-Encoding: identity"),
    "a disguised coding": post(b"Transfer-Encoding: xchunked"),
    "a vertical tab": post(b"Transfer-Encoding: \x0bchunked"),
    "a coding in 1.0": post(b"Transfer-Encoding: chunked", version=b"1.0"),
    "obs-fold": post(b"X-A: 1", b" chunked"),
    "obs-fold by a tab": post(b"Transfer-Encoding:", b"\tchunked"),
    "a folded first header": b"POST /x HTTP/1.1\r\n Host: a\r\n\r\n",
    "space before the colon": post(b"Content-Length : 5"),
    "no colon": post(b"Content-Length 5"),
    "no name": post(b": 5"),
    "bare line feeds": b"POST /x HTTP/1.1\nHost: a\n\n",
    "one bare line feed": b"POST /x HTTP/1.1\r\nHost: a\nContent-Length: 5\r\n\r\n",
    "a bare carriage return": b"POST /x HTTP/1.1\r\nHost: a\rContent-Length: 5\r\n\r\n",
    "an empty line first": b"\r\n" + post(),
    "NUL in a value": post(b"X-A: a\x00b"),
    "DEL in a value": post(b"X-A: a\x7fb"),
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "two hosts": post(b"Host: b"),
    "HTTP/2.0": post(version=b"2.0"),
    "HTTP/0.9": post(version=b"0.9"),
    "HTTP/1.2": post(version=b"1.2"),
    "no version": b"GET /x\r\n\r\n",
    "a tab in the request line": b"GET\t/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "bytes above ASCII in the target": b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + b"\r\n\r\n",
    "text": b"hello\r\n\r\n",
}


@pytest.mark.parametrize("raw", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_an_ambiguous_head_is_refused(raw):
    with pytest.raises(BadMessage) as refused:
        RequestReader().feed(raw + b"hello")
    assert refused.value.status in (400, 501, 505)


@pytest.mark.parametrize("raw", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_an_ambiguous_head_is_refused_byte_by_byte_too(raw):
    with pytest.raises(BadMessage):
        feed_in_steps(raw, 1)


def test_a_head_of_64_kib_is_read_and_a_larger_one_refused():
    frame = len(post(b"X: "))
    assert read(post(b"X: " + b"a" * (HEAD_LIMIT_BYTES - frame)))[0].method == "POST"
    with pytest.raises(BadMessage) as refused:
        RequestReader().feed(post(b"X: " + b"a" * HEAD_LIMIT_BYTES))
    assert refused.value.status == 400


def test_an_endless_head_is_refused_before_its_end():
    with pytest.raises(BadMessage) as refused:
        feed_in_steps(b"GET / HTTP/1.1\r\nX: " + b"a" * 100 * 1024, 1024)
    assert refused.value.status == 400


def test_a_response_head_is_taken_apart():
    found = ResponseReader().feed(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")
    assert found is not None
    head, rest = found
    assert (head.status, head.reason, head.length_bytes, head.interim, rest) == (404, "Not Found", 2, False, b"{}")


def test_interim_heads_are_told_from_tunnels():
    first = ResponseReader().feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    second = ResponseReader().feed(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello")
    assert first is not None
    assert first[0].interim
    assert second is not None
    assert not second[0].interim
    assert second[1] == b"hello"


def test_an_ambiguous_response_is_refused():
    with pytest.raises(BadMessage):
        ResponseReader().feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n")


def test_render_and_without():
    headers = without(((b"Host", b"a"), (b"Content-Length", b"3"), (b"X", b"y")), b"content-length")
    assert render("GET / HTTP/1.1", headers) == b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"


# Differential test against h11 in strict mode: what it refuses we refuse; what we accept it reads the same way.

_NAMES = [
    b"Content-Length",
    b"Transfer-Encoding",
    b"content-length ",
    b"Transfer-encoding",
    b"X",
    b"Connection",
    b"Host",
]
_VALUES = [b"5", b"0", b"chunked", b"Chunked", b" chunked", b"5,5", b"+5", b"05", b"x", b"", b"close", b"a\tb", b"\x80"]
_ENDS = [b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n ", b"\r\r\n", b"\x00\r\n"]
_BODIES = [
    b"hello",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"05\r\nhello\r\n0\r\n\r\n",
    b"0\r\n\r\n",
    b"",
]
_ODD_BODIES = [
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\n",
    b"5\r\nhelloo\r\n0\r\n\r\n",
]

_line = st.tuples(st.sampled_from(_NAMES), st.sampled_from([b": ", b":", b" :", b""]), st.sampled_from(_VALUES))
_heads = st.tuples(
    st.sampled_from([b"GET", b"POST", b"PUT", b"get", b"P@ST"]),
    st.sampled_from([b"/", b"/a?b=c", b"/a b", b"/\x7f", b"*"]),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.10", b"http/1.1"]),
    st.lists(st.tuples(_line, st.sampled_from(_ENDS)), max_size=4),
    st.booleans(),
)


def assemble(parts) -> bytes:
    method, target, version, lines, host = parts
    raw = method + b" " + target + b" " + version + b"\r\n" + (b"Host: a\r\n" if host else b"")
    return raw + b"".join(b"".join(line) + end for line, end in lines) + b"\r\n"


def ours(raw: bytes) -> tuple[bytes, bool] | None:
    """Payload and whether it is complete; None if refused."""
    payload = bytearray()
    try:
        found = RequestReader().feed(raw)
        if found is None:
            return b"", False
        body = Body(request_framing(found[0]), payload.extend)
        body.feed(found[1])
    except BadMessage:
        return None
    return bytes(payload), body.done


def theirs(raw: bytes) -> tuple[bytes, bool] | None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    payload = bytearray()
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                payload += event.data
            elif not isinstance(event, h11.Request):
                return bytes(payload), isinstance(event, h11.EndOfMessage)
    except h11.RemoteProtocolError:
        return None


@settings(max_examples=200)
@given(_heads, st.sampled_from(_BODIES + _ODD_BODIES))
def test_what_h11_refuses_is_refused_and_what_is_accepted_is_read_alike(parts, body):
    raw = assemble(parts) + body
    mine = ours(raw)
    if mine is not None:
        assert mine == theirs(raw)


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(0, len(GET)))
def test_no_bytes_inside_a_head_make_it_mean_something_else_than_to_h11(noise, at):
    raw = GET[:at] + noise + GET[at:]
    mine = ours(raw)
    if mine is not None:
        assert mine == theirs(raw)
