"""A host dies, is cut off, or its daemon hangs: its containers answer again elsewhere, and never twice.

Figures are printed (`-s` shows them); nothing is asserted on time. ROUNDS (environment, default 1) says how often a
host loses its power.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from drover.lab import Lab, LabHost, engine
from drover.lab import cluster as drovers
from drover.lab.processes import lives, wait_until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.alone,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

ROUNDS = int(os.environ.get("ROUNDS", "1"))
DEADLINE_S = 90.0
PINGER = 'while :; do (ping -c 1 -W 1 {ip} >/dev/null 2>&1 && cut -d" " -f1 /proc/uptime) & usleep 100000; done'
"""Prints the machine's uptime at each answer; a ping that waits does not hold up the next one."""


@pytest.fixture(scope="module")
def lab(cluster: Lab) -> Lab:
    docker(cluster.hosts[0], "network", "create", "--subnet", "10.44.0.0/16", "app")
    return cluster


@pytest.fixture(autouse=True)
def whole(lab: Lab) -> Iterator[None]:
    """Every test begins with three hosts that take part, and leaves no container."""
    yield
    for host in lab.hosts:
        if not host.is_on:
            host.revive()
        host.heal()
    until(lambda: states(lab) == ["ready"] * 3, "three hosts that are ready")
    left = docker(lab.hosts[0], "ps", "-aq").split()
    if left:
        docker(lab.hosts[0], "rm", "-f", *left)


def docker(host: LabHost, *argv: str) -> str:
    return host.exec(["docker", *argv]).stdout.strip()


def until(done: Any, what: str) -> None:
    wait_until(done, what, deadline_s=DEADLINE_S, poll_s=0.1)


