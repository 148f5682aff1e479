"""Applications on three real hosts: a file deployed, updated, turned back, and removed, as a person does it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from drover.cli.compose import Asked, canonical_form
from drover.errors import MissingTool
from drover.lab import Lab
from drover.lab.clients import Docker

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

MANIFEST = """
services:
  web:
    image: busybox
    command: {command}
    stop_signal: SIGKILL
    configs: [{{source: page, target: /srv/index.html}}]
    depends_on: {{once: {{condition: service_completed_successfully}}}}
    healthcheck: {{test: wget -q -O - localhost, interval: 1s, retries: 2}}
    deploy:
      replicas: 3
      update_config: {{order: start-first, monitor: 1s, parallelism: 3, failure_action: rollback}}
      rollback_config: {{parallelism: 0, monitor: 1s}}
  once:
    image: busybox
    command: cat /run/secrets/password
    secrets: [{{source: password, mode: 0400}}]
configs: {{page: {{content: "{page}"}}}}
secrets: {{password: {{environment: SHOP_PASSWORD}}}}
"""
SECRET = {"SHOP_PASSWORD": "top secret"}
SERVING = "httpd -f -p 80 -h /srv"


class Shop:
    """The application, on the cluster's first host."""

    def __init__(self, cluster: Lab, directory: Path) -> None:
        host = cluster.host("h1")
        self.environment = host.environment() | SECRET
        self.docker = Docker(host.gateway_socket)
        self.file = directory / "compose.yaml"

    def write(self, page: str, command: str = SERVING) -> None:
        self.file.write_text(MANIFEST.format(page=page, command=command))

    def drover(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["drover", *arguments], env=self.environment, capture_output=True, text=True, timeout=180, check=False
        )

    def deploy(self) -> subprocess.CompletedProcess[str]:
        return self.drover("deploy", "-f", str(self.file), "--name", "shop", "--timeout", "120")

    def view(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.drover("app", "inspect", "shop", "--json").stdout)
        return found

    def page(self) -> str:
        return self.docker("run", "--rm", "--network", "shop_default", "busybox", "wget", "-q", "-O", "-", "web")


@pytest.fixture
def shop(whole: Lab, tmp_path: Path) -> Shop:
    try:
        (tmp_path / "probe.yaml").write_text("services: {a: {image: a}}")
        canonical_form(Asked([str(tmp_path / "probe.yaml")], "probe"))
    except MissingTool:
        pytest.skip("there is no Compose v2: tools/clients fetches it")
    return Shop(whole, tmp_path)


def test_a_file_from_deploy_to_rm(shop: Shop) -> None:
    shop.write("one")
    done = shop.deploy()
    assert done.returncode == 0, done.stderr
    view = shop.view()
    assert view["state"] == "converged"
    hosts = {one["host"] for service in view["services"] for one in service["containers"] if service["name"] == "web"}
    assert hosts == {"h1", "h2", "h3"}
    assert shop.docker("logs", "shop-once-1") == "top secret"
    assert "top secret" not in shop.docker("inspect", "shop-once-1")
    assert shop.page() == "one"

    before = shop.docker("ps", "-q", "--no-trunc")
    again = shop.deploy()
    assert again.stdout.startswith("nothing has changed"), again.stderr
    assert shop.docker("ps", "-q", "--no-trunc") == before

    shop.write("two")
    done = shop.deploy()
    assert done.returncode == 0, done.stderr
    assert shop.page() == "two"
    assert sorted(shop.docker("ps", "--format", "{{.Names}}").split()) == [f"shop-web-{n}" for n in (1, 2, 3)]

    shop.write("three", "sleep 86400")
    failed = shop.deploy()
    assert failed.returncode == 5, failed.stdout
    assert "web runs the version before" in failed.stderr
    assert shop.page() == "two"

    assert shop.drover("rm", "shop").returncode == 0
    assert shop.docker("ps", "-aq", "--filter", "label=com.docker.compose.project=shop") == ""
    assert shop.docker("network", "ls", "-q", "--filter", "name=shop_default") == ""


def test_the_leader_may_go_while_a_deployment_is_under_way(shop: Shop, whole: Lab) -> None:
    shop.write("one")
    started = shop.drover("deploy", "-f", str(shop.file), "--name", "shop", "--detach")
    assert started.returncode == 0, started.stderr
    leader = json.loads(shop.drover("status", "--json").stdout)["leader"]
    others = [host for host in whole.hosts if host.name != leader]
    whole.host(leader).kill()
    environment = others[0].environment() | SECRET
    shop.environment, shop.docker = environment, Docker(others[0].gateway_socket)
    done = shop.deploy()
    assert done.returncode == 0, done.stderr
    assert shop.view()["state"] == "converged"
    assert shop.page() == "one"
    assert shop.drover("rm", "shop").returncode == 0
