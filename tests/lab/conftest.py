"""What lab tests share: a cluster of three hosts per module, and the daemons' last words beside a failure.

| fixture | scope | gives |
|---|---|---|
| `cluster` | module | a `Lab` of three hosts with busybox on h1 |
| `whole` | function | the same, with every host on, connected and answering whatever the test before did |
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from drover.lab import Lab, LabHost
from drover.lab.cluster import start_daemon, wait_for_gateway, wait_for_store
from drover.lab.stage import evidence

HOSTS = 3


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A cluster of three hosts, removed at the module's end."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    name = f"cl{os.getpid()}"
    try:
        yield Lab.create(name, HOSTS, images=("busybox",))
    finally:
        Lab.open(name).destroy()


@pytest.fixture
def whole(cluster: Lab) -> Lab:
    for host in cluster.hosts:
        _mend(host)
    for host in cluster.hosts:
        wait_for_gateway(host)
    wait_for_store(cluster.hosts[0], HOSTS)
    return cluster


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