def shown(host: LabHost, *argv: str) -> Any:
    """What a `drover … --json` command says; None while it cannot."""
    done = host.exec([drovers.drover(), *argv, "--json"], check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def states(lab: Lab) -> list[str]:
    return [one["state"] for one in shown(lab.hosts[0], "host", "ls") or []]


def home(host: LabHost, name: str) -> str:
    return str((shown(host, "why", name) or {}).get("host", ""))


def copies(lab: Lab, name: str) -> list[str]:
    """The hosts whose own engines run a container of that name."""
    found = []
    for host in lab.hosts:
        if host.is_on and engine.answers(host.docker_socket):
            listed = host.exec(["docker", "-H", f"unix://{host.docker_socket}", "ps", "-q", "-f", f"name=^{name}$"])
            found += [host.name] if listed.stdout.strip() else []
    return found


class Watched:
    """A container with an address, not on `watcher`, and one there that pings it all along."""

    def __init__(self, lab: Lab, *options: str) -> None:
        self.lab = lab
        self.watcher = lab.hosts[0]
        away = ("-e", f"constraint:host!={self.watcher.name}")
        docker(
            self.watcher, "run", "-d", "--name", "web", "--network", "app", *away, *options, "busybox", "sleep", "1d"
        )
        self.ip = self.address()
        here = ("-e", f"constraint:host=={self.watcher.name}")
        pinger = ("busybox", "sh", "-c", PINGER.format(ip=self.ip))
        docker(self.watcher, "run", "-d", "--name", "pinger", "--network", "app", *here, *pinger)
        until(lambda: self.heard_since(0.0), "the first answer")

    def address(self) -> str:
        return docker(self.watcher, "inspect", "-f", "{{.NetworkSettings.Networks.app.IPAddress}}", "web")

    @property
    def home(self) -> LabHost:
        return self.lab.host(home(self.watcher, "web"))

    def answers(self) -> list[float]:
        """When it answered, in seconds of the machine's uptime."""
        return sorted(float(line) for line in docker(self.watcher, "logs", "--tail", "2000", "pinger").split())

    def heard_since(self, uptime_s: float) -> bool:
        return any(at > uptime_s for at in self.answers())

    def gap_s(self, fault_s: float) -> float:
        """The longest silence that ended after the fault."""
        heard = self.answers()
        return max((late - early for early, late in pairwise(heard) if late > fault_s), default=0.0)

    def moved_from(self, old: str, fault_s: float) -> float:
        """Wait until it answers from elsewhere; returns the gap in seconds."""
        until(lambda: home(self.watcher, "web") not in ("", old), "another host for it")
        until(lambda: self.home.name in copies(self.lab, "web"), "its start there")
        started_s = uptime_s()
        until(lambda: self.heard_since(started_s), "its answer from there")
        assert self.address() == self.ip
        return self.gap_s(fault_s)


def uptime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def tell(what: str, gaps_s: list[float]) -> None:
    shown_s = " ".join(f"{gap:.2f}" for gap in gaps_s)
    print(f"\n{what}: gap median {statistics.median(gaps_s):.2f} s, worst {max(gaps_s):.2f} s (of {shown_s})")


def test_a_host_loses_power_and_its_container_answers_at_the_same_address_from_another(lab: Lab) -> None:
    watched = Watched(lab)
    gaps_s = []
    for _ in range(ROUNDS):
        old, fault_s = watched.home, uptime_s()
        old.kill()
        gaps_s.append(watched.moved_from(old.name, fault_s))
        told = shown(watched.watcher, "why", "web")
        assert told["chosen"].startswith(f"it ran on {old.name}, which is down since")
        old.revive()
        until(lambda: states(lab) == ["ready"] * 3, "the host's return")
        until(lambda: len(copies(lab, "web")) == 1, "one copy")
    tell("power cut", gaps_s)


def test_a_volume_outlives_the_host_that_wrote_it(lab: Lab) -> None:
    watcher = lab.hosts[0]
    here = ("-v", "kept:/kept", "--network", "app", "--ip", "10.44.0.80", "-e", f"constraint:host!={watcher.name}")
    docker(watcher, "run", "-d", "--name", "keeper", *here, "busybox", "sleep", "1d")
    docker(watcher, "exec", "keeper", "sh", "-c", "echo written before the death > /kept/word")
    written_s = time.time()
    until(lambda: any(one["synced_at"] > written_s + 1 for one in copies_of(watcher, "kept")), "a copy")
    old, fault_s = lab.host(home(watcher, "keeper")), uptime_s()
    old.kill()
    until(lambda: home(watcher, "keeper") not in ("", old.name), "another host for it")
    until(lambda: copies(lab, "keeper") == [home(watcher, "keeper")], "its start there")
    print(f"\nvolume: its container runs elsewhere after {uptime_s() - fault_s:.2f} s")
    assert docker(watcher, "exec", "keeper", "cat", "/kept/word") == "written before the death"
    assert docker(watcher, "inspect", "-f", "{{.NetworkSettings.Networks.app.IPAddress}}", "keeper") == "10.44.0.80"
    new = home(watcher, "keeper")
    old.revive()
    until(lambda: states(lab) == ["ready"] * 3, "the host's return")
    assert copies(lab, "keeper") == [new]


def copies_of(host: LabHost, volume: str) -> list[dict[str, Any]]:
    return list((shown(host, "volume", "inspect", volume) or {}).get("copies", []))


def test_a_host_is_cut_off_and_when_it_returns_there_is_exactly_one_copy(lab: Lab) -> None:
    watched = Watched(lab)
    old, fault_s = watched.home, uptime_s()
    old.cut()
    gap_s = watched.moved_from(old.name, fault_s)
    new = watched.home.name
    assert old.name in copies(lab, "web"), "a container without claims runs on, unheard, on the cut-off side"
    old.heal()
    until(lambda: copies(lab, "web") == [new], "one copy")
    until(lambda: states(lab) == ["ready"] * 3, "the host's return")
    tell("cut network", [gap_s])


def test_a_stopped_daemon_with_a_claim_holder_is_fenced_by_its_watchdog_before_the_address_passes(lab: Lab) -> None:
    watched = Watched(lab, "--ip", "10.44.0.77")
    old = watched.home
    pid = int((old.run_dir / "daemon.pid").read_text())
    seen = json.loads(
        old.exec(["docker", "-H", f"unix://{old.docker_socket}", "inspect", "web", "-f", "{{json .State.Pid}}"]).stdout
    )
    fault_s = uptime_s()
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: not lives(seen), "the end of the claim holder's process")
        ended_s = uptime_s()
        gap_s = watched.moved_from(old.name, fault_s)
        started = docker(watched.watcher, "inspect", "-f", "{{.State.StartedAt}}", "web")
        assert copies(lab, "web") == [watched.home.name]
    finally:
        os.kill(pid, signal.SIGCONT)
    new = watched.home.name
    until(lambda: states(lab) == ["ready"] * 3, "the host's return")
    until(lambda: copies(lab, "web") == [new], "one copy")
    print(f"\nstopped daemon: holder dead after {ended_s - fault_s:.2f} s, running elsewhere since {started}")
    tell("stopped daemon", [gap_s])


