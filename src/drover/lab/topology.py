"""A lab as data: its hosts, their addresses, and the name of everything made for it. Pure.

Theory of operation. One record, `Topology`, is written to `lab.json` before anything is made. Every name of a thing
the lab makes is a function of that record, so whoever reads the file can find and remove all of it, however far
`up` got:

    thing                    name
    directory of the lab     BASE/LAB                    lab.json, resolv.conf, h1/ h2/ ...
    a host's disk            BASE/LAB/HOST               data/ engine/ state/ run/ and *.log
    a host's network         netns  dl-LAB-HOST          eth0 with 198.18.SLOT.INDEX/24
    the switch               netns  dl-LAB-sw            bridge br0, one port per host, named as the host
    a host's processes       cgroup /drover-lab/LAB/HOST in every hierarchy

Ports and bridges live in namespaces of their own, so their names need no prefix and cannot be too long. Addresses come
from 198.18.0.0/15 (set aside for benchmarks by RFC 2544), which neither Docker nor real networks use; each lab
takes the lowest free slot below it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from drover.errors import Conflict, Invalid, NotFound

DEFAULT_BASE = Path("/var/tmp/drover-lab")
DEFAULT_NAME = "lab"
MAX_HOSTS = 200
MAX_SLOTS = 256
CGROUP_ROOT = "drover-lab"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")
_LONGEST_SOCKET_PATH_BYTES = 107


class HostSpec(msgspec.Struct, frozen=True):
    """One host of a lab: `name` is h1, h2, ...; `address` its IPv4 address on the lab's switch; `engine_root` the
    directory of a Linux system whose Docker Engine it runs (empty: this machine's own)."""

    name: str
    address: str
    engine_root: str = ""


class Topology(msgspec.Struct, frozen=True):
    """A whole lab. `base` is the directory of all labs; `cluster`: the hosts run Drover, not only an engine;
    `pool`: the size of each host's volume pool (empty: none)."""

    name: str
    base: str
    slot: int
    hosts: tuple[HostSpec, ...]
    cluster: bool = True
    pool: str = ""

    @property
    def directory(self) -> Path:
        return Path(self.base) / self.name

    @property
    def file(self) -> Path:
        return self.directory / "lab.json"

    @property
    def resolv_conf(self) -> Path:
        return self.directory / "resolv.conf"

    @property
    def shared_volumes(self) -> Path:
        """Storage that every host sees, as NFS would be."""
        return self.directory / "shared"

    @property
    def switch(self) -> str:
        """The network namespace that holds the bridge."""
        return f"dl-{self.name}-sw"

    @property
    def gateway(self) -> str:
        """The switch's own address: the hosts' default route, which leads nowhere and says so at once."""
        return f"{subnet(self.slot)}.254"

    @property
    def cgroup(self) -> str:
        return f"/{CGROUP_ROOT}/{self.name}"

    def netns(self, host: str) -> str:
        return f"dl-{self.name}-{host}"

    def host_cgroup(self, host: str) -> str:
        return f"{self.cgroup}/{host}"

    def host_directory(self, host: str) -> Path:
        return self.directory / host

    def host(self, name: str) -> HostSpec:
        """The host with that name. NotFound names the hosts there are."""
        for host in self.hosts:
            if host.name == name:
                return host
        names = ", ".join(host.name for host in self.hosts)
        raise NotFound(f"lab {self.name} has no host {name}", hint=f"its hosts are {names}")


def subnet(slot: int) -> str:
    """The first three octets of a slot's /24."""
    return f"198.18.{slot}"


def mac(address: str) -> str:
    """The link address of whoever has this IPv4 address: a machine keeps its own when it boots again."""
    return ":".join(["02", "00", *(f"{int(octet):02x}" for octet in address.split("."))])


def free_slot(used: Collection[int]) -> int:
    """The lowest slot that no other lab has."""
    for slot in range(MAX_SLOTS):
        if slot not in used:
            return slot
    raise Conflict(f"all {MAX_SLOTS} lab subnets are taken", hint="remove a lab with `drover lab down --name NAME`")


def check_name(name: str) -> str:
    """The name, if it can be part of namespace, cgroup and directory names."""
    if _NAME.fullmatch(name):
        return name
    raise Invalid(
        f"{name!r} cannot be a lab's name",
        hint="use at most 20 lower-case letters, digits and dashes, starting with a letter",
    )


def check_base(base: Path, name: str) -> None:
    """Refuse a directory so deep that a host's Unix sockets would have names longer than the kernel takes."""
    longest = base / name / "h200" / "engine" / "docker.sock"
    if len(bytes(longest)) > _LONGEST_SOCKET_PATH_BYTES:
        raise Invalid(f"{base} is too long for a lab's sockets", hint="choose a shorter --dir")


def plan(
    name: str,
    hosts: int,
    *,
    base: Path,
    used_slots: Collection[int] = (),
    cluster: bool = True,
    pool: str = "",
    engine_roots: Sequence[str] = (),
) -> Topology:
    """The lab to build: `hosts` hosts h1, h2, ... in the lowest free slot, which take the `engine_roots` in turn."""
    check_name(name)
    check_base(base, name)
    if not 1 <= hosts <= MAX_HOSTS:
        raise Invalid(f"a lab cannot have {hosts} hosts", hint=f"choose 1 to {MAX_HOSTS}")
    slot = free_slot(used_slots)
    roots = itertools.cycle(engine_roots or ("",))
    specs = tuple(HostSpec(f"h{i}", f"{subnet(slot)}.{i}", next(roots)) for i in range(1, hosts + 1))
    return Topology(name=name, base=str(base), slot=slot, hosts=specs, cluster=cluster, pool=pool)


def encode(topology: Topology) -> bytes:
    return msgspec.json.format(msgspec.json.encode(topology))


def decode(text: bytes) -> Topology:
    return msgspec.json.decode(text, type=Topology)
