"""A lab with Drover on it: one cluster that outlives any one of its hosts."""

from __future__ import annotations

import pytest

from drover.lab import Lab, engine
from drover.lab.cluster import voters
from drover.lab.processes import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]


def test_three_hosts_are_one_cluster_that_outlives_the_first(whole: Lab) -> None:
    lab, (first, second, third) = whole, whole.hosts
    assert all(row.gateway for row in lab.status())
    assert voters(third) == 3
    assert second.environment()["DOCKER_HOST"] == f"unix://{second.gateway_socket}"

    first.kill()

    assert [row.power for row in lab.status()] == ["off", "on", "on"]
    assert engine.answers(second.gateway_socket)
    assert engine.answers(third.gateway_socket)
    assert not engine.answers(first.gateway_socket)

    first.revive()

    assert engine.answers(first.gateway_socket)
    wait_until(lambda: voters(first) == 3, "three voters, seen by the first host", deadline_s=60, poll_s=0.2)
