"""Who gets which connection to an engine, in which order."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from drover.gateway.engine_side import EngineConnection
from drover.gateway.pool import OPENING_LIMIT, Pool

HERE = None


class StandIn:
    """As much of an `EngineConnection` as a pool looks at."""

    def __init__(self) -> None:
        self.reusable = True
        self.address = HERE
        self.closed = False

    def pause_reading(self, paused: bool) -> None:
        self.paused = paused

    def close(self) -> None:
        self.closed, self.reusable = True, False


def connection() -> EngineConnection:
    return cast(EngineConnection, StandIn())


async def full_pool() -> Pool:
    """A pool that is opening as many connections as it may."""
    pool = Pool(idle_s=60)
    for _ in range(OPENING_LIMIT):
        assert await pool.turn(HERE, fresh=False) is None
    return pool


async def waiting(pool: Pool, *, fresh: bool = False) -> asyncio.Task[EngineConnection | None]:
    task = asyncio.create_task(pool.turn(HERE, fresh))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_what_is_given_back_goes_to_who_waits_longest() -> None:
    pool, back = await full_pool(), connection()
    first, second = await waiting(pool), await waiting(pool)
    pool.give(back)
    assert await first is back
    assert not second.done()
    pool.opened()
    assert await second is None


async def test_a_fresh_one_is_never_one_that_was_given_back() -> None:
    pool, back = await full_pool(), connection()
    fresh = await waiting(pool, fresh=True)
    pool.give(back)
    assert await pool.turn(HERE, fresh=False) is back
    assert not fresh.done()
    pool.opened()
    assert await fresh is None


@pytest.mark.parametrize("given", ["a connection", "the right to open one"])
async def test_what_a_cancelled_one_was_given_is_the_next_ones(given: str) -> None:
    pool = await full_pool()
    first, second = await waiting(pool), await waiting(pool)
    back = connection() if given == "a connection" else None
    if back is not None:
        pool.give(back)
    else:
        pool.opened()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second is back


async def test_who_gave_up_waiting_is_passed_over() -> None:
    pool, back = await full_pool(), connection()
    first, second = await waiting(pool), await waiting(pool)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    pool.give(back)
    assert await second is back


async def test_a_connection_that_cannot_be_used_again_is_handed_to_nobody() -> None:
    pool, spent = await full_pool(), StandIn()
    spent.reusable = False
    task = await waiting(pool)
    pool.give(cast(EngineConnection, spent))
    assert spent.closed
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()


async def test_opening_ends_so_others_may_open() -> None:
    pool = await full_pool()
    pool.opened()
    assert await pool.turn(HERE, fresh=False) is None
    (await waiting(pool)).cancel()
