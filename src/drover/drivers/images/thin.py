"""Archives without the layers that the other side has: an engine loads them, and they are all that has to travel.

Theory of operation. An engine that loads an image looks each layer up by its chain id (the layer and all below it) and
reads the archive only for the ones it lacks. `spare` finds, for one image, the layers it will not ask for; `thin`
leaves them out of the `docker save` stream, at the host that has the image, as the stream passes.

    layout              a layer is               known to be spare
    OCI (25 and later)  blobs/sha256/HEX         by its name, before its content
    older               HEX/layer.tar            by its SHA-256, so by its content: one layer at a time waits in a
                                                 temporary file; the file that maps names comes last in the archive

Links to a layer that was left out stay behind and dangle: the engine does not open them either, for the same reason.
Everything else passes byte for byte. Blobs that a newer engine keeps compressed are never spare: a full copy.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from functools import partial
from typing import IO

import msgspec

from drover.drivers.engine.read import chain_ids
from drover.drivers.images.tarstream import End, Member, members, padding

PIECE_BYTES = 256 * 1024
BLOBS = "blobs/sha256/"
OLD_LAYER = "/layer.tar"


class Tally(msgspec.Struct):
    """What passed and what did not, while it does."""

    sent_bytes: int = 0
    skipped_bytes: int = 0
    skipped_layers: int = 0


def leading(diff_ids: Sequence[str], chains: Collection[str]) -> int:
    """How many of an image's lowest layers are there, where these chain ids are."""
    present = [chain in chains for chain in chain_ids(diff_ids)]
    return present.index(False) if False in present else len(present)


def spare(diff_ids: Sequence[str], chains: Collection[str]) -> frozenset[str]:
    """The diff ids an engine with these chain ids will not read. One that occurs again higher up is read there."""
    have = leading(diff_ids, chains)
    return frozenset(diff_ids[:have]) - frozenset(diff_ids[have:])


async def thin(
    archive: AsyncIterator[bytes], present: frozenset[str], tally: Tally | None = None
) -> AsyncGenerator[bytes, None]:
    """The archive without the layers whose diff ids are `present`, counted in `tally`.

    Raises `Unavailable` if the archive is cut and `Invalid` if it is no archive, after the pieces before that.
    """
    tally = tally if tally is not None else Tally()
    async for member in members(archive):
        kept = member.body() if isinstance(member, End) else _kept(member, present, tally)
        async for piece in kept:
            tally.sent_bytes += len(piece)
            yield piece


async def _kept(member: Member, present: frozenset[str], tally: Tally) -> AsyncIterator[bytes]:
    """The member's bytes, or nothing if it is a spare layer."""
    if member.is_file and _digest_in(member.name) in present:
        _skipped(member, tally)
    elif member.is_file and present and member.name.endswith(OLD_LAYER):
        with tempfile.TemporaryFile() as spool:
            if await _spool(member, spool) in present:
                _skipped(member, tally)
                return
            yield member.head
            for piece in iter(partial(spool.read, PIECE_BYTES), b""):
                yield piece
            yield bytes(padding(member.size_bytes))
    else:
        yield member.head
        async for piece in member.body():
            yield piece
        yield bytes(padding(member.size_bytes))


def _digest_in(name: str) -> str:
    """The digest a blob is named by; empty for other members."""
    return "sha256:" + name.removeprefix(BLOBS) if name.startswith(BLOBS) else ""


def _skipped(member: Member, tally: Tally) -> None:
    tally.skipped_layers += 1
    tally.skipped_bytes += member.size_bytes


async def _spool(member: Member, spool: IO[bytes]) -> str:
    """Put a layer's content into a file, rewound; its diff id."""
    hasher = hashlib.sha256()
    async for piece in member.body():
        hasher.update(piece)
        spool.write(piece)
    spool.seek(0)
    return "sha256:" + hasher.hexdigest()
