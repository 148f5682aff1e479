"""`directory`: live sets are plain directories on any filesystem; what changed travels as a tar archive.

Theory of operation. `have` is the manifest of the newest snapshot here. A stream is

    length (8 bytes), JSON `Head`     the base it builds on, the paths to take from there
    a tar archive                     all other files, and every directory, link and device
    END                               so that a cut between two members is noticed

The receiver links what it keeps from the base into a new directory beside it, unpacks the rest there, and renames it to
its id when all is on disk. So a snapshot is whole or not listed, and files in snapshots are shared: nothing may write
to them, which is why promoting one drops the others.

A filesystem that has no snapshots cannot hold one instant of files that are being written (`instant` is False): before
a move stops the container, a snapshot is only a *view*: an id under which the live set is sent as it is found. Such a
copy serves as the base of the next one. After `demote` the snapshot is the directory itself, and exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from pathlib import Path

import msgspec

from drover.drivers.volumes import manifest
from drover.drivers.volumes.command import consume, produce, run
from drover.drivers.volumes.layout import Layout, tree_bytes
from drover.drivers.volumes.port import NoBase, Space
from drover.errors import DroverError, Invalid, Unavailable
from drover.model.snapshots import taken_at

END = b"DROVER-END\n"
MAX_HEAD_BYTES = 512 * 1024 * 1024
_VIEW = ".view"
_PART = ".part"
_PACK = ("tar", "--create", "--xattrs", "--acls", "--sparse", "--numeric-owner", "--no-recursion", "--null")
_READ_LIVE = ("--ignore-failed-read", "--warning=no-file-changed", "--warning=no-file-removed")
_UNPACK = ("tar", "--extract", "--preserve-permissions", "--same-owner", "--numeric-owner", "--xattrs")
_ATTRIBUTES = ("--xattrs-include=*", "--acls", "--delay-directory-restore", "--directory")


class Head(msgspec.Struct, frozen=True):
    """What precedes the archive: the receiver's snapshot to build on (empty: none), and the paths to take from it."""

    base: str = ""
    keep: tuple[str, ...] = ()


class DirectoryVolumes:
    """Volumes as directories below a root."""

    instant = False

    def __init__(self, root: Path) -> None:
        self._layout = Layout(root)

    def _ready(self) -> Layout:
        self._layout.make()
        return self._layout

    def path(self, volume: str, epoch: int) -> str:
        return str(self._layout.live(volume, epoch))

    async def ensure(self, volume: str, epoch: int) -> str:
        layout = self._ready()
        path = layout.live(volume, epoch)
        layout.refuse_other(volume, epoch)
        path.mkdir(exist_ok=True)
        return str(path)

    async def live(self, volume: str) -> int:
        return self._layout.live_sets().get(volume, 0)

    async def live_sets(self) -> dict[str, int]:
        return self._layout.live_sets()

    async def snapshot(self, volume: str, snapshot: str) -> None:
        layout = self._ready()
        layout.needed_live(volume)
        layout.snapshots_of(volume).mkdir(exist_ok=True)
        _view(layout.snapshot(volume, snapshot)).touch()

    async def snapshots(self, volume: str) -> list[str]:
        return self._layout.ids(volume)

    async def have(self, volume: str) -> bytes:
        ids = self._layout.ids(volume)
        if not ids:
            return b""
        path = self._layout.snapshot(volume, ids[-1])
        return (await asyncio.to_thread(manifest.scan, path, ids[-1])).packed()

    async def unchanged(self, volume: str, have: bytes) -> bool:
        live = self._layout.found_live(volume)
        theirs = await asyncio.to_thread(manifest.unpacked, have)
        if live is None or not theirs.snapshot:
            return False
        ours = await asyncio.to_thread(manifest.scan, live, theirs.snapshot)
        keep = manifest.kept(ours, theirs, taken_at(theirs.snapshot))
        return len(keep) == len(ours.files) == len(theirs.files) and ours.others == theirs.others

    # -- sending -------------------------------------------------------------------------------------------------

    async def send(self, volume: str, snapshot: str, have: bytes) -> AsyncGenerator[bytes, None]:
        root, live = self._source(volume, snapshot)
        if live:
            await run("sync", "--file-system", str(root))
        ours = await asyncio.to_thread(manifest.scan, root, snapshot)
        theirs = await asyncio.to_thread(manifest.unpacked, have)
        keep = manifest.kept(ours, theirs, taken_at(theirs.snapshot)) if theirs.snapshot else frozenset()
        head = msgspec.json.encode(Head(theirs.snapshot, tuple(sorted(keep))))
        yield len(head).to_bytes(8, "big") + head
        wanted = [*ours.others, *(path for path in ours.files if path not in keep)]
        async with contextlib.aclosing(_packed(root, wanted, live)) as pieces:
            async for piece in pieces:
                yield piece
        yield END

    def _source(self, volume: str, snapshot: str) -> tuple[Path, bool]:
        """Where the snapshot's files are, and whether they are being written."""
        path = self._layout.snapshot(volume, snapshot)
        if not path.is_dir() and _view(path).exists():
            return self._layout.needed_live(volume), True
        return self._layout.needed_snapshot(volume, snapshot), False

    # -- receiving -----------------------------------------------------------------------------------------------

    async def receive(self, volume: str, snapshot: str, stream: AsyncIterator[bytes]) -> None:
        layout = self._ready()
        path = layout.snapshot(volume, snapshot)
        if path.is_dir():
            return
        part = path.with_name(snapshot + _PART)
        await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            await self._fill(layout, volume, part, stream)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        await run("sync", "--file-system", str(part))
        part.rename(path)
        _sync_directory(path.parent)

    async def _fill(self, layout: Layout, volume: str, part: Path, stream: AsyncIterator[bytes]) -> None:
        head, archive = await _split(stream)
        base = layout.snapshot(volume, head.base) if head.base else None
        if base is not None and not base.is_dir():
            raise NoBase(f"snapshot {head.base} of {volume} is not here any more")
        if base is not None:
            await asyncio.to_thread(_link_all, base, part, head.keep)
        await consume(_before_end(archive), *_UNPACK, *_ATTRIBUTES, str(part))

    # -- claims --------------------------------------------------------------------------------------------------

    async def promote(self, volume: str, snapshot: str, epoch: int) -> str:
        layout = self._ready()
        path = layout.live(volume, epoch)
        layout.refuse_other(volume, epoch)
        if not path.exists():
            layout.needed_snapshot(volume, snapshot)
            await self.forget(volume, [one for one in layout.ids(volume) if one != snapshot])
            layout.snapshot(volume, snapshot).rename(path)
        return str(path)

    async def demote(self, volume: str, snapshot: str) -> None:
        layout = self._ready()
        live = layout.found_live(volume)
        if live is None:
            return
        for view in layout.snapshots_of(volume).glob(f"*{_VIEW}"):
            view.unlink()
        layout.snapshots_of(volume).mkdir(exist_ok=True)
        live.rename(layout.snapshot(volume, snapshot))

    async def forget(self, volume: str, snapshots: Collection[str]) -> None:
        layout = self._ready()
        for one in snapshots:
            path = layout.snapshot(volume, one)
            _view(path).unlink(missing_ok=True)
            layout.bury(path)
        await asyncio.to_thread(self._clean)
        layout.drop_empty(volume)

    async def remove(self, volume: str) -> None:
        layout = self._ready()
        live = layout.found_live(volume)
        if live is not None:
            layout.bury(live)
        layout.bury(layout.snapshots_of(volume))
        await asyncio.to_thread(self._clean)

    def _clean(self) -> None:
        """Empty the trash."""
        for grave in (self._layout.root / "trash").iterdir():
            shutil.rmtree(grave, ignore_errors=True)

    async def size_bytes(self, volume: str) -> int:
        live = self._layout.found_live(volume)
        newest = [self._layout.snapshot(volume, one) for one in self._layout.ids(volume)[-1:]]
        return sum([await asyncio.to_thread(tree_bytes, path) for path in ([live] if live else newest)])

    async def space(self) -> Space:
        return await self._ready().space()


