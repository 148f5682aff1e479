"""What lab tests share: a cluster of three hosts, the order of the files, and the daemons' last words beside a failure.

| fixture | scope | gives |
|---|---|---|
| `one_cluster` | session, one per worker | a `Lab` of three hosts with busybox on h1; making one takes half a minute |
| `cluster` | module | the same, whole, and without anything that another module left |
| `whole` | function | the same, with every host on, connected and answering whatever the test before did |

Files run in the order of `FIRST` and `LAST`: the long ones that make labs of their own come first, so that two workers
end at about the same time; those that share the cluster come together at the end, `test_bad_input` before the others,
because it wants images on one host only, and `test_load` on hosts that nobody has broken yet; the last of all takes a
host out of the cluster.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from drover.lab import Lab, LabHost
from drover.lab.clients import Docker
from drover.lab.cluster import drover, start_daemon, wait_for_gateway, wait_for_store
from drover.lab.processes import wait_until
from drover.lab.stage import evidence

HOSTS = 3
HERE = Path(__file__).parent


FIRST = (
    "test_volumes_move",
    "test_overlay",
    "test_lab",
    "test_image_move",
    "test_engine_docker",
    "test_lab_images",
    "test_gateway_wire",
    "test_hooks_docker",
)
LAST = (
    "test_bad_input",
    "test_network_services",
    "test_clients",
    "test_move_whole",
    "test_compose",
    "test_deploy",
    "test_lab_cluster",
    "test_load",
    "test_cluster",
    "test_recovery",
    "test_purge",
)
_RANKS = {
    **{name: number - len(FIRST) for number, name in enumerate(FIRST)},
    **{name: number for number, name in enumerate(LAST, 1)},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order of `FIRST` and `LAST`; files that are in neither stay where they are, between the two."""
    items.sort(key=lambda item: _RANKS.get(item.path.stem, 0) if item.path.parent == HERE else 0)


@pytest.fixture(scope="session")
def one_cluster() -> Iterator[Lab]:
    """A cluster of three hosts, removed at the end."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    name = f"cl{os.getpid()}"
    try:
        yield Lab.create(name, HOSTS, images=("busybox",))
    finally:
        Lab.open(name).destroy()


@pytest.fixture(scope="module")
def cluster(one_cluster: Lab) -> Lab:
    made_whole(one_cluster)
    _empty(one_cluster.hosts[0])
    return one_cluster


@pytest.fixture
def whole(cluster: Lab) -> Lab:
    made_whole(cluster)
    return cluster


def made_whole(lab: Lab) -> None:
    for host in lab.hosts:
        _mend(host)
    for host in lab.hosts:
        wait_for_gateway(host)
    wait_for_store(lab.hosts[0], HOSTS)
    wait_until(lambda: _ready(lab.hosts[0]) == HOSTS, "hosts that are ready", deadline_s=60, poll_s=0.2)


def _ready(host: LabHost) -> int:
    done = host.exec([drover(), "status", "--json"], check=False)
    return int(json.loads(done.stdout)["hosts"].get("ready", 0)) if done.returncode == 0 else 0


def _empty(host: LabHost) -> None:
    """Remove what the tests of another module left, also where they failed."""
    apps = host.exec([drover(), "app", "ls", "--json"]).stdout
    for app in json.loads(apps):
        host.exec([drover(), "rm", app["name"], "--volumes"], timeout_s=120)
    docker = Docker(host.gateway_socket)
    if left := docker("ps", "-aq").split():
        docker("rm", "-f", "-v", *left)
    docker("network", "prune", "-f")
    wait_until(lambda: _no_volumes(docker), "the end of the volumes", deadline_s=60, poll_s=0.2)


def _no_volumes(docker: Docker) -> bool:
    left = docker("volume", "ls", "-q").split()
    if left:
        docker.run("volume", "rm", "-f", *left)
    return not left


def _mend(host: LabHost) -> None:
    """Undo whatever a test did to a host; its gateway may not answer yet."""
    if host.is_frozen:
        host.thaw()
    if not host.is_on:
        host.revive(wait=False)
    host.heal()
    if host.pid_of("dockerd") is None:
        host.start_engine()
    if host.pid_of("drover") is None:
        start_daemon(host)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test on the cluster shows the last lines of every daemon's log."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(lab, Lab):
        report.sections.append(("drover.log of each host", evidence(lab)))
    return report
