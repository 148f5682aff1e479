"""A driver that hangs: its own calls fail in time, the event loop and other drivers go on, and it may come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from drover.drivers.volumes import threaded
from drover.drivers.volumes.fake import FakeVolumes
from drover.drivers.volumes.threaded import ThreadedDriver
from drover.errors import Unavailable

SNAPSHOT = "0000000001-000000001000000"


class Hanging(FakeVolumes):
    """Its disk does not answer while `wakes` is not set: the thread itself hangs, as in a call to a dead server."""

    def __init__(self) -> None:
        super().__init__()
        self.wakes = threading.Event()

    async def live(self, volume: str) -> int:
        self.wakes.wait(30)
        return await super().live(volume)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threaded, "GRACE_S", 0.05)
    monkeypatch.setattr(threaded, "STALL_S", 0.2)


async def test_a_hung_disk_is_named_and_holds_up_nothing_else() -> None:
    disk = Hanging()
    hung, well = ThreadedDriver(disk, "nfs", quick_s=0.05), ThreadedDriver(FakeVolumes(), "btrfs")
    call = asyncio.create_task(hung.live("data"))
    assert await well.ensure("other", 1) == "/fake/volumes/other@1"
    with pytest.raises(Unavailable, match="nfs does not answer within"):
        await call
    with pytest.raises(Unavailable, match="nfs still does not answer"):
        await hung.live_sets()
    disk.wakes.set()
    assert await _back(hung) == {}


async def _back(driver: ThreadedDriver) -> dict[str, int]:
    for _ in range(500):
        try:
            return await driver.live_sets()
        except Unavailable:
            await asyncio.sleep(0.01)
    raise AssertionError("the driver did not come back")


async def test_one_slow_call_does_not_stop_the_driver() -> None:
    disk = FakeVolumes()
    driver = ThreadedDriver(disk, "slow", quick_s=0.05)
    disk.slow_s = 5.0
    with pytest.raises(Unavailable):
        await driver.ensure("data", 1)
    disk.slow_s = 0.0
    assert await driver.ensure("data", 1)


async def test_a_stream_that_the_driver_does_not_take_ends() -> None:
    class Stuck(FakeVolumes):
        async def receive(self, volume: str, snapshot: str, stream: AsyncIterator[bytes]) -> None:
            await asyncio.sleep(30)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    with pytest.raises(Unavailable, match="does not answer"):
        await ThreadedDriver(Stuck(), "stuck").receive("data", SNAPSHOT, pieces())


async def test_a_cancelled_call_has_cleaned_up_when_its_caller_goes_on() -> None:
    cleaned = []

    class Tidy(FakeVolumes):
        async def ensure(self, volume: str, epoch: int) -> str:
            try:
                await asyncio.sleep(30)
            finally:
                cleaned.append(volume)
            return ""

    call = asyncio.create_task(ThreadedDriver(Tidy(), "tidy").ensure("data", 1))
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert cleaned == ["data"]
