"""Three hosts with the production agents, fake engines and fake disks, on virtual time: what moves are tested in.

A writer stands for the container's process: it counts up in a file of the volume, wherever the container runs, and
remembers what was written. `watch` checks at each look that P1 holds: one live set at most, and no container that runs
without one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from drover.agent.act import Drivers
from drover.agent.agent import Agent
from drover.agent.belongings import CHECKPOINT_LABEL, AskedPart
from drover.agent.volumes import Incoming, Round, Wanted
from drover.decide import moves
from drover.drivers.backups.fake import FakeBackups
from drover.drivers.engine.fake import FakeEngine
from drover.drivers.engine.fake_container import FakeContainer
from drover.drivers.engine.fake_images import make_image
from drover.drivers.insides.fake import FakeInsides
from drover.drivers.network.fake import FakeNetwork
from drover.drivers.volumes.catalog import Catalog
from drover.drivers.volumes.fake import FakeVolumes
from drover.errors import Unavailable
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put
from drover.sim import clock
from drover.store.memory import MemoryCluster, MemoryStore
from drover.store.mirror import Mirror

CID = "c" * 64
NET = "d" * 64
APP = r.Network(id=NET, name="app", body="{}", subnet="10.44.0.0/16", gateway="10.44.0.1", vni=7)
HOSTS = ("h1", "h2", "h3")
DEADLINE_S = 60.0


class NoImages:
    """Every engine has every image already."""

    async def fetch(self, image_id: str, ref: str, progress: Callable[[str], None]) -> None:
        raise Unavailable("no image travels here")


class SimHost:
    """One host: what survives its agent (engine, disk), and the agent."""

    def __init__(self, world: MoveWorld, name: str) -> None:
        self.world = world
        self.name = name
        self.engine = FakeEngine(seed=name)
        self.engine.teardown_s = 0.1
        self.image = self.engine.images.add(make_image([b"base"]), "busybox:latest")
        self.disk = FakeVolumes()
        self.insides = FakeInsides(self.engine)
        self.backups = FakeBackups(self.disk.read_at, self.disk.write_at)
        self.network = FakeNetwork()
        self.store: MemoryStore = world.shared.client()
        self.mirror = Mirror(self.store)
        self.linked = True
        self.never_ahead = False
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.mirror.start()
        catalog = Catalog({"fake": self.disk})
        self.streams = streams = Streams(self)
        drivers = Drivers(
            self.engine,
            self.network,
            catalog,
            NoImages(),
            streams,
            streams,
            self.insides,
            backups=self.backups,
        )
        self.agent = Agent(self.name, self.mirror, self.store, drivers, clock.wall_now)
        self.task = asyncio.create_task(self.agent.run())

    async def kill_agent(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.task = None

    def running(self) -> FakeContainer | None:
        """The engine's container, while it runs."""
        found = [one for one in self.engine._containers.values() if one.labels.get("drover.id") == CID]
        return next((one for one in found if one.state == "running"), None)

    def layer(self) -> dict[str, str]:
        """The running container's writable layer, and its log."""
        container = self.running()
        if container is None:
            return {}
        place = container.own_files().layer
        return self.insides.read(place) | self.insides.read(place, "log")

    def write_layer(self, number: int) -> None:
        container = self.running()
        assert container is not None
        place = container.own_files().layer
        self.insides.write(place, "count", str(number))
        self.insides.write(place, "log", str(number), "log")


