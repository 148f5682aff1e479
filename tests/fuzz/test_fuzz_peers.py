"""Host to host: the daemon's API and its tunnel, met by strangers, by a foreign certificate, and by a valid one.

Theory of operation. The server code that a daemon has on its ports 4740 and 4741, on loopback, with the routes by
which hosts give each other volumes and containers' files. A tree of files lies beside the daemon's own directory; at
the end it must be what it was, and nothing may have been added outside.

    who                           must get
    no certificate                nothing but /healthz, /ca, /join (refused), whatever the path is spelt like
    certificate of another CA     no connection
    certificate of a member       an answer that is no fault of drover's, and no file outside its directories
    no TLS at all                 no connection; the next caller is served
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gateway_wire_tools as wire
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.hostile import bodies, damaged, fuzzed, names, with_strange_fields
from tests.fuzz.peer_routes import CONTAINER, daemon

from drover.api.app import OPEN_PATHS
from drover.drivers.volumes import trees
from drover.drivers.volumes.delta import Patcher
from drover.drivers.volumes.layout import Layout
from drover.errors import DroverError
from drover.trust import certificates, tls

JOIN: dict[str, Any] = {
    "token_id": "a",
    "secret": "b",
    "name": "h9",
    "address": "192.0.2.9",
    "csr": "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n",
    "now": 1.0,
    "labels": {"a": "b"},
    "api_port": 4740,
    "tunnel_port": 4741,
}
PATHS = (
    "/hosts", "/hosts/{}", "/hosts/{}/labels", "/hosts/{}/drain", "/tokens", "/tokens/{}", "/why/{}", "/status",
    "/volumes", "/volumes/{}", "/volumes/{}/options", "/volumes/{}/move", "/volumes/{}/stream?epoch={}&snapshot={}",
    "/containers/{}/own/layer", "/containers/{}/own/{}", "/containers/{}/move", "/containers/{}/checkpoint",
    "/volume-rounds", "/moves", "/moves/{}", "/apps", "/apps/{}", "/apps/{}/plan", "/apps/{}/scale", "/addresses",
    "/addresses/{}", "/events?since={}", "/event-hooks", "/images/thin", "/healthz", "/ca", "/join", "/{}",
    "/./hosts", "//hosts", "/%68osts", "/ca/../hosts", "/join/../tokens", "/healthz/..%2ftokens", "/JOIN", "/ca/",
)  # fmt: skip
KNOWN = ("h1", "data", "web0", CONTAINER, "1", "0000000001-000000001000000")
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD")


def _path(template: str, parts: list[str]) -> str:
    given_parts = iter([*parts, "a", "a", "a"])
    made = "".join(next(given_parts) if piece == "{}" else piece for piece in _split(template))
    return made if made.isascii() and not set(made) & set(" \r\n\t\x00#") else quote(made, safe="/?&=%:")


def _split(template: str) -> Iterator[str]:
    first, *others = template.split("{}")
    yield first
    for other in others:
        yield "{}"
        yield other


calls = st.tuples(
    st.sampled_from(METHODS),
    st.builds(_path, st.sampled_from(PATHS), st.lists(names | st.sampled_from(KNOWN), min_size=1, max_size=3)),
    bodies(with_strange_fields(JOIN)),
)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What lies beside the daemon's own directory, and the proof that nobody touched it."""
    (tmp_path / "own").mkdir()
    canary = tmp_path / "etc"
    canary.mkdir()
    (canary / "passwd").write_text("root\n")
    before = _all_of(tmp_path)
    yield tmp_path
    assert _all_of(tmp_path) == before


def _all_of(tmp: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(tmp)): path.read_bytes() if path.is_file() else b""
        for path in sorted(tmp.rglob("*"))
        if path.relative_to(tmp).parts[0] != "own"
    }


