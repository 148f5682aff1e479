"""`Agent`: makes one host's engine agree with the records: observe, converge, act, report.

Theory of operation. Two sources wake the agent: the mirror (records changed) and the engine's events. Each time it
asks the pure `converge` what to do, starts each step whose object is idle, and looks again when a step ends. A newer
order that may overtake (a `kill` during a `stop`) runs beside the one under way: the engine's own lock decides, as for
one Docker.

    state              the agent
    store away         goes on observing; changes nothing (running containers go on), says so in `status`
    lease away         as its `Fence` says: nothing, or only the removal of what runs elsewhere now
    engine away        reports `engine_ok: false`, knows nothing of it, asks again every RETRY_S
    step fails         holds the object: HOLD_MIN_S, doubling to HOLD_MAX_S; a waiting order is answered instead
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import msgspec
import structlog

from drover.agent.act import Actor, Drivers
from drover.agent.fence import Fence
from drover.agent.report import Reporter
from drover.agent.view import View
from drover.agent.volume_watch import VolumeWatch
from drover.agent.volumes import VOLUME_LABEL
from drover.decide import steps as s
from drover.decide.attached import networks_of
from drover.decide.converge import converge
from drover.drivers.engine.port import EPOCH_LABEL, ID_LABEL, SeenEvent
from drover.errors import DroverError, Unavailable
from drover.model import records as r
from drover.model.spec import parse_spec
from drover.store.mirror import Mirror
from drover.store.port import Batch, Store
from drover.store.waking import woken

log = structlog.get_logger()

RETRY_S = 0.5
MACHINE_LOOK_S = 30.0
HOLD_MIN_S = 0.5
HOLD_MAX_S = 30.0
OVERTAKES = ("kill", "stop", "remove")
COPYING = ("replica/", "image/")
"""Objects of steps that read from other hosts."""
QUIET_ACTIONS = (
    *("exec_", "attach", "resize", "top", "copy", "archive-path", "extract-to-dir", "export", "commit"),
    "kill",
)
"""Container events after which nothing about the container is different. A signal shows by what comes after it; and an
engine that sees to the end of a process answers no question about the container until its networks are taken down: who
asked after each signal would learn of the end that much later."""
RELEVANT = frozenset(
    (
        "containers",
        "placements",
        "networks",
        "network_names",
        "volumes",
        "addresses",
        "hosts",
        "members",
        "alive",
        "suspects",
        "moves",
        "volume_facts",
        "volume_space",
    )
)


class Agent:
    def __init__(self, host: str, mirror: Mirror, store: Store, drivers: Drivers, now: Callable[[], float]) -> None:
        self._host = host
        self._mirror = mirror
        self._drivers = drivers
        self._now = now
        self._wake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, int] = {}
        self.view = View(now)
        self.reporter = Reporter(store, now)
        self.actor = Actor(host, mirror, self.view, self.reporter, drivers, now)
        self._watch = VolumeWatch(host, mirror, self.reporter, self.actor.keeper, drivers.volumes, now)
        self.waits: tuple[s.Wait, ...] = ()
        self.engine_error = ""
        self._fence: Fence | None = None
        self._listed_blind = False
        self._pictured = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. Containers are left as they are when it ends (P6)."""
        self._mirror.on_batch(self._on_batch)
        if self._mirror.cluster.revision:
            self._pictured.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.reporter.run())
                group.create_task(self._observe())
                group.create_task(self._watch_machine())
                group.create_task(self._watch.run())
                group.create_task(self._look_again())
                group.create_task(self._loop())
        finally:
            self.abandon()

    def guard(self, fence: Fence) -> None:
        """Have `fence` say what may be done: without one everything may."""
        self._fence = self.actor.fence = fence
        fence.on_shut.append(self.abandon)
        fence.on_look.append(self.wake)
        fence.on_open.append(self.wake)

    def abandon(self) -> None:
        """Let go of every step under way: this host may be cut off, and others may take over."""
        for task in self._busy.values():
            task.cancel()

    def wake(self) -> None:
        self._wake.set()

    def _on_batch(self, batch: Batch) -> None:
        self._pictured.set()
        if any(change.key.split("/", 1)[0] in RELEVANT for change in batch.changes):
            self.wake()
        if any(change.key.startswith("alive/") and change.record is None for change in batch.changes):
            self._give_up_copying()
        for change in batch.changes:
            if change.key.startswith("placements/"):  # what failed in advance has not failed yet in earnest
                self.view.held.pop(f"container/{change.key.partition('/')[2]}", None)
            elif change.key.startswith("volumes/") and change.record is None:
                self.actor.keeper.is_gone(change.key.partition("/")[2])

    def _give_up_copying(self) -> None:
        """A host is lost: what comes from it would not end, and a start here may wait for it. What comes from others is
        cut as well, and begins again: nothing incomplete is ever used."""
        for name, task in self._busy.items():
            if name.startswith(COPYING):
                task.cancel()

    # -- observe -------------------------------------------------------------------------------------------------

    async def _observe(self) -> None:
        """Listen first, list second: nothing that happens in between is missed. Start again when the engine went."""
        while True:
            try:
                events = self._drivers.engine.events()
                await self._list()
                async for event in events:
                    await self._on_event(event)
            except DroverError as error:
                self._engine_lost(error)
            await asyncio.sleep(RETRY_S)

    async def _watch_machine(self) -> None:
        """Its disk fills, devices come and go, and no event of the engine tells."""
        while True:
            await asyncio.sleep(MACHINE_LOOK_S)
            if self.view.known:
                with contextlib.suppress(DroverError):
                    self.reporter.report(r.key("host_facts", self._host), await self._host_facts())

    async def _host_facts(self) -> r.HostFacts:
        facts = await self._drivers.engine.facts(self._host)
        offered = self._drivers.volumes
        return msgspec.structs.replace(facts, volume_drivers=offered.names, synchronous_drivers=offered.synchronous)

    async def _look_again(self) -> None:
        """What was listed before the first picture came could not be told: nobody knew which of it is the cluster's."""
        await self._pictured.wait()
        if self.view.known and self._listed_blind:
            with contextlib.suppress(DroverError):  # the engine went: it is listed when it is back
                await self._list()

    async def _list(self) -> None:
        self._listed_blind = not self._mirror.cluster.revision
        engine = self._drivers.engine
        facts = await self._host_facts()
        containers, networks, volumes = await asyncio.gather(engine.containers(), engine.networks(), engine.volumes())
        ours = {name: int(labels.get(EPOCH_LABEL, 0)) for name, labels in volumes.items() if VOLUME_LABEL in labels}
        await self.actor.keeper.look_at_all()
        self.view.learn_all(containers, networks, ours)
        self.engine_error = ""
        self.reporter.report(r.key("host_facts", self._host), facts)
        self._adopt_stored_facts()
        for container in self.view.containers:
            if container in self._mirror.cluster.containers:
                self.actor.report(container)
        for network, engine_id in self.view.networks.items():
            facts_key = r.key("network_facts", self._host, network)
            self.reporter.report(facts_key, r.NetworkFacts(network=network, host=self._host, engine_id=engine_id))
        self.wake()

    def _adopt_stored_facts(self) -> None:
        """Facts that the store already holds are not written again; those of containers that are gone are corrected."""
        for key, facts in self._mirror.cluster.container_facts.items():
            if facts.host == self._host:
                self.reporter.adopt(r.key("container_facts", key), facts)
                if facts.container not in self.view.containers:
                    self.actor.report(facts.container)

    def _engine_lost(self, error: DroverError) -> None:
        if not self.engine_error:
            log.warning("the engine does not answer", error=error.message)
        self.engine_error = error.message
        self.view.forget()
        facts = self._mirror.cluster.host_facts.get(self._host, r.HostFacts(host=self._host))
        lost = msgspec.structs.replace(facts, engine_ok=False, message=error.message)
        self.reporter.report(r.key("host_facts", self._host), lost)

    async def _on_event(self, event: SeenEvent) -> None:
        if event.kind == "image":
            self.view.images.clear()
        elif event.kind in ("network", "volume") and event.action == "destroy":
            await self._on_loss(event)
        elif event.kind == "container" and not event.action.startswith(QUIET_ACTIONS):
            await self._on_container_event(event)

    async def _on_loss(self, event: SeenEvent) -> None:
        """Somebody removed a network or volume by hand: it is made anew before anything needs it. What this host
        removes itself, or has made again since, is not lost."""
        for network, engine_id in list(self.view.networks.items()):
            if engine_id == event.actor:
                del self.view.networks[network]
                log.warning("a network was removed on this engine", network=network)
        if event.actor in self.view.volumes and event.actor not in await self._drivers.engine.volumes():
            self.view.volumes.pop(event.actor, None)
        self.wake()

    async def _on_container_event(self, event: SeenEvent) -> None:
        if event.action == "die":
            self.actor.belongings.died(event.actor)
        if event.action == "destroy":
            lost = self.view.lose(event.actor)
            container = None if event.actor in self.actor.removing else lost
        elif ID_LABEL not in event.labels:
            return
        elif event.action == "start" and event.actor in self.actor.starting:
            return  # else the engine is asked, and the cluster told, twice of every start
        else:
            container = await self._look(event.actor)
        if container is not None and container in self._mirror.cluster.containers:
            self.actor.report(container)
        self.wake()

    async def _look(self, engine_id: str) -> str | None:
        seen = await self._drivers.engine.container(engine_id)
        if seen is None:
            return self.view.lose(engine_id)
        self.view.learn(seen)
        return seen.id

    # -- converge and act ----------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        while True:
            if self._mirror.healthy:
                again_at = self._pass()
                await woken(self._wake, max(0.0, again_at - self._now()) if again_at else None)
            else:
                # Nothing is decided on an old picture; what the engine does meanwhile is looked at afterwards.
                await asyncio.sleep(RETRY_S)

    def _pass(self) -> float:
        plan = converge(self._mirror.cluster, self._host, self.view.seen(), self._now())
        self.waits = plan.waits
        if self._fence is not None:
            self._fence.tell()
        for step in plan.steps:
            if self._fence is None or self._fence.allows(stray=isinstance(step, s.RemoveStray)):
                self._begin(step)
        return plan.again_at

    def _begin(self, step: s.Step) -> None:
        name = _slot(step)
        if name in self._busy or (step.object in self._busy and name == step.object):
            return
        task = asyncio.create_task(self._run(step))
        self._busy[name] = task
        task.add_done_callback(lambda _: self._ended(name))

    def _ended(self, name: str) -> None:
        self._busy.pop(name, None)
        self.wake()

    async def _run(self, step: s.Step) -> None:
        try:
            await self.actor.perform(step)
            self._failures.pop(step.object, None)
            self.view.held.pop(step.object, None)
        except Unavailable as error:
            self._hold(step, error)
        except DroverError as error:
            if not self._answered(step, error):
                self._hold(step, error)
        except Exception as error:
            log.exception("a step failed in a way nobody foresaw", step=str(step))
            self._hold(step, DroverError(f"{type(error).__name__}: {error}"))

    def _answered(self, step: s.Step, error: DroverError) -> bool:
        """Tell whoever waits for this step; True if somebody did (then it is not tried again)."""
        waiting = [self.actor.refuse(container, error) for container in self._for_whom(step)]
        return any(waiting)

    def _for_whom(self, step: s.Step) -> Iterable[str]:
        cluster = self._mirror.cluster
        if isinstance(step, s.ContainerStep | s.EnsureImage):
            # Of one that is only expected here, another host gives the answers.
            return [step.container] if cluster.host_of(step.container) in (self._host, None) else []
        here = [c for c, p in cluster.placements.items() if p.host == self._host and c in cluster.containers]
        if isinstance(step, s.EnsureVolume):
            return [c for c in here if _mounts(cluster.containers[c], step.name)]
        if isinstance(step, s.EnsureNetwork):
            records = [(c, cluster.containers[c]) for c in here]
            return [c for c, rec in records if step.network in networks_of(cluster, rec, parse_spec(rec.body))]
        return []

    def _hold(self, step: s.Step, error: DroverError) -> None:
        failures = self._failures[step.object] = self._failures.get(step.object, 0) + 1
        delay = min(HOLD_MAX_S, HOLD_MIN_S * 2 ** (failures - 1))
        self.view.held[step.object] = self._now() + delay
        log.warning("a step failed", step=type(step).__name__, about=step.object, error=error.message, again_in_s=delay)


def _mounts(container: r.Container, volume: str) -> bool:
    return any(use.name == volume for use in parse_spec(container.body).volumes)


def _slot(step: s.Step) -> str:
    """What a step keeps busy: its object, or, for an order that may overtake, the order itself."""
    if isinstance(step, s.Perform) and step.order.verb in OVERTAKES:
        return f"{step.object}#{step.order.number}"
    return step.object
