"""A host goes down in order, on virtual time: what it ran goes on elsewhere before it is gone, and it is used again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from drover.sim import clock
from drover.sim.world import LEASE_S, World

FIXED = "10.44.0.9"


def play(scene: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        made = World()
        await made.start()
        await scene(made)

    clock.run(main())


async def on_h3(world: World) -> tuple[str, str]:
    made = world.run("web", "h3"), world.run("db", "h3", ip=FIXED)
    await world.until(lambda: all(world.where(one) == ["h3"] for one in made), 60)
    await asyncio.sleep(5)
    return made


def elsewhere(world: World, *containers: str) -> bool:
    return all(world.where(one) and "h3" not in world.where(one) for one in containers)


def test_a_host_that_shuts_down_hands_over_before_its_lease_could_end_and_is_used_again() -> None:
    async def scene(world: World) -> None:
        web, db = await on_h3(world)
        h3 = world.hosts["h3"]
        begun = asyncio.get_running_loop().time()
        await h3.shut_down()
        assert asyncio.get_running_loop().time() - begun < LEASE_S
        assert elsewhere(world, web, db)
        assert "h3" not in world.cluster.alive
        assert world.cluster.placements[db].chosen.endswith("h3 shuts down")
        await h3.power_on()
        await world.until(lambda: world.cluster.hosts["h3"].scheduling == "active", 30)
        assert elsewhere(world, web, db)

    play(scene)


def test_what_cannot_be_moved_is_stopped_before_the_lease_is_given_back() -> None:
    async def scene(world: World) -> None:
        store = world.run("store", "h3", body={"HostConfig": {"Binds": ["data:/data"]}})
        await world.until(lambda: world.where(store) == ["h3"], 60)
        await asyncio.sleep(5)
        h3 = world.hosts["h3"]
        await h3.shutdown.hand_over(10.0)
        assert world.where(store) == []
        assert "h3" not in world.cluster.alive
        await asyncio.sleep(10)
        assert world.where(store) == []
        await h3.power_off()
        await h3.power_on()
        await world.until(lambda: world.where(store) == ["h3"], 60)

    play(scene)


@pytest.mark.parametrize("fault", ["cut", "power", "daemon"])
@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.2, 0.6])
def test_a_shutdown_that_is_cut_short_ends_like_a_death(fault: str, after_s: float) -> None:
    async def scene(world: World) -> None:
        web, db = await on_h3(world)
        h3 = world.hosts["h3"]
        handing = asyncio.create_task(h3.shutdown.hand_over(10.0))
        await asyncio.sleep(after_s)
        handing.cancel()
        if fault == "cut":
            h3.cut()
        else:
            await (h3.power_off() if fault == "power" else h3.kill_daemon())
        await world.until(lambda: all(set(world.where(one)) - {"h3"} for one in (web, db)), 60)

    play(scene)


@pytest.mark.parametrize("leader", [True, False])
def test_a_drained_host_gives_away_what_it_has_and_gets_nothing_new(leader: bool) -> None:
    async def scene(world: World) -> None:
        web, db = await on_h3(world)
        leads = world.cluster.tables["settings"]["leader"].value  # type: ignore[attr-defined]
        assert leads in world.hosts
        host = world.hosts["h3"]
        await host.shutdown._mark("drain")
        await world.until(lambda: elsewhere(world, web, db), 60)
        assert world.cluster.placements[web].chosen.endswith("h3 is drained")
        if leader:
            await world.hosts[leads].power_off()
            await world.until(lambda: all(world.where(one) for one in (web, db)), 60)
            assert elsewhere(world, web, db) or leads != "h3"

    play(scene)
