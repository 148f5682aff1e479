"""The lab itself, on real engines: power, cables, and that nothing of it is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drover.errors import Conflict, DroverError
from drover.lab import HostStatus, Lab, LabHost, net
from drover.lab.processes import Cgroup, lives, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NAME = f"t{os.getpid()}"


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A place for labs on a disk (overlay2 does not work on every tmpfs); whatever a test left is removed."""
    directory = Path(tempfile.mkdtemp(prefix="dlt-", dir="/var/tmp"))
    yield directory
    for file in directory.glob("*/lab.json"):
        Lab.open(file.parent.name, base=directory).destroy()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def shared(base: Path) -> Iterator[Lab]:
    lab = Lab.create(NAME, 3, base=base, cluster=False, images=("busybox",))
    yield lab
    lab.destroy()


@pytest.fixture
def lab(shared: Lab) -> Lab:
    """Three hosts that are on, whole and connected, whatever the test before did."""
    for host in shared.hosts:
        if host.is_frozen:
            host.thaw()
        if not host.is_on:
            host.revive()
        host.heal()
    return shared


def docker(host: LabHost, *argv: str) -> str:
    return host.exec(["docker", *argv]).stdout.strip()


def reaches(host: LabHost, other: LabHost) -> bool:
    return host.exec(["ping", "-c1", "-W1", other.address], check=False).returncode == 0


def reached(host: LabHost, other: LabHost) -> None:
    wait_until(lambda: reaches(host, other), f"a ping from {host.name} to {other.name}")


def status(lab: Lab, name: str) -> HostStatus:
    return next(row for row in lab.status() if row.name == name)


def traces(lab: str) -> dict[str, list[str]]:
    """All that a lab of that name has on this machine: namespaces, cgroups, mounts, processes."""
    marks = (f"dl-{lab}-".encode(), f"/{lab}/h".encode())
    commands = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    return {
        "netns": [ns.name for ns in net.NETNS_DIRECTORY.glob(f"dl-{lab}-*")],
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/drover-lab/{lab}")],
        "mounts": [row for row in Path("/proc/mounts").read_text().splitlines() if f"/{lab}/" in row],
        "processes": [str(line) for line in commands if any(mark in line for mark in marks)],
    }


NOTHING: dict[str, list[str]] = {"netns": [], "cgroups": [], "mounts": [], "processes": []}


def test_hosts_reach_each_other(lab: Lab) -> None:
    for host in lab.hosts:
        for other in lab.hosts:
            assert reaches(host, other), (host.name, other.name)


def test_every_engine_runs_a_container(lab: Lab) -> None:
    for host in lab.hosts:
        assert docker(host, "run", "--rm", "busybox", "sh", "-c", "echo from $HOSTNAME", "-").startswith("from ")
        assert docker(host, "info", "--format", "{{.Name}}") == host.name
        assert docker(host, "run", "--rm", "-u", "postgres", "-w", "/var/opt", "busybox", "id", "-un") == "postgres"


def test_the_internet_is_refused_at_once(lab: Lab) -> None:
    refused = lab.host("h1").exec(["docker", "pull", "registry.example/none"], check=False)
    assert refused.returncode != 0
    assert "connection refused" in refused.stderr


def test_a_power_cut_leaves_no_process_and_the_others_run(lab: Lab) -> None:
    second = lab.host("h2")
    docker(second, "run", "-d", "busybox", "sleep", "100001")
    docker(second, "run", "-d", "--cgroup-parent", f"/{NAME}-stray", "busybox", "sleep", "100001")
    docker(second, "pause", docker(second, "run", "-d", "busybox", "sleep", "100001"))
    pids = second.cgroup.pids() | second.cgroup.strays()
    assert sum(b"100001" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids) == 3

    second.kill()

    assert not any(lives(pid) for pid in pids)
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{NAME}-stray"))
    assert (status(lab, "h2").power, status(lab, "h2").link) == ("off", "cut")
    reached(lab.host("h1"), lab.host("h3"))
    assert docker(lab.host("h1"), "run", "--rm", "busybox", "echo", "fine") == "fine"
    with pytest.raises(Conflict, match="is off"):
        second.exec(["true"])
    with pytest.raises(Conflict, match="is off already"):
        second.kill()


def test_a_revived_host_has_its_disk(lab: Lab) -> None:
    second = lab.host("h2")
    docker(second, "run", "-d", "--name", "kept", "--restart", "always", "busybox", "sleep", "100002")
    docker(second, "run", "--name", "done", "busybox", "true")
    second.kill()
    second.revive()
    names = docker(second, "ps", "-a", "--format", "{{.Names}}").split()
    assert {"kept", "done"} <= set(names)
    wait_until(lambda: "kept" in docker(second, "ps", "--format", "{{.Names}}").split(), "the restart of kept")
    reached(lab.host("h1"), second)
    with pytest.raises(Conflict, match="is on already"):
        second.boot()


def test_a_cut_host_is_alone_until_healed(lab: Lab) -> None:
    first, second, third = lab.hosts
    second.cut()
    assert not reaches(first, second)
    assert not reaches(second, third)
    assert reaches(first, third)
    assert status(lab, "h2").link == "cut"
    assert docker(second, "run", "--rm", "busybox", "echo", "alone") == "alone"
    second.heal()
    reached(first, second)
    assert status(lab, "h2").link == "up"


