"""The gateway as a client meets it: every endpoint with hostile names, queries and bodies; and raw bytes on its socket.

Theory of operation. `Gateway.handle` never raises; what must not happen is its answer 500, which stands for a fault of
Drover's own. After each call the records are looked at: names are names, and nothing refers to what is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import string
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gateway_wire_tools as wire
import pytest
from cluster_factory import cid, container, host
from gateway_world import API, IMAGE, World, engine_id, make_call, response
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.hostile import bodies, damaged, fuzzed, names, with_strange_fields
from tests.fuzz.test_fuzz_parser import anything

from drover.errors import Invalid
from drover.gateway.call import Relay, Reply
from drover.gateway.lifecycle import NAME
from drover.gateway.routes import ROUTES
from drover.gateway.volumes import NAME as VOLUME_NAME
from drover.model.spec import parse_spec

CREATE: dict[str, Any] = {
    "Image": "busybox",
    "Cmd": ["sleep", "1"],
    "Env": ["A=b", "constraint:host==h1", "affinity:container!=web"],
    "Labels": {"drover.constraint": "host==h1", "tier": "web"},
    "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/data": {}},
    "StopTimeout": 3,
    "HostConfig": {
        "Binds": ["data:/data", "/srv:/srv:ro"],
        "Mounts": [{"Type": "volume", "Source": "data", "Target": "/d"}],
        "NetworkMode": "app",
        "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
        "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
        "Memory": 1 << 26,
        "NanoCpus": 10**9,
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}],
        "VolumesFrom": ["web0"],
    },
    "NetworkingConfig": {"EndpointsConfig": {"app": {"IPAMConfig": {"IPv4Address": "10.44.0.9"}, "Aliases": ["x"]}}},
}
NETWORK: dict[str, Any] = {
    "Name": "back",
    "Driver": "overlay",
    "IPAM": {"Config": [{"Subnet": "10.45.0.0/24", "Gateway": "10.45.0.1", "IPRange": "10.45.0.128/25"}]},
    "Labels": {"a": "b"},
    "Options": {"com.docker.network.driver.mtu": "1400"},
    "EnableIPv6": False,
}
VOLUME: dict[str, Any] = {
    "Name": "data",
    "Driver": "local",
    "DriverOpts": {"driver": "directory", "replicas": "1", "interval": "5s", "size": "10M"},
    "Labels": {"a": "b"},
}
BODIES: dict[str, Any] = {
    "container.create": CREATE,
    "network.create": NETWORK,
    "volume.create": VOLUME,
    "network.connect": {"Container": "web0", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.44.0.7"}}},
    "network.disconnect": {"Container": "web0", "Force": True},
    "container.update": {"Memory": 1 << 27, "RestartPolicy": {"Name": "no"}},
    "exec.create": {"Cmd": ["id"], "AttachStdout": True},
    "exec.start": {"Detach": False, "Tty": False},
}
QUERIES = ("name", "filters", "all", "signal", "t", "force", "v", "since", "until", "limit", "platform", "tag", "repo",
           "path", "condition", "fromImage", "dockerfile", "container", "h", "w", "names", "type", "tail")  # fmt: skip
FILTERS = ('{"label":["a=b"]}', '{"name":{"a":true}}', '{"status":[1]}', '{"until":["x"]}', "[]", '{"a":', "{}", "null")


def target_of(template: str, name: str, queries: dict[str, str]) -> str:
    path = "".join(name if field else text for text, field in _parts(template))
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in queries.items())
    return path + ("?" + query if query else "")


def _parts(template: str) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    for text, field, *_ in string.Formatter().parse(template):
        found.append((text, False))
        if field is not None:
            found.append((field, True))
    return found


async def a_world() -> World:
    """Two hosts, a container, a network and a volume; engines that answer what is asked of them most."""
    made = World()
    made.write([*host("h1", facts=API), *host("h2", facts=API)])
    made.write(container(1, "web0", "h1", engine_id=engine_id(cid(1))))
    made.links.say("h1 h2", "GET", "/images/busybox/json", response({"Id": IMAGE, "RepoTags": ["busybox:latest"]}))
    await made.agent("h1")
    await made.agent("h2")
    return made


def sound(world: World) -> None:
    """Whatever was asked: names are Docker's, and every record is about something that exists."""
    cluster = world.shared.cluster
    for name, holder in cluster.names.items():
        assert NAME.fullmatch(name), name
        assert holder.id in cluster.containers
    for name in cluster.volumes:
        assert VOLUME_NAME.fullmatch(name), name
    for table, record_key in ((one.partition("/")[0], one) for one in cluster.versions):
        parts = {"ports": 3, "network_names": 1_000_000}.get(table, 2)  # an engine's networks may have any name
        assert record_key.count("/") <= parts, record_key
    assert not set(cluster.placements) - set(cluster.containers)
    for address in cluster.addresses.values():
        assert address.network in cluster.networks


