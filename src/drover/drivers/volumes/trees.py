"""A directory tree as a stream: what the other side lacks of it, and how it is put together there.

    length (8 bytes), JSON `Head`     the base it builds on, the paths to take from there
    patches                           of the large files that changed, the blocks that did (`delta`)
    a tar archive                     all other files, and every directory, link and device
    END                               so that a cut between two members is noticed

The receiver links what it keeps from the base into a new directory beside it, unpacks the rest there, and renames it to
its name when all is on disk: it is whole or not there. Nothing may write to files that trees share.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from drover.drivers.volumes import archive, delta, kept_sums, manifest
from drover.drivers.volumes.beneath import Beneath
from drover.drivers.volumes.command import PIECE_BYTES, run
from drover.errors import Invalid, Unavailable
from drover.model.snapshots import taken_at
from drover.wire.nesting import MALFORMED

T = TypeVar("T")

END = b"DROVER-END\n"
MAX_HEAD_BYTES = 512 * 1024 * 1024
PART = ".part"
BATCH_S = 1.0


class Head(msgspec.Struct, frozen=True):
    """What precedes the archive: the receiver's snapshot to build on (empty: none), and the paths to take from it."""

    base: str = ""
    keep: tuple[str, ...] = ()


async def send(root: Path, snapshot: str, have: bytes, live: bool) -> AsyncGenerator[bytes, None]:
    """The tree below `root` less what a side with the manifest `have` has; `live`: it is written meanwhile."""
    if live:
        await run("sync", "--file-system", str(root))
    ours = await asyncio.to_thread(manifest.scan, root, snapshot)
    theirs = await asyncio.to_thread(manifest.unpacked, have)
    keep = manifest.kept(ours, theirs, taken_at(theirs.snapshot)) if theirs.snapshot else frozenset()
    yield headed(Head(theirs.snapshot, tuple(sorted(keep))))
    large = [path for path in manifest.large(ours) if path not in keep]
    patches = (piece for path in large for piece in delta.pieces(root, path, theirs.sums.get(path)))
    while batch := await asyncio.to_thread(_batch, patches):
        yield batch
    yield delta.end()
    wanted = map(manifest.on_disk, [*ours.others, *sorted({*ours.files} - keep - {*large})])
    async with contextlib.aclosing(archive.pack_some(root, wanted, live)) as pieces:
        async for piece in pieces:
            yield piece
    yield END


def _batch(pieces: Iterator[bytes]) -> bytes:
    """The next pieces: about PIECE_BYTES together, or those of BATCH_S seconds; nothing at their end."""
    batch, end = bytearray(), time.monotonic() + BATCH_S
    while len(batch) < PIECE_BYTES and (not batch or time.monotonic() < end) and (piece := next(pieces, b"")):
        batch += piece
    return bytes(batch)


async def receive(path: Path, stream: AsyncIterator[bytes], base_of: Callable[[str], Path]) -> dict[str, str]:
    """Make `path` of a stream, durably; the checksums of its large files, as far as they are known. `base_of` gives
    the directory of a base, or raises `NoBase`."""
    part = path.with_name(path.name + PART)
    await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        sums = await _fill(part, stream, base_of)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    await run("sync", "--file-system", str(part))
    part.rename(path)
    sync_directory(path.parent)
    return sums


async def _fill(part: Path, stream: AsyncIterator[bytes], base_of: Callable[[str], Path]) -> dict[str, str]:
    """Put the tree together; the checksums of its large files."""
    head, rest = await split(stream, Head)
    base = base_of(head.base) if head.base else None
    known = kept_sums.stored(base) if base is not None else {}
    if base is not None:
        await asyncio.to_thread(_link_all, base, part, head.keep)
    patcher = delta.Patcher(part, base, known)
    await archive.unpack(before_end(await _patched(patcher, rest)), part)
    return {path: known[path] for path in head.keep if path in known} | patcher.sums


async def _patched(patcher: delta.Patcher, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Apply the patches at a stream's beginning; the pieces after them."""
    try:
        async for piece in stream:
            await asyncio.to_thread(patcher.feed, piece)
            if patcher.ended:
                return _chained(patcher.rest, stream)
    finally:
        patcher.close()
    raise Unavailable("a volume's stream was cut", hint="it is asked for again")


def headed(head: msgspec.Struct) -> bytes:
    """A stream's beginning."""
    text = msgspec.json.encode(head)
    return len(text).to_bytes(8, "big") + text


async def split(stream: AsyncIterator[bytes], kind: type[T]) -> tuple[T, AsyncIterator[bytes]]:
    """The head of a stream and the pieces after it."""
    buffer = b""
    async for piece in stream:
        buffer += piece
        if len(buffer) >= 8 and len(buffer) >= 8 + _head_bytes(buffer):
            end = 8 + _head_bytes(buffer)
            return _decoded(buffer[8:end], kind), _chained(buffer[end:], stream)
    raise Unavailable("a volume's stream ended before it began", hint="it is asked for again")


def _decoded(head: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(head, type=kind)
    except MALFORMED as error:
        raise Unavailable(f"a volume's stream is damaged: {error}", hint="it is asked for again") from error


def _head_bytes(buffer: bytes) -> int:
    size_bytes = int.from_bytes(buffer[:8], "big")
    if size_bytes > MAX_HEAD_BYTES:
        raise Invalid("what came is no stream of a directory tree", hint="do all hosts run the same drover?")
    return size_bytes


async def _chained(first: bytes, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in stream:
        yield piece


async def before_end(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces before the mark END. Raises `Unavailable` if the stream ends without it."""
    held = b""
    async for piece in stream:
        held += piece
        yield held[: -len(END)]
        held = held[-len(END) :]
    if held != END:
        raise Unavailable("a volume's stream was cut", hint="it is asked for again")


def _link_all(base: Path, part: Path, paths: Collection[str]) -> None:
    """Hard links to the base's files, the directories made as they are needed (the archive says what they are like)."""
    with Beneath(base) as known, Beneath(part, make=True) as made:
        for path in paths:
            (source, name), (target, _) = known.at(path), made.at(path)
            if not stat.S_ISREG(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
                raise Unavailable(f"a volume's stream keeps {path[:200]!r}, which is no file here")
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
