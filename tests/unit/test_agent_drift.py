"""Somebody removes a network or volume by hand on an engine: it is there again before anything needs it."""

from __future__ import annotations

from test_agent import CID, World, on_virtual_time
from test_agent_endpoints import APP, ON_APP, claim, network, seen, until

from drover.model import records as r
from drover.model.cluster import put


async def gone(world: World) -> None:
    """The agent has heard that the network is gone."""

    async def heard() -> bool:
        return APP not in world.agent.view.networks

    await until(heard)


def test_a_network_removed_by_hand_is_made_anew_for_the_next_container() -> None:
    async def scene(world: World) -> None:
        await world.create(ON_APP, *network(APP, "app", 0), claim("10.44.0.2"))
        before = await world.engine.networks()
        await world.engine.remove_network(before[APP])
        await gone(world)
        await world.order("start", "running")
        assert (await world.answered(2)).state == "running"
        assert (await world.engine.networks())[APP] != before[APP]

    on_virtual_time(scene)


def test_a_stopped_container_starts_on_the_network_that_was_made_anew() -> None:
    async def scene(world: World) -> None:
        await world.create(ON_APP, *network(APP, "app", 0), claim("10.44.0.2"))
        await world.order("start", "running")
        await world.answered(2)
        await world.order("stop", "stopped", "t=0")
        await world.answered(3)
        await world.engine.remove_network((await world.engine.networks())[APP])
        await gone(world)
        await world.order("start", "running")
        started = await world.answered(4)
        assert (started.answer.status, started.state) == (204, "running")
        now = await seen(world)
        assert now.networks == {"app": (await world.engine.networks())[APP]}
        assert now.addresses == {"app": "10.44.0.2"}

    on_virtual_time(scene)


def test_a_volume_removed_by_hand_is_bound_anew_to_its_data() -> None:
    """Else the engine would make an empty one of its own under that name, beside the data."""

    async def scene(world: World) -> None:
        volume = put(r.key("volumes", "data"), r.Volume(name="data", body="", host="h1"))
        await world.create({"HostConfig": {"Binds": ["data:/data"]}}, volume)
        bound = (await world.engine.volumes())["data"]
        await world.order("remove", "removed")
        await world.until(lambda cluster: CID not in cluster.containers)
        await world.engine.remove_volume("data")

        async def heard() -> bool:
            return "data" not in world.agent.view.volumes

        await until(heard)
        await world.create({"HostConfig": {"Binds": ["data:/data"]}})
        assert (await world.engine.volumes())["data"] == bound != {}

    on_virtual_time(scene)


def test_what_the_agent_has_made_again_since_is_not_lost() -> None:
    async def scene(world: World) -> None:
        volume = put(r.key("volumes", "data"), r.Volume(name="data", body="", host="h1"))
        await world.create({"HostConfig": {"Binds": ["data:/data"]}}, volume)
        world.engine._emit("volume", "destroy", "data", {})
        await world.order("start", "running")
        assert (await world.answered(2)).state == "running"
        assert world.agent.view.volumes == {"data": 1}

    on_virtual_time(scene)


def test_a_start_is_looked_at_and_told_once() -> None:
    """The engine tells of it before it answers; the step that started it looks afterwards."""

    async def scene(world: World) -> None:
        await world.create()
        world.engine.calls.clear()
        told: list[str] = []
        world.mirror.on_batch(
            lambda batch: told.extend(one.key for one in batch.changes if one.key.startswith("container_facts/"))
        )
        await world.order("start", "running")
        assert (await world.answered(2)).state == "running"
        assert world.engine.calls.count("container") == 1
        assert len(told) == 1

    on_virtual_time(scene)