class Streams:
    """The `VolumeSource` of one host: the other hosts' keepers, called directly."""

    def __init__(self, host: SimHost) -> None:
        self._host = host
        self.asked: list[Wanted] = []
        self.asked_parts: list[tuple[str, bool, str]] = []

    async def round(self, host: str, volumes: Mapping[str, int]) -> Round:
        other = self._host.world.hosts[host]
        self._check(other)
        return await other.agent.actor.rounds.take_round(volumes)

    async def checkpoint(self, host: str, container: str) -> int:
        other = self._host.world.hosts[host]
        self._check(other)
        return await other.agent.actor.belongings.checkpoint(container)

    @asynccontextmanager
    async def open(self, host: str, wanted: Wanted, have: bytes) -> AsyncIterator[Incoming]:
        other = self._host.world.hosts[host]
        self._check(other)
        self.asked.append(wanted)
        if wanted.last and self._host.never_ahead:
            raise Unavailable("the last snapshot is not given ahead")
        given = await other.agent.actor.keeper.give(wanted, have)
        yield Incoming(given.snapshot, self._pieces(other, given.pieces), given.at)

    @asynccontextmanager
    async def open_part(self, host: str, asked: AskedPart, have: bytes) -> AsyncIterator[Incoming]:
        other = self._host.world.hosts[host]
        self._check(other)
        self.asked_parts.append((asked.part, asked.last, other.mirror.cluster.moves[asked.container].phase))
        if asked.last and self._host.never_ahead:
            raise Unavailable("nothing is given ahead")
        given = await other.agent.actor.belongings.give(asked, have)
        yield Incoming(given.snapshot, self._pieces(other, given.pieces), given.at)

    async def _pieces(self, other: SimHost, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            self._check(other)
            yield piece

    def _check(self, other: SimHost) -> None:
        if other.task is None or not other.linked or not self._host.linked:
            raise Unavailable(f"volume data from host {other.name} does not come")


class MoveWorld:
    """The hosts, a container `db` with the volume `data` on h1, and its writer."""

    def __init__(self) -> None:
        self.shared = MemoryCluster()
        self.hosts = {name: SimHost(self, name) for name in HOSTS}
        self.volumes: tuple[str, ...] = ()
        self.acknowledged = 0
        self.broken: list[str] = []

    @property
    def cluster(self) -> Cluster:
        return self.hosts["h3"].mirror.cluster

    async def start(self) -> None:
        changes = []
        for index, name in enumerate(HOSTS, start=1):
            record = r.Host(name=name, id=name, index=index, address=f"10.0.0.{index}")
            changes += [put(r.key("hosts", name), record), put(r.key("alive", name), r.Alive(host=name, session="s"))]
        await self.hosts["h1"].store.commit(changes)
        for host in self.hosts.values():
            await host.start()
        await self.until(lambda now: len(now.host_facts) == len(HOSTS))

    async def run_container(
        self,
        volumes: tuple[str, ...] = ("data",),
        anonymous: tuple[str, ...] = (),
        checkpoint: str = "",
        **volume: object,
    ) -> None:
        """Make and start the container on h1; `anonymous`: paths with an anonymous volume each."""
        self.volumes = volumes
        binds = [f"{name}:/{name}" for name in volumes]
        body: dict[str, object] = {"Image": "busybox:latest", "Cmd": ["sleep", "infinity"]}
        body |= {"HostConfig": {"Binds": binds, "NetworkMode": "app"}, "Volumes": {path: {} for path in anonymous}}
        body["Labels"] = {CHECKPOINT_LABEL: checkpoint} if checkpoint else {}
        record = r.Container(
            id=CID,
            name="db",
            image_id=self.hosts["h1"].image,
            body=json.dumps(body),
            desired="running",
            order=r.Order(number=2, verb="start"),
        )
        made: list[Change] = [
            put(r.key("containers", CID), record),
            put(r.key("names", "db"), r.Name(id=CID)),
            put(r.key("placements", CID), r.Placement(container=CID, host="h1")),
            put(r.key("networks", NET), APP),
            put(r.key("network_names", "app"), r.Name(id=NET)),
            put(r.key("addresses", NET, "10.44.0.2"), r.Address(network=NET, ip="10.44.0.2", container=CID)),
        ]
        made += [
            put(r.key("volumes", name), r.Volume(**{"name": name, "body": "", "host": "h1", **volume}))
            for name in volumes
        ]
        await self.hosts["h1"].store.commit(made)
        await self.until(lambda now: (seen := now.facts_of(CID)) is not None and seen.state == "running")

    async def begin(self, target: str) -> None:
        cluster = await self.hosts["h3"].store.snapshot()
        commit = moves.begin_container(cluster, cluster.containers[CID], moves.Asked(target=target), clock.wall_now())
        revision = await self.hosts["h3"].store.commit(commit.changes, commit.expect)
        await self.hosts["h3"].mirror.reached(revision, DEADLINE_S)

    async def cancel(self) -> None:
        cluster = await self.hosts["h3"].store.snapshot()
        commit = moves.cancelled(cluster, CID, "it was cancelled")
        revision = await self.hosts["h3"].store.commit(commit.changes, commit.expect)
        await self.hosts["h3"].mirror.reached(revision, DEADLINE_S)

    async def ended(self) -> r.Move:
        """The move when it has ended, and the container runs where it should."""
        move = await self.until(lambda now: (m := now.moves.get(CID)) and m.phase in moves.ENDED and m)
        await self.until(lambda now: (seen := now.facts_of(CID)) is not None and seen.state == "running")
        return move

    async def until(self, condition: Callable[[Cluster], object]) -> object:
        return await self.hosts["h3"].mirror.until(condition, DEADLINE_S, "what the test waits for")

    async def write_and_watch(self) -> None:
        """The process in the container, and the judge of P1, for ever."""
        while True:
            running = [host.name for host in self.hosts.values() if host.running()]
            for volume in self.volumes:
                live = [host.name for host in self.hosts.values() if volume in host.disk.present]
                if len(live) > 1 or len(running) > 1 or not set(running) <= set(live):
                    self.broken.append(f"{volume} is live on {live}, running on {running}")
            for name in running:
                if set(self.volumes) <= self.hosts[name].disk.present:
                    self._write(self.hosts[name])
            await asyncio.sleep(0.03)

    def _write(self, host: SimHost) -> None:
        self.acknowledged += 1
        for volume in self.volumes:
            host.disk.write(volume, "count", str(self.acknowledged))
        host.write_layer(self.acknowledged)

    def where(self) -> str:
        return self.cluster.host_of(CID) or ""

    def check(self) -> None:
        """P1 held throughout, and the last acknowledged write is where the container runs."""
        assert self.broken == []
        assert [host.name for host in self.hosts.values() if host.running()] == [self.where()]
        for volume in self.volumes:
            assert self.cluster.volumes[volume].host == self.where()
            assert self.hosts[self.where()].disk.read(volume)["count"] == str(self.acknowledged)
        assert self.hosts[self.where()].layer() == {"count": str(self.acknowledged), "log": str(self.acknowledged)}
        assert self.acknowledged > 0


def on_virtual_time(
    scene: Callable[[MoveWorld], Awaitable[None]],
    slow_s: float = 0.0,
    anonymous: tuple[str, ...] = (),
    checkpoint: str = "",
    volumes: tuple[str, ...] = ("data",),
) -> None:
    """Run a scene in a world whose container runs on h1 and writes."""

    async def main() -> None:
        world = MoveWorld()
        await world.start()
        for host in world.hosts.values():
            host.disk.slow_s = host.insides.slow_s = host.engine.slow_s = slow_s
        await world.run_container(volumes, anonymous=anonymous, checkpoint=checkpoint)
        judge = asyncio.create_task(world.write_and_watch())
        await asyncio.sleep(0.1)
        await scene(world)
        judge.cancel()
        await asyncio.gather(judge, return_exceptions=True)

    clock.run(main())
