"""`shared`: volumes on storage that every host sees (NFS, CephFS, GlusterFS, …): claims only, nothing to copy.

The live set is a symbolic link `live/VOLUME@EPOCH` to `SHARED/VOLUME`. The link exists only on the host that holds the
claim, so the fence is that of the other drivers. Snapshots are marks without content: they let a volume move like any
other, its stream being one random word. The sender leaves the word on the shared storage and the receiver looks for
it there: a host that sees something else is refused before the claim passes.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from pathlib import Path

from drover.drivers.volumes.layout import Layout, copy_tree, tree_bytes
from drover.drivers.volumes.port import Space
from drover.errors import Conflict, NotFound, Unavailable

_MARKS = ".drover"


class SharedVolumes:
    """Volumes as directories of shared storage; `root` is this host's own directory."""

    instant = True
    synchronous = True

    def __init__(self, root: Path, shared: Path) -> None:
        self._layout = Layout(root)
        self._shared = shared

    def _ready(self) -> Layout:
        """Raises `Unavailable` if the shared storage is not there: an administrator makes its directory."""
        if not self._shared.is_dir():
            raise Unavailable(f"the shared storage {self._shared} is not there", hint="is it mounted on this host?")
        (self._shared / _MARKS).mkdir(exist_ok=True)
        self._layout.make()
        return self._layout

    def path(self, volume: str, epoch: int) -> str:
        return str(self._layout.live(volume, epoch))

    async def ensure(self, volume: str, epoch: int) -> str:
        layout = self._ready()
        layout.refuse_other(volume, epoch)
        target = self._shared / layout.live(volume, epoch).name.partition("@")[0]
        target.mkdir(exist_ok=True)
        return self._linked(volume, epoch)

    def _linked(self, volume: str, epoch: int) -> str:
        path = self._layout.live(volume, epoch)
        if not path.is_symlink():
            path.symlink_to(self._shared / volume)
        return str(path)

    async def live(self, volume: str) -> int:
        return self._layout.live_sets().get(volume, 0)

    async def live_sets(self) -> dict[str, int]:
        return self._layout.live_sets()

    async def snapshot(self, volume: str, snapshot: str) -> None:
        layout = self._ready()
        layout.needed_live(volume)
        layout.snapshot(volume, snapshot).mkdir(parents=True, exist_ok=True)

    async def snapshots(self, volume: str) -> list[str]:
        return self._layout.ids(volume)

    async def have(self, volume: str) -> bytes:
        return b""

    async def unchanged(self, volume: str, have: bytes) -> bool:
        return False

    async def send(self, volume: str, snapshot: str, have: bytes) -> AsyncGenerator[bytes, None]:
        layout = self._ready()
        layout.needed_snapshot(volume, snapshot)
        word = secrets.token_hex(16)
        self._mark(volume).write_text(word)
        yield word.encode()

    def _mark(self, volume: str) -> Path:
        return self._shared / _MARKS / volume

    async def receive(self, volume: str, snapshot: str, stream: AsyncIterator[bytes]) -> None:
        layout = self._ready()
        path = layout.snapshot(volume, snapshot)
        word = b"".join([piece async for piece in stream])
        if len(word) != 32:
            raise Unavailable("a volume's stream was cut", hint="it is asked for again")
        if not self._mark(volume).exists() or self._mark(volume).read_bytes() != word:
            raise Conflict(
                f"{self._shared} is not the storage that the other host has volume {volume} on",
                hint="mount the same storage at this path on every host",
            )
        path.mkdir(parents=True, exist_ok=True)

    async def prepare(self, volume: str, snapshot: str) -> None:
        """A promotion is a link."""

    async def promote(self, volume: str, snapshot: str, epoch: int) -> str:
        layout = self._ready()
        layout.refuse_other(volume, epoch)
        layout.needed_snapshot(volume, snapshot)
        if not (self._shared / volume).is_dir():
            raise NotFound(f"volume {volume} is not on {self._shared}")
        return self._linked(volume, epoch)

    async def demote(self, volume: str, snapshot: str) -> None:
        layout = self._ready()
        live = layout.found_live(volume)
        if live is not None:
            layout.snapshot(volume, snapshot).mkdir(parents=True, exist_ok=True)
            live.unlink()

    async def clone(self, volume: str, snapshot: str, clone: str, epoch: int) -> str:
        layout = self._ready()
        layout.refuse_other(clone, epoch)
        layout.needed_snapshot(volume, snapshot)
        if clone == volume:
            raise Conflict(f"{self._shared} keeps no older content of volume {volume}")
        if not layout.live(clone, epoch).is_symlink():
            await copy_tree(self._shared / volume, self._shared / clone)
        return self._linked(clone, epoch)

    async def files(self, volume: str, snapshot: str) -> str:
        self._ready().needed_snapshot(volume, snapshot)
        return str(self._shared / volume)

    async def limit(self, volume: str, limit_bytes: int) -> bool:
        return not limit_bytes

    async def forget(self, volume: str, snapshots: Collection[str]) -> None:
        for one in snapshots:
            shutil.rmtree(self._layout.snapshot(volume, one), ignore_errors=True)
        self._layout.drop_empty(volume)

    async def remove(self, volume: str) -> None:
        layout = self._ready()
        live = layout.found_live(volume)
        if live is not None:
            live.unlink()
        shutil.rmtree(layout.snapshots_of(volume), ignore_errors=True)
        grave = self._shared / _MARKS / f"removed-{secrets.token_hex(8)}"
        if (self._shared / volume).is_dir():
            (self._shared / volume).rename(grave)
        self._mark(volume).unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, grave, ignore_errors=True)

    async def size_bytes(self, volume: str) -> int:
        return await asyncio.to_thread(tree_bytes, self._shared / volume)

    async def space(self) -> Space:
        self._ready()
        return await Layout(self._shared).space()
