"""Docker CLIs against one real engine with three adapters before and after every call (`"* /*"`)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from gateway_wire_tools import relay_to
from hooks_tools import ScriptedAdapter, echo
from real_engine import real_engines
from test_gateway_wire import CLIS, DEADLINE_S, Docker, event_listeners, load_busybox, read_until, wait_for

from drover.gateway.hooks.layer import HookLayer
from drover.gateway.links import EngineLinks
from drover.gateway.server import GatewayServer
from drover.model.cluster import put
from drover.model.records import Adapters, key
from drover.store.memory import MemoryCluster
from drover.store.mirror import Mirror

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("dockerd") or not CLIS, reason="needs root and Docker"),
]
BLOB = os.urandom(1024 * 1024) * 20


class Hooked:
    """A gateway with hooks on a loop of its own; `lines` is what its adapters were asked."""

    def __init__(self, base: Path, engine: str) -> None:
        self.path = str(base / "hooked.sock")
        self.lines: list[str] = []
        self.adapters = [ScriptedAdapter(name, echo, self.lines) for name in ("one", "two", "three")]
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.run(self._start(engine))

    def run(self, coroutine) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE_S)

    async def _start(self, engine: str) -> None:
        for adapter in self.adapters:
            await adapter.start()
        names = [adapter.name for adapter in self.adapters]
        urls = {adapter.name: adapter.url for adapter in self.adapters}
        text = json.dumps({"endpoints": {"* /*": {"pre": names, "post": names}}, "adapters": urls})
        store = MemoryCluster().client()
        await store.commit([put(key("adapters", "current"), Adapters(text=text))])
        self.mirror = Mirror(store)
        assert await self.mirror.start()
        links = EngineLinks(engine, locate=lambda host: None)
        self.layer = HookLayer(self.mirror, links)
        self.server = GatewayServer(self.layer.wrap(relay_to("h1")), links)
        await self.server.listen_unix(Path(self.path))

    async def _stop(self) -> None:
        await self.server.close()
        await self.server.links.close()
        await self.layer.close()
        await self.mirror.stop()
        for adapter in self.adapters:
            await adapter.stop()

    def close(self) -> None:
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="drover-hooks-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def hooked(base: Path) -> Iterator[Hooked]:
    with real_engines(1) as engines:
        (base / "docker.sock").symlink_to(engines[0].socket)
        load_busybox(base)
        made = Hooked(base, engines[0].socket)
        yield made
        made.close()


@pytest.fixture(params=CLIS, ids=lambda path: path.split("/")[-3])
def docker(request: pytest.FixtureRequest, hooked: Hooked, base: Path) -> Docker:
    hooked.lines.clear()
    return Docker(request.param, hooked.path, base)


@pytest.fixture
def sleeper(docker: Docker) -> Iterator[str]:
    ident = docker("run", "-d", "busybox", "sleep", "1000").decode().strip()
    yield ident
    docker("rm", "-f", ident)


def test_run_it_on_a_terminal(docker: Docker, hooked: Hooked):
    terminal, inner = pty.openpty()
    command = [docker.cli, "run", "--rm", "-it", "busybox", "sh", "-c", "tty; read line; echo got $line; exit 7"]
    process = subprocess.Popen(command, env=docker.env, stdin=inner, stdout=inner, stderr=inner, close_fds=True)
    os.close(inner)
    read_until(terminal, b"/dev/pts/0")
    os.write(terminal, b"typed\n")
    read_until(terminal, b"got typed")
    assert process.wait(DEADLINE_S) == 7
    os.close(terminal)
    assert {line.split()[0] for line in hooked.lines} == {"one", "two", "three"}


def test_exec_i_sees_the_end_of_its_input(docker: Docker, sleeper: str):
    assert docker("exec", "-i", sleeper, "md5sum", data=BLOB).split()[0] == md5(BLOB)


def md5(data: bytes) -> bytes:
    return hashlib.md5(data).hexdigest().encode()


def test_logs_f_comes_as_it_happens_and_ends_with_the_container(docker: Docker):
    ident = docker("run", "-di", "busybox", "sh", "-c", "echo first; read line; echo last").decode().strip()
    logs = docker.popen("logs", "-f", ident)
    assert logs.stdout is not None
    assert logs.stdout.readline() == b"first\n"
    docker("attach", ident, data=b"go\n")  # the engine may drop its output once the input has ended
    assert logs.stdout.read() == b"last\n"
    assert logs.wait(DEADLINE_S) == 0
    docker("rm", "-f", ident)


@pytest.mark.parametrize("kit", ["0", "1"])
def test_build_streams_its_context_and_its_progress(docker: Docker, base: Path, kit: str):
    if kit == "1" and docker.cli != "/usr/bin/docker":
        pytest.skip("newer CLIs build with a plugin that is not part of Docker's packages")
    context = base / "context"
    context.mkdir(exist_ok=True)
    (context / "blob").write_bytes(BLOB)
    (context / "Dockerfile").write_text("FROM busybox\nCOPY blob /blob\nRUN md5sum /blob\n")
    said = docker("build", "--no-cache", "-t", "built", str(context), DOCKER_BUILDKIT=kit)
    assert kit == "1" or md5(BLOB) in said
    assert md5(BLOB) in docker("run", "--rm", "built", "md5sum", "/blob")


def test_cp_both_ways(docker: Docker, sleeper: str, base: Path):
    (base / "in").write_bytes(BLOB)
    docker("cp", str(base / "in"), f"{sleeper}:/in")
    docker("cp", f"{sleeper}:/in", str(base / "out"))
    assert md5((base / "out").read_bytes()) == md5(BLOB)


def test_events_come_at_once(docker: Docker, sleeper: str, base: Path):
    wait_for(lambda: event_listeners(base) == 0)
    events = docker.popen("events", "--format", "{{.Action}}", "--filter", f"container={sleeper}")
    assert events.stdout is not None
    wait_for(lambda: event_listeners(base) == 1)
    docker("kill", "-s", "USR1", sleeper)
    assert events.stdout.readline().startswith(b"kill")
    events.terminate()
    events.wait(DEADLINE_S)


def test_ordinary_calls_pass_all_three_both_ways(docker: Docker, hooked: Hooked, sleeper: str):
    hooked.lines.clear()
    assert json.loads(docker("inspect", sleeper))[0]["State"]["Running"] is True
    assert [line for line in hooked.lines if line.startswith("three")] != []
    assert docker("inspect", "no-such-thing", code=1).strip() == b"[]"
