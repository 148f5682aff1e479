"""A cluster in a simulated world: the production agents, fences, leaders and recovery over fakes, on virtual time.

Theory of operation. All hosts share one memory store; each has its own handle on it, a fake engine and a fake network.
Faults are what they are to a machine:

    fault                       the host's code       its containers     its packets     its watchdog
    `cut` / `heal`              cannot reach the      run on             reach nobody    runs
                                store
    `stop` / `cont` (SIGSTOP)   every effect waits    run on             reach others    runs
    `kill_daemon`               is gone               run on             reach others    runs
    `power_off` / `power_on`    is gone               are gone           reach nobody    is gone
    `engine.down`               its engine is silent  run on             reach others    runs

After each round of callbacks, and whenever a process starts, `decide.invariants` looks at what really runs: the first
broken promise ends the run.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from drover.agent.act import Drivers
from drover.agent.agent import Agent
from drover.agent.belongings import AskedPart
from drover.agent.fence import Fence
from drover.agent.networks import NetworkKeeper
from drover.agent.session import AT_ONCE, NEVER, Session
from drover.agent.volumes import Incoming, Round, Wanted
from drover.daemon.evacuation import Evacuator
from drover.daemon.leader import Leadership
from drover.daemon.recovery import Recoverer
from drover.daemon.shutdown import HostShutdown
from drover.decide.fence import Target, holds_claims
from drover.decide.health import loss_notes
from drover.decide.invariants import Live, steps_back, violations
from drover.decide.overlay import RealNetwork, Remote
from drover.drivers.backups.fake import FakeBackups
from drover.drivers.engine.fake import FakeEngine
from drover.drivers.engine.fake_container import FakeContainer
from drover.drivers.engine.fake_images import make_image
from drover.drivers.engine.port import ID_LABEL, SeenEvent
from drover.drivers.insides.fake import FakeInsides
from drover.drivers.network.fake import FakeNetwork
from drover.drivers.volumes.catalog import Catalog
from drover.drivers.volumes.fake import FakeVolumes
from drover.errors import NotFound, Unavailable
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put
from drover.model.spec import parse_spec
from drover.sim.clock import VirtualLoop, wall_now
from drover.store.memory import MemoryCluster, MemoryStore
from drover.store.mirror import Mirror
from drover.store.port import Batch

LEASE_S, SELF_FENCE_S, PAUSE_S = 4.0, 2.5, 20.0
WATCHDOG_GRACE_S = 0.25
NETWORK = "a" * 64
IMAGE = make_image([b"base"])


class BrokenPromise(AssertionError):
    """What ran at some instant must not run together."""


class Running:
    """Whether a host's daemon may do anything: while it is stopped, every effect waits."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.event.set()

    async def passed(self) -> None:
        while not self.event.is_set():
            await self.event.wait()


class SimStore(MemoryStore):
    """One daemon's handle on the store."""

    def __init__(self, shared: MemoryCluster, running: Running) -> None:
        super().__init__(shared, deadline_s=0.5)
        self._running = running

    async def reach(self) -> None:
        await self._running.passed()
        await super().reach()
        await self._running.passed()

    async def watch(self, revision: int) -> AsyncIterator[Batch]:
        async for batch in super().watch(revision):
            await self._running.passed()
            yield batch


class SimEngine(FakeEngine):
    """A fake engine whose daemon may be stopped; `on_start` is called when a process has begun."""

    def __init__(self, name: str, running: Running, on_start: Callable[[], None]) -> None:
        super().__init__(seed=name)
        self._running = running
        self._on_start = on_start
        self.images.add(IMAGE, "app:1")

    async def _enter(self, method: str) -> None:
        await self._running.passed()
        await super()._enter(method)
        await self._running.passed()

    async def _events(self, listener: asyncio.Queue[SeenEvent | None]) -> AsyncGenerator[SeenEvent, None]:
        async for event in super()._events(listener):
            await self._running.passed()
            yield event

    def _run(self, container: FakeContainer) -> None:
        super()._run(container)
        self._on_start()

    def processes(self) -> Iterable[FakeContainer]:
        return [container for container in self._containers.values() if container.running]

    def kill_process(self, engine_id: str) -> bool:
        """SIGKILL from outside: the engine sees an exit, and its restart policy applies."""
        container = self.peek(engine_id)
        if container is None or not container.running:
            return False
        container.plan = type(container.plan)(container.plan.run_s, 137)
        self._ran_out(container)
        return True


class SimNetwork(FakeNetwork):
    """A fake network whose daemon may be stopped."""

    def __init__(self, running: Running) -> None:
        super().__init__()
        self.joined = False
        self._running = running

    async def join_hosts(self, joined: bool) -> None:
        await self._running.passed()
        await super().join_hosts(joined)

    async def realise(self, net: RealNetwork) -> None:
        await self._running.passed()
        await super().realise(net)

    async def set_remotes(self, net: RealNetwork, entries: Iterable[Remote], *, verify: bool = False) -> None:
        await self._running.passed()
        await super().set_remotes(net, entries, verify=verify)