async def answered(world: World, method: str, target: str, body: bytes) -> None:
    """One call is answered, within a deadline, by something else than a fault."""
    gateway = await world.gateway()
    try:
        async with asyncio.timeout(30):
            outcome = await gateway.handle(make_call(method, target, body))
        if isinstance(outcome, Reply):
            faulty = outcome.status == 500 and b"the gateway failed at" in outcome.body
            assert not faulty, outcome.body.decode()
            if outcome.stream is not None:
                await outcome.stream.aclose()  # type: ignore[attr-defined]
        else:
            assert isinstance(outcome, Relay)
            assert outcome.host in ("h1", "h2")
        sound(world)
    finally:
        await world.close()


queries = st.dictionaries(st.sampled_from(QUERIES), names | st.sampled_from(FILTERS), max_size=3)
quoted = names.map(lambda name: name.encode("utf-8", "replace").decode()).map(lambda name: name or "a")


@fuzzed(6)
@given(
    st.sampled_from([one for one in ROUTES if one.endpoint not in ("system.events",)]),
    quoted | st.just("web0"),
    queries,
    st.data(),
)
async def test_every_endpoint_answers_whatever_is_asked(
    route: Any, name: str, asked: dict[str, str], data: Any
) -> None:
    sensible = BODIES.get(route.endpoint, {"a": "b"})
    body = data.draw(bodies(with_strange_fields(sensible)))
    await answered(await a_world(), route.method, target_of(route.template, quote(name, safe="/"), asked), body)


@fuzzed(6)
@given(bodies(with_strange_fields(CREATE)), names | st.just("web"))
async def test_a_create_body_of_any_shape_is_taken_or_refused(body: bytes, name: str) -> None:
    name = quote(name.encode("utf-8", "replace"), safe="")
    await answered(await a_world(), "POST", f"/v1.41/containers/create?name={name}", body)


@fuzzed(6)
@given(bodies(with_strange_fields(CREATE)))
def test_what_a_body_asks_for_is_read_or_refused_in_words(body: bytes) -> None:
    found: Any
    try:
        found = parse_spec(body.decode("utf-8", "replace"))
    except Invalid as error:
        found = error
    sound_spec = not isinstance(found, Invalid) and found.memory_bytes >= 0 and found.cpus >= 0
    assert sound_spec or (isinstance(found, Invalid) and found.message.strip())


@fuzzed(2)
@given(st.sampled_from(("network.create", "volume.create")), st.data(), names)
async def test_networks_and_volumes_of_any_name_are_made_or_refused(endpoint: str, data: Any, name: str) -> None:
    route = next(one for one in ROUTES if one.endpoint == endpoint)
    body = {**BODIES[endpoint], "Name": name}
    await answered(await a_world(), route.method, route.template, data.draw(bodies(with_strange_fields(body))))


# -- raw bytes on the socket -------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def listening(tmp: Path) -> AsyncIterator[wire.World]:
    async with wire.running(tmp) as world:
        yield world


