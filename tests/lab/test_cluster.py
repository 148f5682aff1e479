"""Faults on a real cluster of three hosts: what dies, what goes on, what is there afterwards.

| fault | what must hold |
|---|---|
| a host's power is cut (h1, h3) | the others answer; creates within 10 s; all records stay; it comes back |
| a daemon is killed, and started | the host's containers never notice (ended in order: `test_recovery`) |
| an engine ends and starts again | its host is named meanwhile, and used afterwards |
| a cable is pulled | the host's containers run on, and are the same after it is plugged in |
| a host falls silent during a create | the create fails or goes elsewhere; nothing of it stays |
| many clients want one name | exactly one gets it |
| an adapter that the cluster runs is killed in a call | a clear error, nothing of the call stays; the adapter is back |
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stock import docker_program

from drover.lab import Lab, LabHost
from drover.lab.clients import Docker, Ran
from drover.lab.cluster import start_daemon, wait_for_gateway, wait_for_store
from drover.lab.processes import wait_until
from drover.lab.stage import HOST_FIELD

pytestmark = [pytest.mark.lab, pytest.mark.alone, pytest.mark.timeout(240)]

CREATE_DEADLINE_S = 10.0
AT_ONCE_S = 3.0
KNOWN_S = 40.0
NAMES = ("h1", "h2", "h3")
ADAPTER = """#!/bin/sh
while read -r line; do
  line=$(printf %s "$line" | tr -d '\\r')
  case "$line" in Content-Length:*) size=${line#*: } ;; "") break ;; esac
done
dd bs=1 count="$size" of=/told 2>/dev/null
grep -q 'name=slow' /told && sleep 1000
body='{"Continue": true}'
grep -q 'name=refused' /told && body='{"Refuse": {"Code": 403, "Message": "not this name"}}'
printf 'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n%s' "${#body}" "$body"
"""
"""An adapter in the shell of busybox, behind its `nc`."""
HOOKS = """
endpoints:
  "POST /*/containers/create": {pre: [gate], post: [gate]}
adapters:
  gate: {image: "acme/gate:1", protocol: 2, deadline_s: 30}
"""


def docker_of(host: LabHost) -> Docker:
    return Docker(host.gateway_socket, docker_program(20))


@pytest.fixture
def lab(whole: Lab) -> Iterator[Lab]:
    """The whole cluster; the containers a test leaves are removed once it is whole again."""
    yield whole
    if not all(host.is_on and host.is_linked and not host.is_frozen for host in whole.hosts):
        return
    docker = docker_of(whole.hosts[0])
    left = docker("ps", "-aq").split()
    if left:
        docker.run("rm", "-f", "-v", *left)


def on(host: str) -> tuple[str, str]:
    return ("--label", f"drover.constraint=host=={host}")


def up(docker: Docker, name: str, host: str, *options: str) -> str:
    """A running container on a host; its name."""
    docker("run", "-d", "--name", name, *on(host), *options, "busybox", "sleep", "100000")
    return name


def started_at(docker: Docker, name: str) -> str:
    return docker("inspect", "--format", "{{.State.StartedAt}}", name)


def names_in(docker: Docker) -> set[str]:
    return set(docker("ps", "-a", "--format", "{{.Names}}").split())


def refusal_about(docker: Docker, name: str, says: str) -> Ran:
    """A call about a container that is refused with these words, at the latest when the host's loss is known."""
    found: list[Ran] = []

    def refused() -> bool:
        found.append(docker.run("exec", name, "true", timeout_s=20))
        return found[-1].status != 0 and says in found[-1].err

    wait_until(refused, f"a refusal with {says!r}", deadline_s=KNOWN_S, poll_s=0.2)
    return docker.run("exec", name, "true", timeout_s=20)


def works_on(lab: Lab, victim: str) -> None:
    """A host is used again: a new container on it, asked of another host's gateway."""
    other = next(host for host in lab.hosts if host.name != victim)
    docker = docker_of(other)
    wait_until(
        lambda: docker.run("run", "--rm", *on(victim), "busybox", "true").status == 0,
        f"a container on {victim}",
        deadline_s=KNOWN_S,
        poll_s=0.5,
    )


@pytest.mark.parametrize("victim", ["h1", "h3"])
def test_any_one_host_may_lose_its_power(lab: Lab, victim: str) -> None:
    first = docker_of(lab.hosts[0])
    kept = {host: up(first, f"kept-{host}-{victim}", host) for host in NAMES}
    first("network", "create", f"net-{victim}")
    first("volume", "create", f"vol-{victim}")

    lab.host(victim).kill()

    survivors = [host for host in lab.hosts if host.name != victim]
    for host in survivors:
        docker = docker_of(host)
        begin = time.monotonic()
        docker("run", "-d", "--name", f"new-{host.name}-{victim}", "busybox", "sleep", "1000", timeout_s=20)
        assert time.monotonic() - begin < CREATE_DEADLINE_S
        assert set(kept.values()) <= names_in(docker)
        for other in survivors:
            assert docker("exec", kept[other.name], "hostname") == docker(
                "inspect", "--format", "{{.Config.Hostname}}", kept[other.name]
            )
        assert docker("network", "inspect", "--format", "{{.Name}}", f"net-{victim}") == f"net-{victim}"
        assert f"vol-{victim}" in docker("volume", "ls", "-q").split()
    refused = refusal_about(docker_of(survivors[0]), kept[victim], f"host {victim} is down since")
    assert refused.took_s < AT_ONCE_S

    lab.host(victim).revive()

    again = docker_of(lab.host(victim))
    assert set(kept.values()) <= names_in(again)
    again("start", kept[victim])
    assert again("exec", kept[victim], "echo", "back") == "back"
    works_on(lab, victim)
    wait_for_store(survivors[0], 3)
    again("network", "rm", f"net-{victim}")
    again("volume", "rm", f"vol-{victim}")


def test_a_daemon_that_is_killed_and_starts_again_disturbs_no_container(lab: Lab) -> None:
    second, other = lab.host("h2"), docker_of(lab.host("h3"))
    name = up(other, "undisturbed", "h2")
    before = started_at(other, name)
    pid = second.pid_of("drover")
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: second.pid_of("drover") is None, "the daemon's end")
    engine = Docker(second.docker_socket, docker_program(20))
    assert engine("inspect", "--format", "{{.State.Running}}", name) == "true"
    start_daemon(second)
    wait_for_gateway(second)

    for docker in (docker_of(second), other):
        wait_until(lambda docker=docker: docker.run("exec", name, "true").status == 0, "an exec", deadline_s=KNOWN_S)
        assert started_at(docker, name) == before
    works_on(lab, "h2")


