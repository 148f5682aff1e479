"""The shipped adapters through a real gateway: `policy` cannot be got around, `env` and `audit` do what they say."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from gateway_wire_tools import until
from hooks_tools import CREATE, Behaviour, HookWorld, hook_world, request

from drover.adapters import audit, env, policy
from drover.adapters.serve import Decide, Refuse, read_config
from drover.decide.default_network import PREDEFINED_IDS
from drover.errors import Invalid

LIMITED = {
    "allow": ["GET /**", "HEAD /_ping", "POST /containers/**", "POST /images/create", "POST /volumes/create"],
    "deny": ["POST /containers/*/kill"],
    "containers": {"images": ["nginx", "nginx:*"], "binds": ["/srv/ci"], "users": ["", "1000"]},
}


def served(decide: Decide) -> Behaviour:
    """The adapter's function as a scripted adapter's behaviour."""

    def behave(told: dict[str, Any]) -> web.Response:
        try:
            return web.json_response(decide(told))
        except Refuse as refusal:
            return web.json_response({"message": refusal.message}, status=refusal.status)

    return behave


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[HookWorld]:
    async with hook_world(tmp_path) as built:
        await built.adapter("policy", served(policy.make(LIMITED)))
        await built.configure({"* *": {"pre": ["policy"]}})
        yield built


def create(**host_config: Any) -> bytes:
    return json.dumps({"Image": "nginx", "HostConfig": host_config}).encode()


ALLOWED = [
    b'{"Image":"nginx"}',
    b'{"image":"nginx:1.25"}',
    create(Binds=["/srv/ci:/work", "data:/data"], NetworkMode="default", IpcMode="private", MaskedPaths=None),
    create(Mounts=[{"Type": "bind", "Source": "/srv/ci/", "Target": "/w"}, {"Type": "tmpfs", "Target": "/t"}]),
    create(Mounts=[{"Type": "volume", "Source": "data", "Target": "/d"}], SecurityOpt=["no-new-privileges"]),
    create(LogConfig={"Type": "json-file", "Config": {"max-size": "1m"}}, NetworkMode="cafe"),
    json.dumps({"Image": "nginx", "Hostname": "a", "Healthcheck": {"Test": ["NONE"]}, "StopTimeout": 1}).encode(),
    create(Privileged=False, CapAdd=None, Devices=[], PidMode="", Runtime="runc", OomScoreAdj=0),
]
REFUSED = [
    b"",
    b"not json",
    b"[]",
    b'{"Image":"nginx","HostConfig":[]}',
    b'{"Image":"nginx","HostConfig":{"Privileged":true}} {}',
    b'{"Image":"nginx","HostConfig":{"Privileged":true},"X":"\xff"}',
    b'{"Image":"evil"}',
    b'{"Image":"nginx","IMAGE":"evil"}',
    b'{"Image":"nginx","User":"root"}',
    create(Privileged=True),
    b'{"Image":"nginx","hostconfig":{"privileged":true}}',
    b'{"Image":"nginx","HoStCoNfIg":{"PRIVILEGED":true}}',
    '{"Image":"nginx","Ho\u017ftConfig":{"Privileged":true}}'.encode(),
    b'{"Image":"nginx","Ho\\u017ftConfig":{"Privileged":true}}',
    b'{"Image":"nginx","HostConfig":{"Privileged":true},"HostConfig":{}}',
    b'{"Image":"nginx","HostConfig":{"Privileged":true},"hostConfig":{}}',
    b'{"Image":"nginx","HostConfig":{"Privileged":true,"privileged":false}}',
    b'{"Image":"nginx","Privileged":true}',
    b'{"Image":"nginx","binds":["/:/host"]}',
    b'{"Image":"nginx","Host\\u0043onfig":{"Privileged":true}}',
    create(CapAdd=["SYS_ADMIN"]),
    create(Devices=[{"PathOnHost": "/dev/sda"}]),
    create(PidMode="host"),
    create(IpcMode="host"),
    create(NetworkMode="host"),
    create(NetworkMode="container:abc"),
    create(SecurityOpt=["seccomp=unconfined"]),
    create(MaskedPaths=[]),
    create(ReadonlyPaths=[]),
    create(VolumesFrom=["other"]),
    create(Binds=["/:/host"]),
    create(Binds=["/srv/ci/../../etc:/e"]),
    create(Binds=["//etc:/e"]),
    create(Binds=["/srv/ci/sub:/e"]),
    create(Binds=["/srv/cinema:/e"]),
    create(Binds=["./x:/e"]),
    create(Mounts=[{"Type": "bind", "Source": "/", "Target": "/h"}]),
    create(Mounts=[{"type": "bind", "SOURCE": "/etc", "Target": "/h"}]),
    create(Mounts=[{"Type": "bind", "Source": "etc", "Target": "/h"}]),
    create(Mounts=[{"Type": "npipe", "Source": "x", "Target": "/h"}]),
    create(Mounts=["junk"]),
    create(Mounts=[{"Type": "volume", "VolumeOptions": {"DriverConfig": {"Options": {"o": "bind", "device": "/"}}}}]),
    create(SomethingNew=True),
    b'{"Image":"nginx","NetworkingConfig":{"EndpointsConfig":{"host":{}}}}',
    json.dumps({"Image": "nginx", "NetworkingConfig": {"EndpointsConfig": {PREDEFINED_IDS["host"]: {}}}}).encode(),
    create(NetworkMode=PREDEFINED_IDS["host"]),
    create(NetworkMode=PREDEFINED_IDS["host"][:12]),
    create(LogConfig={"Type": "syslog", "Config": {"syslog-address": "unix:///run/other.sock"}}),
    create(logconfig={"type": "fluentd"}),
    b'{"Image":"nginx:5000/evil"}',
    b'{"Image":"nginx/nginx:1"}',
    b'{"Image":"nginx","SomethingNew":true}',
    b'\xef\xbb\xbf{"Image":"nginx"}',
    '{"Image":"nginx","HostConfig":{"Privileged":true}}'.encode("utf-16"),
    '{"Image":"nginx","HostConfig":{"Privileged":true}}'.encode("utf-16-le"),
    b'{"Image":"nginx","HostConfig":{"Binds":["data:/d"],"Binds":["/:/h"]}}',
    b'{"Image":"nginx","HostConfig":{"Mounts":[{"Type":"volume","type":"bind","Source":"/","Target":"/h"}]}}',
    b'{"Image":"nginx","HostConfig":{"Privileged":1e0}}',
    b'{"Image":"nginx"}{"HostConfig":{"Privileged":true}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", ALLOWED, ids=range(len(ALLOWED)))
async def test_the_policy_lets_ordinary_containers_through_unchanged(world: HookWorld, body: bytes):
    assert (await world.ask("POST", CREATE, body)).status == 201
    assert world.engine_bodies == [body]


@pytest.mark.parametrize("body", REFUSED, ids=range(len(REFUSED)))
async def test_no_way_of_writing_a_body_gets_around_the_policy(world: HookWorld, body: bytes):
    got = await world.ask("POST", CREATE, body)
    assert got.status in (400, 403), got.body
    assert got.message
    assert world.engine.heads == []


@pytest.mark.parametrize(
    "target",
    [
        "/v1.41/containers/create",
        "/v1.24/containers/create",
        "/v9.9/containers/create",
        "/containers/create",
        "//containers//create",
        "/v1.41//containers/create",
        "/v1.41/container%73/create",
        "/v1.41/containers%2fcreate",
        "/%76%31.41/containers/create",
        "/v1.41/containers/create?",
        "/v1.41/containers/create?name=/x",
    ],
)
@pytest.mark.parametrize("content_type", [b"application/json", b"text/plain", b"", b"Application/JSON;x=y"])
async def test_no_way_of_writing_a_path_or_type_gets_around_the_policy(
    world: HookWorld, target: str, content_type: bytes
):
    client = await world.wire.client()
    head, _ = await client.ask(request("POST", target, create(Privileged=True), content_type=content_type))
    assert head.split()[1] in (b"400", b"403")
    assert world.engine.heads == []
    client.close()


@pytest.mark.parametrize(
    "lines",
    [
        (b"Transfer-Encoding: chunked", b"Content-Type: application/json"),
        (b"Transfer-Encoding: chunked",),
        (b"Transfer-Encoding: chunked", b"Content-Type: text/plain", b"Content-Type: application/json"),
        (b"Transfer-Encoding: chunked", b"Content-Type: application/json", b"Content-Type: text/plain"),
        (b"Transfer-Encoding: chunked", b"Connection: Upgrade", b"Upgrade: tcp"),
        (b"Transfer-Encoding: chunked", b"Expect: 100-continue"),
        (b"Transfer-Encoding: chunked", b"Content-Encoding: gzip"),
    ],
    ids=range(7),
)
async def test_no_way_of_sending_a_body_gets_around_the_policy(world: HookWorld, lines: tuple[bytes, ...]):
    body, client = create(Privileged=True), await world.wire.client()
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:20], body[20:]))
    await client.send(request("POST", CREATE, None, *lines) + pieces + b"0\r\n\r\n")
    head = await client.head()
    while head.startswith(b"HTTP/1.1 100 "):
        head = await client.head()
    assert head.split()[1] in (b"400", b"403")
    assert world.engine.heads == []
    client.close()


@pytest.mark.parametrize(
    "start",
    [
        f"POST http://docker{CREATE} HTTP/1.1",
        f"post {CREATE} HTTP/1.1",
        f"POST  {CREATE} HTTP/1.1",
        f"POST {CREATE} HTTP/1.1\r\nContent-Length: 2",
        f"POST {CREATE} HTTP/1.1\r\nTransfer-Encoding: chunked",
        f"POST {CREATE.replace('/', chr(92))} HTTP/1.1",
        f"POST {CREATE}%00 HTTP/1.1",
        f"POST {CREATE}/ HTTP/1.1",
        f"POST {CREATE}%2f HTTP/1.1",
        f"POST {CREATE};a=1 HTTP/1.1",
        "POST /v1.41/containers/./create HTTP/1.1",
        "POST /v1.41/x/%2e%2e/containers/create HTTP/1.1",
        f"POST {CREATE} HTTP/1.0",
    ],
)
async def test_no_way_of_writing_a_head_gets_around_the_policy(world: HookWorld, start: str):
    """Refused, or no creation: what the engine is asked then is a call that it does not know."""
    client = await world.wire.client()
    body = create(Privileged=True)
    head = f"{start}\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    await client.send(head.encode() + body)
    answered = await client.head()
    asked = [one.split()[1] for one in world.engine.heads]
    assert answered.split()[1] in (b"400", b"403", b"505") or not any(one.endswith(b"/create") for one in asked)
    client.close()


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("DELETE", "/v1.41/containers/a"),
        ("POST", "/v1.41/containers/a/kill"),
        ("POST", "/v1.41/container%73/a/%6bill"),
        ("POST", "/v1.41/Containers/create"),
        ("POST", "/V1.41/containers/create"),
        ("POST", "/v1.41/session"),
        ("POST", "/grpc"),
        ("POST", "/v1.41/swarm/init"),
        ("PUT", "/v1.41/containers/a/archive?path=/"),
        ("POST", "/v1.41/../containers/create"),
        ("POST", "/v1.41/images/create?fromImage=evil"),
        ("POST", "/v1.41/images/create?fromImage=nginx%3A1&fromImage=evil;x"),
        ("POST", "/v1.41/images/create?fromSrc=http://evil"),
        ("POST", "/v1.41/images/create"),
    ],
)
async def test_what_is_not_allowed_is_refused(world: HookWorld, method: str, target: str):
    got = await world.ask(method, target, None)
    assert got.status in (400, 403)
    assert world.engine.heads == []


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v1.41/containers/a/exec", {"Cmd": ["sh"], "Privileged": True}),
        ("/v1.41/containers/a/exec", {"Cmd": ["sh"], "privileged": True}),
        ("/v1.41/containers/a/exec", {"Cmd": ["sh"], "User": "root"}),
        ("/v1.41/containers/a/update", {"Devices": [{"PathOnHost": "/dev/sda"}]}),
        ("/v1.20/containers/a/start", {"Privileged": True}),
        ("/v1.41/volumes/create", {"Name": "x", "DriverOpts": {"type": "none", "device": "/", "o": "bind"}}),
        ("/v1.41/volumes/create", {"Name": "x", "Driver": "other"}),
        ("/v1.41/volumes/create", {"Name": "x", "driveropts": {"type": "none", "device": "/", "O": "bind"}}),
        ("/v1.41/containers/a/update", {"restartpolicy": {}, "devices": [{"PathOnHost": "/dev/sda"}]}),
    ],
)
async def test_what_follows_a_creation_is_looked_at_too(world: HookWorld, target: str, body: dict[str, Any]):
    assert (await world.ask("POST", target, json.dumps(body).encode())).status == 403
    assert world.engine.heads == []


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/v1.41/containers/json", None),
        ("HEAD", "/_ping", None),
        ("POST", "/v1.41/containers/a/start", None),
        ("POST", "/v1.41/containers/a/exec", b'{"Cmd":["sh"],"Privileged":false}'),
        ("POST", "/v1.41/volumes/create", b'{"Name":"x","Driver":"local","DriverOpts":{}}'),
        ("POST", "/v1.41/images/create?fromImage=nginx&tag=1.25", None),
        ("POST", "/v1.41/images/create?fromImage=docker.io%2Flibrary%2Fnginx&tag=latest", None),
    ],
)
async def test_what_is_allowed_passes(world: HookWorld, method: str, target: str, body: bytes | None):
    client = await world.wire.client()
    await client.send(request(method, target, body))
    assert (await client.head()).startswith(b"HTTP/1.1 201 ")
    client.close()


BUILDER = {"allow": ["* /**"], "containers": {"networks": ["default", "bridge", "ci-*"]}}


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/build?networkmode=host", None),
        ("/build?%6eetworkmode=host&networkmode=default", None),
        ("/build?networkmode=container:abc", None),
        ("/build?networkmode=other", None),
        (f"/build?networkmode={PREDEFINED_IDS['host']}", None),
        ("/build?securityopt=&securityopt=seccomp%3Dunconfined", None),
        ("/build?cgroupparent=/", None),
        ("/build?t=a;networkmode=host", None),
        ("/networks/create", {"Name": "x", "Driver": "macvlan", "Options": {"parent": "eth0"}}),
        ("/networks/create", {"Name": "x", "options": {"com.docker.network.bridge.name": "docker0"}}),
        ("/networks/create", {"Name": "x", "ConfigFrom": {"Network": "lan"}}),
        ("/networks/host/connect", {"Container": "a"}),
        (f"/networks/{PREDEFINED_IDS['host'][:12]}/connect", {"Container": "a"}),
        ("/networks/other/connect", {"Container": "a"}),
        ("/plugins/pull?remote=x", None),
        ("/plugins/x/y/enable", None),
        ("/plugins/create?name=x", None),
        ("/services/create", {"Name": "x"}),
        ("/session", None),
        ("/grpc", None),
    ],
)
async def test_builds_networks_and_plugins_are_no_way_to_the_host(
    world: HookWorld, target: str, body: dict[str, Any] | None
):
    world.adapters["policy"].behave = served(policy.make(BUILDER))
    got = await world.ask("POST", f"/v1.41{target}", json.dumps(body).encode() if body else None)
    assert got.status in (400, 403)
    assert world.engine.heads == []


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/build?t=a&t=b&networkmode=default&cgroupparent=&securityopt=", None),
        ("/build?networkmode=ci-1", None),
        ("/networks/create", {"Name": "ci-2", "Driver": "bridge", "Options": {"com.docker.network.driver.mtu": "9"}}),
        ("/networks/ci-1/connect", {"Container": "a"}),
    ],
)
async def test_ordinary_builds_and_networks_pass(world: HookWorld, target: str, body: dict[str, Any] | None):
    world.adapters["policy"].behave = served(policy.make(BUILDER))
    client = await world.wire.client()
    await client.send(request("POST", f"/v1.41{target}", json.dumps(body).encode() if body else None))
    assert (await client.head()).startswith(b"HTTP/1.1 201 ")
    client.close()


def test_an_images_star_does_not_cross_a_slash_and_two_do():
    for glob, image, allowed in (
        ("r.example/*", "r.example/app:1", True),
        ("r.example/*", "r.example/team/app", False),
        ("r.example/**", "r.example/team/app", True),
        ("nginx:*", "nginx:1@sha256:ab", True),
        ("nginx:*", "nginx:5000/evil", False),
        ("[a-c]pp", "app", True),
    ):
        body = json.dumps({"Image": image})
        decide = policy.make({"allow": ["POST /containers/create"], "containers": {"images": [glob]}})
        told = {"Type": "pre-hook", "ClientRequest": {"Method": "POST", "Request": CREATE, "Body": body}}
        if allowed:
            assert decide(told)
        else:
            with pytest.raises(Refuse):
                decide(told)


@pytest.mark.parametrize(
    ("image", "short"),
    [
        ("docker.io/library/nginx:1", "nginx:1"),
        ("docker.io/nginx", "nginx"),
        ("docker.io/acme/app@sha256:ab", "acme/app@sha256:ab"),
        ("docker.io/library/a/b", "library/a/b"),
        ("docker.io/r.example/app", "docker.io/r.example/app"),
        ("docker.io/localhost/app", "docker.io/localhost/app"),
        ("r.example/library/nginx", "r.example/library/nginx"),
        ("nginx", "nginx"),
    ],
)
def test_an_image_of_docker_hub_is_the_same_under_its_long_name(image: str, short: str):
    assert policy.familiar(image) == short


async def test_parameters_in_a_form_are_refused_because_engines_prefer_them(world: HookWorld):
    for content_type in (b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x"):
        client = await world.wire.client()
        raw = request("POST", "/v1.41/images/create?fromImage=nginx", b"fromImage=evil", content_type=content_type)
        head, body = await client.ask(raw)
        assert head.startswith(b"HTTP/1.1 403 ")
        assert b"parameters in a body" in body
        client.close()
    assert world.engine.heads == []


async def test_only_certain_callers(tmp_path: Path):
    async with hook_world(tmp_path) as world:
        await world.adapter("policy", served(policy.make({"allow": ["* /**"], "callers": ["cn:ci-*"]})))
        await world.configure({"* *": {"pre": ["policy"]}}, policy={"protocol": 2})
        got = await world.ask("GET", "/v1.41/info", None)
        assert (got.status, "uid:" in got.message) == (403, True)
        world.adapters["policy"].behave = served(policy.make({"allow": ["* /**"], "callers": ["uid:*"]}))
        assert (await world.ask("GET", "/v1.41/info", None)).status == 201


def test_privileged_policies_and_typing_errors():
    told = {
        "Type": "pre-hook",
        "ClientRequest": {"Method": "POST", "Request": CREATE, "Body": create(PidMode="host").decode()},
    }
    decide = policy.make({"allow": ["POST /containers/create"], "containers": {"privileged": True}})
    assert decide(told)["ModifiedClientRequest"] == told["ClientRequest"]
    for wrong in ({"alow": []}, {"containers": {"image": []}}, {"allow": ["/x"]}, {"allow": "x"}, {"callers": [1]}):
        with pytest.raises(Invalid):
            policy.make(wrong)


async def test_env_sets_variables_and_labels_and_the_client_wins(tmp_path: Path):
    async with hook_world(tmp_path) as world:
        await world.adapter(
            "env", served(env.make({"env": {"A": "ours", "B": 2}, "labels": {"team": "web", "x": "1"}}))
        )
        await world.configure({"POST /*/containers/create": {"pre": ["env"]}, "GET /*": {"pre": ["env"]}})
        await world.ask("POST", CREATE, b'{"Image":"a","env":["A=theirs","C"],"Labels":{"x":"2"},"N":1}')
        assert json.loads(world.engine_bodies[0]) == {
            "Image": "a",
            "env": ["A=theirs", "C", "B=2"],
            "Labels": {"team": "web", "x": "2"},
            "N": 1,
        }
        assert (await world.ask("GET", "/v1.41/info", None)).status == 201


def test_env_may_insist():
    decide = env.make({"env": {"A": "ours"}, "labels": {"x": "1"}, "force": True})
    told = {
        "Method": "POST",
        "Request": "/containers/create?name=a",
        "Body": '{"Env":["A=theirs","Z=1"],"Labels":{"x":"2"}}',
    }
    got = decide({"Type": "pre-hook", "ClientRequest": told})["ModifiedClientRequest"]
    assert json.loads(got["Body"]) == {"Env": ["Z=1", "A=ours"], "Labels": {"x": "1"}}
    assert got["Request"] == told["Request"]


async def test_audit_writes_who_did_what(tmp_path: Path):
    log = tmp_path / "audit.jsonl"
    async with hook_world(tmp_path) as world:
        await world.adapter("audit", served(audit.make({"file": str(log)}, clock=lambda: 7.0)))
        await world.configure({"* *": {"pre": ["audit"], "post": ["audit"]}}, audit={"protocol": 2})
        await world.ask("POST", f"{CREATE}?name=web", b'{"Image":"a","Env":["PASSWORD=x"]}')
    before, after = [json.loads(line) for line in log.read_text().splitlines()]
    assert before["hook"] == "pre-hook"
    assert after["status"] == 201
    assert after["trace_id"] == before["trace_id"]
    assert after["who"].startswith("uid:")
    assert (after["method"], after["request"], after["at"]) == ("POST", f"{CREATE}?name=web", 7.0)
    assert "PASSWORD" not in log.read_text()


def _listens(path: Path) -> bool:
    """The file is there before anybody listens."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.mark.parametrize("name", ["policy", "env", "audit"])
async def test_each_runs_as_a_program(tmp_path: Path, name: str):
    config = tmp_path / "config.yml"
    config.write_text("{}" if name != "policy" else "allow: ['GET /info']")
    path = tmp_path / "adapter.sock"
    arguments = ("-m", f"drover.adapters.{name}", "--config", str(config), "--listen", f"unix://{path}")
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    try:
        await until(lambda: _listens(path))
        told = {"Method": "GET", "Request": "/v1.41/info", "Body": None}
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            message = {"PowerstripProtocolVersion": 1, "Type": "pre-hook", "ClientRequest": told}
            async with session.post("http://localhost/", json=message) as response:
                assert (await response.json())["ModifiedClientRequest"] == told
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


def test_a_config_that_cannot_be_read_says_so(tmp_path: Path):
    with pytest.raises(Invalid, match="cannot be read"):
        read_config(str(tmp_path / "none.yml"))
    (tmp_path / "list.yml").write_text("[1]")
    with pytest.raises(Invalid, match="must hold a mapping"):
        read_config(str(tmp_path / "list.yml"))