def test_a_daemon_that_restarts_in_order_stops_nothing_and_moves_nothing(lab: Lab) -> None:
    watched = Watched(lab, "--ip", "10.44.0.78", "--restart", "always")
    host = watched.home
    identity = docker(watched.watcher, "inspect", "-f", "{{.State.StartedAt}}", "web")
    pid = int((host.run_dir / "daemon.pid").read_text())
    fault_s = uptime_s()
    os.kill(pid, signal.SIGTERM)
    until(lambda: not lives(pid), "the daemon's end")
    assert copies(lab, "web") == [host.name]
    drovers.start_daemon(host)
    drovers.wait_for_gateway(host)
    until(lambda: watched.heard_since(fault_s + 8.0), "answers past the time of a lease")
    assert watched.home.name == host.name
    for gateway in (watched.watcher, host):
        assert docker(gateway, "inspect", "-f", "{{.State.StartedAt}}", "web") == identity
        docker(gateway, "exec", "web", "true")
    docker(watched.watcher, "run", "--rm", "-e", f"constraint:host=={host.name}", "busybox", "true")
    tell("daemon restarted in order", [watched.gap_s(fault_s)])


def test_the_leaders_host_loses_power(lab: Lab) -> None:
    leader = lab.host(shown(lab.hosts[0], "status")["leader"])
    survivor = next(host for host in lab.hosts if host.name != leader.name)
    docker(survivor, "run", "-d", "--name", "web", "-e", f"constraint:host!={survivor.name}", "busybox", "sleep", "1d")
    holder = ("-v", "kept:/kept", "-e", f"constraint:host=={survivor.name}")
    docker(survivor, "run", "-d", "--name", "holder", *holder, "busybox", "sleep", "1d")
    started = docker(survivor, "inspect", "-f", "{{.State.StartedAt}}", "holder")
    leader.kill()
    fault_s = uptime_s()
    until(lambda: (shown(survivor, "status") or {}).get("leader") not in (None, "", leader.name), "another leader")
    led_s = uptime_s() - fault_s
    until(lambda: home(survivor, "web") not in ("", leader.name), "a living host for the container")
    until(lambda: copies(lab, "web") == [home(survivor, "web")], "its start there")
    assert docker(survivor, "inspect", "-f", "{{.State.StartedAt}}", "holder") == started, "a survivor fenced itself"
    print(f"\nleader's host killed: another leads after {led_s:.2f} s")
    leader.revive()


def test_an_engine_is_killed_and_its_containers_are_looked_after_when_it_is_back(lab: Lab) -> None:
    watched = Watched(lab, "--ip", "10.44.0.79", "--restart", "always")
    host = watched.home
    pid = host.pid_of("dockerd")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    # Here nobody collects dead processes, so the next engine would take the numbers in these files for running ones.
    until(lambda: host.pid_of("dockerd") is None, "the engine's end")
    host.exec(["rm", "-f", "/run/docker.pid", "/run/docker/containerd/containerd.pid"])
    until(lambda: "down" in states(lab), "the engine's silence")
    host.start_engine()
    until(lambda: states(lab) == ["ready"] * 3, "the engine's return")
    until(lambda: copies(lab, "web") == [host.name], "its container, once")
    back_s = uptime_s()
    until(lambda: watched.heard_since(back_s), "its answer")
    assert watched.address() == watched.ip
