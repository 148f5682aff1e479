"""A driver in a thread of its own, with deadlines: a disk that hangs holds up its own calls and nothing else.

Theory of operation. Drivers touch files, and a call about a file on a dead NFS server or a failing disk returns late or
never. Each driver therefore runs on an event loop of its own, in a thread that the daemon does not wait for at its end.

    what happens                                   what callers see
    a call takes longer than its deadline          `Unavailable`, and the call is cancelled
    the thread itself hangs                        `Unavailable` at once for every further call, until it is back
    a stream stands still because of the driver    `Unavailable` after STALL_S
    a caller is cancelled                          the call too; it has GRACE_S to clean up before the caller goes on

Streams cross the threads in pieces of about a MiB, but for the first: who receives can begin with it, and a small
stream is short because both ends work at the same time. Deadlines are in seconds, and long: they tell hanging from
slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from drover.drivers.volumes.command import PIECE_BYTES
from drover.drivers.volumes.port import Space, VolumeDriver
from drover.errors import Unavailable

T = TypeVar("T")
QUICK_S = 20.0
LONG_S = 1800.0
STALL_S = 120.0
GRACE_S = 5.0
BATCH_S = 1.0
AT_ONCE = 1
"""Bytes, of the first piece: as soon as there is anything."""


class ThreadedDriver:
    """A `VolumeDriver` that runs another one in a thread. `quick_s`: the deadline of calls that copy nothing."""

    def __init__(self, driver: VolumeDriver, name: str, quick_s: float = QUICK_S) -> None:
        self._driver = driver
        self._name = name
        self._quick_s = quick_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._silent = False

    @property
    def instant(self) -> bool:
        return self._driver.instant

    @property
    def synchronous(self) -> bool:
        return self._driver.synchronous

    def path(self, volume: str, epoch: int) -> str:
        return self._driver.path(volume, epoch)

    # -- calls ---------------------------------------------------------------------------------------------------

    async def ensure(self, volume: str, epoch: int) -> str:
        return await self._call(self._driver.ensure(volume, epoch))

    async def live(self, volume: str) -> int:
        return await self._call(self._driver.live(volume))

    async def live_sets(self) -> dict[str, int]:
        return await self._call(self._driver.live_sets())

    async def snapshot(self, volume: str, snapshot: str) -> None:
        await self._call(self._driver.snapshot(volume, snapshot))

    async def snapshots(self, volume: str) -> list[str]:
        return await self._call(self._driver.snapshots(volume))

    async def have(self, volume: str) -> bytes:
        return await self._call(self._driver.have(volume), LONG_S)

    async def unchanged(self, volume: str, have: bytes) -> bool:
        return await self._call(self._driver.unchanged(volume, have), LONG_S)

    async def prepare(self, volume: str, snapshot: str) -> None:
        await self._call(self._driver.prepare(volume, snapshot), STALL_S)

    async def promote(self, volume: str, snapshot: str, epoch: int) -> str:
        return await self._call(self._driver.promote(volume, snapshot, epoch), STALL_S)

    async def demote(self, volume: str, snapshot: str) -> None:
        await self._call(self._driver.demote(volume, snapshot), STALL_S)

    async def clone(self, volume: str, snapshot: str, clone: str, epoch: int) -> str:
        return await self._call(self._driver.clone(volume, snapshot, clone, epoch), LONG_S)

    async def files(self, volume: str, snapshot: str) -> str:
        return await self._call(self._driver.files(volume, snapshot))

    async def limit(self, volume: str, limit_bytes: int) -> bool:
        return await self._call(self._driver.limit(volume, limit_bytes), STALL_S)

    async def forget(self, volume: str, snapshots: Collection[str]) -> None:
        await self._call(self._driver.forget(volume, snapshots), LONG_S)

    async def remove(self, volume: str) -> None:
        await self._call(self._driver.remove(volume), LONG_S)

    async def size_bytes(self, volume: str) -> int:
        return await self._call(self._driver.size_bytes(volume), LONG_S)

    async def space(self) -> Space:
        return await self._call(self._driver.space())

    # -- streams -------------------------------------------------------------------------------------------------

    async def send(self, volume: str, snapshot: str, have: bytes) -> AsyncGenerator[bytes, None]:
        pieces, most_bytes = self._driver.send(volume, snapshot, have), AT_ONCE
        try:
            while piece := await self._call(_gathered(pieces, most_bytes), STALL_S):
                yield piece
                most_bytes = PIECE_BYTES
        finally:
            await self._call(pieces.aclose())

    async def receive(self, volume: str, snapshot: str, stream: AsyncIterator[bytes]) -> None:
        crossing = _Crossing(stream, asyncio.get_running_loop())
        call = asyncio.ensure_future(self._call(self._driver.receive(volume, snapshot, crossing.pieces()), None))
        try:
            while not (await asyncio.wait({call}, timeout=1.0))[0]:
                if crossing.driver_since() > STALL_S:
                    raise self._late(STALL_S)
            await call
        finally:
            call.cancel()
            await asyncio.wait({call}, timeout=GRACE_S)

    # -- the thread ----------------------------------------------------------------------------------------------

    def _running(self) -> asyncio.AbstractEventLoop:
        """The driver's event loop, its thread started with the first call."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name=f"volumes {self._name}", daemon=True).start()
        return self._loop

    async def _call(self, call: Coroutine[Any, Any, T], deadline_s: float | None = 0.0) -> T:
        """A coroutine's result, from the other thread. `deadline_s` 0: the quick one, None: none."""
        if self._silent:
            call.close()
            raise self._late(0.0)
        here, over = asyncio.get_running_loop(), asyncio.Event()
        future: Future[T] = asyncio.run_coroutine_threadsafe(_told(call, here, over), self._running())
        limit_s = self._quick_s if deadline_s == 0.0 else deadline_s
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            await self._given_up(over)
            raise self._late(limit_s or 0.0) from None
        except asyncio.CancelledError:
            await self._given_up(over)
            raise

    async def _given_up(self, over: asyncio.Event) -> None:
        """Let a cancelled call clean up; if it does not, ask its thread for a sign of life."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await over.wait()
                return
        self._silent = True
        self._running().call_soon_threadsafe(self._sign)

    def _sign(self) -> None:
        self._silent = False

    def _late(self, after_s: float) -> Unavailable:
        waited = f"does not answer within {after_s:g} s" if after_s else "still does not answer"
        return Unavailable(
            f"the volume driver {self._name} {waited}", hint="is its disk or storage well? everything else goes on"
        )


async def _told(call: Coroutine[Any, Any, T], caller: asyncio.AbstractEventLoop, over: asyncio.Event) -> T:
    """The call, and a word to the caller's loop when it is over, however it ends."""
    try:
        return await call
    finally:
        with contextlib.suppress(RuntimeError):  # the caller's loop is closed: nobody waits
            caller.call_soon_threadsafe(over.set)


async def _gathered(pieces: AsyncIterator[bytes], most_bytes: int) -> bytes:
    """The next pieces, about so many bytes together; nothing at their end. One that is large enough is not copied."""
    batch, size_bytes, end = list[bytes](), 0, time.monotonic() + BATCH_S
    async for piece in pieces:
        batch.append(piece)
        size_bytes += len(piece)
        if size_bytes >= most_bytes or time.monotonic() > end:
            break
    return batch[0] if len(batch) == 1 else b"".join(batch)


class _Crossing:
    """A stream of one thread's loop, read in another's. Knows since when its reader has not asked for more."""

    def __init__(self, stream: AsyncIterator[bytes], home: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._home = home
        self._given_at: float | None = time.monotonic()

    def driver_since(self) -> float:
        """How long the reader has been busy, in seconds; 0 while it waits for the stream."""
        return 0.0 if self._given_at is None else time.monotonic() - self._given_at

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        most_bytes = AT_ONCE
        while True:
            self._given_at = None
            asked = asyncio.run_coroutine_threadsafe(_gathered(self._stream, most_bytes), self._home)
            piece, most_bytes = await asyncio.wrap_future(asked), PIECE_BYTES
            self._given_at = time.monotonic()
            if not piece:
                return
            yield piece
