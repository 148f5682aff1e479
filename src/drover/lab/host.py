"""One host of a lab: power, processes, cable.

Theory of operation. A host that is on has four things; each dies with the one above it, as in a machine:

    thing        made by boot()                                             gone at power-off because
    netns        `net.plug`: a cable to the switch, eth0 with the address   `net.unplug`
    cgroup       `Cgroup.create`                                            `Cgroup.kill`, then `remove`
    holder       `sleep` in private mount and UTS namespaces: a tmpfs on    it is in the cgroup
                 /run, resolv.conf of the lab, the host's name
    engine       dockerd in the holder's namespaces                         it is in the cgroup

What is left of a host that is off is its directory: the disk. Everything else that runs on a host is started with
`exec` or `spawn`: a shell first joins the cgroup and then enters the namespaces, so there is no moment at which a
process of a host could be missed. `/sys` is left alone (`ip netns exec` would remount it, hiding the cgroups from
the engine).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from drover.errors import Conflict, DeadlineExceeded, Unavailable
from drover.lab import cluster, engine, net, tools
from drover.lab.processes import Cgroup, wait_until
from drover.lab.topology import HostSpec, Topology

ENGINE_DEADLINE_S = 90.0
_DISK = ("data", "engine", "state", "run")
# The shell that joins the cgroup, then becomes the program: nothing of a host runs outside, not even for an instant.
_JOIN = 'echo 0 > "$0" && exec "$@"'
# Entering a mount namespace leads to its root; the way back is there unless it is below /run.
_STAY = 'cd "$0" 2>/dev/null; exec "$@"'
_NOTE_PID = 'echo $$ > "$0" && exec "$@"'
_HOLDER = "holder"
# $1 the host's name, $2 the lab's resolv.conf, $3 the lab's directory. /etc/resolv.conf may be a link into /run, which
# is empty by then. The directory is shared with mounts made from these: an engine may have some of its own.
_BOOT = """set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns
target=$(readlink -m /etc/resolv.conf)
mkdir -p "$(dirname "$target")"
test -e "$target" || : > "$target"
mount --bind "$2" "$target"
mount --bind "$3" "$3"
mount --make-shared "$3"
hostname "$1"
echo $$
exec sleep infinity >/dev/null 2>&1"""


def namespaces_argv(netns: str, holder_pid: int) -> list[str]:
    """The command prefix that enters a host's namespaces."""
    own = f"/proc/{holder_pid}/ns"
    return ["nsenter", f"--net={net.NETNS_DIRECTORY / netns}", f"--mount={own}/mnt", f"--uts={own}/uts", "--"]


def join_argv(entry: Path, argv: Sequence[str]) -> list[str]:
    """The command that joins the cgroup whose `cgroup.procs` file is `entry` and becomes `argv`."""
    return ["sh", "-c", _JOIN, str(entry), *argv]


