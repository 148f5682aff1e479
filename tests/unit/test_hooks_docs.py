"""`docs/adapters.md` is true: the tests it names exist, its configuration is valid, its examples run."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from gateway_wire_tools import until
from hooks_tools import CREATE, HookWorld, hook_world

from drover.adapters import policy
from drover.gateway.hooks.config import parse_config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "adapters.md").read_text()
BLOCKS = re.findall(r"```([a-z]+)\n(.*?)```", TEXT, re.DOTALL)
CREATED = {"POST /*/containers/create": {"pre": ["one"]}}


def block(language: str, number: int = 0) -> str:
    return [text for name, text in BLOCKS if name == language][number]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def served(port: int, *arguments: str) -> AsyncIterator[None]:
    """A program that listens on a port, for as long as it is needed."""
    process = await asyncio.create_subprocess_exec(*arguments)
    try:
        await until(lambda: _listens(port))
        yield
    finally:
        process.terminate()
        await process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[HookWorld]:
    async with hook_world(tmp_path) as built:
        yield built


def test_every_test_it_names_exists():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_hooks_*.py"))
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", TEXT))
    assert len(named) > 50
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_its_configurations_are_valid():
    config = parse_config(block("yaml"))
    assert list(config.adapters) == ["policy", "env", "audit", "debug"]
    assert policy.make(yaml.safe_load(block("yaml", 1)))


async def test_the_python_example_runs_and_is_short(world: HookWorld, tmp_path: Path):
    assert len(block("python").splitlines()) <= 30
    (tmp_path / "limit.py").write_text(block("python"))
    port = free_port()
    async with served(port, sys.executable, str(tmp_path / "limit.py"), str(port)):
        await world.configure(CREATED, one=f"http://127.0.0.1:{port}/")
        await world.ask("POST", CREATE, b'{"Image":"a"}')
    assert json.loads(world.engine_bodies[0])["HostConfig"] == {"Memory": 536870912}


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
async def test_the_node_example_runs(world: HookWorld, tmp_path: Path):
    (tmp_path / "tags.js").write_text(block("js"))
    port = free_port()
    async with served(port, "node", str(tmp_path / "tags.js"), str(port)):
        await world.configure(CREATED, one=f"http://127.0.0.1:{port}/")
        refused = await world.ask("POST", CREATE, b'{"Image":"nginx"}')
        allowed = await world.ask("POST", CREATE, b'{"Image":"acme/nginx:1.25"}')
    assert (refused.status, refused.message) == (403, "nginx: name a tag other than latest")
    assert (allowed.status, len(world.engine_bodies)) == (201, 1)


@pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox")
async def test_the_shell_example_runs(world: HookWorld, tmp_path: Path):
    script = tmp_path / "www" / "cgi-bin" / "hours"
    script.parent.mkdir(parents=True)
    script.write_text(block("sh"))
    script.chmod(0o755)
    port = free_port()
    async with served(port, "busybox", "httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", str(tmp_path / "www")):
        await world.configure(
            {"* /*": {"pre": ["one"]}}, one={"url": f"http://127.0.0.1:{port}/cgi-bin/hours", "protocol": 2}
        )
        before = await world.ask("DELETE", "/v1.41/containers/a", None)
        (tmp_path / "www" / "frozen").touch()
        frozen = await world.ask("DELETE", "/v1.41/containers/a", None)
        other = await world.ask("GET", "/v1.41/containers/json", None)
    assert [before.status, frozen.status, other.status] == [201, 409, 201]
    assert frozen.message == "nothing is removed today"
