"""A lab from `create` to `destroy`.

Theory of operation. `create` writes `lab.json` before it makes anything else, and every name follows from that file.
`destroy` therefore needs nothing but the file: it removes, in this order, each thing if it is there.

    order   thing                               how
    1       processes of the lab's cgroup       Cgroup.kill: atomically, strays included
    2       cables, hosts' namespaces, switch   ip link del, ip netns del
    3       cgroups, in every hierarchy         rmdir from the leaves up
    4       mounts below the lab's directory    umount (a host's own mounts went with its last process)
    5       the directory                       last, so that a `destroy` that is interrupted can be repeated

A lock on the base directory makes the choice of name and slot atomic among labs that start together.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec

from drover.errors import Conflict, DroverError, NotFound
from drover.lab import cluster, engine, net, tools
from drover.lab.host import LabHost
from drover.lab.processes import Cgroup
from drover.lab.topology import CGROUP_ROOT, DEFAULT_BASE, DEFAULT_NAME, Topology, check_name, decode, encode, plan

DEFAULT_POOL = "8G"
Say = Callable[[str], None]
Power = Literal["on", "off", "frozen"]
_NO_DNS = "# Nothing listens here, so look-ups fail at once.\nnameserver 127.0.0.1\n"


def _silent(_line: str) -> None:
    """The default for progress lines: nobody reads them."""


@contextlib.contextmanager
def _locked(base: Path) -> Iterator[None]:
    """Hold the base directory's lock; made anew if another lab's end removed it meanwhile."""
    while True:
        base.mkdir(parents=True, exist_ok=True)
        handle = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if base.exists() and os.path.samestat(os.fstat(handle), base.stat()):
                yield
                return
        finally:
            os.close(handle)


def labs(base: Path = DEFAULT_BASE) -> list[Topology]:
    """All labs below a base directory, whole or half made."""
    return [decode(file.read_bytes()) for file in sorted(base.glob("*/lab.json"))]


def _reserve(name: str, hosts: int, base: Path, with_cluster: bool, pool: str, engine_roots: Sequence[str]) -> Topology:
    """Write the file of a new lab. Conflict if the name is taken, here or by a lab below another base directory."""
    with _locked(base):
        slots = {lab.slot for lab in labs(base)}
        lab = plan(name, hosts, base=base, used_slots=slots, cluster=with_cluster, pool=pool, engine_roots=engine_roots)
        hint = f"remove it with `drover lab down --name {name}`, or choose another --name"
        if lab.directory.exists():
            raise Conflict(f"there is a lab {name} already", hint=hint)
        if net.exists(lab.switch) or Cgroup(lab.cgroup).exists():
            raise Conflict(
                f"another lab on this machine is called {name}, in another directory", hint=hint + " (--dir)"
            )
        lab.directory.mkdir()
        lab.file.write_bytes(encode(lab))
    return lab


class HostStatus(msgspec.Struct, frozen=True):
    """What a host shows. `cut_from`: hosts it cannot reach though its link is up; `engine`: version, if it answers."""

    name: str
    address: str
    power: Power
    link: Literal["up", "cut"]
    cut_from: list[str]
    engine: str | None
    gateway: bool


class Lab:
    """Several Docker hosts on this machine. Make one with `create`, find one with `open`."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.name = topology.name
        self.hosts = [LabHost(topology, spec) for spec in topology.hosts]

    @classmethod
    def create(
        cls,
        name: str = DEFAULT_NAME,
        hosts: int = 3,
        *,
        base: Path = DEFAULT_BASE,
        cluster: bool = True,
        images: tuple[str, ...] = (),
        pool: str = DEFAULT_POOL,
        say: Say = _silent,
    ) -> Lab:
        """Build a lab and wait until its engines (and, with `cluster`, its gateways) answer. With a cluster, each host
        gets a volume pool of size `pool` (empty: none), in a sparse file.

        `images` are loaded: into every engine, or with a cluster only into the first host's. On failure what was made
        stays for inspection; `destroy` removes it.
        """
        tools.require_root()
        with_pool = cluster and pool
        tools.require((*tools.ENGINE_TOOLS, *(("etcd",) if cluster else ()), *(("mkfs.btrfs",) if with_pool else ())))
        lab = cls(_reserve(name, hosts, base, cluster, pool if with_pool else "", engine.roots_asked()))
        try:
            lab._build(say)
            lab._load(images, say)
            if cluster:
                lab._form(say)
        except DroverError as error:
            left = f"what was made is left for a look; `drover lab down --name {name}` removes it"
            error.hint = f"{error.hint}; {left}" if error.hint else left
            raise
        return lab

    @classmethod
    def open(cls, name: str = DEFAULT_NAME, *, base: Path = DEFAULT_BASE) -> Lab:
        """The lab of that name. NotFound if there is none."""
        file = base / check_name(name) / "lab.json"
        if not file.exists():
            raise NotFound(f"there is no lab {name} in {base}", hint="make one with `drover lab up`")
        return cls(decode(file.read_bytes()))

    def host(self, name: str) -> LabHost:
        return LabHost(self.topology, self.topology.host(name))

    def status(self) -> list[HostStatus]:
        pairs = self._cut_pairs()
        return [_status(host, pairs) for host in self.hosts]

    def status_of(self, name: str) -> HostStatus:
        """What one host shows; the others are not asked."""
        return _status(self.host(name), self._cut_pairs())

    def _cut_pairs(self) -> set[tuple[str, str]]:
        return net.cut_pairs(self.topology) if net.exists(self.topology.switch) else set()

    def destroy(self) -> None:
        """Remove all that this lab made, and only that, however far its making got."""
        tools.require_root()
        cgroup = Cgroup(self.topology.cgroup)
        cgroup.kill()
        for host in self.hosts:
            net.unplug(self.topology, host.name)
        net.remove(self.topology.switch)
        cgroup.remove()
        # The parent of all labs' cgroups goes with the last lab.
        Cgroup(f"/{CGROUP_ROOT}").remove_if_empty()
        _unmount_below(self.topology.directory)
        with _locked(Path(self.topology.base)):
            _remove_directory(self.topology)

    def _build(self, say: Say) -> None:
        self.topology.resolv_conf.write_text(_NO_DNS)
        self.topology.shared_volumes.mkdir()
        net.make_switch(self.topology)
        with ThreadPoolExecutor(min(len(self.hosts), 8)) as pool:
            list(pool.map(lambda host: _boot(host, say), self.hosts))

    def _load(self, names: tuple[str, ...], say: Say) -> None:
        from drover.lab import images

        into = self.hosts[:1] if self.topology.cluster else self.hosts
        for name in names:
            images.load(images.archive(name, say), into)
            say(f"image {name} is on {', '.join(host.name for host in into)}")

    def _form(self, say: Say) -> None:
        cluster.form(self.hosts, say)


def _boot(host: LabHost, say: Say) -> None:
    host.boot()
    say(f"{host.name} ({host.address}) is up: its engine answers")


def _status(host: LabHost, pairs: set[tuple[str, str]]) -> HostStatus:
    power: Power = ("frozen" if host.is_frozen else "on") if host.is_on else "off"
    return HostStatus(
        name=host.name,
        address=host.address,
        power=power,
        link="up" if host.is_linked else "cut",
        cut_from=sorted(other for one, other in pairs if one == host.name),
        engine=engine.version(host.docker_socket) if power == "on" else None,
        gateway=power == "on" and engine.answers(host.gateway_socket),
    )


def _unmount_below(directory: Path) -> None:
    """Unmount what was mounted below the lab's directory from outside the hosts, deepest first."""
    below = f"{directory}/"
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(below)), key=len, reverse=True):
        tools.run(["umount", mount])


def _remove_directory(lab: Topology) -> None:
    """The hosts' disks first and `lab.json` last; the base directory, too, if this was its last lab."""
    for entry in lab.directory.iterdir():
        if entry != lab.file:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    lab.file.unlink()
    lab.directory.rmdir()
    with contextlib.suppress(OSError):
        Path(lab.base).rmdir()
