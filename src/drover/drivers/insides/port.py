"""The insides port: a container's own files on their way to another host, whether it listens there, when it ended.

Theory of operation. `OwnFiles` says where an engine keeps them. They travel in two parts, each as a stream that holds
what the other side lacks; on the target they are *staged* beside the place that they will have, on the same
filesystem, so that `install` is a rename. The source's files are only ever read: whatever is cut, they are as before.

    part     what                                                          between rounds travels
    layer    the writable layer: files, deletions, attributes, owners      every file that changed
    log      the log files, rotated ones included                          what was appended

    call        on        does
    have        target    says what is staged
    send        source    the stream; `running`: the container writes meanwhile
    receive     target    stages: whole, or as before
    install     target    puts what is staged in the place of what the engine made; nothing staged is success
    clean       target    removes what staging has left

Staging lies in directories that the engine removes with its container, so an abandoned move leaves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from drover.drivers.engine.port import OwnFiles
from drover.model.records import Part


class Insides(Protocol):
    async def have(self, files: OwnFiles, part: Part) -> bytes: ...

    def send(self, files: OwnFiles, part: Part, have: bytes, running: bool) -> AsyncGenerator[bytes, None]:
        """Raises `NotFound` if the engine's directory cannot be seen from here."""
        ...

    async def receive(self, files: OwnFiles, part: Part, snapshot: str, stream: AsyncIterator[bytes]) -> None:
        """`snapshot`: an id by the source's clock, see `drover.model.snapshots`. Raises `Unavailable` for a stream that
        was cut, and what the disk says."""
        ...

    async def install(self, files: OwnFiles, part: Part) -> None:
        """Only before the container's first start."""
        ...

    async def clean(self, files: OwnFiles) -> None: ...

    def ending(self, pid: int, engine_id: str) -> AbstractAsyncContextManager[asyncio.Event]:
        """For this block an event that is set once the last process of a container has ended, `pid` being its first,
        which runs now; an engine answers a stop later than that. Never set where that cannot be told for sure."""
        ...

    async def listening(self, pid: int) -> frozenset[int]:
        """The TCP ports on which processes in this one's network namespace listen, 127.0.0.0/8 and ::1 excepted."""
        ...

    async def serving(self, pid: int) -> int:
        """How many TCP connections to those ports are open, those that are still being made included."""
        ...
