"""Looking at the machine while accidents happen: whose processes really run, and how old the copies are shown to be.

Theory of operation. All hosts of a lab are one kernel, so one look at its cgroups shows every container's processes of
every host at one instant, whatever the daemons believe. `LiveWatch` takes such a look all the time and hands it to
`decide.invariants.violations`, which the simulation uses too. A frozen host's processes do not run, so they do not
count; one that was thawed may run until its watchdog has run: what lasts for more than one look counts. Addresses are
those that a process's network namespace has, from the kernel.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.chaos import checks, workload

from drover.decide.invariants import Live, violations
from drover.lab import Lab
from drover.lab.host import LabHost

LOOK_EVERY_S = 0.1
_MARK = b"CHAOS="


class Watch:
    """Calls `look` all the time in a thread of its own, until `stop`."""

    def __init__(self, look: Callable[[], None], every_s: float) -> None:
        self._look = look
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._look()


class LiveWatch:
    """`found`: each promise that was seen broken, with the uptime of the machine; `looks`: how often it was asked."""

    def __init__(self, lab: Lab) -> None:
        self.found: list[str] = []
        self.brief: list[str] = []
        """What lasted for one look only."""
        self.looks = 0
        self._lab = lab
        self._names: dict[Path, str] = {}
        self._addresses: dict[Path, frozenset[str]] = {}
        self._last: frozenset[str] = frozenset()
        self._watch = Watch(self._look, LOOK_EVERY_S)

    def stop(self) -> None:
        self._watch.stop()

    def _look(self) -> None:
        said = frozenset(violations(list(self._live())))
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.looks += 1
        self.found += [f"{now:.1f}: {sentence}" for sentence in sorted(said & self._last)]
        self.brief += [f"{now:.1f}: {sentence}" for sentence in sorted(said - self._last)]
        self._last = said

    def _live(self) -> Iterator[Live]:
        for host in self._lab.hosts:
            with contextlib.suppress(OSError):
                if host.cgroup.exists() and not host.is_frozen:
                    for child in sorted(host.cgroup.path.iterdir()):
                        if child.is_dir() and (name := self._name(child)):
                            yield self._process(host.name, name, self._addresses.get(child, frozenset()))

    def _name(self, cgroup: Path) -> str:
        """The server whose processes are in a container's cgroup; empty if they are not one's, or have ended."""
        pids = (cgroup / "cgroup.procs").read_text().split() if (cgroup / "cgroup.procs").exists() else []
        if not pids:
            return ""
        if cgroup not in self._names:
            environment = Path(f"/proc/{pids[0]}/environ").read_bytes().split(b"\0")
            marks = [entry.removeprefix(_MARK).decode() for entry in environment if entry.startswith(_MARK)]
            self._names[cgroup] = marks[0] if marks else ""
        if self._names[cgroup] and not self._addresses.get(cgroup):
            trie = Path(f"/proc/{pids[0]}/net/fib_trie").read_text()
            self._addresses[cgroup] = checks.local_addresses(trie)
        return self._names[cgroup]

    @staticmethod
    def _process(host: str, name: str, addresses: frozenset[str]) -> Live:
        has = frozenset((workload.NETWORK, address) for address in addresses)
        return Live(host=host, container=name, exclusive=True, volumes=frozenset({name}), addresses=has)


class LagWatch:
    """How old the newest copy of each volume was shown to be, at the last look that was answered."""

    def __init__(self, observer: LabHost) -> None:
        self._observer = observer
        self._shown: dict[str, float] = {}
        self._watch = Watch(self._look, LOOK_EVERY_S)

    def stop(self) -> None:
        self._watch.stop()

    def lag_s(self, name: str) -> float:
        """Infinite for a volume that was never shown with a copy."""
        return self._shown.get(name, float("inf"))

    def _look(self) -> None:
        with contextlib.suppress(Exception):  # whatever it is: what was shown before still counts
            homes, now = workload.homes(self._observer), time.time()
            self._shown = {name: now - copied for name, (_, _, copied) in homes.items() if copied is not None}
