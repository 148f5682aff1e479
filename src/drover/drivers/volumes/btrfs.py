"""`btrfs`: live sets are subvolumes, snapshots are read-only ones, and they travel as btrfs's own streams.

Theory of operation. A stream with a parent builds on the newest snapshot that both sides have; the kernel finds the
parent by its UUID, whichever side made it first. What is easy to get wrong, and how it is done here:

    rule                                                             because
    promote by a new writable snapshot                               making a received one writable wipes the UUID that
                                                                     the next stream needs
    never a read-only snapshot of a received one                     it would inherit the UUID: two would match
    a snapshot is complete exactly when it is read-only              receive sets that last
    sync before a receive counts                                     the stream is acknowledged, so it must be on disk
    demote renames the live set; `forget` deletes it                 deleting may take a second, and containers wait
    an incomplete snapshot is deleted before a receive of its name   else "File exists"

`btrfs send` cannot resume. A cut increment is small and is sent again; a cut first copy begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from pathlib import Path

from drover.drivers.volumes.command import consume, produce, run
from drover.drivers.volumes.layout import Layout, tree_bytes
from drover.drivers.volumes.port import NoBase, Space
from drover.errors import DroverError, NotFound, Unavailable

_GET_FLAGS = 0x80089419
"""BTRFS_IOC_SUBVOL_GETFLAGS"""
_READ_ONLY = 2
_GET_INFO = 0x81F8943C
"""BTRFS_IOC_GET_SUBVOL_INFO"""
_INFO_BYTES = 504
_CTRANSID_AT = 344
"""In its answer: the transaction of the last change; the one of the creation follows."""
_SUBVOLUME_INODE = 256
"""The inode number of every subvolume's root."""
_BTRFS_MAGIC = "btrfs"


