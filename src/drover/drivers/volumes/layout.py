"""Where things are below a host's volume directory; what the drivers share.

    ROOT/live/VOLUME@EPOCH     the live set: the path an engine binds, gone when the claim is
    ROOT/snap/VOLUME/ID        a snapshot
    ROOT/next/VOLUME@ID        made of a snapshot ahead, to become a live set by a rename
    ROOT/trash/…               renamed, about to be deleted; emptied at the next chance

The epoch in the live set's name makes an engine's old volume useless: it points at a path that does not come back.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import uuid
from pathlib import Path

from drover.drivers.volumes.command import run
from drover.drivers.volumes.port import Space
from drover.errors import Conflict, Invalid, NotFound
from drover.model.snapshots import is_id

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
"""Docker's own rule for volume names; it also keeps a name from leaving the directory."""


class Layout:
    """Paths of one volume directory. `path_of` methods do no I/O, the others little."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self) -> None:
        for part in ("live", "snap", "next", "trash"):
            (self.root / part).mkdir(parents=True, exist_ok=True)

    def live(self, volume: str, epoch: int) -> Path:
        return self.root / "live" / f"{_checked(volume)}@{epoch:010}"

    def snapshot(self, volume: str, snapshot: str) -> Path:
        if not is_id(snapshot):
            raise Invalid(f"{snapshot!r} is no snapshot id")
        return self.snapshots_of(volume) / snapshot

    def snapshots_of(self, volume: str) -> Path:
        return self.root / "snap" / _checked(volume)

    def prepared(self, volume: str, snapshot: str) -> Path:
        return self.root / "next" / f"{_checked(volume)}@{snapshot}"

    def all_prepared(self, volume: str) -> list[Path]:
        """What was made ahead of any snapshot of a volume."""
        return [self.root / "next" / name for name in _names(self.root / "next") if name.rpartition("@")[0] == volume]

    def grave(self) -> Path:
        """A new name below the trash."""
        return self.root / "trash" / uuid.uuid4().hex

    def live_sets(self) -> dict[str, int]:
        """The volumes with a live set, each with the epoch of its newest."""
        found: dict[str, int] = {}
        for entry in _names(self.root / "live"):
            volume, at, epoch = entry.rpartition("@")
            if at and epoch.isdigit():
                found[volume] = max(found.get(volume, 0), int(epoch))
        return found

    def found_live(self, volume: str) -> Path | None:
        """The live set's path, if there is one."""
        epoch = self.live_sets().get(volume)
        return None if epoch is None else self.live(volume, epoch)

    def needed_live(self, volume: str) -> Path:
        path = self.found_live(volume)
        if path is None:
            raise NotFound(f"volume {volume} has no live data on this host")
        return path

    def refuse_other(self, volume: str, epoch: int) -> None:
        """Raises `Conflict` if there is a live set of another epoch: it must be set aside first."""
        other = self.live_sets().get(volume, epoch)
        if other != epoch:
            raise Conflict(f"volume {volume} has live data of epoch {other} on this host, and {epoch} is asked for")

    def ids(self, volume: str) -> list[str]:
        """Names below the volume's snapshots that are ids, complete or not, oldest first."""
        return sorted(name for name in _names(self.snapshots_of(volume)) if is_id(name))

    def needed_snapshot(self, volume: str, snapshot: str) -> Path:
        path = self.snapshot(volume, snapshot)
        if not path.is_dir():
            raise NotFound(
                f"volume {volume} has no snapshot {snapshot} on this host",
                hint=f"`drover volume snapshots {volume}` lists them",
            )
        return path

    def drop_empty(self, volume: str) -> None:
        """Remove the directory of a volume's snapshots if it holds none."""
        try:
            self.snapshots_of(volume).rmdir()
        except OSError:
            return

    def bury(self, path: Path) -> None:
        """Rename into the trash; nothing there is success."""
        try:
            path.rename(self.grave())
        except FileNotFoundError:
            return

    async def space(self) -> Space:
        found = await asyncio.to_thread(shutil.disk_usage, self.root)
        return Space(total_bytes=found.total, free_bytes=found.free)


async def copy_tree(source: Path, target: Path) -> None:
    """Copy a directory with all that a filesystem keeps; `target` is whole or not there. Blocks are shared where the
    filesystem can do that."""
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        await run("cp", "--archive", "--reflink=auto", "--sparse=auto", str(source), str(part))
        part.rename(target)
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
        raise


def tree_bytes(path: Path) -> int:
    """The bytes that the files below a path occupy; hard links count once."""
    seen: set[tuple[int, int]] = set()
    total_bytes = 0
    for directory, _, files in os.walk(path):
        for name in files:
            try:
                found = os.lstat(os.path.join(directory, name))
            except FileNotFoundError:
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total_bytes += found.st_blocks * 512
    return total_bytes


def _checked(volume: str) -> str:
    if not NAME.fullmatch(volume):
        raise Invalid(f"volume name {volume!r} is not allowed: only [a-zA-Z0-9][a-zA-Z0-9_.-] are")
    return volume


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
