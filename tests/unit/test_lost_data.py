"""What a host's disk no longer has, what never came whole, what went away and came back: which data a volume has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec
import pytest
from move_world import CID, MoveWorld, on_virtual_time

from drover.decide import moves
from drover.decide.recover import RESCHEDULE_LABEL
from drover.errors import Unavailable
from drover.model import records as r
from drover.model.cluster import put
from drover.sim.clock import run, wall_now
from drover.sim.world import World

SLOW_S = 0.05
SHARED = {"HostConfig": {"Binds": ["data:/data"]}}
KEPT = "what was written long ago"


@pytest.mark.parametrize("waited_s", [0.0, 60.0])
def test_data_that_is_not_where_it_was_is_waited_for_and_never_replaced_by_an_empty_volume(waited_s: float) -> None:
    """A host boots, and in place of its disk there is an empty directory; later somebody mounts the disk."""

    async def scene(world: MoveWorld) -> None:
        h1 = world.hosts["h1"]
        await asyncio.sleep(10)
        await h1.kill_agent()
        h1.engine.reboot()
        kept, h1.disk._live = h1.disk._live, {}
        await h1.start()
        await asyncio.sleep(waited_s)
        container = world.cluster.containers[CID]
        again = msgspec.structs.replace(container, order=r.Order(number=container.order.number + 1, verb="start"))
        await world.hosts["h2"].store.commit([put(r.key("containers", CID), again)])
        await asyncio.sleep(60)
        assert h1.disk.ensured == ["data"]
        assert h1.running() is None
        h1.disk._live = kept
        await world.until(lambda now: (seen := now.facts_of(CID)) is not None and seen.state == "running")
        world.check()

    on_virtual_time(scene)


def test_a_copy_that_broke_off_is_no_copy_wherever_it_did() -> None:
    """The stream ends early at each of its pieces, once; what did not change since is looked at, too."""
    pieces = _moved_with_a_broken_stream(0)
    assert pieces > 10
    for broken_at in range(1, pieces + 1):
        _moved_with_a_broken_stream(broken_at)


def _moved_with_a_broken_stream(broken_at: int) -> int:
    """Move the container while the stream's piece of this number does not come (0: all come); how many were sent."""
    sent = 0

    async def scene(world: MoveWorld) -> None:
        source, target = world.hosts["h1"].disk, world.hosts["h2"].disk
        source.write("data", "old", KEPT)
        send = source.send

        async def cut(volume: str, snapshot: str, have: bytes) -> AsyncGenerator[bytes, None]:
            nonlocal sent
            async for piece in send(volume, snapshot, have):
                sent += 1
                if sent == broken_at:
                    raise Unavailable("the link is cut")
                yield piece

        source.send = cut  # type: ignore[method-assign]
        await world.begin("h2")
        move = await world.ended()
        assert move.phase == "done"
        world.check()
        assert target.read("data")["old"] == KEPT

    on_virtual_time(scene, SLOW_S)
    return sent


def test_another_volume_of_that_name_begins_empty_where_the_first_one_was() -> None:
    async def scene(world: MoveWorld) -> None:
        await world.begin("h2")
        await world.ended()
        await asyncio.sleep(20)
        container, store = world.cluster.containers[CID], world.hosts["h3"].store
        order = r.Order(number=9, verb="remove", query="force=1")
        gone = msgspec.structs.replace(container, desired="removed", order=order)
        await store.commit([put(r.key("containers", CID), gone)])
        await world.until(lambda now: CID not in now.containers)
        marked = msgspec.structs.replace(world.cluster.volumes["data"], removed=True)
        await store.commit([put(r.key("volumes", "data"), marked)])
        await world.until(lambda now: not now.volumes)
        await world.run_container()
        assert world.hosts["h1"].disk.ensured == ["data", "data"]

    on_virtual_time(scene)


async def left_behind(world: World) -> tuple[str, str]:
    """Two containers that share a volume, of which the second one stays on h3, as it asks to, when that host dies: the
    first one took the volume along, and the engine's volume below the second one leads nowhere."""
    stays = {**SHARED, "Labels": {RESCHEDULE_LABEL: "off"}}
    db, job, h3 = world.run("db", "h3", body=SHARED), world.run("job", "h3", body=stays), world.hosts["h3"]
    await world.until(lambda: world.where(db) == world.where(job) == ["h3"])
    await world.until(lambda: any(one.snapshots and one.host != "h3" for one in copies(world)))
    await h3.power_off()
    await world.until(lambda: world.where(db) not in ([], ["h3"]))
    await h3.power_on()
    await asyncio.sleep(20)
    assert world.where(job) == []
    return db, job


def test_a_volume_that_went_away_and_came_back_is_found_again_by_who_stayed() -> None:
    async def scene(world: World) -> None:
        db, job = await left_behind(world)
        await ordered(world, db, "removed", "remove")
        await world.until(lambda: db not in world.cluster.containers)
        back = moves.begin_volume(world.cluster, "data", moves.Asked(target="h3"), wall_now())
        await world.hosts["h1"].store.commit(back.changes, back.expect)
        await world.until(lambda: world.cluster.volumes["data"].host == "h3")
        await ordered(world, job, "running", "start")
        await world.until(lambda: world.where(job) == ["h3"])

    in_a_cluster(scene)


def test_a_container_that_stayed_is_not_in_the_way_of_a_volume_that_comes_back_with_another_one() -> None:
    async def scene(world: World) -> None:
        db, job = await left_behind(world)
        back = moves.begin_container(world.cluster, world.cluster.containers[db], moves.Asked(target="h3"), wall_now())
        await world.hosts["h1"].store.commit(back.changes, back.expect)
        await world.until(lambda: world.where(db) == ["h3"])
        await ordered(world, job, "running", "start")
        await world.until(lambda: world.where(job) == ["h3"])

    in_a_cluster(scene)


def in_a_cluster(scene: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World(replicating=True)
        await world.start()
        await scene(world)

    run(main())


def copies(world: World) -> list[r.VolumeFacts]:
    return list(world.cluster.volume_facts.values())


async def ordered(world: World, container: str, desired: r.Desired, verb: r.Verb) -> None:
    record = world.cluster.containers[container]
    order = r.Order(number=record.order.number + 1, verb=verb, query="force=1" if verb == "remove" else "")
    changed = msgspec.structs.replace(record, desired=desired, order=order)
    await world.hosts["h1"].store.commit([put(r.key("containers", container), changed)])
