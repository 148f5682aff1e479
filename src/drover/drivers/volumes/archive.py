"""A tree as a tar archive: what `directory` sends of small files, and what people export and import.

All that a filesystem keeps travels: owners by number, modes, times, links, devices, extended attributes, ACLs, holes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path

from drover.drivers.volumes.command import consume, produce
from drover.drivers.volumes.manifest import HOST_BOUND
from drover.errors import DroverError

_PACK = ("tar", "--create", "--xattrs", "--acls", "--sparse", "--numeric-owner")
_LEFT = tuple(f"--xattrs-exclude={name}" for name in HOST_BOUND)
_LISTED = ("--no-recursion", "--null", "--verbatim-files-from", "--files-from")
_READ_LIVE = ("--ignore-failed-read", "--warning=no-file-changed", "--warning=no-file-removed")
_UNPACK = ("tar", "--extract", "--preserve-permissions", "--same-owner", "--numeric-owner", "--xattrs")
_ATTRIBUTES = ("--xattrs-include=*", "--acls", "--delay-directory-restore", "--directory")


async def pack(root: Path, live: bool) -> AsyncGenerator[bytes, None]:
    """All of a tree. `live`: it is being written, and files that change or vanish meanwhile are as they are found."""
    argv = (*_PACK, *_LEFT, *(_READ_LIVE if live else ()), "--directory", str(root), ".")
    async with contextlib.aclosing(_tolerant(argv, live)) as pieces:
        async for piece in pieces:
            yield piece


async def pack_some(root: Path, paths: Iterable[bytes], live: bool) -> AsyncGenerator[bytes, None]:
    """The paths alone, directories without what is in them."""
    with tempfile.NamedTemporaryFile() as names:
        names.write(b"\0".join(paths))
        names.flush()
        options = ("--directory", str(root), *_LISTED, names.name)
        async with contextlib.aclosing(
            _tolerant((*_PACK, *_LEFT, *(_READ_LIVE if live else ()), *options), live)
        ) as pieces:
            async for piece in pieces:
                yield piece


async def _tolerant(argv: tuple[str, ...], live: bool) -> AsyncGenerator[bytes, None]:
    """In a live set, tar's exit status 1 (something changed) is no error."""
    async with contextlib.aclosing(produce(*argv)) as pieces:
        try:
            async for piece in pieces:
                yield piece
        except DroverError as error:
            if not live or not error.message.endswith("exit status 1"):
                raise


async def unpack(stream: AsyncIterator[bytes], root: Path) -> None:
    """Unpack into a directory; gzip, xz and zstd are not recognised in a stream: it is plain tar."""
    await consume(stream, *_UNPACK, *_ATTRIBUTES, str(root))
