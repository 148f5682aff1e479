"""The volume port in memory, for tests and the simulation: a live set is a value, a snapshot a copy of it.

switch                        effect
`write`, `read`               what a container would do below the path
`fail_next(method, error)`    the next call of that method raises `error`
`full = True`                 nothing can be received: the disk is full
`on_look(volume)`             is called before a live set is copied: what a container has written by then is in it
`on_live(volume, epoch)`      is called when a live set has been made
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection

import msgspec

from drover.drivers.volumes.port import NoBase, Space
from drover.errors import Conflict, DroverError, NotFound, Unavailable

TOTAL_BYTES = 1 << 40
_LIVE, _SNAPSHOTS = "/fake/volumes/", "/fake/snapshots/"


class _Stream(msgspec.Struct):
    """A snapshot on its way: all files, or those that differ from `base` and the names of those that are gone."""

    base: str
    files: dict[str, str]
    gone: list[str]
    whole: bool = True


class FakeVolumes:
    """One host's disk. `removed` lists the volumes deleted, in order; `ensured` those that began empty; `prepared` what
    was to be prepared."""

    instant = True
    synchronous = False

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.ensured: list[str] = []
        self.prepared: list[tuple[str, str]] = []
        self.limits: dict[str, int] = {}
        self.full = False
        self.slow_s = 0.0
        self.sent_bytes = 0
        self.on_look: Callable[[str], None] = lambda volume: None
        self.on_live: Callable[[str, int], None] = lambda volume, epoch: None
        self._live: dict[str, tuple[int, dict[str, str]]] = {}
        self._snapshots: defaultdict[str, dict[str, dict[str, str]]] = defaultdict(dict)
        self._failures: defaultdict[str, list[DroverError]] = defaultdict(list)

    @property
    def present(self) -> set[str]:
        """The volumes with a live set."""
        return set(self._live)

    def write(self, volume: str, name: str, text: str) -> None:
        """Raises `NotFound` if there is no live set: the bind would fail."""
        self._needed(volume)[name] = text

    def read(self, volume: str) -> dict[str, str]:
        return dict(self._needed(volume))

    def read_at(self, path: str) -> dict[str, str]:
        """The files below a path that `files` gave."""
        volume, snapshot = path.removeprefix(_SNAPSHOTS).split("/")
        return dict(self._found(volume, snapshot))

    def write_at(self, path: str, files: dict[str, str]) -> None:
        """Files below a path that `ensure` gave."""
        self._needed(path.removeprefix(_LIVE).partition("@")[0]).update(files)

    def fail_next(self, method: str, error: DroverError) -> None:
        self._failures[method].append(error)

    async def _enter(self, method: str) -> None:
        """What a call goes through first."""
        await asyncio.sleep(self.slow_s)
        if self._failures[method]:
            raise self._failures[method].pop(0)

    def _needed(self, volume: str) -> dict[str, str]:
        if volume not in self._live:
            raise NotFound(f"volume {volume} has no live data on this host")
        return self._live[volume][1]

    def path(self, volume: str, epoch: int) -> str:
        return f"{_LIVE}{volume}@{epoch}"

    def _path(self, volume: str, epoch: int) -> str:
        """The path, if no other epoch's live set is in the way."""
        held = self._live.get(volume, (epoch, {}))[0]
        if held != epoch:
            raise Conflict(f"volume {volume} has live data of epoch {held} on this host, and {epoch} is asked for")
        return self.path(volume, epoch)

    async def ensure(self, volume: str, epoch: int) -> str:
        await self._enter("ensure")
        path = self._path(volume, epoch)
        if volume not in self._live:
            self._live[volume] = (epoch, {})
            self.ensured.append(volume)
            self.on_live(volume, epoch)
        return path

    async def live(self, volume: str) -> int:
        return self._live.get(volume, (0, {}))[0]

    async def live_sets(self) -> dict[str, int]:
        return {volume: epoch for volume, (epoch, _) in self._live.items()}

    async def snapshot(self, volume: str, snapshot: str) -> None:
        await self._enter("snapshot")
        self.on_look(volume)
        self._snapshots[volume][snapshot] = dict(self._needed(volume))

    async def snapshots(self, volume: str) -> list[str]:
        return sorted(self._snapshots[volume])

    async def have(self, volume: str) -> bytes:
        return msgspec.json.encode(await self.snapshots(volume))

    async def unchanged(self, volume: str, have: bytes) -> bool:
        theirs = msgspec.json.decode(have or b"[]", type=list[str])
        known = self._snapshots[volume]
        self.on_look(volume)
        return bool(theirs) and volume in self._live and known.get(theirs[-1]) == self._live[volume][1]

    async def send(self, volume: str, snapshot: str, have: bytes) -> AsyncGenerator[bytes, None]:
        await self._enter("send")
        files = self._found(volume, snapshot)
        theirs = msgspec.json.decode(have or b"[]", type=list[str])
        common = [one for one in await self.snapshots(volume) if one in theirs and one != snapshot]
        base = self._snapshots[volume][common[-1]] if common else {}
        changed = {name: text for name, text in files.items() if base.get(name) != text}
        stream = _Stream(common[-1] if common else "", changed, [name for name in base if name not in files])
        data = msgspec.json.encode(stream)
        for start in range(0, len(data), 16):
            self.sent_bytes += len(data[start : start + 16])
            await asyncio.sleep(self.slow_s / 10)
            yield data[start : start + 16]

    def _found(self, volume: str, snapshot: str) -> dict[str, str]:
        found = self._snapshots[volume].get(snapshot)
        if found is None:
            raise NotFound(f"volume {volume} has no snapshot {snapshot} on this host")
        return found

    async def receive(self, volume: str, snapshot: str, stream: AsyncIterator[bytes]) -> None:
        await self._enter("receive")
        data = b"".join([piece async for piece in stream])
        if self.full:
            raise DroverError("no space left on device")
        try:
            came = msgspec.json.decode(data, type=_Stream)
        except msgspec.DecodeError as error:
            raise Unavailable("a volume's stream was cut", hint="it is asked for again") from error
        if came.base and came.base not in self._snapshots[volume]:
            raise NoBase(f"snapshot {snapshot} of {volume} builds on what is not here")
        base = self._snapshots[volume].get(came.base, {})
        files = {name: text for name, text in base.items() if name not in came.gone} | came.files
        self._snapshots[volume].setdefault(snapshot, files)

    async def prepare(self, volume: str, snapshot: str) -> None:
        self.prepared.append((volume, snapshot))
        await self._enter("prepare")

    async def promote(self, volume: str, snapshot: str, epoch: int) -> str:
        await self._enter("promote")
        path = self._path(volume, epoch)
        if volume not in self._live:
            self._live[volume] = (epoch, dict(self._found(volume, snapshot)))
            self.on_live(volume, epoch)
        return path

    async def demote(self, volume: str, snapshot: str) -> None:
        await self._enter("demote")
        if volume in self._live:
            self.on_look(volume)
            self._snapshots[volume][snapshot] = self._live.pop(volume)[1]

    async def clone(self, volume: str, snapshot: str, clone: str, epoch: int) -> str:
        await self._enter("clone")
        path = self._path(clone, epoch)
        if clone not in self._live:
            self._live[clone] = (epoch, dict(self._found(volume, snapshot)))
        return path

    async def files(self, volume: str, snapshot: str) -> str:
        self._found(volume, snapshot)
        return f"{_SNAPSHOTS}{volume}/{snapshot}"

    async def limit(self, volume: str, limit_bytes: int) -> bool:
        await self._enter("limit")
        self._needed(volume)
        self.limits[volume] = limit_bytes
        return True

    async def forget(self, volume: str, snapshots: Collection[str]) -> None:
        for one in snapshots:
            self._snapshots[volume].pop(one, None)

    async def remove(self, volume: str) -> None:
        self._snapshots.pop(volume, None)
        if self._live.pop(volume, None) is not None:
            self.removed.append(volume)

    async def size_bytes(self, volume: str) -> int:
        return sum(map(len, self._live.get(volume, (0, {}))[1].values()))

    async def space(self) -> Space:
        return Space(total_bytes=TOTAL_BYTES, free_bytes=0 if self.full else TOTAL_BYTES)
