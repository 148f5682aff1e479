"""Docker CLI 20.10 and 28 against one real engine, through a local relay and through another host's tunnel."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drover.gateway.links import EngineLinks
from drover.gateway.server import GatewayServer
from drover.gateway.tunnel import TunnelServer

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from gateway_wire_tools import relay_to, tls_contexts

CLIS = [path for path in ("/usr/bin/docker", "/usr/local/bin/docker") if shutil.which(path)]
pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("dockerd") or not CLIS, reason="needs root and Docker"),
]
DEADLINE_S = 60
BLOB = os.urandom(1024 * 1024) * 50
BLOB_MD5 = hashlib.md5(BLOB).hexdigest()


def sh(*command: str, **kwargs) -> str:
    return subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S, **kwargs).stdout.decode()


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="drover-wire-"))  # short: a socket's path has at most 107 bytes
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def engine(base: Path) -> Iterator[str]:
    """An engine in a network namespace and a mount namespace of its own; yields its socket's path."""
    namespace = f"wire-{os.getpid()}"
    sh("ip", "netns", "add", namespace)
    sh("ip", "netns", "exec", namespace, "ip", "link", "set", "lo", "up")
    dockerd = (
        f"mount --make-rprivate /; exec dockerd --data-root {base}/data --exec-root {base}/exec "
        f"--pidfile {base}/pid -H unix://{base}/docker.sock"
    )
    enter = [
        "nsenter",
        f"--net=/run/netns/{namespace}",
        "unshare",
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        dockerd,
    ]
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(enter, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: (base / "docker.sock").exists() and answers(f"{base}/docker.sock"))
        load_busybox(base)
        yield f"{base}/docker.sock"
    finally:
        remove_containers(f"{base}/docker.sock")
        stop_all(namespace, process)
        sh("ip", "netns", "del", namespace)


def remove_containers(path: str) -> None:
    """What a failed test has left; containers live in namespaces of their own and would survive the engine."""
    ids = sh(CLIS[0], "-H", f"unix://{path}", "ps", "-aq").split()
    if ids:
        sh(CLIS[0], "-H", f"unix://{path}", "rm", "-f", *ids)


