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
    `prepare` makes the new writable one, promote renames it         each snapshot waits for the disk, and clients wait
    an incomplete snapshot is deleted before a receive of its name   else "File exists"

`btrfs send` cannot resume. A cut increment is small and is sent again; a cut first copy begins anew.

A size limit is a quota group's, with headroom (`quota_bytes`): btrfs writes new blocks before it frees the old ones,
and counts both meanwhile. Quotas are switched on for the filesystem with the first limit, as they cost something.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from pathlib import Path
from typing import ParamSpec

from drover.drivers.volumes import btrfs_calls as calls
from drover.drivers.volumes.command import consume, produce, run
from drover.drivers.volumes.layout import Layout, tree_bytes
from drover.drivers.volumes.port import NoBase, Space
from drover.errors import DroverError, NotFound, Unavailable

P = ParamSpec("P")
_BTRFS_MAGIC = "btrfs"
HEADROOM_BYTES = 64 * 1024 * 1024
HEADROOM_SHARE = 4


class BtrfsVolumes:
    """Volumes below a directory of a btrfs filesystem."""

    instant = True
    synchronous = False

    def __init__(self, root: Path) -> None:
        self._layout = Layout(root)
        self._trash = asyncio.Lock()
        self._syncing: asyncio.Task[None] | None = None
        self._next_sync: asyncio.Task[None] | None = None

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
            await _called(calls.create, path)
        return str(path)

    async def live(self, volume: str) -> int:
        return self._ready().live_sets().get(volume, 0)

    async def live_sets(self) -> dict[str, int]:
        return self._ready().live_sets()

    async def snapshot(self, volume: str, snapshot: str) -> None:
        layout = self._ready()
        live = layout.needed_live(volume)
        layout.snapshots_of(volume).mkdir(exist_ok=True)
        await _called(calls.snapshot, live, layout.snapshot(volume, snapshot), True)

    async def snapshots(self, volume: str) -> list[str]:
        layout = self._ready()
        return [one for one in layout.ids(volume) if calls.is_complete(layout.snapshot(volume, one))]

    async def have(self, volume: str) -> bytes:
        return "\n".join(await self.snapshots(volume)).encode()

    async def unchanged(self, volume: str, have: bytes) -> bool:
        layout = self._ready()
        ours, theirs = await self.snapshots(volume), have.decode().split("\n")
        live = layout.found_live(volume)
        if live is None or not ours or ours[-1] != theirs[-1]:
            return False
        return calls.changed_in(live) <= calls.made_in(layout.snapshot(volume, ours[-1]))

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
        if calls.is_complete(path):
            return
        await self._delete([path, *layout.all_prepared(volume)])
        path.parent.mkdir(exist_ok=True)
        try:
            await consume(stream, "btrfs", "-q", "receive", str(path.parent))
        except DroverError as error:
            await self._delete([path])
            if "cannot find parent" in error.message:
                raise NoBase(f"snapshot {snapshot} of {volume} builds on what is not here") from error
            raise
        if not calls.is_complete(path):
            await self._delete([path])
            raise Unavailable(f"snapshot {snapshot} of {volume} came incomplete", hint="it is asked for again")
        await self._synced()

    async def prepare(self, volume: str, snapshot: str) -> None:
        layout = self._ready()
        source, path = layout.snapshot(volume, snapshot), layout.prepared(volume, snapshot)
        if calls.is_complete(source) and not path.exists():
            await _called(calls.snapshot, source, path, False)

    async def promote(self, volume: str, snapshot: str, epoch: int) -> str:
        layout = self._ready()
        path = layout.live(volume, epoch)
        layout.refuse_other(volume, epoch)
        if not path.exists():
            source = layout.snapshot(volume, snapshot)
            if not calls.is_complete(source):
                raise NotFound(f"volume {volume} has no complete snapshot {snapshot} on this host")
            try:
                layout.prepared(volume, snapshot).rename(path)
            except FileNotFoundError:
                await _called(calls.snapshot, source, path, False)
        return str(path)

    async def demote(self, volume: str, snapshot: str) -> None:
        layout = self._ready()
        live = layout.found_live(volume)
        if live is None:
            return
        if not layout.snapshot(volume, snapshot).exists():
            await self.snapshot(volume, snapshot)
        layout.bury(live)

    async def clone(self, volume: str, snapshot: str, clone: str, epoch: int) -> str:
        layout = self._ready()
        path = layout.live(clone, epoch)
        layout.refuse_other(clone, epoch)
        if not path.exists():
            await _called(calls.snapshot, layout.needed_snapshot(volume, snapshot), path, False)
        return str(path)

    async def files(self, volume: str, snapshot: str) -> str:
        return str(self._ready().needed_snapshot(volume, snapshot))

    async def forget(self, volume: str, snapshots: Collection[str]) -> None:
        layout = self._ready()
        await self._delete([*(layout.snapshot(volume, one) for one in snapshots), *layout.all_prepared(volume)])
        layout.drop_empty(volume)
        await self._clean()

    async def remove(self, volume: str) -> None:
        layout = self._ready()
        live = layout.found_live(volume)
        if live is not None:
            layout.bury(live)
        await self._delete(
            [*(layout.snapshot(volume, one) for one in layout.ids(volume)), *layout.all_prepared(volume)]
        )
        layout.drop_empty(volume)
        await self._clean()

    async def size_bytes(self, volume: str) -> int:
        layout = self._ready()
        live = layout.found_live(volume)
        newest = [layout.snapshot(volume, one) for one in layout.ids(volume)[-1:]]
        return sum([await asyncio.to_thread(_used_bytes, path) for path in ([live] if live else newest)])

    async def limit(self, volume: str, limit_bytes: int) -> bool:
        layout = self._ready()
        live = layout.needed_live(volume)
        shown = calls.quota(live)
        if shown is None and limit_bytes:
            await run("btrfs", "quota", "enable", str(layout.root))
            await run("btrfs", "quota", "rescan", "-w", str(layout.root))
        if shown is not None or limit_bytes:
            wanted = str(quota_bytes(limit_bytes)) if limit_bytes else "none"
            await run("btrfs", "qgroup", "limit", wanted, str(live))
        return True

    async def space(self) -> Space:
        return await self._ready().space()

    async def _synced(self) -> None:
        """All that was written until now is on disk. Those that ask while one sync is under way share the next: each
        takes a while, and takes the filesystem for itself."""
        if self._next_sync is None:
            self._next_sync = asyncio.create_task(self._sync_after(self._syncing))
        await asyncio.shield(self._next_sync)

    async def _sync_after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        self._syncing, self._next_sync = self._next_sync, None
        await _called(calls.sync, self._layout.root)

    # -- deleting ------------------------------------------------------------------------------------------------

    async def _delete(self, paths: Collection[Path]) -> None:
        """Delete subvolumes; those that are not there count as deleted."""
        for path in paths:
            await _called(calls.destroy, path)

    async def _clean(self) -> None:
        """Empty the trash, one at a time."""
        async with self._trash:
            graves = [grave for grave in (self._layout.root / "trash").iterdir() if calls.is_subvolume(grave)]
            with contextlib.suppress(DroverError):  # what stays is tried again with the next one
                await self._delete(graves)


def quota_bytes(limit_bytes: int) -> int:
    """The quota for a volume that may have so many bytes: with headroom for blocks that are about to be freed."""
    return limit_bytes + limit_bytes // HEADROOM_SHARE + HEADROOM_BYTES


async def _called(call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """A call to the filesystem, in a thread; its error in its own words."""
    try:
        await asyncio.to_thread(call, *args, **kwargs)
    except OSError as error:
        raise DroverError(f"btrfs: {error.strerror}: {error.filename or call.__name__}") from error


def _used_bytes(path: Path) -> int:
    """What the subvolume has: as its quota group says, else counted."""
    shown = calls.quota(path)
    return tree_bytes(path) if shown is None else int((shown / "referenced").read_text())


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