async def _ask(port: int, context: ssl.SSLContext | None, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """One raw call, so that the path is what was drawn; status and answer, (0, nothing) if there was none."""
    try:
        async with asyncio.timeout(20):
            name = "h1" if context is not None else None
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
            head = f"{method} {path} HTTP/1.1\r\nHost: h1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            said = await reader.read()
            writer.close()
    except (OSError, ssl.SSLError):
        return 0, b""
    head_bytes, _, answer = said.partition(b"\r\n\r\n")
    return (int(head_bytes.split()[1]) if head_bytes.startswith(b"HTTP/1.") else 0), answer


def _drawn(strategy: Any, share: float) -> list[Any]:
    """Examples, drawn before the event loop is needed."""
    found: list[Any] = []

    @fuzzed(share)
    @given(strategy)
    def draw(one: Any) -> None:
        found.append(one)

    draw()
    return found


@pytest.mark.timeout(900)
async def test_without_a_certificate_nothing_is_to_be_had(outside: Path) -> None:
    async with daemon(outside / "own") as made:
        stranger = tls.joining_context(made.ca_certificate)
        records = made.mirror.cluster.versions
        for method, path, body in _drawn(calls, 4):
            status, answer = await _ask(made.port, stranger, method, path, body)
            if status not in (0, 400, 403, 404, 405, 413):
                assert status == 200
                assert path.partition("?")[0] in OPEN_PATHS - {"/join"}, (method, path, answer)
            assert b"PRIVATE KEY" not in answer
        assert made.mirror.cluster.versions == records


@pytest.mark.timeout(900)
async def test_with_a_certificate_a_call_is_answered_and_stays_within_bounds(outside: Path) -> None:
    """A host that lies, or is of another version, gets a sentence and never a traceback."""
    async with daemon(outside / "own") as made:
        member = tls.client_context(made.tls_dir)
        for method, path, body in _drawn(calls, 6):
            if "/shutdown" in path:
                continue
            status, answer = await _ask(made.port, member, method, path, body)
            assert b"a fault of drover itself" not in answer, (method, path, body[:200], answer)
            assert b"PRIVATE KEY" not in answer, (method, path)
            if status >= 400 and answer and method != "HEAD":
                assert path.isascii()
        assert (await _ask(made.port, member, "GET", "/healthz", b""))[0] == 200


async def test_a_certificate_of_another_ca_and_bytes_that_are_no_tls_open_nothing(outside: Path) -> None:
    async with daemon(outside / "own") as made:
        foreign = certificates.new_authority("other", made.now)
        directory = outside / "own" / "foreign"
        csr = certificates.request(certificates.host_key(directory), "h1")
        certificates.install(directory, foreign, certificates.issue(foreign, csr, "h1", "127.0.0.1", made.now))
        context = tls.client_context(directory)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        assert await _ask(made.port, context, "GET", "/hosts", b"") == (0, b"")
        for raw in _drawn(st.binary(max_size=300) | st.just(b"GET /hosts HTTP/1.1\r\nHost: a\r\n\r\n"), 1):
            await _throw(made.port, raw)
        assert (await _ask(made.port, tls.client_context(made.tls_dir), "GET", "/healthz", b""))[0] == 200


async def _throw(port: int, raw: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Send bytes, then end the direction; what comes until the other side ends."""
    with contextlib.suppress(OSError, ssl.SSLError):
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(raw)
            if context is None:
                writer.write_eof()
            said = await reader.read()
            writer.close()
            return said
    return b""


@pytest.mark.timeout(900)
async def test_a_tunnel_bears_any_bytes_before_and_after_its_tls(tmp_path: Path) -> None:
    frames = st.lists(
        st.builds(lambda size, data: size.to_bytes(4, "big") + data, st.integers(0, 2**32 - 1), st.binary(max_size=40)),
        max_size=4,
    ).map(b"".join)
    closing = frames.map(lambda raw: raw + (2**32 - 1).to_bytes(4, "big") * 2)
    async with wire.running(tmp_path) as world:
        for raw in _drawn(st.binary(max_size=300), 1):
            assert not (await _throw(world.tunnel_port, raw)).startswith(b"HTTP")
        for raw in _drawn(closing | st.binary(max_size=80), 2):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", world.tunnel_port, ssl=world.client_tls, server_hostname="localhost"
            )
            writer.write(raw)
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()
        await wire.until(lambda: not world.tunnel.accepted)
        await wire.until(lambda: world.remote_engine.opened == world.remote_engine.ended)
        world.handler = wire.relay_to("h2")
        client = await world.client()
        head, body = await client.ask(b"GET /_ping HTTP/1.1\r\nHost: a\r\n\r\n")
        client.close()
        assert (head[:15], body) == (b"HTTP/1.1 200 OK", b"OK")


@pytest.mark.timeout(900)
async def test_what_a_host_says_that_it_has_may_be_anything(outside: Path) -> None:
    """The one call whose body the disk's side reads: a volume that is there, of its epoch."""
    manifest = {"snapshot": "0000000001-000000001000000", "files": {"a": [1, 2, 3, 4, 5, 6, ""]}, "others": ["b"]}
    packed = bodies(with_strange_fields(manifest)).map(lambda raw: zlib.compress(raw, 1))
    async with daemon(outside / "own") as made:
        member = tls.client_context(made.tls_dir)
        for body in _drawn(packed | damaged(packed) | st.binary(max_size=50), 2):
            status, answer = await _ask(made.port, member, "POST", "/volumes/data/stream?epoch=1&snapshot=", body)
            assert b"a fault of drover itself" not in answer, (body, answer)
            assert status in (200, 400, 503, 409), (status, answer)
        status, answer = await _ask(made.port, member, "POST", "/volumes/data/stream?epoch=1&snapshot=", b"")
        assert status == 200
        assert b"kept" in answer


@fuzzed(1)
@given(st.lists(names, max_size=3), st.data())
async def test_what_a_stream_keeps_is_the_volumes_own(tmp_path_factory: Any, kept: list[str], data: Any) -> None:
    """A list of files to link from an earlier snapshot that names others' files, by climbing or through links."""
    place = tmp_path_factory.mktemp("kept")
    base, outside = place / "own" / "base", place / "etc"
    for directory in (base, outside):
        directory.mkdir(parents=True)
    (outside / "passwd").write_text("root\n")
    (base / "link").symlink_to(outside)
    (base / "file").symlink_to(outside / "passwd")
    attack = data.draw(st.sampled_from(("../../etc/passwd", "link/passwd", "file", "link", str(outside / "passwd"))))
    raw = trees.headed(trees.Head("0000000001-000000001000000", (*kept, attack)))

    async def stream() -> AsyncIterator[bytes]:
        yield raw + bytes(4)

    with pytest.raises((DroverError, OSError)):
        await trees.receive(place / "own" / "new", stream(), lambda _: base)
    assert (outside / "passwd").stat().st_nlink == 1
    assert sorted(one.name for one in (place / "own").iterdir()) == ["base"]


# -- what another host's stream may write ------------------------------------------------------------------------------


def _patch(path: str, onto: bool, size: int, block: bytes) -> bytes:
    head = json.dumps({"path": path, "size": size, "mode": 420, "uid": 0, "gid": 0, "mtime_ns": 0, "onto": onto})
    blocks = (0).to_bytes(4, "big") + len(block).to_bytes(4, "big") + block
    return len(head).to_bytes(4, "big") + head.encode() + blocks + b"\xff\xff\xff\xff" + bytes(4)


@fuzzed(2)
@given(
    st.lists(st.builds(_patch, names, st.booleans(), st.integers(-1, 2**30), st.binary(max_size=20)), max_size=3),
    st.booleans(),
    st.data(),
)
def test_a_volumes_stream_writes_within_the_volume_only(
    tmp_path_factory: Any, parts: list[bytes], ended: bool, data: Any
) -> None:
    """Paths that climb, or lead through a link that came before, are no part of a volume."""
    place = tmp_path_factory.mktemp("stream")
    part, base, outside = place / "own" / "part", place / "own" / "base", place / "etc"
    for directory in (part, base, outside):
        directory.mkdir(parents=True)
    (outside / "passwd").write_text("root\n")
    (part / "link").symlink_to(outside)
    (base / "link").symlink_to(outside)
    (part / "file").symlink_to(outside / "passwd")
    attacks = ("link/passwd", "file", "link", str(outside / "passwd"), "../../etc/passwd", "link/new")
    raw = b"".join([*parts, _patch(data.draw(st.sampled_from(attacks)), data.draw(st.booleans()), 5, b"owned")])
    patcher = Patcher(part, base, {})
    try:
        with contextlib.suppress(DroverError, OSError):
            patcher.feed(raw + (bytes(4) if ended else b""))
    finally:
        patcher.close()
    assert sorted(one.name for one in outside.iterdir()) == ["passwd"]
    assert (outside / "passwd").read_text() == "root\n"
    assert sorted(one.name for one in place.iterdir()) == ["etc", "own"]
    assert not any(
        path.is_file() and not path.is_symlink() and b"root" in path.read_bytes() for path in part.rglob("*")
    )


@fuzzed(2)
@given(names, names, st.integers(-5, 2**70))
def test_a_name_never_leads_out_of_the_volumes_directory(volume: str, snapshot: str, epoch: int) -> None:
    layout = Layout(Path("/srv/drover"))
    for made in (
        lambda: layout.live(volume, epoch),
        lambda: layout.snapshot(volume, snapshot),
        lambda: layout.snapshots_of(volume),
    ):
        with contextlib.suppress(DroverError):
            path = made()
            assert path.resolve().is_relative_to(layout.root)
            assert ".." not in path.parts
            assert path not in (layout.root, layout.root / "snap", layout.root / "live")
