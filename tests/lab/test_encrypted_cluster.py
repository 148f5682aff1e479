"""A cluster of two real hosts that encrypts, made as a person makes it; what is on the cable between them is read.

On a kernel without WireGuard it encrypts with wireguard-go, after it was refused without that word.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_namespaces import Cable, Shell, udp_ports

from drover.lab import Lab, LabHost
from drover.lab.cluster import drover, init_argv, join_argv, start_daemon, wait_for_gateway
from drover.lab.processes import wait_until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

DEADLINE_S = 90.0
SECRET = "the-eagle-lands-at-midnight"
GO = ("--encrypt", "wireguard-go")


@pytest.fixture
def lab() -> Iterator[Lab]:
    base = Path(tempfile.mkdtemp(prefix="enc-", dir="/var/tmp"))
    name = f"enc{os.getpid()}"
    try:
        yield Lab.create(name, 2, base=base, cluster=False, images=("busybox",))
    finally:
        if (base / name / "lab.json").exists():
            Lab.open(name, base=base).destroy()
        shutil.rmtree(base, ignore_errors=True)


def docker(host: LabHost, *argv: str) -> str:
    return host.exec(["docker", "-H", f"unix://{host.gateway_socket}", *argv], timeout_s=DEADLINE_S).stdout.strip()


def form(lab: Lab) -> None:
    """Each refusal where it belongs, then the cluster."""
    one, two = lab.hosts
    bare = one.exec([*init_argv(one), "--encrypt"], check=False)
    if bare.returncode:
        assert bare.returncode == 9
        assert "the kernel of this host has no WireGuard" in bare.stderr
        assert "a tenth of what the kernel does" in bare.stderr
        one.exec([*init_argv(one), *GO])
    start_daemon(one)
    wait_for_gateway(one)
    token = one.exec([drover(), "token", "create", "--reusable", "--quiet"]).stdout.strip()
    joined = two.exec(join_argv(two, one, token), check=False)
    assert joined.returncode == bare.returncode - 6 * bool(bare.returncode)
    if joined.returncode:
        assert f"this cluster encrypts what containers say between hosts, and {two.name} cannot" in joined.stderr
        two.exec([*join_argv(two, one, token), *GO])
    start_daemon(two)
    wait_for_gateway(two)


def test_what_containers_say_is_never_in_clear_on_the_cable(lab: Lab) -> None:
    form(lab)
    one, two = lab.hosts
    assert "by WireGuard" in one.exec([drover(), "status"]).stdout
    docker(one, "network", "create", "app")
    serve = f"echo {SECRET} > /index.html; exec httpd -f -p 80 -h /"
    for name, host, command in (("web", two, serve), ("ask", one, "exec sleep 600")):
        pinned = ("--label", f"drover.constraint=host=={host.name}")
        docker(one, "run", "-d", "--name", name, "--network", "app", *pinned, "busybox", "sh", "-c", command)
    address = docker(one, "inspect", "-f", "{{.NetworkSettings.Networks.app.IPAddress}}", "web")
    cable = Cable(Shell(one.lab.netns(one.name)), "eth0")
    try:
        wait_until(lambda: SECRET in fetched(one, address), "the answer of the other host", deadline_s=DEADLINE_S)
        wait_until(lambda: not doctor(one), "a silent doctor", deadline_s=DEADLINE_S, poll_s=0.5)
        for host in (one, two):
            os.kill(int(host.pid_of("drover") or 0), signal.SIGKILL)
        assert SECRET in fetched(one, address), "without daemons traffic goes on"
        frames = cable.read()
        assert 51820 in udp_ports(frames)
        assert 4789 not in udp_ports(frames)
        assert not any(SECRET.encode() in frame for frame in frames)
    finally:
        cable.close()


def fetched(host: LabHost, address: str) -> str:
    """By address: a busybox that is linked statically ends when it resolves a name."""
    wget = ("wget", "-qO-", "-T", "5", f"http://{address}/")
    asked = ["docker", "-H", f"unix://{host.docker_socket}", "exec", "ask", *wget]
    return host.exec(asked, check=False, timeout_s=DEADLINE_S).stdout


def doctor(host: LabHost) -> str:
    done = host.exec([drover(), "doctor", "network"], check=False, timeout_s=DEADLINE_S)
    return done.stdout + done.stderr
