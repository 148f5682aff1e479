"""The two sides of the comparison: a lab that is a Drover cluster, and a lab whose engines are a Swarm.

Both run the same processes: one that writes a volume and answers with its instance's name (`db`), and on each host a
client that asks for it all along. Drover's side has a second one, without volume and fixed address (`web`). Traces go
to a directory of the machine that every host sees.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench.bed import remove_lab
from drover.lab import Lab, LabHost, cluster, engine
from drover.lab.processes import wait_until

IMAGE = "busybox"
DEADLINE_S = 90.0
STORE_DIES = ("power", "network", "freeze", "shutdown")
"""Faults that take the store's member on that host with them."""
_ANSWER = "id=$(cat /proc/sys/kernel/random/uuid); mkdir -p /www; echo $id >/www/id; "
WEB = _ANSWER + "exec httpd -f -p 80 -h /www"
DB = (
    _ANSWER + "httpd -p 80 -h /www; while :; do read u _ </proc/uptime; "
    'echo $u >>/data/journal && read w _ </proc/uptime && echo "$u $w $id" >>/log/writes; usleep 50000; done'
)
CLIENT = (
    "while :; do while read what to; do "
    "(read s _ </proc/uptime; a=$(timeout 1 wget -q -O - http://$to/id 2>/dev/null) && read e _ </proc/uptime && "
    'echo "$s $e $a" >>/log/heard-$what-{host}) & '
    "done </log/targets; usleep 150000; done"
)
FIXED = "10.44.0.9"


class Side(Protocol):
    """One of the two; `things` are what its clients ask for."""

    name: str
    things: tuple[str, ...]
    exclusive: tuple[str, ...]
    """Things whose address one instance may have, whoever asks: clients on the host that failed count, too."""
    lab: Lab
    log: Path

    def build(self) -> None: ...

    def begin(self, number: int, fault: str) -> LabHost:
        """Start the things; returns the host that is to fail, which has them."""
        ...

    def settle(self, survivor: LabHost) -> None:
        """Until all hosts take part and everything runs once."""
        ...

    def journal(self, survivor: LabHost) -> str: ...

    def end(self, survivor: LabHost) -> None:
        """Remove the things."""
        ...

    def agent_pid(self, host: LabHost) -> int: ...


class Traces:
    """The directory with the traces of one side."""

    lab: Lab
    log: Path
    name: str

    def clear(self, *names: str) -> None:
        for file in self.log.glob("*"):
            file.unlink()
        (self.log / "targets").write_text("".join(f"{name}\n" for name in names))

    def read(self, name: str) -> str:
        file = self.log / name
        return file.read_text() if file.exists() else ""

    def heard_by(self, what: str, hosts: Sequence[LabHost]) -> list[str]:
        return [self.read(f"heard-{what}-{host.name}") for host in hosts]


