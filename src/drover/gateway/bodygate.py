"""`BodyGate`: a request body on its way to the engine, which somebody reads along and may hold back.

Theory of operation. What arrives is copied: its payload for the reader, its bytes as received for the engine. The
reader is a coroutine that is given the payload's pieces:

| the reader | the bytes |
|---|---|
| asks for the next piece | those that came until then go to the engine |
| does something else first (fetches an image) | wait; beyond HOLD_BYTES the client is no longer read |
| returns, or fails | all go to the engine, now and from now on |
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

import structlog

from drover.gateway.call import Inspect
from drover.gateway.intake import HOLD_BYTES, Intake
from drover.wire.bodies import Data

log = structlog.get_logger()


class BodyGate:
    """`write` gives bytes to the engine; `passed` is called when all that was held back has been written."""

    def __init__(self, inspect: Inspect, intake: Intake, write: Callable[[Data], None], passed: Callable[[], None]):
        self._intake = intake
        self._write = write
        self._passed = passed
        self._payload: deque[bytes] = deque()
        self._raw: deque[bytes] = deque()
        self._held_bytes = 0
        self._open = False
        self._engine_full = False
        self._arrived = asyncio.Event()
        self._reading = asyncio.create_task(self._read(inspect))

    @property
    def holding(self) -> bool:
        """Whether bytes are held back."""
        return bool(self._raw)

    def see(self, piece: bytes) -> None:
        """A piece of the payload, before the bytes that carried it."""
        if not self._open:
            self._payload.append(bytes(piece))

    def write(self, data: Data) -> None:
        """Bytes of the body as received."""
        if self._open:
            self._write(data)
            return
        self._raw.append(bytes(data))
        self._held_bytes += len(data)
        self._arrived.set()
        self._regulate()

    def engine_full(self, full: bool) -> None:
        """The engine's write buffer is full, or has drained."""
        self._engine_full = full
        self._regulate()

    def close(self) -> None:
        """Nobody reads any more; what is held back is not sent."""
        self._reading.cancel()

    def _regulate(self) -> None:
        self._intake.hold(self._engine_full or self._held_bytes > HOLD_BYTES)

    async def _read(self, inspect: Inspect) -> None:
        try:
            await inspect(self._pieces())
        except Exception as error:  # the engine gets the body all the same, and says itself what is wrong with it
            log.info("a request body could not be read along", error=str(error) or type(error).__name__)
        self._open = True
        self._payload.clear()
        self._release()

    async def _pieces(self) -> AsyncIterator[bytes]:
        while True:
            while self._payload:
                yield self._payload.popleft()
            self._release()
            if self._intake.complete:
                return
            self._arrived.clear()
            await self._arrived.wait()

    def _release(self) -> None:
        while self._raw:
            self._write(self._raw.popleft())
        self._held_bytes = 0
        self._regulate()
        self._passed()
