"""What a cluster says to bad calls is what a bare engine says: the same call to both, statuses and messages compared.

The engine is the lab host's own, behind the gateway. It has the same containers under the same names and other ids, so
ids are not in the calls and are blanked in the answers.

| cases | compared |
|---|---|
| `CASES` | status and message |
| `MALFORMED` | refused by both: 20.10 says 500 where newer engines and Drover say 400, in their JSON parser's words |
| drawn | status, and the whole answer but for ids: calls about one container with values drawn from `SEED` |

`tests/fuzz` does the same without a lab, on the server's code alone, with far more input.
"""

from __future__ import annotations

import base64
import json
import random
import re
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
from stock import docker_program

from drover.lab import Lab, LabHost
from drover.lab.clients import Docker

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

DEADLINE_S = 30.0
LARGE_BYTES = 64 * 1024**2
_ID = re.compile(r"\b[0-9a-f]{12}(?:[0-9a-f]{52})?\b")
_HEX = re.compile(r"[0-9a-f]+")


class Case(NamedTuple):
    """One bad call. `body` is JSON text unless `kind` says otherwise; empty: none."""

    method: str
    path: str
    body: str = ""
    kind: str = "application/json"


CREATE = '{"Image": "busybox", "Cmd": ["true"]}'
HOST_CONFIGS = (
    '{"Memory": 1024}',
    '{"Memory": 8388608, "MemorySwap": 4194304}',
    '{"CpusetCpus": "nonsense"}',
    '{"CpuShares": -1}',
    '{"ShmSize": -1}',
    '{"Binds": ["not/absolute:/x"]}',
    '{"Binds": ["/tmp:relative"]}',
    '{"Binds": ["/tmp:/x:nonsense"]}',
    '{"Binds": ["/tmp:/x", "/tmp:/x"]}',
    '{"Mounts": [{"Type": "nonsense", "Target": "/x"}]}',
    '{"Mounts": [{"Type": "bind", "Source": "/nowhere/at/all", "Target": "/x"}]}',
    '{"Mounts": [{"Type": "volume", "Source": "a"}]}',
    '{"RestartPolicy": {"Name": "nonsense"}}',
    '{"RestartPolicy": {"Name": "nonsense"}, "Binds": ["data:/data"]}',
    '{"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}, "Binds": ["data:/data"]}',
    '{"RestartPolicy": {"Name": "always"}, "AutoRemove": true, "Binds": ["data:/data"]}',
    '{"Binds": ["a:/data"]}',
    '{"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}',
    '{"RestartPolicy": {"Name": "always"}, "AutoRemove": true}',
    '{"NetworkMode": "container:nope"}',
    '{"NetworkMode": "host", "PortBindings": {"80/tcp": [{"HostPort": "nonsense"}]}}',
    '{"PortBindings": {"nonsense/tcp": [{}]}}',
    '{"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}',
    '{"VolumesFrom": ["nope"]}',
    '{"Links": ["nope:alias"]}',
    '{"LogConfig": {"Type": "nonsense"}}',
    '{"Runtime": "nonsense"}',
    '{"PidMode": "container:nope"}',
    '{"IpcMode": "nonsense"}',
    '{"OomScoreAdj": 5000}',
    '{"ExtraHosts": ["nonsense"]}',
    '{"Isolation": "nonsense"}',
)


def _host_config(text: str) -> Case:
    return Case("POST", "/containers/create", f'{{"Image": "busybox", "Cmd": ["true"], "HostConfig": {text}}}')