def _view(path: Path) -> Path:
    return path.with_name(path.name + _VIEW)


async def _packed(root: Path, paths: list[str], live: bool) -> AsyncGenerator[bytes, None]:
    """The paths as a tar archive. In a live set, files that change or vanish meanwhile are as they are found."""
    with tempfile.NamedTemporaryFile() as names:
        names.write(b"\0".join(map(manifest.on_disk, paths)))
        names.flush()
        options = ("--directory", str(root), "--verbatim-files-from", "--files-from", names.name)
        argv = (*_PACK, *(_READ_LIVE if live else ()), *options)
        async with contextlib.aclosing(produce(*argv)) as pieces:
            try:
                async for piece in pieces:
                    yield piece
            except DroverError as error:
                if not live or not error.message.endswith("exit status 1"):
                    raise


async def _split(stream: AsyncIterator[bytes]) -> tuple[Head, AsyncIterator[bytes]]:
    """The head of a stream and the pieces after it."""
    buffer = b""
    async for piece in stream:
        buffer += piece
        if len(buffer) >= 8 and len(buffer) >= 8 + _head_bytes(buffer):
            end = 8 + _head_bytes(buffer)
            return msgspec.json.decode(buffer[8:end], type=Head), _chained(buffer[end:], stream)
    raise Unavailable("a volume's stream ended before it began", hint="it is asked for again")


def _head_bytes(buffer: bytes) -> int:
    size_bytes = int.from_bytes(buffer[:8], "big")
    if size_bytes > MAX_HEAD_BYTES:
        raise Invalid("what came is no volume stream of the directory driver", hint="do all hosts run the same drover?")
    return size_bytes


async def _chained(first: bytes, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in stream:
        yield piece


async def _before_end(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces before the mark END. Raises `Unavailable` if the stream ends without it."""
    held = b""
    async for piece in stream:
        held += piece
        yield held[: -len(END)]
        held = held[-len(END) :]
    if held != END:
        raise Unavailable("a volume's stream was cut", hint="it is asked for again")


def _link_all(base: Path, part: Path, paths: Collection[str]) -> None:
    """Hard links to the base's files, the directories made as they are needed (the archive says what they are like)."""
    for path in map(os.fsdecode, map(manifest.on_disk, paths)):
        target = part / path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(base / path, target, follow_symlinks=False)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