def test_a_cut_between_two_hosts_leaves_the_third(lab: Lab) -> None:
    first, second, third = lab.hosts
    first.cut("h2")
    assert not reaches(first, second)
    assert not reaches(second, first)
    assert reaches(first, third)
    assert reaches(second, third)
    assert status(lab, "h1").cut_from == ["h2"]
    second.heal()
    reached(first, second)
    assert net.cut_pairs(lab.topology) == set()


def test_a_frozen_host_is_silent_but_keeps_its_connections(lab: Lab) -> None:
    second = lab.host("h2")
    docker(
        second, "run", "-d", "--name", "counter", "busybox", "sh", "-c", "while true; do echo tick; sleep 0.05; done"
    )
    docker(second, "pause", docker(second, "run", "-d", "busybox", "sleep", "100003"))
    second.freeze()
    assert status(lab, "h2").power == "frozen"
    assert status(lab, "h2").engine is None
    assert reaches(lab.host("h1"), second), "the kernel of a frozen host still answers"
    with pytest.raises(Conflict, match="is frozen"):
        second.exec(["true"])
    with pytest.raises(Conflict, match="is frozen"):
        second.freeze()
    second.thaw()
    before = len(docker(second, "logs", "counter").splitlines())
    wait_until(lambda: len(docker(second, "logs", "counter").splitlines()) > before, "another tick")
    docker(second, "rm", "-f", "counter")


def test_a_frozen_host_can_lose_its_power(lab: Lab) -> None:
    third = lab.host("h3")
    pids = third.cgroup.pids()
    third.freeze()
    third.kill()
    assert not any(lives(pid) for pid in pids)
    third.revive()
    assert not third.is_frozen


def test_two_labs_side_by_side(lab: Lab, base: Path) -> None:
    name = f"{NAME}b"
    other = Lab.create(name, 2, base=base, cluster=False, images=("busybox",))
    assert other.host("h1").address != lab.host("h1").address
    assert reaches(other.host("h1"), other.host("h2"))
    assert not reaches(other.host("h1"), lab.host("h1"))
    assert docker(other.host("h1"), "ps", "-aq") == ""
    with pytest.raises(Conflict, match="already"):
        Lab.create(name, 1, base=base, cluster=False)

    other.destroy()

    assert traces(name) == NOTHING
    assert not (base / name).exists()
    assert reaches(lab.host("h1"), lab.host("h3"))
    assert docker(lab.host("h2"), "run", "--rm", "busybox", "echo", "untouched") == "untouched"


def test_a_name_taken_in_another_directory_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="in another directory"):
        Lab.create(NAME, 1, base=tmp_path, cluster=False)
    assert list(tmp_path.iterdir()) == []


def test_down_removes_half_a_lab_whose_third_host_failed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{NAME}c"
    start_engine: Callable[[LabHost], None] = LabHost.start_engine

    def fail_on_h3(host: LabHost) -> None:
        if host.name == "h3":
            raise DroverError("no third engine today")
        start_engine(host)

    monkeypatch.setattr(LabHost, "start_engine", fail_on_h3)
    with pytest.raises(DroverError, match="no third engine") as caught:
        Lab.create(name, 3, base=base, cluster=False)
    assert f"drover lab down --name {name}" in caught.value.hint
    assert len(traces(name)["netns"]) == 4

    Lab.open(name, base=base).destroy()

    assert traces(name) == NOTHING
    assert not (base / name).exists()


def test_down_removes_what_a_killed_up_left(base: Path) -> None:
    name = f"{NAME}d"
    drover = [str(Path(sys.executable).with_name("drover")), "lab"]
    which = ["--name", name, "--dir", str(base)]
    up = subprocess.Popen([*drover, "up", *which, "--no-cluster"], stderr=subprocess.DEVNULL)
    wait_until(lambda: net.exists(f"dl-{name}-h2"), "the second host's namespace", deadline_s=30, poll_s=0.001)
    up.send_signal(signal.SIGKILL)
    up.wait()

    down = subprocess.run([*drover, "down", *which], capture_output=True, text=True, check=False)

    assert down.returncode == 0, down.stderr
    assert traces(name) == NOTHING
    assert not (base / name).exists()
    assert not Cgroup(f"/drover-lab/{name}").exists()


def test_a_command_starts_where_its_caller_is(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert lab.host("h1").exec(["pwd"]).stdout.strip() == str(tmp_path)
    assert lab.host("h1").exec(["drover", "--version"]).stdout.startswith("drover ")


def test_the_command_line_runs_things_on_hosts(lab: Lab, base: Path) -> None:
    drover = [str(Path(sys.executable).with_name("drover")), "lab"]
    which = ["--name", NAME, "--dir", str(base)]
    done = subprocess.run(
        [*drover, "exec", *which, "h2", "--", "sh", "-c", "hostname; cat; exit 7"],
        input="through\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, "h2\nthrough\n")
    shown = subprocess.run([*drover, "env", *which, "--host", "h3"], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == [
        f"export DOCKER_HOST=unix://{base}/{NAME}/h3/engine/docker.sock",
        f"export DROVER_HOST=unix://{base}/{NAME}/h3/run/drover.sock",
    ]
    unknown = subprocess.run([*drover, "kill", *which, "h9"], capture_output=True, text=True, check=False)
    assert unknown.returncode == 4
    assert "its hosts are h1, h2, h3" in unknown.stderr
