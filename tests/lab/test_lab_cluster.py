"""A lab with Drover on it: one cluster that outlives any one of its hosts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from drover.lab import Lab, cluster, engine
from drover.lab.processes import wait_until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def lab() -> Iterator[Lab]:
    base = Path(tempfile.mkdtemp(prefix="dlc-", dir="/var/tmp"))
    name = f"c{os.getpid()}"
    try:
        yield Lab.create(name, 3, base=base)
    finally:
        Lab.open(name, base=base).destroy()
        shutil.rmtree(base, ignore_errors=True)


def test_three_hosts_are_one_cluster_that_outlives_the_first(lab: Lab) -> None:
    first, second, third = lab.hosts
    assert all(row.gateway for row in lab.status())
    assert cluster.voters(third) == 3
    assert second.environment()["DOCKER_HOST"] == f"unix://{second.gateway_socket}"

    first.kill()

    assert [row.power for row in lab.status()] == ["off", "on", "on"]
    assert engine.answers(second.gateway_socket)
    assert engine.answers(third.gateway_socket)
    assert not engine.answers(first.gateway_socket)

    first.revive()

    assert engine.answers(first.gateway_socket)
    wait_until(lambda: cluster.voters(first) == 3, "three voters, seen by the first host", deadline_s=60, poll_s=0.2)