CASES = (
    # unknown things
    *(
        Case("POST", f"/containers/nope/{rest}")
        for rest in ("start", "stop", "restart", "kill", "pause", "unpause", "wait", "rename?name=other")
    ),
    *(Case("POST", f"/containers/nope/{rest}") for rest in ("resize?h=10&w=10", "attach?stream=1&stdout=1")),
    *(
        Case("GET", f"/containers/nope/{rest}")
        for rest in ("json", "logs?stdout=1", "top", "stats?stream=0", "changes", "export", "archive?path=/")
    ),
    Case("HEAD", "/containers/nope/archive?path=/"),
    Case("PUT", "/containers/nope/archive?path=/"),
    Case("POST", "/containers/nope/exec", '{"Cmd": ["true"]}'),
    Case("POST", "/containers/nope/update", "{}"),
    Case("DELETE", "/containers/nope"),
    Case("POST", "/commit?container=nope"),
    Case("POST", "/commit"),
    Case("GET", "/containers/json?filters={%22before%22:[%22nope%22]}"),
    Case("GET", "/containers/json?filters={%22since%22:[%22nope%22]}"),
    Case("GET", "/exec/nope/json"),
    Case("POST", "/exec/nope/start", "{}"),
    Case("POST", "/exec/nope/resize?h=10&w=10"),
    Case("GET", "/images/nope/json"),
    Case("GET", "/images/nope/get"),
    Case("GET", "/images/get?names=nope"),
    Case("DELETE", "/images/nope"),
    Case("POST", "/images/nope/tag?repo=other"),
    Case("GET", "/images/nope/history"),
    Case("GET", "/networks/nope"),
    Case("DELETE", "/networks/nope"),
    Case("POST", "/networks/nope/connect", '{"Container": "known"}'),
    Case("POST", "/networks/nope/disconnect", '{"Container": "known"}'),
    Case("POST", "/networks/bridge/connect", '{"Container": "nope"}'),
    Case("POST", "/networks/bridge/disconnect", '{"Container": "nope"}'),
    Case("GET", "/volumes/nope"),
    Case("DELETE", "/volumes/nope"),
    Case("GET", "/plugins/nope/json"),
    Case("POST", "/plugins/nope/enable"),
    Case("DELETE", "/plugins/nope"),
    # no such route, method or version
    Case("GET", "/nowhere"),
    Case("GET", "/"),
    Case("PATCH", "/containers/json"),
    Case("HEAD", "/info"),
    Case("OPTIONS", "/containers/json"),
    Case("GET", "/v1.99/containers/json"),
    Case("GET", "/v1.5/containers/json"),
    Case("GET", "/v1/containers/json"),
    Case("GET", "/v1.41"),
    Case("GET", "/v1.41.0/containers/nope/json"),
    Case("PUT", "/volumes/known?version=1"),
    # bodies
    Case("POST", "/containers/create", "{}"),
    Case("POST", "/containers/create", CREATE, "text/plain"),
    Case("POST", "/containers/create", '{"Image": "nope"}'),
    Case("POST", "/containers/create", '{"Image": "Not A Name"}'),
    Case("POST", "/containers/create?name=-bad-", CREATE),
    Case("POST", "/containers/create?name=known", CREATE),
    *(_host_config(text) for text in HOST_CONFIGS),
    Case("POST", "/containers/create", '{"Image": "busybox", "Env": ["=x"], "Cmd": ["true"]}'),
    Case("POST", "/containers/create", '{"Image": "busybox", "WorkingDir": "not/absolute", "Cmd": ["true"]}'),
    Case("POST", "/containers/create", '{"Image": "busybox", "StopSignal": "NONSENSE", "Cmd": ["true"]}'),
    Case("POST", "/containers/create", '{"Image": "busybox", "Healthcheck": {"Interval": 1}, "Cmd": ["true"]}'),
    Case("POST", "/containers/known/exec", "{}"),
    Case("POST", "/containers/known/update", '{"Memory": 1024}'),
    Case("POST", "/containers/known/update", '{"RestartPolicy": {"Name": "nonsense"}}'),
    Case("POST", "/networks/create", '{"Name": ""}'),
    Case("DELETE", "/networks/bridge"),
    Case("DELETE", "/networks/host"),
    Case("POST", "/volumes/create", '{"Name": "no/slash"}'),
    Case("POST", "/volumes/create", '{"Name": "a"}'),
    # values
    Case("GET", '/containers/json?filters={"nonsense":["1"]}'),
    Case("GET", '/containers/json?filters={"status":["nonsense"]}'),
    Case("GET", '/containers/json?filters={"exited":["x"]}'),
    Case("GET", '/containers/json?filters={"health":["nonsense"]}'),
    Case("GET", '/containers/json?filters={"is-task":["nonsense"]}'),
    Case("GET", '/images/json?filters={"nonsense":["1"]}'),
    Case("GET", '/images/json?filters={"dangling":["nonsense"]}'),
    Case("GET", '/networks?filters={"nonsense":["1"]}'),
    Case("GET", '/networks?filters={"type":["nonsense"]}'),
    Case("GET", '/volumes?filters={"nonsense":["1"]}'),
    Case("GET", '/events?filters={"nonsense":["1"]}&until=1'),
    Case("POST", '/containers/prune?filters={"nonsense":["1"]}'),
    Case("POST", '/networks/prune?filters={"nonsense":["1"]}'),
    Case("POST", '/volumes/prune?filters={"nonsense":["1"]}'),
    Case("POST", '/images/prune?filters={"nonsense":["1"]}'),
    Case("GET", "/containers/known/logs"),
    Case("GET", "/containers/known/logs?stdout=1&since=nonsense"),
    Case("GET", "/containers/known/archive"),
    Case("GET", "/containers/known/archive?path=/nowhere"),
    Case("PUT", "/containers/known/archive?path=/nowhere"),
    Case("GET", "/containers/known/top?ps_args=-Z-nonsense"),
    Case("POST", "/containers/known/kill?signal=NONSENSE"),
    Case("POST", "/containers/known/resize"),
    Case("POST", "/containers/known/rename"),
    Case("POST", "/containers/known/rename?name=known"),
    Case("POST", "/containers/known/rename?name=-bad-"),
    Case("DELETE", "/containers/known"),
    Case("DELETE", "/images/busybox"),
    Case("POST", "/containers/known/unpause"),
    Case("POST", "/containers/known/start"),
    Case("POST", "/images/busybox/tag?repo=Not%20A%20Name"),
    Case("POST", "/images/create"),
    Case("POST", "/images/create?fromImage=Not%20A%20Name"),
    Case("POST", "/build?dockerfile=../outside", "", "application/x-tar"),
    Case("POST", "/build?version=3", "", "application/x-tar"),
    # an engine outside a swarm
    *(Case("GET", path) for path in ("/swarm", "/swarm/unlockkey", "/nodes", "/services", "/tasks", "/secrets")),
    *(Case("GET", path) for path in ("/configs", "/nodes/nope", "/services/nope", "/tasks/nope", "/secrets/nope")),
    *(Case("DELETE", path) for path in ("/nodes/nope", "/services/nope", "/secrets/nope", "/configs/nope")),
    Case("POST", "/swarm/leave"),
    Case("POST", "/swarm/update?version=1", "{}"),
    Case("POST", "/services/create", "{}"),
    Case("POST", "/secrets/create", "{}"),
    Case("POST", "/nodes/nope/update?version=1", "{}"),
)
MALFORMED = (
    Case("POST", "/containers/create", "not JSON"),
    Case("POST", "/containers/create", ""),
    Case("POST", "/containers/known/update", "[]"),
    Case("POST", "/networks/create", "{"),
    Case("GET", "/containers/json?filters=nonsense"),
    Case("GET", "/containers/json?limit=many"),
    Case("GET", "/events?since=nonsense&until=1"),
    Case("POST", "/containers/create", '{"Image": 1}'),
    Case("POST", "/containers/create", '{"Image": "busybox", "HostConfig": []}'),
    Case("POST", "/containers/create", '{"Image": "busybox", "HostConfig": {"Memory": "much"}}'),
    Case("POST", "/containers/create", '{"Image": "busybox", "Labels": ["a"]}'),
    Case("POST", "/containers/known/exec", "not JSON"),
    Case("POST", "/volumes/create", "not JSON"),
    Case("POST", "/networks/bridge/connect", "not JSON"),
    Case("POST", "/containers/known/stop?t=soon"),
    Case("POST", "/containers/known/restart?t=soon"),
)