def stop_all(namespace: str, process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in sh("ip", "netns", "pids", namespace).split():
            os.kill(int(pid), number)
        end = time.monotonic() + 10
        while sh("ip", "netns", "pids", namespace).strip() and time.monotonic() < end:
            time.sleep(0.1)
    process.wait(10)


def wait_for(condition) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


def answers(path: str) -> bool:
    return (
        subprocess.run([CLIS[0], "-H", f"unix://{path}", "version"], capture_output=True, check=False).returncode == 0
    )


def load_busybox(base: Path) -> None:
    (base / "img/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", base / "img/bin/busybox")
    for name in ("sh", "cat", "echo", "head", "md5sum", "sleep", "tty", "printf"):
        (base / "img/bin" / name).symlink_to("busybox")
    archive = shutil.make_archive(str(base / "img"), "tar", base / "img")
    sh(CLIS[0], "-H", f"unix://{base}/docker.sock", "import", "-c", "ENV PATH=/bin", archive, "busybox:latest")


@pytest.fixture(scope="module")
def gateways(base: Path, engine: str) -> Iterator[dict[str, str]]:
    """Socket paths of a gateway beside the engine and of one that reaches it through a tunnel."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    run = lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(DEADLINE_S)  # noqa: E731
    stop = run(serve(base, engine))
    yield {"local": f"{base}/local.sock", "remote": f"{base}/remote.sock"}
    run(stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


async def serve(base: Path, engine: str):
    server_tls, client_tls = tls_contexts(base)
    tunnel = TunnelServer(engine, server_tls)
    port = await tunnel.start("127.0.0.1", 0)
    local = EngineLinks(engine, locate=lambda host: None)
    remote = EngineLinks(
        "", locate=lambda host: ("127.0.0.1", port), tls=client_tls, server_hostname=lambda _: "localhost"
    )
    servers = {"local": GatewayServer(relay_to("h1"), local), "remote": GatewayServer(relay_to("h1"), remote)}
    for name, server in servers.items():
        await server.listen_unix(base / f"{name}.sock")

    async def stop() -> None:
        for server in servers.values():
            await server.close()
            await server.links.close()
        await tunnel.close()

    return stop


class Docker:
    """One CLI against one gateway."""

    def __init__(self, cli: str, path: str, home: Path) -> None:
        self.cli, self.path = cli, path
        self.env = {**os.environ, "DOCKER_HOST": f"unix://{path}", "HOME": str(home), "DOCKER_BUILDKIT": "0"}

    def popen(self, *args: str, **kwargs) -> subprocess.Popen[bytes]:
        return subprocess.Popen([self.cli, *args], env=self.env, stdout=subprocess.PIPE, **kwargs)

    def __call__(self, *args: str, data: bytes | None = None, code: int = 0, **env: str) -> bytes:
        done = subprocess.run(
            [self.cli, *args], env={**self.env, **env}, input=data, capture_output=True, timeout=DEADLINE_S, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout


@pytest.fixture(params=CLIS, ids=lambda path: path.split("/")[-3])
def cli(request) -> str:
    return request.param


@pytest.fixture(params=["local", "remote"])
def docker(request, cli: str, gateways: dict[str, str], base: Path) -> Docker:
    return Docker(cli, gateways[request.param], base)


@pytest.fixture
def sleeper(docker: Docker) -> Iterator[str]:
    """A running container's id."""
    id_ = docker("run", "-d", "busybox", "sleep", "1000").decode().strip()
    yield id_
    docker("rm", "-f", id_)


def test_run_has_output_and_exit_code(docker: Docker):
    assert docker("run", "--rm", "busybox", "sh", "-c", "echo out; exit 7", code=7) == b"out\n"


def test_run_i_sees_the_end_of_stdin(docker: Docker):
    assert docker("run", "--rm", "-i", "busybox", "cat", data=b"to the end") == b"to the end"


def test_run_t_on_a_terminal(docker: Docker):
    leader, follower = pty.openpty()
    run = subprocess.Popen(
        [docker.cli, "run", "--rm", "-it", "busybox", "sh", "-c", "tty; read x; echo got $x; exit 3"],
        env=docker.env, stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    assert b"/dev/pts/0" in read_until(leader, b"/dev/pts/0")
    os.write(leader, b"hello\n")
    assert b"got hello" in read_until(leader, b"got hello")
    assert run.wait(DEADLINE_S) == 3
    os.close(leader)


def read_until(descriptor: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        seen += os.read(descriptor, 4096)
    return seen


def test_exec_carries_fifty_megabytes_both_ways(docker: Docker, sleeper: str):
    assert docker("exec", "-i", sleeper, "md5sum", data=BLOB).split()[0].decode() == BLOB_MD5
    echoed = docker("exec", "-i", sleeper, "cat", data=BLOB)
    assert hashlib.md5(echoed).hexdigest() == BLOB_MD5


def test_exec_that_stops_reading_ends(docker: Docker, sleeper: str):
    assert docker("exec", "-i", sleeper, "head", "-c", "3", data=b"yes" * 1_000_000) == b"yes"


@pytest.mark.parametrize("kit", ["0", "1"])
def test_build_classic_and_buildkit(docker: Docker, tmp_path: Path, kit: str):
    if kit == "1" and docker.cli != "/usr/bin/docker":
        pytest.skip("newer CLIs build with a plugin that is not part of Docker's packages")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY file /file\n")
    (tmp_path / "file").write_bytes(BLOB[:100_000])
    docker("build", "-t", "wire:test", str(tmp_path), DOCKER_BUILDKIT=kit)
    assert docker("image", "inspect", "-f", "{{.Size}}", "wire:test") == b"100000\n"
    docker("rmi", "wire:test")


def test_save_and_load(docker: Docker):
    archive = docker("save", "busybox")
    assert len(archive) > 1_000_000
    assert b"Loaded image: busybox:latest" in docker("load", data=archive)


def test_logs_follow_until_the_container_ends(docker: Docker):
    id_ = docker("run", "-di", "busybox", "sh", "-c", "read x; echo $x").decode().strip()
    logs = docker.popen("logs", "-f", id_)
    attach = docker.popen("attach", id_, stdin=subprocess.PIPE)
    assert attach.stdin is not None
    assert attach.stdout is not None
    assert logs.stdout is not None
    attach.stdin.write(b"one\n")
    attach.stdin.flush()
    assert logs.stdout.readline() == attach.stdout.readline() == b"one\n"
    assert (attach.wait(DEADLINE_S), logs.wait(DEADLINE_S)) == (0, 0)
    for pipe in (attach.stdin, attach.stdout, logs.stdout):
        pipe.close()
    docker("rm", id_)


def test_a_follower_that_leaves_is_forgotten_by_the_engine(docker: Docker, sleeper: str, base: Path):
    events = docker.popen("events")
    assert events.stdout is not None
    try:
        wait_for(lambda: event_listeners(base) == 1)
        docker("exec", sleeper, "echo")
        assert b"exec_" in events.stdout.readline()
    finally:
        events.kill()
        events.wait()
        events.stdout.close()
    wait_for(lambda: event_listeners(base) == 0)


def event_listeners(base: Path) -> int:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(f"{base}/docker.sock")
        raw.sendall(b"GET /info HTTP/1.0\r\n\r\n")
        body = b"".join(iter(lambda: raw.recv(65536), b"")).partition(b"\r\n\r\n")[2]
    return json.loads(body)["NEventsListener"]


def test_attach_over_a_websocket(docker: Docker):
    id_ = docker("run", "-di", "busybox", "cat").decode().strip()
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(DEADLINE_S)
        raw.connect(docker.path)
        key = base64.b64encode(os.urandom(16)).decode()
        raw.sendall(
            f"GET /v1.41/containers/{id_}/attach/ws?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: docker\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nOrigin: http://docker\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        head, _, early = receive(raw, b"\r\n\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        raw.sendall(b"\x81\x85\x00\x00\x00\x00ping\n")  # one masked text frame, its mask all zeros
        assert b"ping\n" in (early if b"ping\n" in early else receive(raw, b"ping\n"))
    docker("rm", "-f", id_)


def receive(raw: socket.socket, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        piece = raw.recv(65536)
        assert piece, f"closed after {seen!r}"
        seen += piece
    return seen