class LabHost:
    """A handle on one host of a lab; holds no state of its own, so any process can make one at any time."""

    def __init__(self, lab: Topology, spec: HostSpec) -> None:
        self.lab = lab
        self.name = spec.name
        self.address = spec.address
        self.directory = lab.host_directory(spec.name)
        self._spec = spec

    @property
    def docker_socket(self) -> Path:
        """The bare engine's own API."""
        return self.directory / "engine" / "docker.sock"

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    @property
    def gateway_socket(self) -> Path:
        """The Docker API of the cluster, at this host's gateway."""
        return self.run_dir / "docker.sock"

    @property
    def drover_socket(self) -> Path:
        return self.run_dir / "drover.sock"

    @property
    def cgroup(self) -> Cgroup:
        return Cgroup(self.lab.host_cgroup(self.name))

    @property
    def is_on(self) -> bool:
        """Whether the host has power: its holder lives in its cgroup."""
        return self.pid_of(_HOLDER) is not None

    @property
    def is_frozen(self) -> bool:
        return self.cgroup.is_frozen()

    @property
    def is_linked(self) -> bool:
        return net.link_is_up(self.lab, self.name)

    @property
    def runs_drover(self) -> bool:
        """Whether this host's disk says that it is a member of a cluster."""
        return (self.state_dir / "config.json").exists()

    # -- running things on the host -------------------------------------------------------------------------------

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The command for this machine that runs `argv` on the host. Conflict if the host is off or frozen."""
        pid = self.pid_of(_HOLDER)
        if pid is None:
            raise Conflict(f"host {self.name} of lab {self.lab.name} is off", hint=f"drover lab revive {self.name}")
        if self.is_frozen:
            raise Conflict(f"host {self.name} of lab {self.lab.name} is frozen", hint=f"drover lab thaw {self.name}")
        inside = ["sh", "-c", _STAY, os.getcwd(), *argv]
        return join_argv(self.cgroup.entry, [*namespaces_argv(self.lab.netns(self.name), pid), *inside])

    def environment(self) -> dict[str, str]:
        """This process's environment, with Docker and Drover pointed at the host and this `drover` found last."""
        docker = self.gateway_socket if self.lab.cluster else self.docker_socket
        return {
            **_inherited(),
            "PATH": f"{os.environ.get('PATH', tools.SYSTEM_PATH)}:{Path(cluster.drover()).parent}",
            "DOCKER_HOST": f"unix://{docker}",
            "DROVER_HOST": f"unix://{self.drover_socket}",
            "DROVER_LAB": f"{self.lab.name}/{self.name}",
        }

    def exec(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        stdin: str | None = None,
        timeout_s: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host to its end, output captured. With `check`, a failure raises its own words."""
        done = subprocess.run(
            self.argv(argv),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**self.environment(), **(env or {})},
            check=False,
        )
        return tools.checked(done, f"`{' '.join(argv)}` on {self.name}") if check else done

    def exec_attached(self, argv: Sequence[str]) -> int:
        """Run a command on the host with this process's own input and output; its exit status."""
        return subprocess.run(self.argv(argv), env=self.environment(), check=False).returncode

    def spawn(self, name: str, argv: Sequence[str]) -> None:
        """Start a daemon on the host; NAME.log in the host's directory gets its output, NAME.pid its process id."""
        pid_file = self.directory / f"{name}.pid"
        pid_file.unlink(missing_ok=True)
        noted = ["sh", "-c", _NOTE_PID, str(pid_file), *argv]
        with (self.directory / f"{name}.log").open("ab") as output:
            subprocess.run(
                ["setsid", "--fork", *self.argv(noted)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**_inherited(), "DROVER_LAB": f"{self.lab.name}/{self.name}"},
                check=True,
            )
        try:
            wait_until(lambda: pid_file.exists() and pid_file.stat().st_size > 0, f"the start of {name}")
        except DeadlineExceeded as error:
            log = self.directory / f"{name}.log"
            raise Unavailable(f"{name} of {self.name} did not start: {_tail(log)}", hint=f"see {log}") from error

    def pid_of(self, name: str) -> int | None:
        """The process id of a daemon started by `spawn`; None if it does not run (the number may be another's now)."""
        try:
            pid = int((self.directory / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if pid in self.cgroup.pids() else None

    def wait_for(self, name: str, socket: Path, deadline_s: float) -> None:
        """Until the daemon answers pings at the socket. Unavailable, with its last words, if it ends or never does."""

        def settled() -> bool:
            return engine.answers(socket) or self.pid_of(name) is None

        with contextlib.suppress(DeadlineExceeded):
            wait_until(settled, "an answer", deadline_s=deadline_s)
        if not engine.answers(socket):
            log = self.directory / f"{name}.log"
            raise Unavailable(f"{name} of {self.name} does not answer at {socket}: {_tail(log)}", hint=f"see {log}")

    # -- power ----------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Power on: network, holder, engine. Returns when the engine answers."""
        if self.is_on:
            raise Conflict(f"host {self.name} of lab {self.lab.name} is on already")
        for part in _DISK:
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        self._clear_run()
        net.plug(self.lab, self._spec)
        self.cgroup.create()
        self._start_holder()
        self.start_engine()

    def start_engine(self) -> None:
        """Start dockerd and wait until it answers."""
        argv = engine.dockerd_argv(self.directory, self.lab.host_cgroup(self.name))
        self.spawn("dockerd", engine.entered_argv(self._spec.engine_root, self.lab.directory, argv))
        self.wait_for("dockerd", self.docker_socket, ENGINE_DEADLINE_S)

    def kill(self) -> None:
        """Power cut: the link falls silent first, so that no peer is told; then everything on the host is killed."""
        if not self.is_on:
            raise Conflict(f"host {self.name} of lab {self.lab.name} is off already")
        net.set_link(self.lab, self.name, up=False)
        self.power_off()

    def power_off(self) -> None:
        """Kill what runs and remove what a host has only while it is on, however much of it there is."""
        self.cgroup.kill()
        net.unplug(self.lab, self.name)
        self.cgroup.remove()
        for file in self.directory.glob("*.pid"):
            file.unlink()

    def revive(self, *, wait: bool = True) -> None:
        """Boot again with the same disk; then the Drover daemon, if the disk has one. With `wait`: until it answers."""
        self.boot()
        if self.runs_drover:
            cluster.start_daemon(self)
            if wait:
                cluster.wait_for_gateway(self)

    # -- faults ---------------------------------------------------------------------------------------------------

    def cut(self, from_host: str | None = None) -> None:
        """Pull the host's cable, or (with `from_host`) drop all frames between the two."""
        if from_host is None:
            net.set_link(self.lab, self.name, up=False)
        else:
            net.cut_pair(self.lab, self.name, self.lab.host(from_host).name)

    def deafen(self, to_host: str) -> None:
        """Drop all frames that another host sends to this one; what this one sends arrives."""
        net.cut_one_way(self.lab, self.lab.host(to_host).name, self.name)

    def heal(self) -> None:
        net.heal(self.lab, self.name)

    def freeze(self) -> None:
        """Stop every process of the host, containers included; peers get no more answers, but no closed connection."""
        self.argv([])
        self.cgroup.freeze()

    def thaw(self) -> None:
        if not self.is_frozen:
            raise Conflict(f"host {self.name} of lab {self.lab.name} is not frozen")
        self.cgroup.thaw()

    def _start_holder(self) -> None:
        netns = net.NETNS_DIRECTORY / self.lab.netns(self.name)
        boot = ["sh", "-c", _BOOT, "boot", self.name, str(self.lab.resolv_conf), str(self.lab.directory)]
        alone = ["nsenter", f"--net={netns}", "unshare", "--mount", "--uts", "--propagation", "private", *boot]
        started = tools.run(["setsid", "--fork", *join_argv(self.cgroup.entry, alone)])
        if not started.stdout.strip().isdigit():
            raise Unavailable(f"host {self.name} does not boot: {started.stderr.strip()}")
        (self.directory / f"{_HOLDER}.pid").write_text(started.stdout)

    def _clear_run(self) -> None:
        """What a real machine has on a tmpfs starts empty."""
        for directory in (self.run_dir, self.directory / "engine"):
            shutil.rmtree(directory)
            directory.mkdir()


def _inherited() -> dict[str, str]:
    """This process's environment without what points docker and drover anywhere, at another lab for instance."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "DROVER_"))}


def _tail(log: Path, lines: int = 5) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").strip().splitlines()[-lines:])