def ask(path: Path, case: Case) -> tuple[int, str]:
    """Status and message (or text) of one call over a Unix socket, ids blanked."""
    head, body = exchange(path, case, case.body.encode())
    text = body.decode(errors="replace").strip()
    message = json.loads(text).get("message", text) if text.startswith("{") else text
    return int(head.split()[1]), _ID.sub("ID", message)


def exchange(path: Path, case: Case, body: bytes) -> tuple[str, bytes]:
    """The head's first line and the body, to the connection's end."""
    target = case.path.replace('"', "%22").replace("{", "%7B").replace("}", "%7D")
    length = f"Content-Type: {case.kind}\r\nContent-Length: {len(body)}\r\n" if case.method in ("POST", "PUT") else ""
    head = f"{case.method} {target} HTTP/1.0\r\nHost: docker\r\n{length}\r\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(str(path))
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    received, _, content = answer.partition(b"\r\n\r\n")
    return received.decode().splitlines()[0], content


@pytest.fixture(scope="module")
def host(cluster: Lab) -> Iterator[LabHost]:
    """The first host; the container `known` runs on it."""
    docker = Docker(cluster.hosts[0].gateway_socket, docker_program(20))
    place = ("--label", "drover.constraint=host==h1")
    docker("run", "-d", "--name", "known", *place, "busybox", "sleep", "100000")
    yield cluster.hosts[0]
    docker("rm", "-f", "known")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method}-{case.path}-{case.body}"[:110])
