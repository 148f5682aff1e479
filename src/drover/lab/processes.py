"""The processes of a host: one cgroup holds them all, so none is missed and none is guessed by name.

Theory of operation. Every process of a host is born in `/drover-lab/LAB/HOST/init` of the cgroup v2 tree (the only
tree, or the unified one beside v1 hierarchies); the engine is told to put its containers beside it, in
`/drover-lab/LAB/HOST/<container>`. The kernel then does the rest, atomically:

    action    file of the host's cgroup          note
    kill      cgroup.kill                        a container paused in the v1 freezer dies only once thawed there
    freeze    cgroup.freeze, until all is frozen  a container paused in the v1 freezer counts as frozen
    list      cgroup.procs of it and all below

A container started with a cgroup parent of its own escapes the cgroup, but its processes are still children
of a shim that is inside: `strays` finds them by parentage, and they get signals instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from drover.errors import DeadlineExceeded, MissingTool

_POLL_S = 0.02
_DEADLINE_S = 20.0


def exit_on_sigterm() -> None:
    """Have SIGTERM end this program as an exception does, so that what it has made is removed."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def wait_until(
    done: Callable[[], bool], what: str, *, deadline_s: float = _DEADLINE_S, poll_s: float = _POLL_S
) -> None:
    """Poll until `done()`; DeadlineExceeded says `what` did not happen."""
    end = time.monotonic() + deadline_s
    while not done():
        if time.monotonic() > end:
            raise DeadlineExceeded(f"{what} did not happen within {deadline_s:g} s")
        time.sleep(poll_s)


def cgroup_mounts(mounts: str) -> tuple[Path, list[Path]]:
    """From the text of /proc/mounts: where the v2 tree is mounted, and the v1 hierarchies (none on a v2 machine)."""
    rows = [line.split() for line in mounts.splitlines()]
    unified = [Path(row[1]) for row in rows if row[2] == "cgroup2"]
    if not unified:
        raise MissingTool(
            "no cgroup v2 tree is mounted here", hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified (make it first)"
        )
    return unified[0], [Path(row[1]) for row in rows if row[2] == "cgroup"]


def here() -> tuple[Path, list[Path]]:
    """`cgroup_mounts` of this machine."""
    return cgroup_mounts(Path("/proc/mounts").read_text())


def descendants(parents: Mapping[int, int], roots: set[int]) -> set[int]:
    """All processes below `roots`, given each process's parent; without the roots themselves."""
    found: set[int] = set()
    wave = roots
    while wave:
        wave = {pid for pid, parent in parents.items() if parent in wave} - found - roots
        found |= wave
    return found


