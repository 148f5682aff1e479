"""Virtual time passes only when everybody waits."""

import asyncio
import time

import pytest

from drover.sim import clock


def test_hours_pass_at_once_and_in_order() -> None:
    seen: list[tuple[str, float]] = []

    async def sleeper(name: str, every_s: float, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(every_s)
            seen.append((name, asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(sleeper("a", 3600.0, 3), sleeper("b", 5000.0, 2))

    started = time.monotonic()
    clock.run(main())
    assert time.monotonic() - started < 5
    assert seen == [("a", 3600.0), ("b", 5000.0), ("a", 7200.0), ("b", 10000.0), ("a", 10800.0)]


def test_a_timeout_fires_at_its_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 30.0)
        return clock.wall_now()

    assert clock.run(main()) == clock.EPOCH + 30.0


def test_waiting_for_nothing_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(clock.Deadlock):
        clock.run(main())
