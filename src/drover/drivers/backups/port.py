"""The backup port: trees of files kept in a repository outside the cluster, and brought back from it.

A repository is a directory or a URL. Who may use it is the host's own affair: secrets never come through this port.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec


class Kept(msgspec.Struct, frozen=True):
    """A backup in a repository; `at` in seconds since the Unix epoch."""

    id: str
    at: float


class Backups(Protocol):
    async def save(self, repository: str, volume: str, root: Path, told: Callable[[str], None]) -> str:
        """Keep the tree below `root` as a backup of that volume; its id. `told` is given a word on progress now and
        then. The repository is made if there is none. Raises what the tool says."""
        ...

    async def restore(self, repository: str, volume: str, backup: str, root: Path, told: Callable[[str], None]) -> None:
        """Put a backup's content below `root`, which is empty. `backup` empty: the newest. Raises `NotFound` if there
        is none."""
        ...

    async def thin_out(self, repository: str, volume: str, keep: int) -> None:
        """Drop all but the newest `keep` backups of a volume."""
        ...

    async def kept(self, repository: str, volume: str) -> list[Kept]:
        """The backups of a volume, oldest first."""
        ...
