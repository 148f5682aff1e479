"""The log files of the drivers `json-file` and `local`: only what was appended travels.

Theory of operation. A log is a file STEM and its rotated predecessors STEM.1, STEM.2.gz, …; what tells them apart is
the suffix. A file only ever grows at its end, or is renamed as a whole. So the receiver describes each file it has by
its size and the checksums of its first and last bytes; the sender finds, whatever the names are by now, its own file
that begins with the same content, and sends the rest. Lines carry times in nanoseconds: equal ends are equal files.

    length (8 bytes), JSON `Head`    per file its suffix, where it goes on from, and how many bytes follow
    the bytes of each, END

A stream that was cut leaves files that end early, which the next one goes on from.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from drover.drivers.volumes import trees
from drover.errors import NotFound, Unavailable

STAGE = "drover-log"
STAGED = "log"
PIECE_BYTES = 1024 * 1024
END_BYTES = 4096
MODE = 0o640
_SUFFIX = re.compile(r"(?:\.\d+(?:\.gz)?)?")


class Known(msgspec.Struct, frozen=True):
    """A file that a side has: its size, and checksums of its first and last `END_BYTES`."""

    suffix: str
    size_bytes: int
    first: int
    last: int


class Coming(msgspec.Struct, frozen=True):
    """A file in a stream: `base` is the suffix of the receiver's file that it goes on from (None: from nothing)."""

    suffix: str
    base: str | None
    offset_bytes: int
    more_bytes: int


class Head(msgspec.Struct, frozen=True):
    files: tuple[Coming, ...] = ()


def known(directory: Path, stem: str) -> list[Known]:
    """The log files there, newest first."""
    found = []
    with _opened(directory, stem) as files:
        for suffix, file in files.items():
            size_bytes = os.fstat(file.fileno()).st_size
            found.append(Known(suffix, size_bytes, *_ends(file, size_bytes)))
    return found


def coming(files: dict[str, BinaryIO], theirs: Iterable[Known]) -> list[Coming]:
    """What of each open file the other side lacks."""
    left = sorted((one for one in theirs if one.size_bytes), key=lambda one: -one.size_bytes)
    found = []
    for suffix, file in files.items():
        size_bytes = os.fstat(file.fileno()).st_size
        base = next((one for one in left if _goes_on(file, size_bytes, one)), None)
        if base is None:
            found.append(Coming(suffix, None, 0, size_bytes))
        else:
            left.remove(base)
            found.append(Coming(suffix, base.suffix, base.size_bytes, size_bytes - base.size_bytes))
    return found


def _goes_on(file: BinaryIO, size_bytes: int, base: Known) -> bool:
    return base.size_bytes <= size_bytes and _ends(file, base.size_bytes) == (base.first, base.last)


def _ends(file: BinaryIO, size_bytes: int) -> tuple[int, int]:
    """The checksums of the first and last bytes of the file's first `size_bytes`."""
    length = min(END_BYTES, size_bytes)
    handle = file.fileno()
    return zlib.crc32(os.pread(handle, length, 0)), zlib.crc32(os.pread(handle, length, size_bytes - length))


@contextlib.contextmanager
def _opened(directory: Path, stem: str) -> Iterator[dict[str, BinaryIO]]:
    """The log files by suffix, open: one that is renamed or removed meanwhile can still be read."""
    with contextlib.ExitStack() as stack:
        files = {}
        for suffix in _suffixes(directory, stem):
            with contextlib.suppress(FileNotFoundError):
                files[suffix] = stack.enter_context(open(directory / (stem + suffix), "rb", buffering=0))
        yield files  # type: ignore[misc]


def _suffixes(directory: Path, stem: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    rests = (name.removeprefix(stem) for name in names if name.startswith(stem))
    return sorted(rest for rest in rests if _SUFFIX.fullmatch(rest))


async def send(directory: Path, stem: str, have: bytes) -> AsyncGenerator[bytes, None]:
    """Raises `NotFound` if the engine's directory of the container cannot be seen."""
    if not directory.parent.is_dir():
        raise NotFound(f"the log in {directory} cannot be seen", hint="drover must see the engine's own directory")
    theirs = msgspec.json.decode(have, type=list[Known]) if have else []
    with _opened(directory, stem) as files:
        head = Head(tuple(coming(files, theirs)))
        yield trees.headed(head)
        for one in head.files:
            for piece in _rest(files[one.suffix], one):
                yield piece
    yield trees.END


def _rest(file: BinaryIO, one: Coming) -> Iterator[bytes]:
    at, end = one.offset_bytes, one.offset_bytes + one.more_bytes
    while at < end:
        piece = os.pread(file.fileno(), min(PIECE_BYTES, end - at), at)
        if not piece:
            raise Unavailable("a log file was cut short while it was read", hint="it is asked for again")
        at += len(piece)
        yield piece


def have(directory: Path) -> bytes:
    return msgspec.json.encode(known(directory / STAGE, STAGED))


async def receive(directory: Path, stream: AsyncIterator[bytes]) -> None:
    """Stage the files; what is staged already goes on, under the names they have now."""
    stage = directory / STAGE
    stage.mkdir(mode=0o700, parents=True, exist_ok=True)
    head, rest = await trees.split(stream, Head)
    _rename(stage, head)
    source = _Bytes(trees.before_end(rest))
    for one in head.files:
        with _appending(_staged(stage, one.suffix), one.offset_bytes) as file:
            await source.into(file, one.more_bytes)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
    await source.end()


@contextlib.contextmanager
def _appending(path: Path, size_bytes: int) -> Iterator[BinaryIO]:
    """The file, to be appended to after its first bytes."""
    with open(path, "ab") as file:
        file.truncate(size_bytes)
        yield file


def _rename(stage: Path, head: Head) -> None:
    """Give each file that goes on its new suffix; the others go."""
    old = {suffix: stage / f"old{suffix}" for suffix in _suffixes(stage, STAGED)}
    for suffix, path in old.items():
        _staged(stage, suffix).rename(path)
    for one in head.files:
        if one.base is not None and one.base in old:
            old.pop(one.base).rename(_staged(stage, one.suffix))
    for path in stage.glob("old*"):
        path.unlink()


def _staged(stage: Path, suffix: str) -> Path:
    return stage / f"{STAGED}{suffix}"


def install(directory: Path, stem: str) -> None:
    stage = directory / STAGE
    for suffix in _suffixes(stage, STAGED):
        path = _staged(stage, suffix)
        path.chmod(MODE)
        path.rename(directory / (stem + suffix))
    if stage.is_dir():
        trees.sync_directory(directory)


def clean(directory: Path) -> None:
    shutil.rmtree(directory / STAGE, ignore_errors=True)


class _Bytes:
    """A stream's bytes, taken as many as wanted."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""

    async def into(self, file: BinaryIO, count: int) -> None:
        while count:
            if not self._held:
                self._held = await self._next()
            taken, self._held = self._held[:count], self._held[count:]
            file.write(taken)
            count -= len(taken)

    async def _next(self) -> bytes:
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            raise Unavailable("a log's stream ended early", hint="it is asked for again") from None

    async def end(self) -> None:
        """To the mark at the end, which proves that all was there."""
        async for _ in self._pieces:
            pass
