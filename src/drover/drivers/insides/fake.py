"""The insides port in memory: a layer is a dict of files, a log a text, each by the place that `OwnFiles` names.

switch                        effect
`write`, `read`               what a container would do in its writable layer
`fail_next(method, error)`    the next call of that method raises `error`
`full = True`                 nothing can be staged: the disk is full
`ports`                       what `listening` answers
`connections`                 what `serving` answers

With an engine, `ending` is told by that when a container's process ends, unless `tells_ends` is False.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from drover.drivers.engine.fake import FakeEngine
from drover.drivers.engine.port import OwnFiles
from drover.errors import DroverError, Unavailable
from drover.model.records import Part


class _Stream(msgspec.Struct):
    files: dict[str, str]
    whole: bool = True


class FakeInsides:
    def __init__(self, engine: FakeEngine | None = None) -> None:
        self._engine = engine
        self.full = False
        self.tells_ends = True
        self.slow_s = 0.0
        self.ports: frozenset[int] = frozenset()
        self.connections = 0
        self._placed: defaultdict[tuple[str, Part], dict[str, str]] = defaultdict(dict)
        self._staged: dict[tuple[str, Part], dict[str, str]] = {}
        self._failures: defaultdict[str, list[DroverError]] = defaultdict(list)

    def write(self, layer: str, name: str, text: str, part: Part = "layer") -> None:
        self._placed[layer, part][name] = text

    def read(self, layer: str, part: Part = "layer") -> dict[str, str]:
        return dict(self._placed[layer, part])

    def fail_next(self, method: str, error: DroverError) -> None:
        self._failures[method].append(error)

    async def _enter(self, method: str) -> None:
        await asyncio.sleep(self.slow_s)
        if self._failures[method]:
            raise self._failures[method].pop(0)

    async def have(self, files: OwnFiles, part: Part) -> bytes:
        await self._enter("have")
        return msgspec.json.encode(self._staged.get((files.layer, part), {}))

    async def send(self, files: OwnFiles, part: Part, have: bytes, running: bool) -> AsyncGenerator[bytes, None]:
        await self._enter("send")
        text = msgspec.json.encode(_Stream(self.read(files.layer, part)))
        yield text[:10]
        await asyncio.sleep(self.slow_s)
        yield text[10:]

    async def receive(self, files: OwnFiles, part: Part, snapshot: str, stream: AsyncIterator[bytes]) -> None:
        await self._enter("receive")
        text = b"".join([piece async for piece in stream])
        if self.full:
            raise DroverError("no space left on device", hint="make room")
        try:
            self._staged[files.layer, part] = msgspec.json.decode(text, type=_Stream).files
        except msgspec.DecodeError as error:
            raise Unavailable("a stream was cut", hint="it is asked for again") from error

    async def install(self, files: OwnFiles, part: Part) -> None:
        await self._enter("install")
        staged = self._staged.pop((files.layer, part), None)
        if staged is not None:
            self._placed[files.layer, part] = staged

    async def clean(self, files: OwnFiles) -> None:
        await self._enter("clean")

    @asynccontextmanager
    async def ending(self, pid: int, engine_id: str) -> AsyncIterator[asyncio.Event]:
        container = self._engine.peek(engine_id) if self._engine is not None else None
        ended = asyncio.Event()
        if container is not None and container.pid == pid and self.tells_ends:
            container.ending.append(ended)
        yield ended

    async def listening(self, pid: int) -> frozenset[int]:
        return self.ports

    async def serving(self, pid: int) -> int:
        return self.connections
