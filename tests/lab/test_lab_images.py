"""Images cooked without a registry do what their namesakes do. Slow the first time: packages are fetched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from drover.lab import Lab, LabHost, images
from drover.lab.processes import wait_until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture(scope="module")
def host() -> Iterator[LabHost]:
    """One engine with all images."""
    base = Path(tempfile.mkdtemp(prefix="dli-", dir="/var/tmp"))
    lab = Lab.create(f"i{os.getpid()}", 1, base=base, cluster=False, images=tuple(images.RECIPES))
    yield lab.host("h1")
    lab.destroy()
    shutil.rmtree(base, ignore_errors=True)


def succeeds(host: LabHost, *argv: str) -> bool:
    return host.exec(argv, check=False).returncode == 0


def output(host: LabHost, *argv: str) -> str:
    return host.exec(argv).stdout.strip()


def test_postgres_makes_its_database_once_and_keeps_it(host: LabHost) -> None:
    settings = ("-e", "POSTGRES_USER=app", "-e", "POSTGRES_PASSWORD=it's secret", "-e", "POSTGRES_DB=shop")
    output(host, "docker", "run", "-d", "--name", "db", *settings, "postgres:15")
    local = ("docker", "exec", "db", "psql", "-U", "app", "-d", "shop", "-tAc")
    wait_until(lambda: succeeds(host, *local, "select 1"), "the start of postgres", deadline_s=60)
    wait_until(lambda: output(host, "docker", "exec", "db", "cat", "/proc/1/comm") == "postgres", "the real server")
    wait_until(lambda: succeeds(host, *local, "create table orders (id int)"), "a table", deadline_s=60)

    output(host, "docker", "restart", "db")
    wait_until(lambda: succeeds(host, *local, "select * from orders"), "the table after a restart", deadline_s=60)

    by_network = ("psql", "-h", output(host, "docker", "exec", "db", "hostname", "-i"), "-U", "app", "-d", "shop")
    for password, welcome in (("it's secret", True), ("wrong", False)):
        assert succeeds(host, "docker", "exec", "-e", f"PGPASSWORD={password}", "db", *by_network, "-c", "") is welcome
    assert "received fast shutdown request" in host.exec(["docker", "logs", "db"]).stderr


def test_postgres_without_a_password_says_what_to_set(host: LabHost) -> None:
    done = host.exec(["docker", "run", "--rm", "postgres:15"], check=False)
    assert done.returncode == 1
    assert "set POSTGRES_PASSWORD" in done.stderr


def test_redis_keeps_its_data_in_a_volume(host: LabHost) -> None:
    output(host, "docker", "run", "-d", "--name", "cache", "-v", "cached:/data", "redis")
    wait_until(lambda: succeeds(host, "docker", "exec", "cache", "redis-cli", "ping"), "the start of redis")
    assert output(host, "docker", "exec", "cache", "redis-cli", "set", "key", "kept") == "OK"
    assert output(host, "docker", "exec", "cache", "redis-cli", "save") == "OK"
    output(host, "docker", "rm", "-f", "cache")
    output(host, "docker", "run", "-d", "--name", "cache", "-v", "cached:/data", "redis")
    wait_until(lambda: succeeds(host, "docker", "exec", "cache", "redis-cli", "ping"), "the start of redis")
    assert output(host, "docker", "exec", "cache", "redis-cli", "get", "key") == "kept"


def test_nginx_serves_its_pages_and_logs_to_docker(host: LabHost) -> None:
    output(host, "docker", "run", "-d", "--name", "web", "nginx")
    write = "echo hello from the lab >/usr/share/nginx/html/index.html"
    output(host, "docker", "exec", "web", "sh", "-c", write)
    address = output(host, "docker", "inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web")
    fetch = ("docker", "run", "--rm", "busybox", "wget", "-qO-", f"http://{address}/")
    wait_until(lambda: succeeds(host, *fetch), "the start of nginx")
    assert output(host, *fetch) == "hello from the lab"
    assert "GET / HTTP" in output(host, "docker", "logs", "web")
