"""Interruption replay: each sequence that passes ownership on is cut after every step of a host, on either side of it.

A sequence is played once to count what its host does meanwhile: each call of the store, the engine, the disk and the
network, before it is carried out and before its answer is heard. Then it is played again for each of them: exactly
there the daemon is killed, what was asked for stays done or not done, and a new daemon starts a second later. It must
come to rest; the world's eye judges P1, P2, P3 and P6 all the time. Rolling updates are cut in `test_rollout`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

import pytest
import structlog
from test_sequence_cuts import VOLUME, at_rest, has_copy_of, keeper, removed, running_on_h3

from drover.api.membership import decide_scheduling
from drover.decide import moves
from drover.model.cluster import put
from drover.model.records import key
from drover.sim import clock
from drover.sim.host import SimHost
from drover.sim.world import LEASE_S, World

AWAY_S, LOST_S = 1.0, 2.5 * LEASE_S
STEPS = 400
"""No sequence has more: one that goes round and round would never be done with."""
Ends = Callable[[], object]
Sequence = Callable[[World, str], Awaitable[tuple[SimHost, Ends]]]
"""Brings a world to where the sequence begins; the host that is cut, and whether the sequence is at its end."""


async def promotion(world: World, side: str) -> tuple[SimHost, Ends]:
    db = await running_on_h3(world)
    new = keeper(world)
    await world.hosts["h3"].power_off()
    await asyncio.sleep(LEASE_S - 0.3)
    other = next(host for host in world.hosts.values() if host is not new and host.powered)
    return new if side == "new" else other, lambda: at_rest(world, db) and world.cluster.volumes["data"].epoch >= 2


async def demotion(world: World, side: str) -> tuple[SimHost, Ends]:
    """And resynchronisation: the old holder comes back, and becomes a copy of the new one."""
    db = await running_on_h3(world)
    old, new = world.hosts["h3"], keeper(world)
    await old.power_off()
    await world.until(lambda: at_rest(world, db), 60)
    await old.power_on()

    def ends() -> bool:
        back = "h3" in world.cluster.alive and old.network.joined
        return back and at_rest(world, db) and has_copy_of(world, world.cluster.volumes["data"].epoch)

    return old if side == "old" else new, ends


async def join(world: World, side: str) -> tuple[SimHost, Ends]:
    h3 = world.hosts["h3"]
    world.shared.commit([put(key("hosts", "h3"), h3.record)], {}, None)
    await h3.start_daemon()
    web = world.run("web", "h3", body=VOLUME)

    def ends() -> bool:
        hear = [host.network.peers for host in world.hosts.values() if host is not h3]
        heard = all(h3.record.address in (peers or ()) for peers in hear)
        return heard and h3.network.joined and world.where(web) == ["h3"]

    return h3 if side == "new" else world.hosts["h1"], ends


async def leave(world: World, side: str) -> tuple[SimHost, Ends]:
    db = await running_on_h3(world)
    drain = decide_scheduling(world.cluster, "h3", "drain")
    world.shared.commit(drain.changes, drain.expect, None)

    def ends() -> bool:
        empty = at_rest(world, db) and world.cluster.host_of(db) != "h3"
        return empty and ("h3" not in world.cluster.hosts or removed(world))

    return world.hosts["h3"] if side == "old" else keeper(world), ends


async def move(world: World, side: str) -> tuple[SimHost, Ends]:
    """To the host without a copy: all of it has to come."""
    db = await running_on_h3(world)
    target = next(host for host in world.hosts.values() if host not in (world.hosts["h3"], keeper(world)))
    begin = moves.begin_container(world.cluster, world.cluster.containers[db], moves.Asked(target=target.name), 0.0)
    world.shared.commit(list(begin.changes), begin.expect, None)

    def ends() -> bool:
        return world.cluster.moves[db].phase in moves.ENDED and at_rest(world, db)

    return world.hosts["h3"] if side == "old" else target, ends


async def start(world: World, side: str) -> tuple[SimHost, Ends]:
    """A container with a volume is created and started."""
    await asyncio.sleep(2.0)
    db = world.run("db", "h3", body=VOLUME)
    return world.hosts["h3"], lambda: at_rest(world, db)


class Cut:
    """Counts what a host does, and at one of them has its daemon die, or stop for so long that others take over."""

    def __init__(self, host: SimHost, at: int, dies: bool) -> None:
        self.count = 0
        self._at = at
        self._host = host
        self._dies = dies
        self._task: asyncio.Task[None] | None = None
        host.running.on_effect = self._effect

    def _effect(self) -> None:
        self.count += 1
        if self.count == self._at:
            self._host.stop()  # nothing of it goes on from here
            self._task = asyncio.create_task(self._die() if self._dies else self._sleep())

    async def _die(self) -> None:
        self._host.running.on_effect = None
        await self._host.kill_daemon()
        self._host.cont()
        await asyncio.sleep(AWAY_S)
        await self._host.start_daemon()

    async def _sleep(self) -> None:
        self._host.running.on_effect = None
        await asyncio.sleep(LOST_S)
        self._host.cont()

    async def over(self) -> None:
        self._host.running.on_effect = None
        if self._task is not None:
            await self._task


def played(sequence: Sequence, side: str, at: int, dies: bool = True) -> int:
    """How many effects the host had until the sequence was at its end, or until it was cut."""
    count = 0

    async def main() -> None:
        nonlocal count
        world = World(replicating=True)
        await world.start(absent=("h3",) if sequence is join else ())
        host, ends = await sequence(world, side)
        cut = Cut(host, at, dies)
        await world.until(ends, 120)
        count = cut.count
        await cut.over()
        await world.until(ends, 120)

    clock.run(main())
    return count


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Hundreds of deaths have much to tell."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("unlogged")
@pytest.mark.parametrize(
    ("sequence", "side"),
    [
        (move, "old"),
        (move, "new"),
        (promotion, "new"),
        (promotion, "other"),
        (demotion, "old"),
        (demotion, "new"),
        (join, "new"),
        (join, "other"),
        (leave, "old"),
        (leave, "new"),
    ],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_cut_on_either_side_of_every_step(sequence: Sequence, side: str) -> None:
    whole = played(sequence, side, at=0)
    assert 10 < whole < STEPS
    for at in range(1, whole + 1):
        assert played(sequence, side, at) >= at, f"it was not cut at step {at}"


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("unlogged")
@pytest.mark.parametrize("sequence", [start, promotion, move], ids=lambda one: one.__name__)
def test_stopped_on_either_side_of_every_step_until_it_counts_as_lost(sequence: Sequence) -> None:
    """SIGSTOP, for longer than a lease: what it was about to do must not happen when it goes on."""
    for at in range(1, played(sequence, "new", at=0) + 1):
        assert played(sequence, "new", at, dies=False) >= at, f"it was not stopped at step {at}"
