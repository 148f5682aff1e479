"""A directory tree as a stream: what the other side lacks of it, and how it is put together there.

    length (8 bytes), JSON `Head`     the base it builds on, the paths to take from there
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
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from pathlib import Path
from typing import TypeVar

import msgspec

from drover.drivers.volumes import manifest
from drover.drivers.volumes.command import consume, produce, run
from drover.errors import DroverError, Invalid, Unavailable
from drover.model.snapshots import taken_at

T = TypeVar("T")

END = b"DROVER-END\n"
MAX_HEAD_BYTES = 512 * 1024 * 1024
PART = ".part"
_PACK = ("tar", "--create", "--xattrs", "--acls", "--sparse", "--numeric-owner", "--no-recursion", "--null")
_LEFT = tuple(f"--xattrs-exclude={name}" for name in manifest.HOST_BOUND)
_READ_LIVE = ("--ignore-failed-read", "--warning=no-file-changed", "--warning=no-file-removed")
_UNPACK = ("tar", "--extract", "--preserve-permissions", "--same-owner", "--numeric-owner", "--xattrs")
_ATTRIBUTES = ("--xattrs-include=*", "--acls", "--delay-directory-restore", "--directory")


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
    wanted = [*ours.others, *(path for path in ours.files if path not in keep)]
    async with contextlib.aclosing(_packed(root, wanted, live)) as pieces:
        async for piece in pieces:
            yield piece
    yield END


async def receive(path: Path, stream: AsyncIterator[bytes], base_of: Callable[[str], Path]) -> None:
    """Make `path` of a stream, durably. `base_of` gives the directory of a base, or raises `NoBase`."""
    part = path.with_name(path.name + PART)
    await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        head, archive = await split(stream, Head)
        if head.base:
            await asyncio.to_thread(_link_all, base_of(head.base), part, head.keep)
        await consume(before_end(archive), *_UNPACK, *_ATTRIBUTES, str(part))
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    await run("sync", "--file-system", str(part))
    part.rename(path)
    sync_directory(path.parent)


async def _packed(root: Path, paths: list[str], live: bool) -> AsyncGenerator[bytes, None]:
    """The paths as a tar archive. In a live set, files that change or vanish meanwhile are as they are found."""
    with tempfile.NamedTemporaryFile() as names:
        names.write(b"\0".join(map(manifest.on_disk, paths)))
        names.flush()
        options = ("--directory", str(root), "--verbatim-files-from", "--files-from", names.name)
        argv = (*_PACK, *_LEFT, *(_READ_LIVE if live else ()), *options)
        async with contextlib.aclosing(produce(*argv)) as pieces:
            try:
                async for piece in pieces:
                    yield piece
            except DroverError as error:
                if not live or not error.message.endswith("exit status 1"):
                    raise


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
            return msgspec.json.decode(buffer[8:end], type=kind), _chained(buffer[end:], stream)
    raise Unavailable("a volume's stream ended before it began", hint="it is asked for again")


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
    for path in map(os.fsdecode, map(manifest.on_disk, paths)):
        target = part / path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(base / path, target, follow_symlinks=False)


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