class SimWatchdog:
    """The watchdog's file and process in one: a timer that nobody but a power cut takes away."""

    def __init__(self, host: SimHost) -> None:
        self._host = host
        self._deadline = AT_ONCE
        self._kill: Sequence[Target] = ()
        self._stopped: frozenset[str] = frozenset()
        self._timer: asyncio.TimerHandle | None = None

    def prior_deadline(self) -> float:
        return self._deadline

    def tell(self, deadline: float, kill: Sequence[Target] | None, networks: Collection[int] | None) -> None:
        if self._host.is_stopped:
            return
        self._kill = self._kill if kill is None else kill
        self._deadline = AT_ONCE if deadline == NEVER else deadline
        self.cancel()
        if deadline != NEVER:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), deadline + WATCHDOG_GRACE_S), self._fence)

    def stopped(self) -> frozenset[str]:
        return self._stopped

    def note_stopped(self, engine_ids: Collection[str]) -> None:
        if not self._host.is_stopped:
            self._stopped = frozenset(engine_ids)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _fence(self) -> None:
        self._host.network.joined = False
        for target in self._kill:
            if self._host.engine.kill_process(target.engine_id):
                self._stopped |= {target.engine_id}


class Silent:
    """A name server that nobody asks."""

    async def serve(
        self,
        network: str,
        gateway: str,
        names: Mapping[str, tuple[str, ...]],
        shared: object = None,
        links: object = None,
        servers: object = None,
    ) -> None:
        return

    async def stop(self, network: str) -> None:
        return


class Nowhere:
    """Images are on every host already."""

    async def fetch(self, image_id: str, ref: str, progress: Callable[[str], None]) -> None:
        raise NotFound(f"no host has {ref}")


class NoReplicas:
    """No host has a copy of another's volume."""

    async def round(self, host: str, volumes: Mapping[str, int]) -> Round:
        raise Unavailable(f"host {host} has no copy")

    @asynccontextmanager
    async def open(self, host: str, wanted: Wanted, have: bytes) -> AsyncIterator[Incoming]:
        raise Unavailable(f"host {host} has no copy")
        yield Incoming("", aiter(()))


class Parts:
    """What is a moved container's own, from the other host's daemon."""

    def __init__(self, hosts: Mapping[str, SimHost]) -> None:
        self._hosts = hosts

    @asynccontextmanager
    async def open_part(self, host: str, asked: AskedPart, have: bytes) -> AsyncIterator[Incoming]:
        other = self._hosts[host]
        if other.is_stopped or not (other.powered and other.connected):
            raise Unavailable(f"host {host} cannot be reached")
        given = await other.agent.actor.belongings.give(asked, have)
        yield Incoming(given.snapshot, given.pieces, given.at)


