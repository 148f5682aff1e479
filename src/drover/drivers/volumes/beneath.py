"""Paths that another host, or a container, has named: opened below a directory, or not at all.

Theory of operation. Each part of a path is opened in the one before it and never through a link, so neither `..` nor a
link that a container left in its volume leads anywhere else, also if it is put there meanwhile. Paths come sorted, so
the directory of the last one is kept open for the next.
"""

from __future__ import annotations

import os
from pathlib import Path

from drover.errors import Unavailable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Beneath:
    """Below `root`; `make`: directories are made as they are needed."""

    def __init__(self, root: Path, *, make: bool = False) -> None:
        self._make = make
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self._last: tuple[list[str], int] | None = None

    def close(self) -> None:
        self._forget()
        os.close(self._root)

    def __enter__(self) -> Beneath:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self) -> None:
        if self._last is not None:
            os.close(self._last[1])
            self._last = None

    def at(self, path: str) -> tuple[int, str]:
        """The directory of a path, as a file descriptor that is good until the next call, and the name in it. `path` is
        its bytes read as Latin-1. Raises `Unavailable` for one that leads out, OSError for one that leads nowhere."""
        *above, name = _parts(path)
        if self._last is None or self._last[0] != above:
            self._forget()
            self._last = (above, self._descended(above))
        return self._last[1], name

    def _descended(self, above: list[str]) -> int:
        place = os.dup(self._root)
        try:
            for part in above:
                below = self._entered(place, part)
                os.close(place)
                place = below
        except BaseException:
            os.close(place)
            raise
        return place

    def _entered(self, place: int, part: str) -> int:
        try:
            return os.open(part, _DIRECTORY, dir_fd=place)
        except FileNotFoundError:
            if not self._make:
                raise
            os.mkdir(part, dir_fd=place)
            return os.open(part, _DIRECTORY, dir_fd=place)


def _parts(path: str) -> list[str]:
    try:
        found = os.fsdecode(path.encode("latin-1")).split("/")
    except UnicodeEncodeError:
        found = [""]
    if any(part in ("", ".", "..") or "\0" in part for part in found):
        raise Unavailable(f"a volume's stream has the path {path[:200]!r}, which is none of a volume's")
    return found