class BtrfsVolumes:
    """Volumes below a directory of a btrfs filesystem."""

    instant = True

    def __init__(self, root: Path) -> None:
        self._layout = Layout(root)
        self._trash = asyncio.Lock()

    def _ready(self) -> Layout:
        """The layout, if the filesystem is there: what lies below an empty mount point is no data."""
        if filesystem_of(self._layout.root) != _BTRFS_MAGIC:
            raise Unavailable(
                f"{self._layout.root} is not on a btrfs filesystem",
                hint="is the volume pool mounted? see drover status",
            )
        self._layout.make()
        return self._layout

    def path(self, volume: str, epoch: int) -> str:
        return str(self._layout.live(volume, epoch))

    async def ensure(self, volume: str, epoch: int) -> str:
        layout = self._ready()
        path = layout.live(volume, epoch)
        layout.refuse_other(volume, epoch)
        if not path.exists():
            await run("btrfs", "-q", "subvolume", "create", str(path))
        return str(path)

    async def live(self, volume: str) -> int:
        return self._ready().live_sets().get(volume, 0)

    async def live_sets(self) -> dict[str, int]:
        return self._ready().live_sets()

    async def snapshot(self, volume: str, snapshot: str) -> None:
        layout = self._ready()
        live = layout.needed_live(volume)
        layout.snapshots_of(volume).mkdir(exist_ok=True)
        await run("btrfs", "-q", "subvolume", "snapshot", "-r", str(live), str(layout.snapshot(volume, snapshot)))

    async def snapshots(self, volume: str) -> list[str]:
        layout = self._ready()
        return [one for one in layout.ids(volume) if _complete(layout.snapshot(volume, one))]

    async def have(self, volume: str) -> bytes:
        return "\n".join(await self.snapshots(volume)).encode()

    async def unchanged(self, volume: str, have: bytes) -> bool:
        layout = self._ready()
        ours, theirs = await self.snapshots(volume), have.decode().split("\n")
        live = layout.found_live(volume)
        if live is None or not ours or ours[-1] != theirs[-1]:
            return False
        return _changed_in(live) <= _made_in(layout.snapshot(volume, ours[-1]))

    async def send(self, volume: str, snapshot: str, have: bytes) -> AsyncGenerator[bytes, None]:
        layout = self._ready()
        path = layout.needed_snapshot(volume, snapshot)
        theirs = set(have.decode().split("\n"))
        common = [one for one in await self.snapshots(volume) if one in theirs and one != snapshot]
        older = [one for one in common if one < snapshot] or common
        parent = ["-p", str(layout.snapshot(volume, older[-1]))] if older else []
        async with contextlib.aclosing(produce("btrfs", "-q", "send", *parent, str(path))) as pieces:
            async for piece in pieces:
                yield piece

    async def receive(self, volume: str, snapshot: str, stream: AsyncIterator[bytes]) -> None:
        layout = self._ready()
        path = layout.snapshot(volume, snapshot)
        if _complete(path):
            return
        await self._delete([path])
        path.parent.mkdir(exist_ok=True)
        try:
            await consume(stream, "btrfs", "-q", "receive", str(path.parent))
        except DroverError as error:
            await self._delete([path])
            if "cannot find parent" in error.message:
                raise NoBase(f"snapshot {snapshot} of {volume} builds on what is not here") from error
            raise
        if not _complete(path):
            await self._delete([path])
            raise Unavailable(f"snapshot {snapshot} of {volume} came incomplete", hint="it is asked for again")
        await run("btrfs", "filesystem", "sync", str(layout.root))

    async def promote(self, volume: str, snapshot: str, epoch: int) -> str:
        layout = self._ready()
        path = layout.live(volume, epoch)
        layout.refuse_other(volume, epoch)
        if not path.exists():
            source = layout.snapshot(volume, snapshot)
            if not _complete(source):
                raise NotFound(f"volume {volume} has no complete snapshot {snapshot} on this host")
            await run("btrfs", "-q", "subvolume", "snapshot", str(source), str(path))
        return str(path)

    async def demote(self, volume: str, snapshot: str) -> None:
        layout = self._ready()
        live = layout.found_live(volume)
        if live is None:
            return
        await self.snapshot(volume, snapshot)
        layout.bury(live)

    async def forget(self, volume: str, snapshots: Collection[str]) -> None:
        layout = self._ready()
        await self._delete([layout.snapshot(volume, one) for one in snapshots])
        layout.drop_empty(volume)
        await self._clean()

    async def remove(self, volume: str) -> None:
        layout = self._ready()
        live = layout.found_live(volume)
        if live is not None:
            layout.bury(live)
        await self._delete([layout.snapshot(volume, one) for one in layout.ids(volume)])
        layout.drop_empty(volume)
        await self._clean()

    async def size_bytes(self, volume: str) -> int:
        layout = self._ready()
        live = layout.found_live(volume)
        newest = [layout.snapshot(volume, one) for one in layout.ids(volume)[-1:]]
        return sum([await asyncio.to_thread(tree_bytes, path) for path in ([live] if live else newest)])

    async def space(self) -> Space:
        return await self._ready().space()

    # -- deleting ------------------------------------------------------------------------------------------------

    async def _delete(self, paths: Collection[Path]) -> None:
        """Delete subvolumes; those that are not there count as deleted."""
        present = [str(path) for path in paths if path.exists()]
        if present:
            await run("btrfs", "-q", "subvolume", "delete", *present)

    async def _clean(self) -> None:
        """Empty the trash, one at a time."""
        async with self._trash:
            graves = [grave for grave in (self._layout.root / "trash").iterdir() if is_subvolume(grave)]
            with contextlib.suppress(DroverError):  # what stays is tried again with the next one
                await self._delete(graves)


def filesystem_of(path: Path) -> str:
    """The type of the filesystem that a path, or its nearest parent that exists, is on; empty if unknown."""
    while not path.exists() and path != path.parent:
        path = path.parent
    best, kind = "", ""
    resolved = str(path.resolve())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        point = line.split()[1].encode().decode("unicode_escape")
        inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, line.split()[2]
    return kind


def is_subvolume(path: Path) -> bool:
    try:
        return os.stat(path).st_ino == _SUBVOLUME_INODE
    except FileNotFoundError:
        return False


def _complete(path: Path) -> bool:
    """Whether a snapshot is there and read-only: a receive that was cut leaves a writable one."""
    return is_subvolume(path) and bool(struct.unpack("=Q", _asked(path, _GET_FLAGS, 8))[0] & _READ_ONLY)


def _changed_in(path: Path) -> int:
    """The transaction that last changed anything in a subvolume."""
    return int(struct.unpack_from("=Q", _asked(path, _GET_INFO, _INFO_BYTES), _CTRANSID_AT)[0])


def _made_in(path: Path) -> int:
    """The transaction that made a snapshot."""
    return int(struct.unpack_from("=Q", _asked(path, _GET_INFO, _INFO_BYTES), _CTRANSID_AT + 8)[0])


def _asked(path: Path, request: int, answer_bytes: int) -> bytes:
    """What the filesystem answers about a subvolume."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return fcntl.ioctl(handle, request, bytes(answer_bytes))
    finally:
        os.close(handle)
