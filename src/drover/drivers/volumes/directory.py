"""`directory`: a volume is a plain directory below the daemon's state directory, on any filesystem."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

from drover.errors import Invalid

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
"""Docker's own rule for volume names; it also keeps a name from leaving the directory."""


class DirectoryVolumes:
    """Volumes as `<root>/live/<name>`."""

    def __init__(self, root: Path) -> None:
        self._live = root / "live"

    def path(self, name: str) -> Path:
        """The volume's directory. Raises `Invalid` for a name that Docker would refuse too."""
        if not NAME.fullmatch(name):
            raise Invalid(f"volume name {name!r} is not allowed: only [a-zA-Z0-9][a-zA-Z0-9_.-] are")
        return self._live / name

    async def ensure(self, name: str) -> str:
        path = self.path(name)
        await asyncio.to_thread(path.mkdir, parents=True, exist_ok=True)
        return str(path)

    async def exists(self, name: str) -> bool:
        return await asyncio.to_thread(self.path(name).is_dir)

    async def remove(self, name: str) -> None:
        """Move the directory aside first: a half-deleted volume is never found under its name."""
        path = self.path(name)
        grave = self._live.parent / "removed" / name
        await asyncio.to_thread(_bury, path, grave)


def _bury(path: Path, grave: Path) -> None:
    grave.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(grave, ignore_errors=True)
    if path.exists():
        path.rename(grave)
    shutil.rmtree(grave, ignore_errors=True)