def test_an_engine_that_starts_again_is_used_again(lab: Lab) -> None:
    third, docker = lab.host("h3"), docker_of(lab.host("h1"))
    name = up(docker, "restarted", "h3", "--restart", "always")
    pid = third.pid_of("dockerd")
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: third.pid_of("dockerd") is None, "the engine's end", deadline_s=60)
    refused = refusal_about(docker, name, "h3")
    assert refused.took_s < AT_ONCE_S
    assert docker("run", "--rm", "busybox", "echo", "elsewhere") == "elsewhere"

    third.start_engine()

    works_on(lab, "h3")
    wait_until(lambda: docker.run("exec", name, "true").status == 0, f"{name} again", deadline_s=KNOWN_S, poll_s=0.5)


def test_a_pulled_cable_stops_no_container(lab: Lab) -> None:
    third, docker = lab.host("h3"), docker_of(lab.host("h1"))
    name = up(docker, "cut-off", "h3")
    before = started_at(docker, name)

    third.cut()

    assert refusal_about(docker, name, "host h3 is down since").took_s < AT_ONCE_S
    assert Docker(third.docker_socket)("inspect", "--format", "{{.State.Running}}", name) == "true"
    third.heal()
    wait_until(lambda: docker.run("exec", name, "true").status == 0, "an exec after healing", deadline_s=KNOWN_S)
    assert started_at(docker, name) == before
    works_on(lab, "h3")


def test_a_create_that_the_engine_refuses_leaves_nothing(lab: Lab) -> None:
    docker = docker_of(lab.host("h1"))
    refused = docker.run("create", "--name", "half", "--memory", "1k", "busybox", "true")
    assert refused.status == 1
    assert "memory limit" in refused.err
    assert "half" not in names_in(docker)
    docker("create", "--name", "half", "busybox", "true")


