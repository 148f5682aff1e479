"""Moves cut at every point: whatever dies, one writer at most, and the last acknowledged write is found again."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterable

import msgspec
import pytest
from move_world import CID, MoveWorld, on_virtual_time

from drover.agent.volumes import LAST_S
from drover.decide.parking import Parked
from drover.errors import Conflict, DroverError, Unavailable
from drover.model import records as r
from drover.model.cluster import put
from drover.sim import clock

SLOW_S = 0.05
"""How long each call of an engine or disk takes: a move then lasts about two seconds, all of it within some call."""
INSTANTS = [round(0.09 * number, 2) for number in range(25)]
Accident = Callable[[MoveWorld], Awaitable[None]]


def test_data_and_container_move_and_come_back() -> None:
    async def scene(world: MoveWorld) -> None:
        for target in ("h2", "h3", "h1", "h2"):
            await world.begin(target)
            move = await world.ended()
            assert (move.phase, world.where()) == ("done", target)
        await asyncio.sleep(60)
        world.check()
        leftovers = {name: host.disk.present for name, host in world.hosts.items() if name != "h2"}
        assert leftovers == {"h1": set(), "h3": set()}
        assert world.hosts["h1"].disk.ensured == ["data"]
        assert world.hosts["h2"].disk.ensured == []
        for host in ("h1", "h3"):
            assert "data" not in await world.hosts[host].engine.volumes()
            assert await world.hosts[host].engine.containers() == []

    on_virtual_time(scene)


def test_snapshots_do_not_pile_up() -> None:
    async def scene(world: MoveWorld) -> None:
        for target in ("h2", "h1", "h2", "h1"):
            await world.begin(target)
            await world.ended()
        await asyncio.sleep(300)
        kept = [len(await host.disk.snapshots("data")) for host in world.hosts.values()]
        assert max(kept) <= 12  # those of the last half minute, and what the next streams build on

    on_virtual_time(scene)


def test_a_removed_volume_leaves_nothing_on_any_host() -> None:
    async def scene(world: MoveWorld) -> None:
        await world.begin("h2")
        await world.ended()
        await asyncio.sleep(20)
        store = world.hosts["h3"].store
        removed = msgspec.structs.replace(world.cluster.containers[CID], desired="removed")
        order = msgspec.structs.replace(removed, order=r.Order(number=9, verb="remove", query="force=1"))
        await store.commit([put(r.key("containers", CID), order)])
        await world.until(lambda now: CID not in now.containers)
        assert world.cluster.moves == {}
        marked = msgspec.structs.replace(world.cluster.volumes["data"], removed=True)
        await store.commit([put(r.key("volumes", "data"), marked)])
        await world.until(lambda now: not now.volumes)
        await asyncio.sleep(20)
        left = [(host.disk.present, await host.disk.snapshots("data")) for host in world.hosts.values()]
        assert left == [(set(), [])] * 3
        assert (world.cluster.volume_facts, world.cluster.move_facts) == ({}, {})

    on_virtual_time(scene)


def test_a_cancelled_move_leaves_it_running_where_it_was() -> None:
    async def scene(world: MoveWorld) -> None:
        await world.begin("h2")
        await asyncio.sleep(0.3)
        await world.cancel()
        move = await world.ended()
        assert (move.phase, move.why, world.where()) == ("aborted", "it was cancelled", "h1")
        await asyncio.sleep(5)
        world.check()
        assert await world.hosts["h2"].engine.containers() == []

    on_virtual_time(scene, SLOW_S)


def test_a_full_disk_aborts_with_its_words() -> None:
    async def scene(world: MoveWorld) -> None:
        world.hosts["h2"].disk.full = True
        await world.begin("h2")
        move = await world.ended()
        assert (move.phase, move.why, world.where()) == ("aborted", "no space left on device", "h1")
        world.check()

    on_virtual_time(scene)


@pytest.mark.parametrize("command", ["sync", "false"])
def test_a_checkpoint_is_made_while_it_runs_and_its_failure_stops_nothing(command: str) -> None:
    async def scene(world: MoveWorld) -> None:
        await world.begin("h2")
        move = await world.ended()
        assert (move.phase, world.where()) == ("done", "h2")
        assert world.hosts["h1"].engine.ran == [("db", ("/bin/sh", "-c", command))]
        assert world.hosts["h2"].engine.ran == []
        world.check()

    on_virtual_time(scene, checkpoint=command)


def test_only_the_source_of_a_move_makes_a_checkpoint() -> None:
    async def scene(world: MoveWorld) -> None:
        with pytest.raises(Conflict, match="is not being copied from h1"):
            await world.hosts["h1"].agent.actor.belongings.checkpoint(CID)
        assert world.hosts["h1"].engine.ran == []

    on_virtual_time(scene, checkpoint="sync")


def test_what_an_engine_does_after_the_end_of_a_container_is_not_waited_for_except_for_its_log() -> None:
    async def scene(world: MoveWorld) -> None:
        engine = world.hosts["h1"].engine
        engine.log_s, engine.teardown_s = 1.0, 3.0
        place = next(iter(engine._containers.values())).own_files().layer
        await world.begin("h2")
        await world.until(lambda now: now.moves[CID].phase == "stopped")
        world.hosts["h1"].insides.write(place, "log", "last words", "log")
        move = await world.ended()
        assert move.phase == "done"
        assert move.stopped_at - move.stopping_at < engine.log_s <= move.handed_at - move.stopping_at
        assert move.handed_at - move.stopping_at < engine.teardown_s
        assert world.hosts["h2"].layer()["log"] == "last words"

    on_virtual_time(scene)


@pytest.mark.parametrize("ahead", [True, False])
def test_what_came_last_is_copied_once_whether_ahead_of_the_record_or_after(ahead: bool) -> None:
    async def scene(world: MoveWorld) -> None:
        target = world.hosts["h2"]
        target.never_ahead = not ahead
        await world.begin("h2")
        move = await world.ended()
        await asyncio.sleep(5)
        last = move.final["data"]
        asked = [(one.last, one.snapshot) for one in target.streams.asked if one.last or one.snapshot == last]
        assert asked == [(True, "")] + ([] if ahead else [(False, last)])
        parts = {(part, phase) for part, is_last, phase in target.streams.asked_parts if not is_last}
        after_the_stop = {part for part, phase in parts if phase == "stopped"}
        assert after_the_stop == (set() if ahead else {"layer", "log"})
        assert (move.phase, world.where()) == ("done", "h2")
        world.check()

    on_virtual_time(scene, SLOW_S)


@pytest.mark.parametrize("refused", [True, False])
def test_its_live_set_is_prepared_before_it_may_be_made_and_nothing_rests_on_that(refused: bool) -> None:
    async def scene(world: MoveWorld) -> None:
        target = world.hosts["h2"]
        prepared_at_first: list[list[tuple[str, str]]] = []
        target.disk.on_live = lambda volume, epoch: prepared_at_first.append(list(target.disk.prepared))
        if refused:
            target.disk.fail_next("prepare", DroverError("no space left on device"))
        await world.begin("h2")
        move = await world.ended()
        assert prepared_at_first == [[("data", move.final["data"])]]
        assert (move.phase, world.where()) == ("done", "h2")
        world.check()

    on_virtual_time(scene, SLOW_S)


def test_where_the_end_of_a_container_cannot_be_told_its_stop_is_waited_for() -> None:
    async def scene(world: MoveWorld) -> None:
        source = world.hosts["h1"]
        source.insides.tells_ends = False
        source.engine.teardown_s = 3.0
        await world.begin("h2")
        move = await world.ended()
        assert move.phase == "done"
        assert move.stopped_at - move.stopping_at >= source.engine.teardown_s
        assert move.handed_at - move.stopped_at < LAST_S / 4
        world.check()

    on_virtual_time(scene, SLOW_S)


def test_a_cancellation_while_the_target_waits_for_the_end_is_not_waited_out() -> None:
    async def scene(world: MoveWorld) -> None:
        source = world.hosts["h1"]
        await world.begin("h2")
        await world.until(lambda now: now.moves[CID].phase == "stopping")
        source.engine.slow_s = 8.0
        await world.cancel()
        cancelled_at = clock.wall_now()
        await asyncio.sleep(1)
        assert "move/" + CID not in world.hosts["h2"].agent._busy
        source.engine.slow_s = SLOW_S
        move = await world.ended()
        assert move.phase == "aborted"
        assert move.ended_at - cancelled_at < LAST_S
        world.check()

    on_virtual_time(scene, SLOW_S)


def test_what_is_called_off_with_a_move_ends_without_a_sound() -> None:
    async def scene(world: MoveWorld) -> None:
        unheard: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context["message"]))
        await world.begin("h2")
        await world.until(lambda now: now.moves[CID].phase == "stopping")
        world.hosts["h1"].engine.slow_s = 8.0
        await world.cancel()
        assert (await world.ended()).phase == "aborted"
        gc.collect()
        assert unheard == []

    on_virtual_time(scene, SLOW_S)


def test_a_container_with_an_anonymous_volume_stays_and_says_why() -> None:
    async def scene(world: MoveWorld) -> None:
        await world.begin("h2")
        move = await world.ended()
        assert (move.phase, world.where()) == ("aborted", "h1")
        assert "anonymous volume" in move.why
        world.check()

    on_virtual_time(scene, anonymous=("/cache",))


def test_its_new_connections_are_parked_before_it_stops_and_before_it_is_handed_over() -> None:
    async def scene(world: MoveWorld) -> None:
        source, target = world.hosts["h1"], world.hosts["h2"]
        let_in, let_in_when = target.network.let_in, []

        async def noted(parked: Iterable[Parked]) -> None:
            let_in_when.append(world.cluster.moves[CID].phase)
            await let_in(parked)

        target.network.let_in = noted
        await world.begin("h2")
        seen = set()
        while (phase := world.cluster.moves[CID].phase) not in ("done", "aborted"):
            runs = source.running() is not None
            seen.add((phase, runs, bool(source.network.parked), bool(target.network.parked), bool(target.running())))
            await asyncio.sleep(0.01)
        assert {parked for phase, _, *parks, _ in seen if phase == "copying" for parked in parks} == {False}
        assert {parked for _, running, parked, *_ in seen if not running} == {True}
        handed = {(here, there, runs) for phase, _, here, there, runs in seen if phase == "handed"}
        assert {(here, there) for here, there, runs in handed if not runs} == {(True, True)}
        assert let_in_when == ["handed"]  # without waiting for the records to say that it is done

    on_virtual_time(scene, SLOW_S)


async def _target_agent_dies(world: MoveWorld) -> None:
    await world.hosts["h2"].kill_agent()
    await asyncio.sleep(1)
    await world.hosts["h2"].start()


async def _source_agent_dies(world: MoveWorld) -> None:
    await world.hosts["h1"].kill_agent()
    await asyncio.sleep(1)
    await world.hosts["h1"].start()


async def _both_agents_die(world: MoveWorld) -> None:
    await world.hosts["h1"].kill_agent()
    await world.hosts["h2"].kill_agent()
    await asyncio.sleep(1)
    await world.hosts["h2"].start()
    await world.hosts["h1"].start()


async def _link_is_cut(world: MoveWorld) -> None:
    world.hosts["h2"].linked = False
    await asyncio.sleep(1)
    world.hosts["h2"].linked = True


async def _source_engine_dies(world: MoveWorld) -> None:
    world.hosts["h1"].engine.down = True
    await asyncio.sleep(1)
    world.hosts["h1"].engine.down = False


async def _target_engine_dies(world: MoveWorld) -> None:
    world.hosts["h2"].engine.down = True
    await asyncio.sleep(1)
    world.hosts["h2"].engine.down = False


async def _target_loses_the_store(world: MoveWorld) -> None:
    world.hosts["h2"].store.cut = True
    await asyncio.sleep(1)
    world.hosts["h2"].store.cut = False


async def _source_loses_the_store(world: MoveWorld) -> None:
    world.hosts["h1"].store.cut = True
    await asyncio.sleep(1)
    world.hosts["h1"].store.cut = False


async def _somebody_cancels(world: MoveWorld) -> None:
    try:
        await world.cancel()
    except DroverError:
        assert world.cluster.moves[CID].phase in ("handed", "done")


async def _target_disk_is_full(world: MoveWorld) -> None:
    here = world.hosts["h2"]
    here.disk.full = here.insides.full = True
    await asyncio.sleep(1)
    here.disk.full = here.insides.full = False


async def _target_disk_refuses(world: MoveWorld) -> None:
    for method in ("receive", "prepare", "promote"):
        world.hosts["h2"].disk.fail_next(method, DroverError("no space left on device"))
    world.hosts["h2"].insides.fail_next("install", DroverError("no space left on device"))


async def _source_disk_refuses(world: MoveWorld) -> None:
    for method in ("snapshot", "demote", "promote"):
        world.hosts["h1"].disk.fail_next(method, DroverError("no space left on device"))
    world.hosts["h1"].insides.fail_next("send", DroverError("input/output error"))


async def _source_disk_is_slow(world: MoveWorld) -> None:
    """Its calls, those under way excepted, take longer than a cut connection is tried again."""
    world.hosts["h1"].insides.fail_next("send", Unavailable("the other host was silent for too long"))
    world.hosts["h1"].disk.slow_s = 0.7
    await asyncio.sleep(2)
    world.hosts["h1"].disk.slow_s = SLOW_S


ACCIDENTS: list[Accident] = [
    _target_disk_is_full,
    _target_disk_refuses,
    _source_disk_refuses,
    _source_disk_is_slow,
    _target_agent_dies,
    _source_agent_dies,
    _both_agents_die,
    _link_is_cut,
    _source_engine_dies,
    _target_engine_dies,
    _target_loses_the_store,
    _source_loses_the_store,
    _somebody_cancels,
]


@pytest.mark.parametrize("accident", ACCIDENTS, ids=lambda one: one.__name__.strip("_"))
def test_cut_at_every_point(accident: Accident) -> None:
    for instant_s in INSTANTS:
        _cut_once(accident, instant_s)


@pytest.mark.parametrize("accident", [_source_agent_dies, _target_agent_dies, _link_is_cut, _target_disk_refuses])
def test_volumes_of_one_container_move_together_wherever_that_is_cut(accident: Accident) -> None:
    for instant_s in INSTANTS[::3]:
        _cut_once(accident, instant_s, ("data", "wal", "tables"))


def _cut_once(accident: Accident, instant_s: float, volumes: tuple[str, ...] = ("data",)) -> None:
    async def scene(world: MoveWorld) -> None:
        await world.begin("h2")
        await asyncio.sleep(instant_s)
        await accident(world)
        move = await world.ended()
        await asyncio.sleep(10)
        assert world.where() == ("h2" if move.phase == "done" else "h1"), f"cut after {instant_s} s"
        world.check()

    on_virtual_time(scene, SLOW_S, volumes=volumes)
