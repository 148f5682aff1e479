"""The backup port in memory: repositories by name, the tree as what a function reads and writes.

`fail_next(error)`: the next call that copies raises it, half done.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from drover.drivers.backups.port import Kept
from drover.errors import DroverError, NotFound


class FakeBackups:
    """`read(root)` gives a tree's files, `write(root, files)` adds to one."""

    def __init__(
        self,
        read: Callable[[str], dict[str, str]] = lambda _root: {},
        write: Callable[[str, dict[str, str]], None] = lambda _root, _files: None,
    ) -> None:
        self._read, self._write = read, write
        self._kept: defaultdict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
        self._failures: list[DroverError] = []

    def fail_next(self, error: DroverError) -> None:
        self._failures.append(error)

    async def save(self, repository: str, volume: str, root: Path, told: Callable[[str], None]) -> str:
        if self._failures:
            raise self._failures.pop(0)
        self._kept[repository, volume].append(self._read(str(root)))
        return f"backup{len(self._kept[repository, volume])}"

    async def restore(self, repository: str, volume: str, backup: str, root: Path, told: Callable[[str], None]) -> None:
        found = self._kept[repository, volume]
        if not found:
            raise NotFound(f"{repository} has no backup at all of volume {volume}")
        files = found[int(backup.removeprefix("backup")) - 1] if backup else found[-1]
        for name, text in files.items():
            if self._failures:
                raise self._failures.pop(0)
            self._write(str(root), {name: text})

    async def thin_out(self, repository: str, volume: str, keep: int) -> None:
        self._kept[repository, volume] = self._kept[repository, volume][-keep:]

    async def kept(self, repository: str, volume: str) -> list[Kept]:
        return [Kept(f"backup{number}", float(number)) for number in range(1, len(self._kept[repository, volume]) + 1)]
