"""`Actor`: performs one step on this host's engine, network and disk, and reports what came of it.

Theory of operation. A step is a value; `perform` is the only place that turns values into effects. Every step can be
repeated: it looks before it makes, and "already so" is success. Errors:

    the engine refuses (EngineError)     a pending order is answered with the engine's own status and message;
                                         without an order it propagates, and the agent holds the object for a while
    the engine is away (Unavailable)     propagates: nothing is answered, the order is still pending
    anything else (DroverError)          as a refusal, with the error's own status
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import structlog

from drover.agent.belongings import Belongings, PartSource
from drover.agent.endpoints import Endpoints
from drover.agent.fence import Fence
from drover.agent.files import ContainerFiles
from drover.agent.moves import Mover, Sources
from drover.agent.nocopy import without_copying
from drover.agent.report import Reporter
from drover.agent.view import View
from drover.agent.volume_life import VolumeLife
from drover.agent.volume_rounds import VolumeRounds
from drover.agent.volumes import ASIDE, VolumeKeeper, VolumeSource
from drover.agent.withdrawal import Senders, Withdrawer
from drover.decide import encryption, overlay
from drover.decide import steps as s
from drover.decide.converge import answer_of
from drover.decide.parking import parked
from drover.decide.removal import container_removal
from drover.decide.restarts import remembered
from drover.decide.tables import host_networks, networks_everywhere
from drover.drivers.backups.port import Backups
from drover.drivers.engine.port import Engine, SeenContainer
from drover.drivers.engine.read import fixed_addresses
from drover.drivers.engine.translate import engine_body
from drover.drivers.insides.port import Insides
from drover.drivers.network.port import NetworkDriver
from drover.drivers.volumes.catalog import Catalog
from drover.errors import DroverError
from drover.model import records as r
from drover.model.cluster import Cluster, delete, put
from drover.model.spec import parse_spec
from drover.store.mirror import Mirror
from drover.store.port import CommitConflict

log = structlog.get_logger()

READ_YOUR_WRITES_S = 5.0


class ImageMover(Protocol):
    """Brings an image from another host."""

    async def fetch(self, image_id: str, ref: str, progress: Callable[[str], None]) -> None:
        """Have `image_id` on this engine, named `ref`. Raises `NotFound` if no reachable host has it."""
        ...


class Drivers(msgspec.Struct, frozen=True):
    """The effects an agent has."""

    engine: Engine
    network: NetworkDriver
    volumes: Catalog
    images: ImageMover
    volume_source: VolumeSource
    part_source: PartSource
    insides: Insides
    files: ContainerFiles | None = None
    """Where configs and secrets are kept; None: nowhere, and containers that use some get none."""
    backups: Backups | None = None
    """None: this host makes no backups."""
    senders: Senders | None = None
    """Who must hear first that a container ends; None: nobody."""


class Actor:
    def __init__(
        self,
        host: str,
        mirror: Mirror,
        view: View,
        reporter: Reporter,
        drivers: Drivers,
        now: Callable[[], float],
    ) -> None:
        self.fence: Fence | None = None
        self.removing: set[str] = set()
        """Engine ids of containers that this host removes without having been told to: no loss to be reported."""
        self.starting: set[str] = set()
        """Engine ids of containers that a step starts just now: it looks at them afterwards, and reports them then."""
        self._host = host
        self._mirror = mirror
        self._view = view
        self._reporter = reporter
        self._drivers = drivers
        self._now = now
        engine, catalog = drivers.engine, drivers.volumes
        self._endpoints = Endpoints(mirror, view, engine)
        self.keeper = VolumeKeeper(host, mirror, view, reporter, engine, catalog, now)
        self.rounds = VolumeRounds(self.keeper, view, now)
        self.life = VolumeLife(host, mirror, reporter, self.keeper, drivers.backups, now)
        self.belongings = Belongings(host, mirror, view, engine, drivers.insides, drivers.part_source, now)
        self._withdrawer = Withdrawer(host, mirror, view, drivers.insides, drivers.senders)
        sources = Sources(self.keeper, drivers.volume_source, self.belongings)
        self.mover = Mover(host, mirror, view, reporter, engine, sources, self, now)

    @property
    def _cluster(self) -> Cluster:
        return self._mirror.cluster

    async def perform(self, step: s.Step) -> None:
        """Do one step. Raises what could not be answered to anybody: the agent holds the object and tries again."""
        match step:
            case s.EnsureNetwork(network):
                await self._ensure_network(network)
            case s.EnsureImage(container, ref, image_id):
                await self._ensure_image(container, ref, image_id)
            case s.KeepImage(_, ref, image_id):
                await self._keep_image(ref, image_id)
            case s.ContainerStep():
                await self._container(step)
            case s.RemoveStray(engine_id):
                await self._remove_stray(engine_id)
            case s.RemoveNetwork(network, engine_id):
                await self._remove_network(network, engine_id)
            case s.VolumeStep():
                await self._volume(step)
            case s.BackupVolume() | s.RefreshReplica():
                await self._copy(step)
            case s.MoveStep():
                await self._move(step)

    async def _copy(self, step: s.BackupVolume | s.RefreshReplica) -> None:
        if isinstance(step, s.BackupVolume):
            await self.life.back_up(step.name)
        else:
            await self.rounds.refresh(self._drivers.volume_source, step.names)

    async def _container(self, step: s.ContainerStep) -> None:
        match step:
            case s.CreateContainer(container):
                await self._create(container)
            case s.PrepareContainer(container, epoch):
                await self.prepare(container, epoch)
            case s.StartContainer(container):
                await self._start(container)
            case s.RestartContainer(container):
                await self._restart(container)
            case s.Perform(container, order):
                await self._order(container, order)
            case s.Forget(container):
                await self._forget(container)
            case s.Remake(container, finished):
                await self._remake(container, finished)

    async def _volume(self, step: s.VolumeStep) -> None:
        match step:
            case s.EnsureVolume(name):
                await self.keeper.ensure(name)
            case s.RemoveCopy(name):
                await self.keeper.remove_copy(name)
            case s.DropVolume(name):
                await self.keeper.drop(name)
            case s.SetAside(name):
                await self.keeper.set_aside(name, ASIDE)
            case s.TidyVolume(name, snapshots):
                await self.keeper.tidy(name, snapshots)
            case s.RemoveVolume(name):
                await self.keeper.remove(name)
            case s.LimitVolume(name):
                await self.keeper.limit(name)
            case s.FillVolume(name):
                await self.life.fill(name)

    async def _move(self, step: s.MoveStep) -> None:
        match step:
            case s.CopyRounds(key):
                await self.mover.copy_rounds(key)
            case s.StopForMove(key):
                await self.mover.stop(key)
            case s.TakeOver(key):
                await self.mover.take_over(key)
            case s.FinishMove(key):
                await self.mover.finish(key)
            case s.Restore(key):
                await self.mover.restore(key)
            case s.AbortMove(key, why):
                await self.mover.abort(key, why)

    # -- facts ---------------------------------------------------------------------------------------------------

    def report(self, container: str, progress: str = "") -> None:
        """Report what the view holds of a container, with this host's last answer about it."""
        answer = answer_of(self._cluster, self._host, self._view.answers, container)
        record = self._cluster.containers.get(container)
        spec = parse_spec(record.body if record is not None else "")
        facts = self._view.facts(self._host, container, spec, answer, progress)
        self._reporter.report(r.key("container_facts", self._host, container), facts)

    def answer(self, container: str, order: r.Order, status: int, text: str) -> None:
        """Answer an order: the engine's status, and its JSON text as the body; an error's sentence as the message."""
        if order.number < self._view.answers.get(container, r.Answer()).number:
            return  # a later order overtook this one, and is answered already
        message = _message(text) if status >= 400 else ""
        self._view.answers[container] = r.Answer(number=order.number, status=status, message=message, body=text)
        self.report(container)

    def refuse(self, container: str, error: DroverError) -> bool:
        """Answer the pending `create` or other order with an error; False if no order waits for an answer."""
        record = self._cluster.containers.get(container)
        if record is None:
            return False
        if record.order.number <= answer_of(self._cluster, self._host, self._view.answers, container).number:
            return False
        self.answer(container, record.order, error.status, json.dumps({"message": error.message}))
        return True

    async def _look(self, container: str, engine_id: str) -> SeenContainer | None:
        """Look at one container again, and learn it."""
        try:
            seen = await self._drivers.engine.container(engine_id)
        finally:
            self.starting.discard(engine_id)
        if seen is None:
            self._view.lose(engine_id)
        else:
            self._view.learn(seen)
        return seen

    # -- what containers need ------------------------------------------------------------------------------------

    async def _ensure_network(self, network: str) -> None:
        underlay = self._cluster.hosts[self._host].address
        clear_bytes = await self._drivers.network.mtu_bytes(underlay)
        tunnel = encryption.tunnel(self._cluster, self._host, clear_bytes)
        if tunnel is not None:
            await self._drivers.network.set_tunnel(tunnel)
        mtu_bytes = encryption.carried_bytes(self._cluster, clear_bytes)
        real = host_networks(self._cluster, self._host, mtu_bytes, also=frozenset((network,))).get(network)
        if real is not None:
            await self._drivers.network.realise(real)
            await self._drivers.network.set_remotes(real, real.remotes)
        body = overlay.engine_network_body(self._cluster.networks[network], real)
        engine_id = await self._drivers.engine.create_network(body)
        self._learn_network(network, engine_id)

    def _learn_network(self, network: str, engine_id: str) -> None:
        self._view.networks[network] = engine_id
        facts = r.NetworkFacts(network=network, host=self._host, engine_id=engine_id)
        self._reporter.report(r.key("network_facts", self._host, network), facts)

    async def _ensure_image(self, container: str, ref: str, image_id: str) -> None:
        engine = self._drivers.engine
        if await engine.image_id(image_id) is None:
            await self._drivers.images.fetch(image_id, ref, lambda text: self.report(container, text))
        if not ref.startswith("sha256:") and "@" not in ref and await engine.image_id(ref) != image_id:
            await engine.tag(image_id, ref)
        self._view.images.add(image_id)

    async def _keep_image(self, ref: str, image_id: str) -> None:
        """A spare: the name only if this engine calls no other image by it."""
        engine = self._drivers.engine
        if await engine.image_id(image_id) is None:
            taken = await engine.image_id(ref) is not None
            await self._drivers.images.fetch(image_id, image_id if taken else ref, lambda _: None)
        self._view.images.add(image_id)

    # -- containers ----------------------------------------------------------------------------------------------

    async def start_engine(self, engine_id: str, verb: str, query: str = "", body: str = "") -> tuple[int, str]:
        """The only place where containers are started: not without a lease. Raises `Unavailable` then. The caller looks
        at the container afterwards."""
        await self._files_ready(engine_id)
        if self.fence is not None:
            self.fence.check()
            self.fence.tell()
        self.starting.add(engine_id)
        try:
            status, text = await self._drivers.engine.order(engine_id, verb, query, body)
        except BaseException:
            self.starting.discard(engine_id)
            raise
        if status < 400 and self.fence is not None:
            self.fence.started(engine_id)
        return status, text

    async def _files_ready(self, engine_id: str) -> None:
        """The files that are bound into it: a reboot has emptied the directory they were in."""
        files = self._drivers.files
        for container, seen in list(self._view.containers.items()) if files is not None else ():
            if seen.engine_id == engine_id and files is not None and container in self._cluster.containers:
                await files.ready(self._cluster, self._cluster.containers[container])

    async def _create(self, container: str) -> None:
        record = self._cluster.containers[container]
        epoch = self._cluster.placements[container].epoch
        text = await self._make(record, epoch, await self._engine_body(record, epoch))
        if record.order.verb == "create":
            self.answer(container, record.order, 201, text)
        else:
            self.report(container)
        await self._endpoints.complete(record)

    async def _make(self, record: r.Container, epoch: int, body: dict[str, Any]) -> str:
        """Make the engine's container; the engine's answer."""
        engine_id, text = await self._drivers.engine.create_container(record.name, body, record.platform)
        networking = body.get("NetworkingConfig") or {}
        seen = SeenContainer(
            id=record.id,
            engine_id=engine_id,
            name=record.name,
            epoch=epoch,
            state="created",
            addresses=fixed_addresses(networking.get("EndpointsConfig") or {}),
        )
        self._view.learn(seen)
        return text

    async def prepare(self, container: str, epoch: int) -> None:
        """Make a container that is about to come here: its volumes have their content, and are not here yet."""
        record = self._cluster.containers[container]
        body = without_copying(await self._engine_body(record, epoch), parse_spec(record.body).volume_names)
        await self._make(record, epoch, body)
        await self._endpoints.complete(record)

    async def park(self) -> None:
        """Hold back new connections as the records ask now; a move goes on where that cannot be done."""
        try:
            await self._drivers.network.park(parked(self._cluster, self._host))
        except DroverError as error:
            log.warning("new connections are not held back during a move", error=error.message)

    async def let_in(self, container: str) -> None:
        """Let the clients of a container in before all hosts know that it is back."""
        try:
            await self._drivers.network.let_in(parked(self._cluster, self._host, only=container))
        except DroverError as error:
            log.warning("clients are let in when the records say so", error=error.message)

    async def look(self, container: str) -> None:
        """Look at a container again, and report."""
        await self._look(container, self._view.containers[container].engine_id)
        self.report(container)

    async def _engine_body(self, record: r.Container, epoch: int) -> dict[str, Any]:
        body = engine_body(
            record,
            epoch=epoch,
            containers={c: seen.engine_id for c, seen in self._view.containers.items()},
            cluster=self._cluster,
        )
        if self._drivers.files is None:
            return body
        await self._drivers.files.ready(self._cluster, record)
        return self._drivers.files.mounted(record, body)

    async def _start(self, container: str) -> None:
        """Start without an order: a new copy, or one that ended."""
        seen = self._view.containers[container]
        record = self._cluster.containers[container]
        if seen.state != "created" and seen.engine_id not in self._view.fenced:
            self._view.started_again(container, remembered(parse_spec(record.body)))
        await self._endpoints.settle(record)
        status, text = await self.start_engine(seen.engine_id, "start")
        await self._look(container, seen.engine_id)
        self.report(container)
        if status >= 400:
            raise DroverError(f"container {container[:12]} could not be started: {_message(text)}")

    async def _restart(self, container: str) -> None:
        """Its health check fails."""
        seen = self._view.containers[container]
        self._view.mended_again(container)
        status, text = await self.start_engine(seen.engine_id, "restart")
        await self._look(container, seen.engine_id)
        self.report(container)
        if status >= 400:
            raise DroverError(f"container {container[:12]} could not be restarted: {_message(text)}")

    async def _order(self, container: str, order: r.Order) -> None:
        seen = self._view.containers[container]
        if order.verb == "create":
            self.answer(container, order, 201, json.dumps({"Id": seen.engine_id, "Warnings": []}))
            return
        await self._withdrawer.withdraw(container, order)
        if self._is_over(container, order):
            return
        status, text = await self._put_order(container, seen.engine_id, order)
        if order.verb == "remove" and status in (204, 404):
            self._view.lose(seen.engine_id)
            await self._forget(container)
            return
        await self._look(container, seen.engine_id)
        self.answer(container, order, status, text)

    def _is_over(self, container: str, order: r.Order) -> bool:
        """Whether a later order overtook this one while it waited: what came of that, a start since perhaps, must not
        be undone."""
        last = self._view.answers.get(container, r.Answer())
        return container not in self._cluster.containers or last.number > order.number

    async def _put_order(self, container: str, engine_id: str, order: r.Order) -> tuple[int, str]:
        """The engine's status and body text; `connect` and `disconnect` have calls of their own."""
        record = self._cluster.containers[container]
        if order.verb in ("start", "restart"):
            self._view.restarts.pop(container, None)
            self._view.mended.pop(container, None)
            await self._endpoints.settle(record)
            return await self.start_engine(engine_id, order.verb, order.query, order.body)
        if order.verb not in ("connect", "disconnect"):
            return await self._drivers.engine.order(engine_id, order.verb, order.query, order.body)
        asked = json.loads(order.body)
        if order.verb == "connect":
            await self._endpoints.connect(record, asked["network"], asked.get("endpoint") or {})
        else:
            await self._endpoints.disconnect(record, asked["network"], bool(asked.get("force")))
        return 200, ""

    async def _forget(self, container: str) -> None:
        changes, expect = container_removal(self._cluster, container, self._now())
        if self._drivers.files is not None:
            self._drivers.files.forget(container)
        try:
            revision = await self._reporter.commit(changes, expect)
        except CommitConflict:
            await self._mirror.overtaken(expect, READ_YOUR_WRITES_S)
            return
        self._view.answers.pop(container, None)
        await self._mirror.reached(revision, READ_YOUR_WRITES_S)

    async def _remake(self, container: str, finished: bool) -> None:
        record, seen = self._cluster.containers[container], self._view.containers[container]
        if finished:
            key = r.key("containers", container)
            stopped = put(key, msgspec.structs.replace(record, desired="stopped"))
            revision = await self._reporter.commit([stopped], {key: self._cluster.version(key)})
            await self._mirror.reached(revision, READ_YOUR_WRITES_S)
        await self._remove_engine_container(seen.engine_id)

    async def _remove_engine_container(self, engine_id: str) -> str | None:
        """Returns the cluster id it was."""
        self.removing.add(engine_id)
        try:
            status, text = await self._drivers.engine.order(engine_id, "remove", "force=1")
        finally:
            self.removing.discard(engine_id)
        if status not in (204, 404):
            raise DroverError(f"container {engine_id[:12]} could not be removed: {_message(text)}")
        return self._view.lose(engine_id)

    async def _remove_stray(self, engine_id: str) -> None:
        container = await self._remove_engine_container(engine_id)
        if container is not None and self._drivers.files is not None:
            self._drivers.files.forget(container)
        if container is not None:
            await self._drop_facts(container)

    async def _drop_facts(self, container: str) -> None:
        key = r.key("container_facts", self._host, container)
        if f"{self._host}/{container}" in self._cluster.container_facts:
            await self._reporter.commit([delete(key)], {})

    # -- what is not needed any more -----------------------------------------------------------------------------

    async def _remove_network(self, network: str, engine_id: str) -> None:
        """From here on the network counts as gone: a container that needs it meanwhile has it made anew after this."""
        self._view.networks.pop(network, None)
        try:
            await self._drivers.engine.remove_network(engine_id)
        except DroverError:
            self._view.networks[network] = engine_id
            raise
        answered = networks_everywhere(self._cluster)
        for vni, seen in (await self._drivers.network.seen()).items():
            if seen.id == network and network not in answered:
                await self._drivers.network.remove(vni)
        key = r.key("network_facts", self._host, network)
        await self._reporter.commit([delete(key)], {})


def _message(text: str) -> str:
    """The sentence in an engine's `{"message": …}`, or the text itself."""
    try:
        found = json.loads(text).get("message", text)
    except (ValueError, AttributeError):
        return text
    return str(found)
