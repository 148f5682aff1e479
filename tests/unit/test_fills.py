"""Rollback, clone, import, restore: what the one commit says and refuses; whatever is cut, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from cluster_factory import cid, container, host, host_config, volume, world
from move_world import CID, MoveWorld, SimHost, on_virtual_time

from drover.decide import fills
from drover.decide.moves import Commit
from drover.decide.replicas import spare, successor
from drover.errors import Conflict, DroverError, NotFound, Unavailable
from drover.model import records as r
from drover.model.cluster import Cluster, put
from drover.model.snapshots import label_of, next_id
from drover.sim import clock

T0 = 1_000_000.0
FIRST, SECOND = next_id([], 1, T0, "before"), next_id([], 1, T0 + 50)
SLOW_S = 0.05
INSTANTS = [round(0.04 * number, 2) for number in range(14)]
PLACE = "/mnt/backups"


def scene(state: str = "exited", desired: str = "stopped", **config: object) -> Cluster:
    known = r.VolumeFacts(volume="data", host="h1", driver="btrfs", epoch=1, snapshots=(FIRST, SECOND))
    db = container(1, "db", "h1", host_config(Binds=["data:/d"], **config), state=state, answer=r.Answer(number=1))
    placed = world(host("h1"), host("h2"), db, volume("data", "h1"), [put("volume_facts/h1/data", known)])
    asked = msgspec.structs.replace(placed.containers[cid(1)], desired=desired)
    return placed.apply(placed.revision + 1, [put(r.key("containers", cid(1)), asked)])


def test_a_rollback_says_what_becomes_of_the_content_and_rests_on_the_users() -> None:
    cluster = scene()
    made = fills.rollback(cluster, "data", FIRST, T0 + 100)
    record = made.changes[0].record
    assert isinstance(record, r.Volume)
    assert record.filling is not None
    assert record.filling.aside == next_id([], 1, T0 + 100, "before.rollback")
    assert made.expect.keys() == {"volumes/data", f"containers/{cid(1)}"}


@pytest.mark.parametrize(
    ("fields", "config"),
    [
        ({"state": "running"}, {}),
        ({"state": "paused"}, {}),
        ({"desired": "running"}, {"RestartPolicy": {"Name": "always"}}),
    ],
)
def test_a_volume_in_use_is_refused_by_the_containers_name(fields: dict[str, str], config: dict[str, object]) -> None:
    with pytest.raises(Conflict, match="in use by the running container db"):
        fills.rollback(scene(**fields, **config), "data", FIRST, T0 + 100)


def test_what_is_not_there_is_refused() -> None:
    cluster = scene()
    with pytest.raises(NotFound, match="no snapshot"):
        fills.rollback(cluster, "data", next_id([], 1, T0 + 7), T0 + 100)
    with pytest.raises(NotFound, match="host h2 has no snapshot"):
        fills.clone(cluster, "data", "copy", FIRST, "h2", True, T0)
    with pytest.raises(Conflict, match="already exists"):
        fills.imported(cluster, "data", "h1", T0)
    with pytest.raises(NotFound):
        fills.rollback(cluster, "other", FIRST, T0)


def test_while_it_is_made_anew_it_is_neither_moved_nor_filled_again() -> None:
    cluster = applied(scene(), fills.rollback(scene(), "data", FIRST, T0 + 100))
    with pytest.raises(Conflict, match="its rollback is not done"):
        fills.rollback(cluster, "data", FIRST, T0 + 101)


def test_the_source_of_a_clone_is_not_tidied_away() -> None:
    cluster = applied(scene(), fills.clone(scene(), "data", "copy", SECOND, "h1", True, T0))
    later = [next_id([], 1, T0 + 100 + number) for number in range(4)]
    assert SECOND not in spare(cluster, "h1", cluster.volumes["data"], (SECOND, *later), T0 + 1000)
    assert SECOND in spare(scene(), "h1", scene().volumes["data"], (SECOND, *later), T0 + 1000)


def test_after_a_rollback_what_it_was_before_is_promoted_last() -> None:
    begun = fills.rollback(scene(), "data", FIRST, T0 + 100)
    cluster = applied(scene(), begun)
    fill = cluster.volumes["data"].filling
    assert fill is not None
    done = fills.filled(cluster, "data", fill)
    assert done is not None
    cluster = applied(cluster, done)
    after = next_id([], 1, T0 + 200)
    for held, chosen in (((FIRST, SECOND), FIRST), ((SECOND,), SECOND), ((FIRST, SECOND, after), after)):
        copy = r.VolumeFacts(volume="data", host="h2", snapshots=held)
        lost = cluster.apply(cluster.revision + 1, [put("volume_facts/h2/data", copy)])
        taken = successor(lost, lost.volumes["data"])
        assert isinstance(taken, r.Volume)
        assert (taken.snapshot, taken.filling) == (chosen, None)


def applied(cluster: Cluster, commit: Commit) -> Cluster:
    return cluster.apply(cluster.revision + 1, list(commit.changes))


# -- cut at every point ------------------------------------------------------------------------------------------------


async def _agent_dies(world: MoveWorld) -> None:
    await world.hosts["h1"].kill_agent()
    await asyncio.sleep(1)
    await world.hosts["h1"].start()


async def _engine_dies(world: MoveWorld) -> None:
    world.hosts["h1"].engine.down = True
    await asyncio.sleep(1)
    world.hosts["h1"].engine.down = False


async def _store_is_away(world: MoveWorld) -> None:
    world.hosts["h1"].store.cut = True
    await asyncio.sleep(1)
    world.hosts["h1"].store.cut = False


async def _disk_fails_once(world: MoveWorld) -> None:
    for method in ("demote", "ensure", "clone"):
        world.hosts["h1"].disk.fail_next(method, DroverError("no space left on device"))
    world.hosts["h1"].backups.fail_next(DroverError("no space left on device"))


Accident = Callable[[MoveWorld], Awaitable[None]]
ACCIDENTS: list[Accident] = [_agent_dies, _engine_dies, _store_is_away, _disk_fails_once]


async def _commit(world: MoveWorld, decide: Callable[[Cluster], Commit]) -> None:
    store = world.hosts["h3"].store
    made = decide(await store.snapshot())
    revision = await store.commit(list(made.changes), made.expect)
    await world.hosts["h3"].mirror.reached(revision, 60.0)


async def _stopped(world: MoveWorld) -> SimHost:
    """The container stopped, as `docker stop` does; its host."""

    def stop(cluster: Cluster) -> Commit:
        record = cluster.containers[CID]
        order = r.Order(number=record.order.number + 1, verb="stop")
        changed = msgspec.structs.replace(record, desired="stopped", order=order)
        return Commit((put(r.key("containers", CID), changed),), {})

    await _commit(world, stop)
    await world.until(lambda now: (seen := now.facts_of(CID)) is not None and seen.state == "exited")
    await world.until(lambda now: _answered(now))
    return world.hosts["h1"]


def _answered(cluster: Cluster) -> bool:
    seen = cluster.facts_of(CID)
    return seen is not None and seen.answer.number == cluster.containers[CID].order.number


async def _ready(world: MoveWorld, name: str = "data") -> None:
    await world.until(lambda now: name in now.volumes and now.volumes[name].filling is None)


async def _started(world: MoveWorld) -> None:
    def start(cluster: Cluster) -> Commit:
        record = cluster.containers[CID]
        order = r.Order(number=record.order.number + 1, verb="start")
        changed = msgspec.structs.replace(record, desired="running", order=order)
        return Commit((put(r.key("containers", CID), changed),), {})

    await _commit(world, start)


@pytest.mark.parametrize("accident", ACCIDENTS, ids=lambda one: one.__name__.strip("_"))
def test_a_rollback_cut_at_every_point(accident: Accident) -> None:
    for instant_s in INSTANTS:
        on_virtual_time(lambda world, at=instant_s: _rolled_back(world, accident, at), SLOW_S)  # type: ignore[misc]


async def _rolled_back(world: MoveWorld, accident: Accident, instant_s: float) -> None:
    """It ends as the snapshot, what it was is a snapshot too, and a start that came meanwhile waited."""
    h1 = world.hosts["h1"]
    taken = await h1.agent.actor.life.snapshot("data", "before")
    then = h1.disk._found("data", taken)["count"]
    await asyncio.sleep(0.5)
    await _stopped(world)
    last = h1.disk.read("data")["count"]
    await _commit(world, lambda cluster: fills.rollback(cluster, "data", taken, clock.wall_now()))
    await asyncio.sleep(instant_s)
    await accident(world)
    await _ready(world)
    assert h1.disk.read("data")["count"] == then != last, f"cut after {instant_s} s"
    kept = [one for one in await h1.disk.snapshots("data") if one.endswith("before.rollback")]
    assert [h1.disk._found("data", one)["count"] for one in kept] == [last]
    await _started(world)
    await world.until(lambda now: (seen := now.facts_of(CID)) is not None and seen.state == "running")
    assert world.broken == []


@pytest.mark.parametrize("accident", ACCIDENTS, ids=lambda one: one.__name__.strip("_"))
def test_a_restore_cut_at_every_point(accident: Accident) -> None:
    for instant_s in INSTANTS:
        on_virtual_time(lambda world, at=instant_s: _restored(world, accident, at), SLOW_S)  # type: ignore[misc]


async def _restored(world: MoveWorld, accident: Accident, instant_s: float) -> None:
    h1 = world.hosts["h1"]
    h1.disk.write("data", "fish", "1")
    await _backed_up(world)
    await asyncio.sleep(0.5)
    await _stopped(world)
    last = h1.disk.read("data")["count"]
    fill = r.Fill(kind="restore", repository=PLACE, source="data", snapshot="backup1")
    await _commit(world, lambda cluster: fills.restore(cluster, "data", fill, "h1", clock.wall_now()))
    await _commit(world, lambda cluster: fills.restore(cluster, "again", fill, "h1", clock.wall_now()))
    await asyncio.sleep(instant_s)
    await accident(world)
    await _ready(world)
    await _ready(world, "again")
    assert h1.disk.read("data") == h1.disk.read("again")
    assert (h1.disk.read("data")["fish"], int(h1.disk.read("data")["count"]) < int(last)) == ("1", True)
    kept = [one for one in await h1.disk.snapshots("data") if one.endswith("before.restore")]
    assert [h1.disk._found("data", one)["count"] for one in kept] == [last]
    assert [one for one in await h1.disk.snapshots("again") if label_of(one)] == []


async def _backed_up(world: MoveWorld) -> None:
    def plan(cluster: Cluster) -> Commit:
        changed = msgspec.structs.replace(cluster.volumes["data"], backup=r.Backup(repository=PLACE, asked=1))
        return Commit((put("volumes/data", changed),), {})

    await _commit(world, plan)
    await world.until(lambda now: any(one.backup.asked == 1 for one in now.volume_facts.values()))


def test_an_import_that_was_cut_waits_for_another_and_starts_nothing() -> None:
    async def scene(world: MoveWorld) -> None:
        life = world.hosts["h1"].agent.actor.life
        await _commit(world, lambda cluster: fills.imported(cluster, "new", "h1", clock.wall_now()))
        await _commit(world, lambda cluster: fills.imported(cluster, "new", "h1", clock.wall_now()))
        await world.hosts["h1"].mirror.until(lambda now: "new" in now.volumes, 60.0, "the volume")
        with pytest.raises(Unavailable, match="waits for its import"):
            await life.fill("new")
        assert "new" not in world.hosts["h1"].disk.present

    on_virtual_time(scene)


def test_a_backup_that_fails_says_so_and_the_next_one_is_tried() -> None:
    async def scene(world: MoveWorld) -> None:
        world.hosts["h1"].backups.fail_next(DroverError("the repository is locked"))
        await _backed_up(world)
        said = world.cluster.volume_facts["h1/data"].backup
        assert (said.failure, said.id) == ("the repository is locked", "")
        again = r.Backup(repository=PLACE, asked=1, every_s=60.0)
        changed = msgspec.structs.replace(world.cluster.volumes["data"], backup=again)
        await _commit(world, lambda _cluster: Commit((put("volumes/data", changed),), {}))
        await world.until(lambda now: now.volume_facts["h1/data"].backup.id == "backup1")

    on_virtual_time(scene)