def test_a_bad_call_is_answered_as_by_an_engine(host: LabHost, case: Case) -> None:
    """Both at once: an engine takes 15 s to say that it has no such log driver."""
    with ThreadPoolExecutor(2) as pool:
        cluster, engine = pool.map(lambda path: ask(path, case), (host.gateway_socket, host.docker_socket))
    assert cluster == engine


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: f"{case.method}-{case.path}-{case.body}"[:110])
def test_a_malformed_call_is_the_callers_fault(host: LabHost, case: Case) -> None:
    status, message = ask(host.gateway_socket, case)
    assert status == 400
    assert message
    assert ask(host.docker_socket, case)[0] in (400, 500)


def test_an_ambiguous_prefix(cluster: Lab, host: LabHost) -> None:
    docker = Docker(host.gateway_socket, docker_program(20))
    place = ("--label", "drover.constraint=host==h1", "--label", "crowd=1")
    # Seventeen ids: two of them start with the same digit.
    for _ in range(17):
        docker("create", *place, "busybox", "true")
    try:
        words = [_about_ambiguous(path) for path in (host.gateway_socket, host.docker_socket)]
    finally:
        docker("rm", *docker("ps", "-aq", "--filter", "label=crowd=1").split())
    assert words[0] == words[1]
    assert cluster.hosts[0].name == host.name


def _about_ambiguous(path: Path) -> tuple[int, str]:
    """What is said of a digit that two containers' ids start with; engines differ in the first letter's case."""
    idents = Docker(path, docker_program(20))("ps", "-aq", "--no-trunc").split()
    firsts = [ident[0] for ident in idents]
    prefix = next(first for first in firsts if firsts.count(first) > 1)
    status, message = ask(path, Case("GET", f"/containers/{prefix}/json"))
    return status, re.sub(rf"\b{prefix}\b", "PREFIX", message).lower()


def test_a_body_that_is_too_large_is_refused(host: LabHost) -> None:
    body = b'{"Image": "busybox", "Cmd": ["' + b"x" * LARGE_BYTES + b'"]}'
    try:
        status, message = exchange(host.gateway_socket, Case("POST", "/containers/create"), body)
    except (BrokenPipeError, ConnectionResetError):
        return  # refused before the end, which a client that only writes sees as a cut
    assert status.split()[1] in ("400", "413")
    assert b"message" in message


# -- drawn ------------------------------------------------------------------------------------------------------------

