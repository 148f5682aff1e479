"""A cluster in a simulated world: the production agents, fences, leaders and gateways over fakes, on virtual time.

Theory of operation. All hosts share one memory store; each has its own handle on it, a fake engine, disk and network.
Faults are what they are to a machine:

    fault                       the host's code       its containers     its packets     its watchdog
    `cut` / `heal`              cannot reach the      run on             reach nobody    runs
                                store
    `stop` / `cont` (SIGSTOP)   every effect waits    run on             reach others    runs
    `kill_daemon`               is gone               run on             reach others    runs
    `power_off` / `power_on`    is gone               are gone           reach nobody    is gone
    `engine.down`               its engine is silent  run on             reach others    runs

The store is elsewhere and always there, or its members are on hosts of the cluster (`members`): then who is not
connected with most of them has no store, and without a majority nobody has. After each round of callbacks, and whenever
a process starts, the eye looks at what really runs: the first broken promise ends the run.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, cast

from drover.decide.invariants import Live
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put
from drover.model.spec import parse_spec
from drover.sim.clock import VirtualLoop, wall_now
from drover.sim.eye import BrokenPromise, Eye
from drover.sim.host import SimHost
from drover.sim.parts import IMAGE, TAG
from drover.sim.store import SimCluster
from drover.store.port import Batch

__all__ = ["LEASE_S", "SELF_FENCE_S", "BrokenPromise", "SimHost", "World"]

LEASE_S, SELF_FENCE_S = 4.0, 2.5
NETWORK = "a" * 64


class _Told(SimCluster):
    """The shared state, which tells the eye of each commit."""

    on_batch: Callable[[Cluster, Cluster, Batch], None] = staticmethod(lambda before, after, batch: None)

    def _write(self, changes: Sequence[Change], lease: str | None) -> None:
        before = self.cluster
        super()._write(changes, lease)
        if self.cluster is not before:
            self.on_batch(before, self.cluster, self.since(before.revision)[-1])


class World:
    """The hosts, their store, and the eye that sees everything. `fencing=False` and `recover_with` break it on purpose:
    the check must find out. `scale`: how much longer a lease is than by default."""

    def __init__(
        self,
        hosts: int = 3,
        *,
        fencing: bool = True,
        recover_with: Callable[[], Coroutine[Any, Any, None]] | None = None,
        replicating: bool = False,
        members: int = 0,
        scale: float = 1.0,
    ) -> None:
        self.fencing = fencing
        self.recover_with = recover_with
        self.replicating = replicating
        self.lease_s, self.self_fence_s = LEASE_S * scale, SELF_FENCE_S * scale
        self.shared = _Told()
        self.hosts: dict[str, SimHost] = {}
        self.eye = Eye(self.hosts, lambda: self.shared.cluster, self.self_fence_s)
        self.shared.on_batch = self.eye.committed
        self.hosts.update((f"h{i}", SimHost(self, f"h{i}", i)) for i in range(1, hosts + 1))
        self.members = list(self.hosts)[:members]

    @property
    def cluster(self) -> Cluster:
        return self.shared.cluster

    async def start(self, absent: Collection[str] = ()) -> None:
        """All hosts but those that are `absent` are members, with a daemon."""
        present = [host for host in self.hosts.values() if host.name not in absent]
        records = [put(r.key("hosts", host.name), host.record) for host in present]
        body = json.dumps({"Name": "app"})
        network = r.Network(id=NETWORK, name="app", body=body, subnet="10.44.0.0/16", gateway="10.44.0.1", vni=4096)
        records += [put(r.key("networks", NETWORK), network), put(r.key("network_names", "app"), r.Name(id=NETWORK))]
        self.shared.commit(records, {}, None)
        cast(VirtualLoop, asyncio.get_running_loop()).after_each = self.check
        for host in present:
            await host.start_daemon()

    def run(self, name: str, on: str, *, ip: str = "", body: Mapping[str, Any] | None = None, address: str = "") -> str:
        """The records of `docker run -d --network app`; returns the container's id. `ip`: a fixed address; `address`:
        one that was found for it."""
        number = len(self.cluster.containers) + 1
        identity = f"{number:064x}"
        address = ip or address or f"10.44.1.{number}"
        endpoint = {"IPAMConfig": {"IPv4Address": ip}} if ip else {}
        asked = {
            "Image": TAG,
            "Cmd": ["sleep", "infinity"],
            "NetworkingConfig": {"EndpointsConfig": {"app": endpoint}},
            **(body or {}),
        }
        record = r.Container(
            id=identity,
            name=name,
            image_id=IMAGE.id,
            body=json.dumps(asked),
            desired="running",
            order=r.Order(number=2, verb="start"),
            created_at=wall_now(),
        )
        claim = r.Address(network=NETWORK, ip=address, container=identity)
        changes: list[Change] = [
            put(r.key("containers", identity), record),
            put(r.key("names", name), r.Name(id=identity)),
            put(r.key("placements", identity), r.Placement(container=identity, host=on)),
            put(r.key("addresses", NETWORK, address), claim),
        ]
        volumes = [
            put(r.key("volumes", v), r.Volume(name=v, body="", host=on)) for v in parse_spec(record.body).volume_names
        ]
        self.shared.commit([*changes, *volumes], {}, None)
        return identity

    # -- who reaches whom --------------------------------------------------------------------------------------------

    def passes(self, one: str, other: str) -> bool:
        """Whether packets pass between two hosts, both ways."""
        if one == other:
            return True
        here, there, cuts = self.hosts[one], self.hosts[other], self.eye.cuts
        up = here.powered and here.connected and there.powered and there.connected
        return up and not (cuts and ((one, other) in cuts or (other, one) in cuts))

    def linked(self, one: str, other: str) -> SimHost | None:
        """The other host, if packets pass both ways."""
        return self.hosts[other] if self.passes(one, other) else None

    def set_cuts(self, cuts: Collection[tuple[str, str]]) -> None:
        """Have packets not pass on these ways (from, to), and on all others."""
        self.eye.cuts = set(cuts)
        self.eye.changed()

    def spread_store(self) -> None:
        """After somebody's power or cable changed: who reaches the store now."""
        if not self.members:
            return
        group = self._majority()
        for name, host in self.hosts.items():
            host.store.cut = not any(self.passes(name, member) for member in group)
        if not group and not self.shared.electing:
            self.shared.begin_election()
        elif group and self.shared.electing:
            self.shared.end_election()

    def _majority(self) -> list[str]:
        """The members that are up and connected with one of them, if they are most; else none."""
        up = [member for member in self.members if self.hosts[member].powered]
        groups = [[other for other in up if self.passes(member, other)] for member in up]
        best = max(groups, key=len, default=[])
        return best if 2 * len(best) > len(self.members) else []

    # -- the eye -----------------------------------------------------------------------------------------------------

    def live(self) -> list[Live]:
        return self.eye.live()

    def check(self) -> None:
        """Raises `BrokenPromise`."""
        self.eye.check()

    def where(self, container: str) -> list[str]:
        """The hosts that run it."""
        return sorted(one.host for one in self.live() if one.container == container)

    async def until(self, condition: Callable[[], object], deadline_s: float = 60.0) -> float:
        """Wait in virtual time; returns how long it took. Raises `TimeoutError`."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while not condition():
            if loop.time() - begun > deadline_s:
                raise TimeoutError(f"not within {deadline_s:g} s of virtual time")
            await asyncio.sleep(0.05)
        return loop.time() - begun
