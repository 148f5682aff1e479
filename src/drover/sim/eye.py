"""The eye: it sees all hosts at once, and every promise that is broken at some instant.

    promise   looked at                          broken when
    P1        all processes, at every change     two hosts run what holds claims or may write one volume; a process
                                                 writes a live set that was set aside; an epoch falls
    P2        the same                           two addresses that are alike are heard from two hosts
    P3        each live set that is made         `ledger` says so
    P6        each process that ends             a fence killed what holds no claims, or too early

P4 and P5 are about calls: `workload` and `settle` look at those. The first broken promise ends the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from drover.agent.fence import TARGETS_REST_ON
from drover.decide.fence import holds_claims
from drover.decide.invariants import Live, steps_back, violations
from drover.drivers.engine.fake_container import FakeContainer
from drover.drivers.engine.port import ID_LABEL
from drover.model.cluster import Cluster
from drover.sim.ledger import Ledger
from drover.sim.trace import Trace
from drover.store.port import Batch

if TYPE_CHECKING:
    from drover.sim.host import SimHost

FENCES = ("its watchdog", "the order `kill`")
"""No client kills in the simulation: whoever does is a fence."""
EARLY = 0.2
"""By how much of its time a fence may be early: the answer to the last renewal may come with it."""


class BrokenPromise(AssertionError):
    """What must never happen has happened; the sentences say what."""


class Eye:
    def __init__(self, hosts: Mapping[str, SimHost], cluster: Callable[[], Cluster], self_fence_s: float) -> None:
        self._hosts = hosts
        self._cluster = cluster
        self._self_fence_s = self_fence_s
        self._stale = True
        self._found: list[str] = []
        self.trace = Trace()
        self.skew_s = 0.0
        self.ledger = Ledger(lambda host: hosts[host].disk, lambda: self.skew_s)
        self.cuts: set[tuple[str, str]] = set()
        """(from, to): packets that do not pass."""
        self.ends: dict[str, tuple[str, str]] = {}
        """Cluster id of a container to the host where its last process ended, and why."""

    # -- what it is told -------------------------------------------------------------------------------------------

    def began(self, host: str, container: FakeContainer) -> None:
        name = container.labels.get(ID_LABEL, "")
        self.trace.tell(f"{host} began {container.name} {name[:12]} epoch {container.seen().epoch}")
        self.ends.pop(name, None)
        self.changed()
        self.check()

    def ended(self, host: str, container: FakeContainer, cause: str) -> None:
        self.trace.tell(f"{host} ended {container.name} by {cause}")
        self.write(host, container)
        identity = container.labels.get(ID_LABEL, "")
        self.ends[identity] = host, cause
        if cause.startswith(FENCES):
            self._found += self._fenced_wrongly(host, identity)

    def looked(self, host: str, volume: str) -> None:
        """Somebody is about to copy a live set: what writes it has written until now."""
        for process in self._hosts[host].engine.processes():
            for mounted, epoch in self._hosts[host].engine.writable(process):
                if mounted == volume:
                    self.ledger.write(host, volume, epoch)

    def write(self, host: str, container: FakeContainer) -> None:
        for volume, epoch in self._hosts[host].engine.writable(container):
            self.ledger.write(host, volume, epoch)

    def made(self, host: str, volume: str, epoch: int) -> None:
        self.trace.tell(f"{host} made {volume} epoch {epoch}")
        self._found += self.ledger.made(host, volume, epoch)
        self.changed()

    def committed(self, before: Cluster, after: Cluster, batch: Batch) -> None:
        self.trace.batch(batch)
        self._found += steps_back(before, after)
        if before.volumes is not after.volumes:
            self._found += self.ledger.passed(before, after)
        if any(before.tables.get(table) is not after.tables.get(table) for table in TARGETS_REST_ON):
            self.changed()

    def booted(self, host: str) -> None:
        """What a fence stopped there before counts as ended by the power cut: nobody remembers."""
        for identity, (where, cause) in self.ends.items():
            if where == host and cause.startswith(FENCES):
                self.ends[identity] = host, "a power cut"

    def changed(self) -> None:
        self._stale = True

    # -- what it looks at ------------------------------------------------------------------------------------------

    def fault(self, what: str) -> None:
        """Something of Drover's own failed in a way nobody foresaw."""
        self._found.append(what)

    def check(self) -> None:
        """Raises `BrokenPromise`."""
        if self._stale:
            self._stale = False
            self._found += violations(self.live())
            self._found += self._writes_nowhere()
        if self._found:
            raise BrokenPromise(f"at {_now():.2f} s: {'; '.join(dict.fromkeys(self._found))}")

    def live(self) -> list[Live]:
        """Every process of ours that runs now, on any host."""
        found: list[Live] = []
        for host in self._hosts.values():
            if host.powered and (running := host.engine.processes()):
                heard = self.heard(host)
                found += [self._live(host, one, heard) for one in running if one.labels.get(ID_LABEL)]
        return found

    def _live(self, host: SimHost, container: FakeContainer, heard: bool) -> Live:
        identity = container.labels[ID_LABEL]
        return Live(
            host=host.name,
            container=identity,
            exclusive=self._holds_claims(identity),
            volumes=frozenset(volume for volume, _ in host.engine.writable(container)),
            addresses=frozenset(host.engine.addresses.get(container.engine_id, {}).items()),
            heard=heard,
        )

    def _holds_claims(self, identity: str) -> bool:
        record = self._cluster().containers.get(identity)
        return record is not None and holds_claims(self._cluster(), record)

    def heard(self, host: SimHost) -> bool:
        """Whether packets from it reach any other host, and are taken there."""
        if not (host.connected and host.network.joined):
            return False
        others = (o for o in self._hosts.values() if o is not host and o.powered and o.connected)
        return any(
            (host.name, o.name) not in self.cuts and (o.network.peers is None or host.record.address in o.network.peers)
            for o in others
        )

    def _writes_nowhere(self) -> Iterator[str]:
        for host in self._hosts.values():
            if not host.powered:
                continue
            for process in host.engine.processes():
                for volume, epoch in host.engine.writable(process):
                    if host.disk.live_epoch(volume) != epoch and not host.disk.away:
                        yield f"P1: {process.name} writes volume {volume} on {host.name}, which was set aside there"

    def _fenced_wrongly(self, host: str, identity: str) -> Iterator[str]:
        if self._hosts[host].retires:
            return
        record = self._cluster().containers.get(identity)
        if record is None:  # removed while its host was away: whoever returns ends it, at any time
            return
        if not self._holds_claims(identity):
            yield f"P6: {record.name} on {host} holds no claims, and was killed by a fence"
        left_s = self._hosts[host].renewed_at + self._self_fence_s - _now()
        if left_s > EARLY * self._self_fence_s:
            yield f"P6: {identity[:12]} on {host} was killed by a fence {left_s:.2f} s too early"


def _now() -> float:
    return asyncio.get_running_loop().time()