SEED = 20
DRAWN = 80
NUMBERS = ("", "0", "1", "-1", "true", "yes", "all", "99999999999999999999", "1e9", "%", "[]", "{}")
PATHS = ("../../etc/passwd", "/etc/passwd", "/nowhere/..", "a b", "x" * 300, "\u00fc", "'", '"', "$(id)", "NONSENSE")
VALUES = NUMBERS + PATHS
ABOUT_ONE = (
    ("GET", "/containers/known/top?ps_args={}"),
    ("GET", "/containers/known/logs?stdout=1&tail={}"),
    ("GET", "/containers/known/logs?stdout=1&since={}"),
    ("GET", "/containers/known/logs?stdout={}"),
    ("GET", "/containers/known/archive?path={}"),
    ("GET", "/containers/{}/json"),
    ("GET", "/containers/{}/top"),
    ("GET", "/exec/{}/json"),
    ("POST", "/containers/known/resize?h={}&w={}"),
    ("POST", "/containers/known/kill?signal={}"),
    ("POST", "/containers/nope/stop?t={}"),
    ("POST", "/containers/nope/wait?condition={}"),
)
NO_HARM = ("KILL", "9", "1", "0", "")
"""Signals that a drawn kill must not send: an empty one kills, too."""


def drawn() -> list[Case]:
    dice = random.Random(SEED)
    cases = []
    while len(cases) < DRAWN:
        method, template = dice.choice(ABOUT_ONE)
        values = [dice.choice(VALUES) for _ in range(template.count("{}"))]
        if "kill" in template and (values[0] in NO_HARM or values[0].isdigit()):
            continue
        if "/containers/{}" in template and _HEX.fullmatch(values[0]):
            continue  # it may begin an id, and one container's ids are not the same on both sides
        cases.append(Case(method, template.format(*(quote(value, safe="") for value in values))))
    return list(dict.fromkeys(cases))


def test_drawn_calls_about_one_container_are_answered_as_by_its_engine(host: LabHost) -> None:
    different = []
    for case in drawn():
        answers = [ask(path, case) for path in (host.gateway_socket, host.docker_socket)]
        if answers[0] != answers[1] and not _stricter(*answers):
            different.append((case.method, case.path, *answers))
    assert not different
    assert ask(host.gateway_socket, Case("GET", "/containers/known/json"))[0] == 200


def _stricter(cluster: tuple[int, str], engine: tuple[int, str]) -> bool:
    """Of a malformed value older engines say 500, newer ones 400; the cluster says 400, in the same words. A path that
    climbs is refused, where an engine sends the client on to what is left of it."""
    if engine == (301, ""):
        return cluster[0] == 400 and "is not a plain absolute path" in cluster[1]
    return (cluster[0], engine[0]) == (400, 500) and cluster[1] == engine[1]


THROW = """
import base64, json, socket, ssl, sys
address, answered = sys.argv[1], []
for port in (4740, 4741, 4742):
    for text in json.loads(sys.argv[2]):
        for wrapped in (False, True):
            try:
                plain = socket.create_connection((address, port), 5)
                plain.settimeout(2)
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                peer = context.wrap_socket(plain) if wrapped else plain
                peer.sendall(base64.b64decode(text))
                said = peer.recv(4000)
                if said.startswith(b"HTTP/1.1 2"):
                    answered.append([port, said.decode("latin-1")[:300]])
                peer.close()
            except OSError:
                pass
print(json.dumps(answered))
"""
"""Without a certificate: what was answered with success."""


def test_bytes_of_any_kind_at_a_daemons_ports_open_nothing_and_harm_nobody(host: LabHost, cluster: Lab) -> None:
    dice = random.Random(SEED)
    thrown = [bytes(dice.randrange(256) for _ in range(dice.randrange(1, 200))) for _ in range(3)]
    paths = ("/hosts", "/tokens", "/volumes/..%2f..%2fetc/stream?epoch=1", "/ca/../hosts", "//status", "/version")
    thrown += [f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode() for path in paths]
    thrown.append(b"POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nContent-Length: 14\r\n\r\n" + b'{"key": "AA=="}')
    texts = json.dumps([base64.b64encode(one).decode() for one in thrown])
    asked = [sys.executable, "-c", THROW, cluster.hosts[1].address, texts]
    assert json.loads(host.exec(asked, timeout_s=100.0).stdout) == []
    for one in cluster.hosts:
        assert ask(one.gateway_socket, Case("GET", "/containers/known/json"))[0] == 200
