"""One host's agent against the fake engine and the memory store, on virtual time."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from drover.agent.act import Drivers
from drover.agent.agent import Agent
from drover.agent.belongings import AskedPart
from drover.agent.volumes import Incoming, Round, Wanted
from drover.drivers.backups.fake import FakeBackups
from drover.drivers.engine.fake import FakeEngine
from drover.drivers.engine.fake_images import make_image
from drover.drivers.engine.port import SeenContainer
from drover.drivers.insides.fake import FakeInsides
from drover.drivers.network.fake import FakeNetwork
from drover.drivers.volumes.catalog import Catalog
from drover.drivers.volumes.fake import FakeVolumes
from drover.errors import EngineError, NotFound, Unavailable
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put
from drover.sim import clock
from drover.store.memory import MemoryCluster, MemoryStore
from drover.store.mirror import Mirror

CID = "c" * 64
DEADLINE_S = 20.0


class NoImages:
    """Another host never has it, unless `image` is set."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.asked: list[str] = []
        self.give = False

    async def fetch(self, image_id: str, ref: str, progress: Callable[[str], None]) -> None:
        self.asked.append(ref)
        if not self.give:
            raise NotFound(f"no host that answers has the image {ref}")
        progress("moving image: 1 MB of 2 MB")
        self.engine.images.add(make_image([b"app"]), ref)


class NoVolumes:
    """There is no other host."""

    async def round(self, host: str, volumes: Mapping[str, int]) -> Round:
        raise Unavailable(f"host {host} cannot be reached")

    @asynccontextmanager
    async def open(self, host: str, wanted: Wanted, have: bytes) -> AsyncIterator[Incoming]:
        raise Unavailable(f"host {host} cannot be reached")
        yield Incoming("", aiter(()))

    @asynccontextmanager
    async def open_part(self, host: str, asked: AskedPart, have: bytes) -> AsyncIterator[Incoming]:
        raise Unavailable(f"host {host} cannot be reached")
        yield Incoming("", aiter(()))