async def _thrown(world: wire.World, raw: bytes, pieces: int) -> None:
    """Send bytes in pieces as a client would that then stops writing; read whatever comes, to its end."""
    reader, writer = await asyncio.open_unix_connection(str(world.path))
    step = max(1, -(-len(raw) // pieces))
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(raw), step):
            writer.write(raw[start : start + step])
            await writer.drain()
        writer.write_eof()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            said = await reader.read()
        assert not said or said.startswith(b"HTTP/1.1 "), said[:80]
    writer.close()


@pytest.mark.timeout(600)
async def test_bytes_of_any_kind_leave_the_gateway_as_it_was(tmp_path: Path) -> None:
    """No crash, no hang, no leak: afterwards no connection is open, and the next client is served."""
    thrown: list[tuple[bytes, int]] = []

    @fuzzed(6)
    @given(st.lists(anything, min_size=1, max_size=3).map(b"".join) | damaged(anything), st.integers(1, 5))
    def draw(raw: bytes, pieces: int) -> None:
        thrown.append((raw, pieces))

    draw()
    async with listening(tmp_path) as world:
        tasks = len(asyncio.all_tasks())
        for start in range(0, len(thrown), 8):
            await asyncio.gather(*(_thrown(world, raw, pieces) for raw, pieces in thrown[start : start + 8]))
        await wire.until(lambda: world.server.counters.open_connections == 0)
        await wire.until(lambda: world.engine.opened - world.engine.ended <= 8)
        await wire.until(lambda: len(asyncio.all_tasks()) <= tasks + 20)
        client = await world.client()
        head, body = await client.ask(b"GET /_ping HTTP/1.1\r\nHost: a\r\n\r\n")
        client.close()
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert body == b"OK"
        for sent in world.engine.heads:  # what reached the engine is one whole head with one framing
            lines = [line.split(b":")[0].strip().lower() for line in sent.split(b"\r\n")[1:]]
            assert lines.count(b"content-length") + lines.count(b"transfer-encoding") <= 1


# -- the same from gateway and engine ----------------------------------------------------------------------------------


def answer_bytes(status: str, lines: list[tuple[str, str]], body: bytes, chunk: int) -> bytes:
    """An engine's answer; with Content-Length, or chunked in pieces of `chunk` bytes."""
    framing = [("Transfer-Encoding", "chunked")] if chunk else [("Content-Length", str(len(body)))]
    head = "".join(f"{name}: {value}\r\n" for name, value in [*lines, *framing])
    cut = [body[at : at + chunk] for at in range(0, len(body), chunk)] if chunk else []
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in cut) + b"0\r\n\r\n" if chunk else body
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + pieces


texts = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=12)
reserved = {"connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "date", "trailer", "te"}
token = st.text(string.ascii_letters + "-", min_size=1, max_size=10).filter(lambda name: name.lower() not in reserved)
engine_answers = st.builds(
    answer_bytes,
    st.sampled_from(("200 OK", "201 Created", "404 Not Found", "409 Conflict", "500 Internal Server Error")),
    st.lists(st.tuples(token, texts), max_size=4),
    st.binary(max_size=3000) | st.text(max_size=200).map(lambda text: json.dumps({"message": text}).encode()),
    st.integers(0, 900),
)


@pytest.mark.timeout(600)
async def test_a_relayed_answer_is_the_engines_own_on_this_host_and_through_another(tmp_path: Path) -> None:
    drawn: list[bytes] = []

    @fuzzed(2)
    @given(engine_answers)
    def draw(answer: bytes) -> None:
        drawn.append(answer)

    draw()
    async with listening(tmp_path) as world:
        for answer in drawn:

            async def script(peer: wire.Peer, head: bytes, answer: bytes = answer) -> None:
                await peer.send(answer)

            world.engine.script = world.remote_engine.script = script
            direct = await _told(str(world.engine.path))
            for where in ("h1", "h2"):
                world.handler = wire.relay_to(where)
                assert await _told(str(world.path)) == direct, answer


async def _told(path: str) -> tuple[bytes, list[bytes], bytes]:
    """Status line, header lines but for those of the connection, and payload, as a client gets them."""
    peer = wire.Peer(*await asyncio.open_unix_connection(path))
    await peer.send(b"GET /containers/a/json HTTP/1.1\r\nHost: a\r\n\r\n")
    first, *lines = (await peer.head()).removesuffix(b"\r\n\r\n").split(b"\r\n")
    fields = {line.split(b":")[0].lower(): line.split(b":", 1)[1].strip() for line in lines}
    if b"content-length" in fields:
        payload = await peer.exactly(int(fields[b"content-length"]))
    else:
        payload = b""
        while size := int((await peer.reader.readline()).split(b";")[0], 16):
            payload += (await peer.exactly(size + 2))[:-2]
    peer.close()
    of_connection = (b"connection", b"content-length", b"transfer-encoding", b"keep-alive")
    return first, sorted(line for line in lines if line.split(b":")[0].lower() not in of_connection), payload
