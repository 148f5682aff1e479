"""One simulated host: a machine that has power or not, and a daemon that runs, is stopped or is gone.

The daemon is put together as in `daemon.daemon`, without doors: session, fence, agent, networks, leadership with its
duties, and a gateway that is called directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from drover.agent.act import Drivers
from drover.agent.agent import Agent
from drover.agent.belongings import Belongings
from drover.agent.fence import Fence
from drover.agent.networks import NetworkKeeper
from drover.agent.session import Session
from drover.agent.volume_rounds import VolumeRounds
from drover.agent.volumes import VolumeKeeper
from drover.daemon.evacuation import Evacuator
from drover.daemon.eventlog import EventLog
from drover.daemon.leader import Duty, Leadership
from drover.daemon.recovery import Recoverer
from drover.daemon.shutdown import HostShutdown
from drover.daemon.suspicion import Suspicions
from drover.decide.default_network import default_network_draft
from drover.decide.health import loss_notes
from drover.decide.recover import no_replica
from drover.decide.replicas import successor
from drover.decide.tables import wanted_addresses
from drover.drivers.backups.fake import FakeBackups
from drover.drivers.insides.fake import FakeInsides
from drover.drivers.volumes.catalog import Catalog
from drover.gateway.gateway import Gateway
from drover.model import records as r
from drover.sim.clock import wall_now
from drover.sim.links import SimLinks, SimListener
from drover.sim.parts import Nowhere, Silent, SimEngine, SimNetwork, SimPeers, SimVolumes, SimWatchdog
from drover.sim.store import Running, SimStore
from drover.store.mirror import Mirror
from drover.store.port import CommitConflict

if TYPE_CHECKING:
    from drover.sim.world import World

PAUSE_S = 20.0
FIRST_PICTURE_S = 1.0
REACH_S = 2.0


class SimHost:
    """`skew_s`: how far its wall clock is ahead; `renewed_at`: when the last renewal was sent that was answered."""

    def __init__(self, world: World, name: str, index: int) -> None:
        self.name = name
        self.record = r.Host(name=name, id=f"id-{name}", index=index, address=f"10.0.0.{index}")
        self.powered = True
        self.connected = True
        self.serves = False
        self.starts = 0
        self.skew_s = 0.0
        self.renewed_at = float("-inf")
        self.running = Running()
        self.store = SimStore(world.shared, self.running)
        self.store.on_renewed = self._renewed
        self.disk = SimVolumes(self.running)
        self.disk.on_look = lambda volume: world.eye.looked(name, volume)
        self.disk.on_live = lambda volume, epoch: world.eye.made(name, volume, epoch)
        self.engine = SimEngine(name, self.running, world.eye, self.disk)
        self.engine.teardown_s = 0.1
        self.network = SimNetwork(self.running, world.eye.changed)
        self.watchdog = SimWatchdog(self)
        self.volumes = Catalog({"fake": self.disk})
        self.insides = FakeInsides(self.engine)
        self.fence: Fence | None = None
        self.shutdown: HostShutdown | None = None
        self._world = world
        self.calls: dict[asyncio.Task[Any], None] = {}
        """The calls of clients that are connected to this daemon."""
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_stopped(self) -> bool:
        return not self.running.event.is_set()

    @property
    def retires(self) -> bool:
        """Whether the machine goes down in order."""
        return self.shutdown is not None and self.shutdown.state != "serving"

    @property
    def keeper(self) -> VolumeKeeper:
        return self.agent.actor.keeper

    @property
    def belongings(self) -> Belongings:
        return self.agent.actor.belongings

    @property
    def rounds(self) -> VolumeRounds:
        return self.agent.actor.rounds

    def _parts(self) -> SimPeers:
        return SimPeers(lambda other: self._world.linked(self.name, other))

    def now(self) -> float:
        """Its wall clock, in seconds since the Unix epoch."""
        return wall_now() + self.skew_s

    def _renewed(self, sent: float) -> None:
        self.renewed_at = max(self.renewed_at, sent)

    async def start_daemon(self) -> None:
        """A daemon as `daemon.daemon` puts it together, without doors."""
        self.starts += 1
        mirror, store, name = Mirror(self.store), self.store, self.name
        self.mirror = mirror
        lease_s, self_fence_s = self._world.lease_s, self._world.self_fence_s
        self.session = Session(name, f"{name}-{self.starts}", store, lease_s, self.now, self_fence_s)
        peers = SimPeers(lambda other: self._world.linked(name, other) if self._world.replicating else None)
        drivers = Drivers(
            self.engine,
            self.network,
            self.volumes,
            Nowhere(),
            peers,
            self._parts(),
            self.insides,
            backups=FakeBackups(),
        )
        self.agent = Agent(name, mirror, store, drivers, self.now)
        self.netkeeper = NetworkKeeper(name, mirror, self.network, Silent(), lambda: self.agent.view.networks)
        self.links = SimLinks(name, self._world.linked)
        self.gateway = Gateway(name, store, mirror, self.links, self.now, self._ids())
        await mirror.start(FIRST_PICTURE_S)
        leadership = self._leadership()
        works = [*self._guarded(), self.session.run, self.agent.run, self.netkeeper.run, leadership.run]
        works.append(self._suspicions(lambda: leadership.leader == name).run)
        if self.fence is not None:
            self.shutdown = HostShutdown(name, store, mirror, self.session, self.fence, self.now)
            works.append(self.shutdown.return_to_service)
        self._tasks = [asyncio.create_task(work()) for work in works]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        self.serves = True

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A part of the daemon that ends by itself takes the daemon with it: none ever should."""
        if not task.cancelled():
            self._world.eye.fault(f"P5: a part of the daemon of {self.name} ended by itself: {task.exception()!r}")

    def _ids(self) -> Callable[[], str]:
        """Cluster ids: 64 hex digits, never the same, and the same in every run."""
        given = iter(range(1 << 60))
        return lambda: sha256(f"{self.name}/{self.starts}/{next(given)}".encode()).hexdigest()

    def _guarded(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        if not self._world.fencing:
            self.network.joined = True
            return []
        self.fence = Fence(self.name, self.mirror, self.session, self.agent.view, self.engine, self.network)
        self.fence.on_open.append(self.netkeeper.verify)
        self.agent.guard(self.fence)
        self.fence.use(self.watchdog)
        return [self.fence.run]

    def _leadership(self) -> Leadership:
        store, mirror = self.store, self.mirror
        self.recoverer = Recoverer(store, mirror, self.now, successor if self._world.replicating else no_replica)

        async def note() -> None:
            changes = loss_notes(mirror.cluster, self.now())
            if changes:
                await mirror.reached(await store.commit(changes), REACH_S)

        async def networks() -> None:
            for draft in (default_network_draft(mirror.cluster, self.now()), wanted_addresses(mirror.cluster)):
                if draft.changes:
                    with suppress(CommitConflict):
                        await store.commit(draft.changes, dict(draft.expect))

        evacuator = Evacuator(store, mirror, self.now)
        recover = self._world.recover_with or self.recoverer.recover
        duties: list[Duty] = [note, recover, evacuator.evacuate, evacuator.heal, networks]
        events = EventLog(store, mirror, self.now)
        return Leadership(self.name, store, mirror, self.session, [*duties, events.write])

    def _suspicions(self, leads: Callable[[], bool]) -> Suspicions:
        listen = SimListener(self.name, self._world.linked)
        chosen = successor if self._world.replicating else no_replica
        return Suspicions(self.name, self.store, self.mirror, listen, leads, self.now, chosen)

    # -- faults ----------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        self.store.cut, self.connected = True, False
        self._world.eye.changed()

    def heal(self) -> None:
        self.store.cut, self.connected = False, True
        self._world.eye.changed()

    def stop(self) -> None:
        self.running.event.clear()

    def cont(self) -> None:
        self.running.event.set()

    async def kill_daemon(self) -> None:
        self.serves = False
        await self._end_tasks()
        await self.mirror.stop()

    async def _end_tasks(self) -> None:
        ending = [*self._tasks, *self.calls]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def end_daemon(self) -> None:
        """SIGTERM."""
        await self.session.announce_rest()
        self.serves = False
        await self._end_tasks()
        if self.fence is None or self.fence.state == "open":
            await self.session.pause(PAUSE_S)
        await self.mirror.stop()

    async def shut_down(self, deadline_s: float = 30.0) -> None:
        """`drover host shutdown`, then the machine goes down."""
        assert self.shutdown is not None
        await self.shutdown.hand_over(deadline_s)
        await self.power_off()

    async def power_off(self) -> None:
        for process in self.engine.processes():
            self._world.eye.write(self.name, process)
        self.powered = False
        self._world.eye.changed()
        self.watchdog.cancel()
        self.engine.down = True
        await self.kill_daemon()

    async def power_on(self) -> None:
        self.powered = True
        self.network, self.watchdog = SimNetwork(self.running, self._world.eye.changed), SimWatchdog(self)
        self.engine.down = False
        self._world.eye.booted(self.name)
        self.engine.restart_by_itself("a power cut")
        await self.start_daemon()
