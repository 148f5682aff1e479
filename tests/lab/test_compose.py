"""Projects and programs on the cluster: docker-compose 1.29, Compose v2, docker-py.

| what the project asks for | what shows that it works |
|---|---|
| `build` | the service says what its Dockerfile copied |
| `depends_on` with a health condition | the page is there when the second service asks for it once |
| `env_file`, a named volume | `exec` and `run` see the word of the one and the file of the other |
| `--scale` | so many containers, and back |
| `logs`, `down -v` | each service's words; nothing is left |
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from stock import CLIENTS

from drover.lab import Lab
from drover.lab.clients import Compose, Docker, environment

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

_PROJECT = """\
version: "2.4"
services:
  web:
    build: .
    env_file: [words.env]
    volumes: ["pages:/pages"]
    healthcheck: {test: ["CMD", "wget", "-qO-", "http://127.0.0.1/"], interval: 1s, timeout: 5s, retries: 30}
    stop_grace_period: 1s
  asks:
    image: busybox
    depends_on: {web: {condition: service_healthy}}
    command: ["sh", "-c", "wget -qO- http://web/ && exec sleep 1000"]
    stop_grace_period: 1s
volumes:
  pages: {}
"""
_DOCKERFILE = """\
FROM busybox
COPY index.html /www/index.html
CMD ["sh", "-c", "cp /www/index.html /pages/copy; exec httpd -f -h /www"]
"""


def compose_1() -> str:
    """Debian 12's docker-compose; skips the test where there is none."""
    program = shutil.which("docker-compose", path="/usr/bin:/bin") or ""
    shown = (
        subprocess.run([program, "version", "--short"], capture_output=True, text=True, check=False)
        if program
        else None
    )
    if shown is None or not shown.stdout.startswith("1."):
        pytest.skip("this machine has no docker-compose 1 (Debian 12's package docker-compose)")
    return program


def compose_2() -> str:
    program = CLIENTS / "docker-compose"
    if not program.exists():
        pytest.skip("there is no Compose v2: tools/clients fetches it")
    return str(program)


@pytest.fixture(params=[("compose1", compose_1), ("compose2", compose_2)], ids=lambda row: row[0])
def project(request: pytest.FixtureRequest, cluster: Lab, tmp_path: Path) -> Iterator[Compose]:
    """The project's directory with a client of it, at the gateway of the host that has the base image."""
    name, program = request.param
    directory = tmp_path / name
    directory.mkdir()
    (directory / "compose.yaml").write_text(_PROJECT)
    (directory / "Dockerfile").write_text(_DOCKERFILE)
    (directory / "index.html").write_text(f"page of {name}\n")
    (directory / "words.env").write_text("WORD=from the file\n")
    compose = Compose(cluster.host("h1").gateway_socket, program(), directory)
    yield compose
    compose.run("down", "-v", "--rmi", "local", timeout_s=120)


def containers_of(compose: Compose, project: str, *more: str) -> list[str]:
    docker = Docker(compose.socket)
    return docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={project}", *more).split()


def test_a_project_from_up_to_down(project: Compose, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    project("up", "-d", "--build", timeout_s=180)
    assert f"page of {name}" in project("logs", "asks")
    assert project("exec", "-T", "web", "sh", "-c", "echo $WORD; cat /pages/copy") == f"from the file\npage of {name}"
    assert "web" in project("ps")
    assert project("run", "--rm", "-T", "web", "sh", "-c", "echo run says $WORD") == "run says from the file"

    project("up", "-d", "--scale", "asks=3", timeout_s=180)
    asks = ("--filter", "label=com.docker.compose.service=asks")
    assert len(containers_of(project, name, *asks)) == 3
    project("up", "-d", "--scale", "asks=1", timeout_s=180)
    assert len(containers_of(project, name, *asks)) == 1

    project("down", "-v", timeout_s=120)
    docker = Docker(project.socket)
    assert containers_of(project, name) == []
    assert docker("volume", "ls", "-q", "--filter", f"name={name}_pages") == ""
    assert docker("network", "ls", "-q", "--filter", f"name={name}_default") == ""


_SMALL = """\
services:
  web:
    image: busybox
    command: ["sleep", "1000"]
    stop_grace_period: 0s
    environment: {WORD: "%s"}
"""


def test_a_recreated_container_keeps_its_address(cluster: Lab, tmp_path: Path) -> None:
    """Compose v2 makes the new container beside the old one, under another name, and renames it."""
    file = tmp_path / "compose.yaml"
    compose = Compose(cluster.host("h1").gateway_socket, compose_2(), tmp_path)
    docker = Docker(compose.socket)

    def recreated(word: str) -> tuple[str, str]:
        file.write_text(_SMALL % word)
        compose("up", "-d", timeout_s=120)
        name = docker("ps", "--filter", "label=com.docker.compose.service=web", "--format", "{{.Names}}")
        shown = docker("inspect", "-f", "{{.Id}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name)
        identity, address = shown.split()
        assert docker("exec", name, "hostname", "-i") == address
        return identity, address

    try:
        first, second = recreated("one"), recreated("two")
        assert first[0] != second[0]
        assert first[1] == second[1]
    finally:
        compose.run("down", timeout_s=120)


_QUICKSTART = """
import docker, io
client = docker.from_env()
assert client.containers.run("busybox", ["echo", "hello world"]) == b"hello world\\n"
container = client.containers.run("busybox", ["sh", "-c", "echo up; exec sleep 1000"], detach=True, name="quick")
assert container.id in [found.id for found in client.containers.list()]
assert client.containers.get("quick").attrs["Config"]["Image"] == "busybox"
assert next(container.logs(stream=True)) == b"up\\n"
assert container.exec_run("echo inside").output == b"inside\\n"
container.stop(timeout=0)
container.reload()
assert container.status == "exited", container.status
container.remove()
client.images.build(fileobj=io.BytesIO(b"FROM busybox\\nRUN echo built >/word\\n"), tag="quick")
assert client.containers.run("quick", ["cat", "/word"], remove=True) == b"built\\n"
assert "quick:latest" in [tag for found in client.images.list() for tag in found.tags]
client.images.remove("quick")
network = client.networks.create("quick")
volume = client.volumes.create("quick")
assert client.containers.run("busybox", ["ls", "/data"], network="quick", volumes=["quick:/data"], remove=True) == b""
network.remove()
volume.remove()
try:
    client.containers.get("quick")
except docker.errors.NotFound as error:
    print(error.explanation)
"""


def test_the_quickstart_of_docker_py(cluster: Lab) -> None:
    python = CLIENTS / "python/bin/python"
    if not python.exists():
        pytest.skip("there is no docker-py: tools/clients fetches it")
    done = subprocess.run(
        [python, "-c", _QUICKSTART],
        env=environment(cluster.host("h1").gateway_socket),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "No such container: quick"