def until(done: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    wait_until(lambda: bool(done()), what, deadline_s=deadline_s, poll_s=0.1)


def docker(host: LabHost, *argv: str, check: bool = True) -> str:
    return host.exec(["docker", *argv], check=check).stdout.strip()


class DroverSide(Traces):
    name = "drover"
    things: tuple[str, ...] = ("db", "web")
    exclusive: tuple[str, ...] = ("db",)

    def __init__(self, base: Path) -> None:
        self.log = base / "drover-traces"
        self._volume = ""

    def build(self) -> None:
        remove_lab("faults")
        self.log.mkdir(parents=True, exist_ok=True)
        self.clear()
        self.lab = Lab.create("faults", 3, images=(IMAGE,))
        first = self.lab.hosts[0]
        docker(first, "network", "create", "--subnet", "10.44.0.0/16", "app")
        for host in self.lab.hosts:
            pinned = ("-e", f"constraint:host=={host.name}", "--label", "drover.reschedule=off", "--restart", "always")
            script = CLIENT.format(host=host.name)
            self._run(first, f"client-{host.name}", script, *pinned)

    def _run(self, on: LabHost, name: str, script: str, *options: str) -> None:
        common = ("--network", "app", "-v", f"{self.log}:/log", "--stop-timeout", "1")
        docker(on, "run", "-d", "--name", name, *common, *options, IMAGE, "sh", "-c", script)

    def begin(self, number: int, fault: str) -> LabHost:
        via = self.lab.hosts[0]
        self._remove(via)
        victim = self._victim(number, fault)
        self._volume = f"data-{number}-{int(time.time())}"
        movable = ("--label", "drover.host_paths=everywhere")
        there = ("-e", f"constraint:host==~{victim.name}", "--restart", "always", *movable)
        docker(via, "volume", "create", "--opt", "interval=1s", self._volume)
        self._run(via, "db", DB, "--ip", FIXED, "-v", f"{self._volume}:/data", *there)
        self._run(via, "web", WEB, *there)
        address = docker(via, "inspect", "-f", "{{.NetworkSettings.Networks.app.IPAddress}}", "web")
        self.clear(f"db {FIXED}", f"web {address}")
        until(self._copied, "a copy of the volume")
        return victim

    def _victim(self, number: int, fault: str) -> LabHost:
        """One host after the other; the leader's, or that of the store's leader, where that is the fault. The store's
        leader fails under that name only: an election is added to the recovery then (and Swarm's one manager is spared
        on its side)."""
        if fault == "leader":
            return self.lab.host(str(shown(self.lab.hosts[0], "status")["leader"]))
        leads = self._store_leader()
        if fault == "store":
            return leads
        return next(host for host in self._from(number) if fault not in STORE_DIES or host.name != leads.name)

    def _from(self, number: int) -> list[LabHost]:
        first = number % len(self.lab.hosts)
        return self.lab.hosts[first:] + self.lab.hosts[:first]

    def _store_leader(self) -> LabHost:
        for host in self.lab.hosts:
            tls = host.state_dir / "tls"
            keys = ("--cert", str(tls / "host.crt"), "--key", str(tls / "host.key"), "--cacert", str(tls / "ca.crt"))
            url = f"https://{host.address}:4742/v3/maintenance/status"
            said = host.exec(["curl", "-s", "-m", "3", *keys, "-d", "{}", url], check=False).stdout
            with contextlib.suppress(ValueError, KeyError):
                answer = json.loads(said)
                if answer["leader"] == answer["header"]["member_id"]:
                    return host
        return self.lab.hosts[0]

    def _copied(self) -> bool:
        found = shown(self.lab.hosts[0], "volume", "inspect", self._volume) or {}
        return any(copy["synced_at"] > 0 for copy in found.get("copies", []))

    def settle(self, survivor: LabHost) -> None:
        until(lambda: _states(survivor) == ["ready"] * 3, "three hosts that are ready")
        until(
            lambda: all(self._copies(name) == [_home(survivor, name)] for name in self.things),
            f"one copy of {' and '.join(self.things)}",
        )

    def _copies(self, name: str) -> list[str]:
        """The hosts whose own engines run a container of that name."""
        listed = {host.name: _engine_runs(host, name) for host in self.lab.hosts}
        return [host for host, runs in listed.items() if runs]

    def journal(self, survivor: LabHost) -> str:
        return docker(survivor, "exec", "db", "cat", "/data/journal", check=False)

    def end(self, survivor: LabHost) -> None:
        self._remove(survivor)

    def _remove(self, via: LabHost) -> None:
        docker(via, "rm", "-f", *self.things, check=False)
        if self._volume:
            docker(via, "volume", "rm", self._volume, check=False)

    def agent_pid(self, host: LabHost) -> int:
        return int((host.run_dir / "daemon.pid").read_text())


def shown(host: LabHost, *argv: str) -> Any:
    """What a `drover … --json` command says; None while it cannot."""
    done = host.exec([cluster.drover(), *argv, "--json"], check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def _states(host: LabHost) -> list[str]:
    return [one["state"] for one in shown(host, "host", "ls") or []]


def _home(host: LabHost, name: str) -> str:
    return str((shown(host, "why", name) or {}).get("host", ""))


def _engine_runs(host: LabHost, name: str) -> bool:
    if not host.is_on or host.is_frozen or not engine.answers(host.docker_socket):
        return False
    listed = host.exec(
        ["docker", "-H", f"unix://{host.docker_socket}", "ps", "-q", "-f", f"name=^{name}$"], check=False
    )
    return bool(listed.stdout.strip())


class SwarmSide(Traces):
    """The first host is the manager and does not fail: a worker's death is where Swarm is at its best.

    `tuned`: heartbeat 1 s, no restart delay, and the overlay is on every host already (the clients are on it)."""

    things: tuple[str, ...] = ("db",)
    exclusive: tuple[str, ...] = ()
    """It is asked for by name, and each instance has an address of its own."""

    def __init__(self, base: Path, tuned: bool) -> None:
        self.tuned = tuned
        self.name = "swarm-tuned" if tuned else "swarm"
        self.log = base / f"{self.name}-traces"

    def build(self) -> None:
        remove_lab("faultsw")
        self.log.mkdir(parents=True, exist_ok=True)
        self.clear()
        self.lab = Lab.create("faultsw", 3, cluster=False, images=(IMAGE,))
        first = self.lab.hosts[0]
        docker(first, "swarm", "init", *_addresses(first))
        token = docker(first, "swarm", "join-token", "-q", "worker")
        for host in self.lab.hosts[1:]:
            docker(host, "swarm", "join", "--token", token, *_addresses(host), f"{first.address}:2377")
        docker(first, "swarm", "update", "--dispatcher-heartbeat", "1s" if self.tuned else "5s")
        docker(first, "network", "create", "-d", "overlay", "--attachable", "--subnet", "10.44.0.0/16", "ov")
        for host in self.lab.hosts:
            common = ("--name", "client", "--restart", "always", "--network", "ov", "-v", f"{self.log}:/log")
            docker(host, "run", "-d", *common, IMAGE, "sh", "-c", CLIENT.format(host=host.name))

    def begin(self, number: int, fault: str) -> LabHost:
        via = self.lab.hosts[0]
        docker(via, "service", "rm", "db", check=False)
        mounts = (
            *("--mount", f"type=volume,src=data-{number}-{int(time.time())},dst=/data"),
            *("--mount", f"type=bind,src={self.log},dst=/log"),
        )
        away = ("--constraint", "node.role==worker")
        common = (
            *away,
            "--network",
            "ov",
            "--endpoint-mode",
            "dnsrr",
            "--no-resolve-image",
            "--stop-grace-period",
            "1s",
        )
        delay = ("--restart-delay", "0s") if self.tuned else ()
        docker(via, "service", "create", "-d", "--name", "db", *common, *mounts, *delay, IMAGE, "sh", "-c", DB)
        until(lambda: self._home(via), "the task")
        self.clear("db db")
        return self.lab.host(self._home(via))

    def _home(self, via: LabHost) -> str:
        """The node of the task that runs; empty while none does."""
        listed = docker(
            via, "service", "ps", "-f", "desired-state=running", "--format", "{{json .}}", "db", check=False
        )
        tasks = [json.loads(line) for line in listed.splitlines() if line.startswith("{")]
        return next((str(task["Node"]) for task in tasks if task["CurrentState"].startswith("Running")), "")

    def settle(self, survivor: LabHost) -> None:
        until(lambda: self._ready(survivor), "three nodes that are ready")
        until(lambda: sum(_engine_runs(host, "db\\..*") for host in self.lab.hosts) == 1, "one copy of db")

    def _ready(self, via: LabHost) -> bool:
        listed = docker(via, "node", "ls", "--format", "{{.Status}}", check=False).splitlines()
        return listed == ["Ready"] * len(self.lab.hosts)

    def journal(self, survivor: LabHost) -> str:
        host = self.lab.host(self._home(survivor))
        found = docker(host, "ps", "-q", "-f", "name=^db\\.", check=False).split()
        return docker(host, "exec", found[0], "cat", "/data/journal", check=False) if found else ""

    def end(self, survivor: LabHost) -> None:
        docker(survivor, "service", "rm", "db", check=False)
        until(lambda: not any(_engine_runs(host, "db\\..*") for host in self.lab.hosts), "the end of db")

    def agent_pid(self, host: LabHost) -> int:
        pid = host.pid_of("dockerd")
        if pid is None:
            raise RuntimeError(f"no engine runs on {host.name}")
        return pid


def _addresses(host: LabHost) -> tuple[str, ...]:
    return "--advertise-addr", host.address, "--listen-addr", f"{host.address}:2377"