def test_a_create_whose_host_falls_silent_leaves_nothing(lab: Lab) -> None:
    third, docker = lab.host("h3"), docker_of(lab.host("h1"))
    third.freeze()
    refused = docker.run("create", "--name", "unborn", *on("h3"), "busybox", "true", timeout_s=100)
    assert refused.status == 1
    assert "h3" in refused.err
    assert "unborn" not in names_in(docker)
    docker("create", "--name", "unborn", *on("h2"), "busybox", "true")

    third.thaw()

    works_on(lab, "h3")
    assert docker("ps", "-a", "--filter", "name=unborn", "--format", HOST_FIELD) == "h2"
    engine = Docker(third.docker_socket)
    wait_until(lambda: "unborn" not in names_in(engine), "the end of the half-made container", deadline_s=KNOWN_S)


def test_one_of_many_gets_a_name(lab: Lab) -> None:
    gateways = [docker_of(host) for host in lab.hosts]

    def create(number: int) -> Ran:
        return gateways[number % 3].run("create", "--name", "wanted", "busybox", "true")

    with ThreadPoolExecutor(20) as pool:
        ran = list(pool.map(create, range(20)))
    won = [one.out.strip() for one in ran if one.status == 0]
    assert len(won) == 1, [one.words for one in ran]
    for one in ran:
        assert one.status == 0 or f'The container name "/wanted" is already in use by container "{won[0]}"' in one.err
    assert gateways[1]("ps", "-aq", "--no-trunc", "--filter", "name=wanted") == won[0]


GATE = "drover-adapter-gate"


@pytest.fixture
def gate(lab: Lab, tmp_path: Path) -> Iterator[Docker]:
    """A cluster whose creations pass an adapter that the cluster itself runs, with a network of its own."""
    docker, host = docker_of(lab.host("h1")), lab.host("h1")
    (tmp_path / "adapter").write_text(ADAPTER)
    (tmp_path / "adapter").chmod(0o755)
    docker("create", "--name", "seed", "busybox", "true")
    docker("cp", str(tmp_path / "adapter"), "seed:/adapter")
    docker("commit", "--change", 'CMD ["nc", "-ll", "-p", "80", "-e", "/adapter"]', "seed", "acme/gate:1")
    docker("network", "create", "--subnet", "10.77.0.0/24", "gated")
    host.exec(["drover", "adapter", "apply", "-f", "-"], stdin=HOOKS)
    yield docker
    host.exec(["drover", "adapter", "rollback"])
    wait_until(lambda: GATE not in names_in(docker), "the end of the adapter's container", deadline_s=KNOWN_S)
    docker.run("rm", "-f", *names_in(docker))
    docker("network", "rm", "gated")


def engine_of_gate(lab: Lab, docker: Docker) -> Docker:
    """The engine that has the adapter's container: the cluster lets nobody at it."""
    host = lab.host(docker("ps", "-a", "--filter", f"name={GATE}", "--format", HOST_FIELD))
    return Docker(host.docker_socket)


def told(lab: Lab, docker: Docker) -> str:
    """What the adapter was asked last."""
    return engine_of_gate(lab, docker).run("exec", GATE, "cat", "/told").out


def test_an_adapter_is_killed_in_the_middle_of_a_call(lab: Lab, gate: Docker) -> None:
    for host in lab.hosts:
        docker_of(host)("create", "--name", f"passed-{host.name}", "busybox", "true")
        refused = docker_of(host).run("create", "--name", "refused", "busybox", "true")
        assert (refused.status, "not this name" in refused.err) == (1, True)
    assert gate.run("rm", "-f", GATE).status == 1

    started = gate.start("run", "-d", "--name", "slow", "--network", "gated", "--ip", "10.77.0.9", "busybox", "true")
    wait_until(lambda: "name=slow" in told(lab, gate), "the adapter's being asked", deadline_s=KNOWN_S)
    engine_of_gate(lab, gate)("kill", GATE)
    _, err = started.communicate(timeout=KNOWN_S)
    assert started.returncode != 0
    assert "adapter gate" in err
    assert "slow" not in names_in(gate)

    wait_until(
        lambda: gate.run("create", "--name", "fast", "--network", "gated", "--ip", "10.77.0.9", "busybox").status == 0,
        "the adapter's being back, and the address's being free",
        deadline_s=KNOWN_S,
        poll_s=0.5,
    )