def _parents() -> dict[int, int]:
    """Every process's parent, by process id. Processes that end meanwhile are left out."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The command name is in parentheses and may hold anything; the parent is the second field after it.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return parents


class Cgroup:
    """The cgroup of a host or of a whole lab; `name` is its path in each hierarchy, as `/drover-lab/lab/h1`."""

    def __init__(self, name: str) -> None:
        unified, others = here()
        self.name = name
        self.path = unified / name.lstrip("/")
        self._others = [root / name.lstrip("/") for root in others]

    @property
    def entry(self) -> Path:
        """The file into which a process writes 0 to become one of the host's."""
        return self.path / "init" / "cgroup.procs"

    def create(self) -> None:
        self.entry.parent.mkdir(parents=True, exist_ok=True)

    def exists(self) -> bool:
        return self.path.exists()

    def pids(self) -> set[int]:
        """All processes in the cgroup and below it; a frozen or paused one included, a zombie not."""
        pids: set[int] = set()
        for file in self.path.glob("**/cgroup.procs"):
            with contextlib.suppress(OSError):
                pids.update(int(line) for line in file.read_text().split())
        return pids

    def strays(self) -> set[int]:
        """Processes outside the cgroup that descend from one inside it."""
        inside = self.pids()
        return descendants(_parents(), inside) - inside

    def is_frozen(self) -> bool:
        return self.exists() and (self.path / "cgroup.freeze").read_text().strip() == "1"

    def freeze(self) -> None:
        """Stop every process of the host, until `thaw`."""
        (self.path / "cgroup.freeze").write_text("1")
        wait_until(lambda: not self._moving(), f"freezing of {self.name}")
        self._signal_strays(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_strays(signal.SIGCONT)
        (self.path / "cgroup.freeze").write_text("0")

    def kill(self) -> None:
        """SIGKILL every process at once, and wait until none is left. Nothing to do if the cgroup is not there."""
        if not self.exists():
            return
        (self.path / "cgroup.freeze").write_text("1")
        strays = self.strays()
        elsewhere = self._directories_of(strays)
        (self.path / "cgroup.kill").write_text("1")
        _signal(strays, signal.SIGKILL)
        _thaw_v1([*self._v1_freezers("**"), *(directory / "freezer.state" for directory in elsewhere)])
        wait_until(lambda: not (self.pids() or any(map(lives, strays))), f"the end of all processes of {self.name}")
        _remove_if_empty(elsewhere)
        (self.path / "cgroup.freeze").write_text("0")

    def remove(self) -> None:
        """Remove the empty cgroup and all below it from every hierarchy, if there."""
        for root in (self.path, *self._others):
            wait_until(lambda root=root: _remove_tree(root), f"removal of {root}")  # type: ignore[misc]

    def remove_if_empty(self) -> None:
        """Remove the cgroup itself from every hierarchy in which nothing is below it."""
        _remove_if_empty((self.path, *self._others))

    def _moving(self) -> list[Path]:
        """The cgroups below with a process that is neither frozen nor paused."""
        return [child for child in self._children() if not (_frozen(child) or self._paused(child))]

    def _children(self) -> Iterator[Path]:
        return (entry for entry in self.path.iterdir() if entry.is_dir() and _populated(entry))

    def _paused(self, child: Path) -> bool:
        return any(file.read_text().strip() == "FROZEN" for file in self._v1_freezers(child.name))

    def _v1_freezers(self, child: str) -> Iterator[Path]:
        return (file for root in self._others for file in root.glob(f"{child}/freezer.state"))

    def _directories_of(self, pids: set[int]) -> list[Path]:
        """The cgroups that processes are in, each followed by its parent, which an engine makes if it has to."""
        roots = here()
        names = {line.rpartition(":")[2] for pid in pids for line in _cgroup_lines(pid)}
        leaves = [root / name.lstrip("/") for root in (roots[0], *roots[1]) for name in names]
        return [directory for leaf in leaves for directory in (leaf, leaf.parent)]

    def _signal_strays(self, number: signal.Signals) -> None:
        _signal(self.strays(), number)


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def lives(pid: int) -> bool:
    """Whether a process runs; one that is dead but not yet collected by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _thaw_v1(files: Iterable[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            file.write_text("THAWED")


def _cgroup_lines(pid: int) -> list[str]:
    """A process's place in each hierarchy, as `9:name=systemd:/path`; none if it has ended."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return []


def _remove_if_empty(directories: Iterable[Path]) -> None:
    """Remove cgroups that hold neither processes nor other cgroups; the kernel refuses the others."""
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()


def _event(cgroup: Path, name: str) -> bool:
    """A line of cgroup.events; false if the cgroup has gone."""
    try:
        return f"{name} 1" in (cgroup / "cgroup.events").read_text().splitlines()
    except OSError:
        return False


def _populated(cgroup: Path) -> bool:
    return _event(cgroup, "populated")


def _frozen(cgroup: Path) -> bool:
    return _event(cgroup, "frozen") or not _populated(cgroup)


def _remove_tree(root: Path) -> bool:
    """Remove cgroup directories from the leaves up; false while the kernel still holds one."""
    for directory in sorted(root.glob("**/"), key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):
            directory.rmdir()
    return not root.exists()
