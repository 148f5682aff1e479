"""`directory`: live sets are plain directories on any filesystem; what changed travels, of large files by blocks.

Theory of operation. `have` is the manifest of the newest snapshot here; `trees` has the stream. Files in snapshots are
shared: nothing may write to them, which is why promoting one drops the others; where one is to be kept, it is copied.

A filesystem that has no snapshots cannot hold one instant of files that are being written (`instant` is False): before
a move stops the container, a snapshot is only a *view*: an id under which the live set is sent as it is found. Such a
copy serves as the base of the next one. After `demote` the snapshot is the directory itself, and exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from pathlib import Path

import msgspec

from drover.drivers.volumes import kept_sums, manifest, trees
from drover.drivers.volumes.layout import Layout, copy_tree, tree_bytes
from drover.drivers.volumes.port import NoBase, Space
from drover.model.snapshots import label_of, taken_at

_VIEW = ".view"


class DirectoryVolumes:
    """Volumes as directories below a root."""

    instant = False
    synchronous = False

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
        return (await asyncio.to_thread(_manifest, self._layout.snapshot(volume, ids[-1]))).packed()

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
        async with contextlib.aclosing(trees.send(root, snapshot, have, live)) as pieces:
            async for piece in pieces:
                yield piece

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
        sums = await trees.receive(path, stream, lambda base: self._base(volume, base))
        await asyncio.to_thread(kept_sums.store, path, sums)

    def _base(self, volume: str, base: str) -> Path:
        path = self._layout.snapshot(volume, base)
        if not path.is_dir():
            raise NoBase(f"snapshot {base} of {volume} is not here any more")
        return path

    # -- claims --------------------------------------------------------------------------------------------------

    async def prepare(self, volume: str, snapshot: str) -> None:
        """A promotion is a rename."""

    async def promote(self, volume: str, snapshot: str, epoch: int) -> str:
        layout = self._ready()
        path = layout.live(volume, epoch)
        layout.refuse_other(volume, epoch)
        if not path.exists():
            source = layout.needed_snapshot(volume, snapshot)
            others = [one for one in layout.ids(volume) if one != snapshot]
            if any(map(label_of, (*others, snapshot))):  # kept until a person drops it, and files may be shared
                await copy_tree(source, path)
            else:
                await self.forget(volume, others)
                kept_sums.drop(source)
                source.rename(path)
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

    async def clone(self, volume: str, snapshot: str, clone: str, epoch: int) -> str:
        layout = self._ready()
        path = layout.live(clone, epoch)
        layout.refuse_other(clone, epoch)
        if not path.exists():
            await copy_tree(self._source(volume, snapshot)[0], path)
        return str(path)

    async def files(self, volume: str, snapshot: str) -> str:
        return str(self._source(volume, snapshot)[0])

    async def limit(self, volume: str, limit_bytes: int) -> bool:
        return not limit_bytes

    async def forget(self, volume: str, snapshots: Collection[str]) -> None:
        layout = self._ready()
        for one in snapshots:
            path = layout.snapshot(volume, one)
            _view(path).unlink(missing_ok=True)
            kept_sums.drop(path)
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


def _manifest(snapshot: Path) -> manifest.Manifest:
    """Of a snapshot, with the checksums of its large files."""
    found = manifest.scan(snapshot, snapshot.name)
    return msgspec.structs.replace(found, sums=kept_sums.completed(snapshot, manifest.large(found)))
