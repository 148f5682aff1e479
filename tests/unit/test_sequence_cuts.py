"""Promotion, demotion and resynchronisation, joining and leaving, cut at every point: each completes or unwinds.

Everything an engine or a disk does takes a moment, so an instant falls between any two steps. The world's eye judges
P1, P2, P3 and P6 throughout; what is asserted here is where it ends. Moves are in `test_move_cuts`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from drover.api.membership import decide_removal, decide_scheduling
from drover.errors import DroverError
from drover.model.cluster import put
from drover.model.records import key
from drover.sim import clock
from drover.sim.host import SimHost
from drover.sim.world import LEASE_S, World

SLOW_S = 0.04
LASTS_S = 1.0
VOLUME = {"HostConfig": {"Binds": ["data:/data"]}}
Accident = Callable[[SimHost], Awaitable[None]]
Scene = Callable[[World], Awaitable[None]]


async def _daemon_dies(host: SimHost) -> None:
    await host.kill_daemon()
    await asyncio.sleep(LASTS_S)
    await host.start_daemon()


async def _engine_is_silent(host: SimHost) -> None:
    host.engine.down = True
    await asyncio.sleep(LASTS_S)
    host.engine.down = False


async def _answers_are_lost(host: SimHost) -> None:
    host.store.lose_answers = True
    await asyncio.sleep(LASTS_S)
    host.store.lose_answers = False


async def _is_cut_off(host: SimHost) -> None:
    host.cut()
    await asyncio.sleep(LASTS_S)
    host.heal()


async def _disk_is_full(host: SimHost) -> None:
    """Nothing can be received, and what else would be written is refused once."""
    host.disk.full = True
    for method in ("snapshot", "promote", "demote"):
        host.disk.fail_next(method, DroverError("no space left on device"))
    await asyncio.sleep(LASTS_S)
    host.disk.full = False


ACCIDENTS: list[Accident] = [_daemon_dies, _engine_is_silent, _answers_are_lost, _is_cut_off]
each_accident = pytest.mark.parametrize("accident", ACCIDENTS, ids=lambda one: one.__name__.strip("_"))
each_accident_of_a_disk = pytest.mark.parametrize(
    "accident", [*ACCIDENTS, _disk_is_full], ids=lambda one: one.__name__.strip("_")
)


def play(scene: Scene, absent: tuple[str, ...] = ()) -> None:
    async def main() -> None:
        world = World(replicating=True)
        await world.start(absent=absent)
        for host in world.hosts.values():
            host.engine.slow_s = host.disk.slow_s = SLOW_S
        await scene(world)

    clock.run(main())


async def running_on_h3(world: World) -> str:
    """A container that writes a volume, and a copy of what it has written."""
    db = world.run("db", "h3", body=VOLUME)
    await world.until(lambda: world.where(db) == ["h3"])
    await world.until(lambda: any(one.snapshots for one in world.cluster.volume_facts.values() if one.host != "h3"))
    return db


def keeper(world: World) -> SimHost:
    """The host that has the copy."""
    names = [one.host for one in world.cluster.volume_facts.values() if one.host != "h3" and one.snapshots]
    return world.hosts[names[0]]


def at_rest(world: World, container: str) -> bool:
    """It runs once, where the records say, on the only live set of its volume."""
    home = world.cluster.host_of(container)
    volume = world.cluster.volumes["data"]
    live = [host.name for host in world.hosts.values() if host.powered and host.disk.live_epoch("data")]
    return world.where(container) == [home] == live == [volume.host] and (
        world.hosts[home].disk.live_epoch("data") == volume.epoch
    )


@each_accident_of_a_disk
@pytest.mark.parametrize("instant_s", [round(LEASE_S - 0.4 + 0.2 * n, 2) for n in range(5)])
def test_a_promotion_is_cut(accident: Accident, instant_s: float) -> None:
    async def scene(world: World) -> None:
        db = await running_on_h3(world)
        new = keeper(world)
        await world.hosts["h3"].power_off()
        await asyncio.sleep(instant_s)
        await accident(new)
        await world.until(lambda: at_rest(world, db), 90)
        assert world.cluster.volumes["data"].epoch >= 2
        assert "lost" in world.cluster.volumes["data"].note

    play(scene)


@each_accident_of_a_disk
@pytest.mark.parametrize("side", ["old", "new"])
@pytest.mark.parametrize("instant_s", [0.05, 0.3, 0.9])
def test_a_demotion_and_a_resynchronisation_are_cut(accident: Accident, side: str, instant_s: float) -> None:
    async def scene(world: World) -> None:
        db = await running_on_h3(world)
        old, new = world.hosts["h3"], keeper(world)
        await old.power_off()
        await world.until(lambda: at_rest(world, db), 60)
        await old.power_on()
        await asyncio.sleep(instant_s)
        await accident(old if side == "old" else new)
        await world.until(lambda: at_rest(world, db) and "h3" in world.cluster.alive, 90)
        epoch = world.cluster.volumes["data"].epoch
        await world.until(lambda: has_copy_of(world, epoch), 90)
        assert old.disk.live_epoch("data") == (epoch if world.where(db) == ["h3"] else 0)

    play(scene)


def has_copy_of(world: World, epoch: int) -> bool:
    """Whether another host than the holder has a snapshot of this epoch."""
    holder = world.cluster.volumes["data"].host
    facts = [one for one in world.cluster.volume_facts.values() if one.host != holder]
    return any(snapshot.startswith(f"{epoch:010}") for one in facts for snapshot in one.snapshots)


@each_accident
@pytest.mark.parametrize("instant_s", [0.0, 0.1, 0.4, 1.0])
def test_a_join_is_cut(accident: Accident, instant_s: float) -> None:
    async def scene(world: World) -> None:
        h3 = world.hosts["h3"]
        world.shared.commit([put(key("hosts", "h3"), h3.record)], {}, None)
        joining = asyncio.create_task(h3.start_daemon())
        await asyncio.sleep(instant_s)
        await joining
        await accident(h3)
        await world.until(lambda: "h3" in world.cluster.alive and h3.network.joined, 60)
        web = world.run("web", "h3")
        await world.until(lambda: world.where(web) == ["h3"])
        hear = [host.network.peers for host in world.hosts.values() if host is not h3]
        assert all(h3.record.address in (peers or ()) for peers in hear)

    play(scene, absent=("h3",))


@each_accident
@pytest.mark.parametrize("side", ["h3", "other"])
@pytest.mark.parametrize("instant_s", [0.1, 0.6, 1.2])
def test_leaving_is_cut(accident: Accident, side: str, instant_s: float) -> None:
    """Drained, empty, removed: whatever happens meanwhile, nothing of it is lost and nothing stays behind."""

    async def scene(world: World) -> None:
        db = await running_on_h3(world)
        drain = decide_scheduling(world.cluster, "h3", "drain")
        world.shared.commit(drain.changes, drain.expect, None)
        await asyncio.sleep(instant_s)
        await accident(world.hosts["h3"] if side == "h3" else keeper(world))
        await world.until(lambda: at_rest(world, db) and world.cluster.host_of(db) != "h3", 120)
        await world.until(lambda: "h3" in world.cluster.alive, 60)
        await world.until(lambda: removed(world), 60)
        await world.hosts["h3"].kill_daemon()
        await asyncio.sleep(10)
        assert at_rest(world, db)
        assert "h3" not in world.cluster.hosts

    play(scene)


def removed(world: World) -> bool:
    try:
        gone = decide_removal(world.cluster, "h3", force=False, leaving=True)
    except DroverError:
        return False
    world.shared.commit(gone.changes, gone.expect, None)
    return True