class World:
    """One host: store, mirror, engine, agent."""

    def __init__(self) -> None:
        self.shared = MemoryCluster()
        self.store: MemoryStore = self.shared.client()
        self.mirror = Mirror(self.store)
        self.engine = FakeEngine()
        self.image = self.engine.images.add(make_image([b"base"]), "busybox:latest")
        self.volumes = FakeVolumes()
        self.images = NoImages(self.engine)
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        host = r.Host(name="h1", id="1", index=1, address="10.0.0.1")
        await self.store.commit([put(r.key("hosts", "h1"), host)])
        await self.mirror.start()
        await self.start_agent()

    async def start_agent(self) -> None:
        catalog = Catalog({"fake": self.volumes})
        drivers = Drivers(
            self.engine,
            FakeNetwork("10.0.0.1"),
            catalog,
            self.images,
            NoVolumes(),
            NoVolumes(),
            FakeInsides(),
            backups=FakeBackups(),
        )
        self.agent = Agent("h1", self.mirror, self.store, drivers, clock.wall_now)
        self.task = asyncio.create_task(self.agent.run())

    async def stop_agent(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def create(self, body: dict[str, object] | None = None, *more: Change, image: str = "") -> r.ContainerFacts:
        text = json.dumps({"Image": "busybox:latest", "Cmd": ["sleep", "infinity"]} | (body or {}))
        record = r.Container(id=CID, name="web", image_id=image or self.image, body=text)
        changes = [
            put(r.key("containers", CID), record),
            put(r.key("names", "web"), r.Name(id=CID)),
            put(r.key("placements", CID), r.Placement(container=CID, host="h1")),
            *more,
        ]
        await self.store.commit(changes)
        return await self.answered(1)

    async def order(self, verb: str, desired: str, query: str = "", number: int = 0) -> None:
        old = self.mirror.cluster.containers[CID]
        order = r.Order(number=number or old.order.number + 1, verb=verb, query=query)
        changed = r.Container(id=CID, name=old.name, image_id=old.image_id, body=old.body, desired=desired, order=order)
        await self.store.commit([put(r.key("containers", CID), changed)])

    async def until(self, condition: Callable[[Cluster], object]) -> object:
        return await self.mirror.until(condition, DEADLINE_S, "what the test waits for")

    async def answered(self, number: int) -> r.ContainerFacts:
        def facts(cluster: Cluster) -> r.ContainerFacts | None:
            found = cluster.facts_of(CID)
            return found if found and found.answer.number >= number else None

        return await self.mirror.until(facts, DEADLINE_S, f"answer {number}")

    async def state(self, state: str) -> None:
        await self.until(lambda cluster: (f := cluster.facts_of(CID)) is not None and f.state == state)


def on_virtual_time(scene: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await world.start()
        await scene(world)

    clock.run(main())


def test_create_start_stop_remove_report_what_the_engine_said() -> None:
    async def scene(world: World) -> None:
        created = await world.create()
        assert (created.answer.status, created.state) == (201, "created")
        assert json.loads(created.answer.body)["Id"] == created.engine_id
        await world.order("start", "running")
        started = await world.answered(2)
        assert (started.answer.status, started.state) == (204, "running")
        await world.order("start", "running")
        assert (await world.answered(3)).answer.status == 304
        await world.order("stop", "stopped", "t=0")
        assert (await world.answered(4)).state == "exited"
        await world.order("remove", "removed")
        await world.until(lambda cluster: CID not in cluster.containers)
        left = world.mirror.cluster
        assert (left.names, left.placements, left.container_facts) == ({}, {}, {})
        assert await world.engine.containers() == []

    on_virtual_time(scene)


def test_a_refused_create_is_answered_with_the_engines_words() -> None:
    async def scene(world: World) -> None:
        world.engine.fail_next("create_container", EngineError(400, "invalid mount path"))
        refused = await world.create()
        assert (refused.answer.status, refused.answer.message) == (400, "invalid mount path")
        await asyncio.sleep(30)
        assert world.engine.calls.count("create_container") == 1

    on_virtual_time(scene)


def test_a_refused_removal_leaves_everything() -> None:
    async def scene(world: World) -> None:
        await world.create()
        await world.order("start", "running")
        await world.answered(2)
        await world.order("remove", "running")
        refused = await world.answered(3)
        assert refused.answer.status == 409
        assert "running container" in refused.answer.message
        assert CID in world.mirror.cluster.containers

    on_virtual_time(scene)


def test_an_auto_removed_container_takes_its_records_along() -> None:
    async def scene(world: World) -> None:
        await world.create({"Cmd": ["sleep", "5"], "HostConfig": {"AutoRemove": True}})
        await world.order("start", "running")
        await world.answered(2)
        await world.until(lambda cluster: CID not in cluster.containers)
        assert asyncio.get_running_loop().time() < 10

    on_virtual_time(scene)


def test_a_restarted_agent_finds_its_containers_and_performs_what_is_pending() -> None:
    async def scene(world: World) -> None:
        await world.create()
        await world.stop_agent()
        await world.order("start", "running")
        await asyncio.sleep(5)
        assert world.mirror.cluster.facts_of(CID).state == "created"
        await world.start_agent()
        assert (await world.answered(2)).state == "running"
        assert world.engine.calls.count("create_container") == 1

    on_virtual_time(scene)


def test_a_create_whose_report_was_lost_is_not_made_twice() -> None:
    async def scene(world: World) -> None:
        await world.stop_agent()
        commit = asyncio.create_task(world.create())
        await asyncio.sleep(0.1)
        body = {"Image": "busybox:latest", "Labels": {"drover.id": CID, "drover.epoch": "1"}}
        engine_id, _ = await world.engine.create_container("web", body)
        await world.start_agent()
        facts = await commit
        assert (facts.answer.status, facts.engine_id) == (201, engine_id)

    on_virtual_time(scene)


def test_a_container_removed_by_hand_comes_back() -> None:
    async def scene(world: World) -> None:
        first = await world.create()
        await world.order("start", "running")
        await world.answered(2)
        await world.engine.order(first.engine_id, "remove", "force=1")
        await world.until(lambda c: (f := c.facts_of(CID)) and f.state == "running" and f.engine_id != first.engine_id)
        assert len(await world.engine.containers()) == 1

    on_virtual_time(scene)


def test_strays_go_and_what_is_not_ours_stays() -> None:
    async def scene(world: World) -> None:
        await world.engine.create_container("foreign", {"Image": "busybox:latest"})
        await world.engine.create_container("stray", {"Image": "busybox:latest", "Labels": {"drover.id": "d" * 64}})
        await asyncio.sleep(10)
        assert world.engine.peek("foreign") is not None
        assert world.engine.peek("stray") is None

    on_virtual_time(scene)


def test_the_engine_goes_and_comes_back() -> None:
    async def scene(world: World) -> None:
        await world.create()
        world.engine.down = True
        await world.until(lambda cluster: not cluster.host_facts["h1"].engine_ok)
        await world.order("start", "running")
        await asyncio.sleep(5)
        assert world.mirror.cluster.facts_of(CID).answer.number == 1
        world.engine.down = False
        assert (await world.answered(2)).state == "running"
        assert world.mirror.cluster.host_facts["h1"].engine_ok

    on_virtual_time(scene)


def test_without_the_store_containers_run_on_and_facts_arrive_later() -> None:
    async def scene(world: World) -> None:
        created = await world.create({"Cmd": ["sleep", "60"]})
        await world.order("start", "running")
        await world.answered(2)
        world.store.cut = True
        await asyncio.sleep(120)
        assert world.engine.peek(created.engine_id) is not None
        assert not world.mirror.healthy
        world.store.cut = False
        await world.state("exited")

    on_virtual_time(scene)


def test_what_happened_while_the_store_was_away_is_repaired_when_it_is_back() -> None:
    async def scene(world: World) -> None:
        first = await world.create()
        await world.order("start", "running")
        await world.answered(2)
        world.store.cut = True
        await asyncio.sleep(30)
        await world.engine.order(first.engine_id, "remove", "force=1")
        await asyncio.sleep(30)
        assert await world.engine.containers() == []
        world.store.cut = False
        await world.until(lambda c: (f := c.facts_of(CID)) and f.state == "running" and f.engine_id != first.engine_id)

    on_virtual_time(scene)


class Silent:
    """Hosts that never say how far their tables are."""

    async def reached(self, host: str, revision: int) -> None:
        await asyncio.sleep(1e9)


def sibling(network: str) -> list[Change]:
    """Another container of the service `web`, which runs on h2, and the addresses of both."""
    other, body = "e" * 64, json.dumps({"Labels": {"drover.service": "web"}})
    facts = r.ContainerFacts(container=other, host="h2", state="running", answer=r.Answer(number=1))
    return [
        put(r.key("containers", other), r.Container(id=other, name="web-2", body=body, desired="running")),
        put(r.key("placements", other), r.Placement(container=other, host="h2")),
        put(r.key("container_facts", "h2", other), facts),
        put(r.key("addresses", network, "10.44.0.3"), r.Address(network=network, ip="10.44.0.3", container=other)),
        put(r.key("addresses", network, "10.44.0.2"), r.Address(network=network, ip="10.44.0.2", container=CID)),
    ]


def test_a_stop_that_waited_does_not_undo_what_came_after_it() -> None:
    """Its senders never answer: a kill overtakes it, the container is started again, and the stop's time is over."""

    async def scene(world: World) -> None:
        await world.create({"Labels": {"drover.service": "web"}})
        await world.order("start", "running")
        await world.answered(2)
        await world.store.commit(sibling("f" * 64))
        world.agent.actor._withdrawer._senders = Silent()
        await world.order("stop", "stopped")
        await asyncio.sleep(0.2)
        await world.order("kill", "stopped", "signal=KILL")
        assert (await world.answered(4)).answer.number == 4
        await world.store.commit([delete(r.key("addresses", "f" * 64, "10.44.0.2"))])  # its engine has no such network
        await world.order("start", "running")
        assert (await world.answered(5)).state == "running"
        await asyncio.sleep(DEADLINE_S)
        facts = world.mirror.cluster.facts_of(CID)
        assert facts is not None
        assert (facts.state, facts.answer.number) == ("running", 5)

    on_virtual_time(scene)


def test_a_stop_that_waited_leaves_a_removed_container_alone() -> None:
    async def scene(world: World) -> None:
        await world.create({"Labels": {"drover.service": "web"}})
        await world.order("start", "running")
        await world.answered(2)
        await world.store.commit(sibling("f" * 64))
        await asyncio.sleep(1)
        world.agent.actor._withdrawer._senders = Silent()
        await world.order("stop", "stopped")
        await asyncio.sleep(3)
        await world.order("remove", "removed", "force=1")
        await world.until(lambda cluster: CID not in cluster.containers)
        await asyncio.sleep(DEADLINE_S)
        assert f"h1/{CID}" not in world.mirror.cluster.container_facts

    on_virtual_time(scene)


def test_nothing_is_asked_of_an_engine_because_it_sent_a_signal() -> None:
    """It may be seeing to the end of that process, and answers nothing until all of it is taken down: what it tells
    next would wait for that."""

    async def scene(world: World) -> None:
        await world.create()
        await world.order("start", "running")
        await world.answered(2)
        await asyncio.sleep(1)
        engine_id = (await world.engine.containers())[0].engine_id
        asked: list[str] = []
        inspect = world.engine.container

        async def counted(engine_ref: str) -> SeenContainer | None:
            asked.append(engine_ref)
            return await inspect(engine_ref)

        world.engine.container = counted  # type: ignore[method-assign]
        await world.engine.order(engine_id, "kill", "signal=HUP")
        await asyncio.sleep(1)
        assert asked == []
        await world.engine.order(engine_id, "kill", "signal=KILL")
        await asyncio.sleep(1)
        assert asked[0] == engine_id  # its end

    on_virtual_time(scene)


def test_a_kill_overtakes_a_stop() -> None:
    async def scene(world: World) -> None:
        await world.create({"StopTimeout": 1000})
        await world.order("start", "running")
        await world.answered(2)
        await world.order("stop", "stopped", "t=1000")
        await asyncio.sleep(1)
        await world.order("kill", "stopped", "signal=KILL")
        await world.answered(4)
        assert asyncio.get_running_loop().time() < 100
        await world.state("exited")
        await asyncio.sleep(2000)
        assert world.mirror.cluster.facts_of(CID).answer.number == 4

    on_virtual_time(scene)


def test_an_image_comes_from_another_host_or_the_create_is_refused() -> None:
    async def scene(world: World) -> None:
        wanted = make_image([b"app"]).id
        world.images.give = True
        created = await world.create({"Image": "app:1"}, image=wanted)
        assert (created.answer.status, world.images.asked) == (201, ["app:1"])
        assert await world.engine.image_id("app:1") == wanted

    on_virtual_time(scene)

    async def nowhere(world: World) -> None:
        refused = await world.create({"Image": "app:1"}, image="sha256:" + "0" * 64)
        assert refused.answer.status == 404
        assert "app:1" in refused.answer.message

    on_virtual_time(nowhere)


def test_a_volume_is_made_where_the_engine_binds_it_and_removed_with_its_data() -> None:
    async def scene(world: World) -> None:
        key = r.key("volumes", "data")
        volume = put(key, r.Volume(name="data", body="", host="h1"))
        await world.create({"HostConfig": {"Binds": ["data:/data"]}}, volume)
        assert "data" in await world.engine.volumes()
        assert world.volumes.present == {"data"}
        await world.order("remove", "removed", "force=1")
        await world.until(lambda cluster: CID not in cluster.containers)
        await world.store.commit([put(key, r.Volume(name="data", body="", host="h1", removed=True))])
        await world.until(lambda cluster: not cluster.volumes)
        assert world.volumes.removed == ["data"]
        assert "data" not in await world.engine.volumes()

    on_virtual_time(scene)


@pytest.mark.parametrize("seed", range(3))
def test_two_runs_are_alike(seed: int) -> None:
    async def main() -> list[str]:
        world = World()
        await world.start()
        await world.create({"Cmd": ["sleep", str(seed + 1)]})
        await world.order("start", "running")
        await world.state("exited")
        return world.engine.calls

    assert clock.run(main()) == clock.run(main())


def test_what_comes_from_a_lost_host_holds_nothing_up() -> None:
    async def scene(world: World) -> None:
        asked = []

        async def never(image_id: str, ref: str, progress: Callable[[str], None]) -> None:
            asked.append(asyncio.get_running_loop().time())
            if len(asked) == 1:
                await asyncio.sleep(300)
            raise NotFound("no host has it")

        world.images.fetch = never  # type: ignore[method-assign]
        await world.store.commit([put(r.key("alive", "h2"), r.Alive(host="h2", session="s"))])
        creation = asyncio.create_task(world.create(image="sha256:" + "9" * 64))
        await asyncio.sleep(5)
        await world.store.commit([delete(r.key("alive", "h2"))])
        assert (await creation).answer.status == 404
        assert asked[1] < 6

    on_virtual_time(scene)