class SimHost:
    """One host: a machine that has power or not, and a daemon that runs, is stopped or is gone."""

    def __init__(self, world: World, name: str, index: int) -> None:
        self.name = name
        self.record = r.Host(name=name, id=f"id-{name}", index=index, address=f"10.0.0.{index}")
        self.powered = True
        self.connected = True
        self.starts = 0
        self.running = Running()
        self.store = SimStore(world.shared, self.running)
        self.engine = SimEngine(name, self.running, world.check)
        self.network = SimNetwork(self.running)
        self.watchdog = SimWatchdog(self)
        self.volumes = Catalog({"fake": FakeVolumes()})
        self.insides = FakeInsides()
        self.fence: Fence | None = None
        self._world = world
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_stopped(self) -> bool:
        return not self.running.event.is_set()

    async def start_daemon(self) -> None:
        """A daemon as `daemon.daemon` puts it together, without doors."""
        self.starts += 1
        mirror, store, name = Mirror(self.store), self.store, self.name
        self.mirror = mirror
        self.session = Session(name, f"{name}-{self.starts}", store, LEASE_S, wall_now, SELF_FENCE_S)
        drivers = Drivers(
            self.engine,
            self.network,
            self.volumes,
            Nowhere(),
            NoReplicas(),
            Parts(self._world.hosts),
            self.insides,
            backups=FakeBackups(),
        )
        self.agent = Agent(name, mirror, store, drivers, wall_now)
        self.keeper = NetworkKeeper(name, mirror, self.network, Silent(), lambda: self.agent.view.networks)
        await mirror.start(1.0)
        guarded = self._guarded()
        works = [*guarded, self.session.run, self.agent.run, self.keeper.run, self._leadership().run]
        if self.fence is not None:
            self.shutdown = HostShutdown(name, store, mirror, self.session, self.fence, wall_now)
            works.append(self.shutdown.return_to_service)
        self._tasks = [asyncio.create_task(work()) for work in works]

    def _guarded(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        if not self._world.fencing:
            self.network.joined = True
            return []
        self.fence = Fence(self.name, self.mirror, self.session, self.agent.view, self.engine, self.network)
        self.fence.on_open.append(self.keeper.verify)
        self.agent.guard(self.fence)
        self.fence.use(self.watchdog)
        return [self.fence.run]

    def _leadership(self) -> Leadership:
        recoverer = Recoverer(self.store, self.mirror, wall_now)

        async def note() -> None:
            changes = loss_notes(self.mirror.cluster, wall_now())
            if changes:
                await self.mirror.reached(await self.store.commit(changes), 2.0)

        evacuator = Evacuator(self.store, self.mirror, wall_now)
        duties = [note, self._world.recover_with or recoverer.recover, evacuator.evacuate]
        return Leadership(self.name, self.store, self.mirror, self.session, duties)

    # -- faults ----------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        self.store.cut, self.connected = True, False

    def heal(self) -> None:
        self.store.cut, self.connected = False, True

    def stop(self) -> None:
        self.running.event.clear()

    def cont(self) -> None:
        self.running.event.set()

    async def kill_daemon(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.mirror.stop()

    async def end_daemon(self) -> None:
        """SIGTERM."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.session.pause(PAUSE_S)
        await self.mirror.stop()

    async def shut_down(self, deadline_s: float = 30.0) -> None:
        """`drover host shutdown`, then the machine goes down."""
        await self.shutdown.hand_over(deadline_s)
        await self.power_off()

    async def power_off(self) -> None:
        self.powered = False
        self.watchdog.cancel()
        self.engine.down = True
        await self.kill_daemon()

    async def power_on(self) -> None:
        self.powered = True
        self.network, self.watchdog = SimNetwork(self.running), SimWatchdog(self)
        self.engine.down = False
        self.engine.reboot()
        await self.start_daemon()


class World:
    """The hosts, their store, and the eye that sees everything. `fencing=False` and `recover_with` break it on purpose:
    the check must find out."""

    def __init__(
        self,
        hosts: int = 3,
        *,
        fencing: bool = True,
        recover_with: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.fencing = fencing
        self.recover_with = recover_with
        self.shared = MemoryCluster()
        self._before = self.shared.cluster
        self.hosts = {f"h{i}": SimHost(self, f"h{i}", i) for i in range(1, hosts + 1)}

    @property
    def cluster(self) -> Cluster:
        return self.shared.cluster

    async def start(self) -> None:
        records = [put(r.key("hosts", host.name), host.record) for host in self.hosts.values()]
        body = json.dumps({"Name": "app"})
        network = r.Network(id=NETWORK, name="app", body=body, subnet="10.44.0.0/16", gateway="10.44.0.1", vni=4096)
        records += [put(r.key("networks", NETWORK), network), put(r.key("network_names", "app"), r.Name(id=NETWORK))]
        self.shared.commit(records, {}, None)
        cast(VirtualLoop, asyncio.get_running_loop()).after_each = self.check
        for host in self.hosts.values():
            await host.start_daemon()

    def run(self, name: str, on: str, *, ip: str = "", body: Mapping[str, Any] | None = None) -> str:
        """The records of `docker run -d --network app`; returns the container's id. `ip`: a fixed address."""
        number = len(self.cluster.containers) + 1
        identity = f"{number:064x}"
        address = ip or f"10.44.1.{number}"
        endpoint = {"IPAMConfig": {"IPv4Address": ip}} if ip else {}
        asked = {
            "Image": "app:1",
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

    # -- the eye -----------------------------------------------------------------------------------------------------

    def live(self) -> list[Live]:
        """Every process of ours that runs now, on any host."""
        return [
            self._live(host, container)
            for host in self.hosts.values()
            if host.powered
            for container in host.engine.processes()
            if container.labels.get(ID_LABEL)
        ]

    def _live(self, host: SimHost, container: FakeContainer) -> Live:
        identity = container.labels[ID_LABEL]
        record = self.cluster.containers.get(identity)
        spec = parse_spec(record.body if record else "")
        return Live(
            host=host.name,
            container=identity,
            exclusive=record is not None and holds_claims(self.cluster, record),
            volumes=frozenset(use.name for use in spec.volumes if not use.read_only),
            addresses=frozenset((a.network, a.ip) for a in self.cluster.addresses.values() if a.container == identity),
            heard=host.connected and host.network.joined and self._accepted(host),
        )

    def _accepted(self, host: SimHost) -> bool:
        """Whether any other host takes packets from it."""
        others = (other for other in self.hosts.values() if other is not host and other.powered and other.connected)
        return any(other.network.peers is None or host.record.address in other.network.peers for other in others)

    def check(self) -> None:
        """Raises `BrokenPromise`."""
        found = violations(self.live())
        if self._before is not self.shared.cluster:
            found += steps_back(self._before, self.shared.cluster)
            self._before = self.shared.cluster
        if found:
            raise BrokenPromise(f"at {asyncio.get_running_loop().time():.2f} s: {'; '.join(found)}")

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
