"""Readings are shared by those who asked before they began, and by nobody else."""

import asyncio

import pytest

from drover.gateway.shared import AT_ONCE, SharedReads
from drover.sim import clock


class Source:
    """Readings that take a second; each says when it began."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.broken = False

    async def read(self) -> float:
        began = asyncio.get_running_loop().time()
        self.begun.append(began)
        await asyncio.sleep(1.0)
        if self.broken:
            raise ValueError("broken")
        return began


def test_few_readers_read_for_themselves() -> None:
    async def main() -> None:
        shared, source = SharedReads[float](), Source()
        await asyncio.gather(*(shared.read("q", source.read) for _ in range(AT_ONCE)))
        assert source.begun == [0.0] * AT_ONCE

    clock.run(main())


def test_many_readers_share_and_nobody_gets_an_answer_from_before_it_asked() -> None:
    async def main() -> None:
        shared, source = SharedReads[float](), Source()

        async def client(at_s: float) -> None:
            await asyncio.sleep(at_s)
            assert await shared.read("q", source.read) >= at_s - 1e-9

        await asyncio.gather(*(client(i * 0.01) for i in range(500)))
        assert len(source.begun) <= 40

    clock.run(main())


def test_questions_do_not_wait_for_others() -> None:
    async def main() -> None:
        shared, source = SharedReads[float](), Source()
        await asyncio.gather(*(shared.read(question, source.read) for question in range(50)))
        assert asyncio.get_running_loop().time() == 1.0

    clock.run(main())


def test_a_client_that_leaves_leaves_the_others_their_answer() -> None:
    async def main() -> None:
        shared, source = SharedReads[float](), Source()
        tasks = [asyncio.create_task(shared.read("q", source.read)) for _ in range(AT_ONCE + 3)]
        await asyncio.sleep(0.5)
        tasks[AT_ONCE].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[AT_ONCE], asyncio.CancelledError)
        assert results[AT_ONCE + 1 :] == [1.0, 1.0]

    clock.run(main())


def test_a_failure_is_everybodys_and_the_next_reading_is_new() -> None:
    async def main() -> None:
        shared, source = SharedReads[float](), Source()
        source.broken = True
        results = await asyncio.gather(
            *(shared.read("q", source.read) for _ in range(AT_ONCE + 2)), return_exceptions=True
        )
        assert [type(result) for result in results] == [ValueError] * (AT_ONCE + 2)
        source.broken = False
        assert await shared.read("q", source.read) == 2.0
        with pytest.raises(KeyError):
            await shared.read("q", lambda: _raise())

    clock.run(main())


async def _raise() -> float:
    raise KeyError
