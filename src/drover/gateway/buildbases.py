"""A build finds its base images, whichever host has them.

Theory of operation. An engine looks for the images in a Dockerfile's FROM lines on its own host, then in a registry.
The classic builder sends the Dockerfile in its context, a tar archive, and the engine builds when it has that whole.
So the gateway reads along until the Dockerfile has passed, has this host's engine get what other hosts have of its
images (what a name means: `imagehosts`), and only then lets the rest go on. The context is never held as a whole.

Not read: contexts of BuildKit (they come over a session that belongs to the client), of a URL (the engine gets them
itself), and compressed with anything but gzip. There the host's own images count, as they do for an engine alone.
"""

from __future__ import annotations

import asyncio
import posixpath
import zlib
from collections.abc import AsyncIterator, Mapping

import msgspec
import structlog

from drover.drivers.images.tarstream import End, members
from drover.errors import DroverError
from drover.gateway.call import Call, Fetch, Inspect
from drover.gateway.context import Context
from drover.gateway.dockerfile import base_images
from drover.gateway.imagehosts import ask_for_image, newest
from drover.wire.nesting import MALFORMED

DOCKERFILE_LIMIT_BYTES = 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_GZIP = b"\x1f\x8b"

log = structlog.get_logger()


def bases_of(ctx: Context, call: Call, host: str) -> Inspect | None:
    """What reads along in the body of a build on `host`; None where there is nothing to read or to bring."""
    fetch = ctx.fetch
    if fetch is None or host != ctx.host or call.query("remote") or call.query("version") == "2" or call.flag("pull"):
        return None
    path, arguments = _path(call.query("dockerfile") or "Dockerfile"), _arguments(call.query("buildargs"))

    async def inspect(pieces: AsyncIterator[bytes]) -> None:
        text = await _member(_plain(pieces), path)
        await asyncio.gather(*(_bring(ctx, fetch, name) for name in base_images(text, arguments)))

    return inspect


def _path(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def _arguments(text: str) -> Mapping[str, str]:
    """`--build-arg`s as the API has them: a JSON object; null for one that is named without a value."""
    try:
        given = msgspec.json.decode(text or "{}", type=dict[str, str | None])
    except MALFORMED:
        return {}
    return {name: value for name, value in given.items() if value is not None}


async def _member(archive: AsyncIterator[bytes], path: str) -> bytes:
    """The content of one file of the archive; nothing if it is not there, or too long for a Dockerfile."""
    async for member in members(archive):
        if isinstance(member, End):
            return b""
        if member.is_file and _path(member.name) == path and member.size_bytes <= DOCKERFILE_LIMIT_BYTES:
            return b"".join([piece async for piece in member.body()])
    return b""


async def _plain(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The archive, unpacked if it is a gzip stream."""
    first = await anext(pieces, b"")
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16) if first.startswith(_GZIP) else None
    piece: bytes | None = first
    while piece:
        if unpack is None:
            yield piece
        else:
            async for unpacked in _unpacked(unpack, piece):
                yield unpacked
        piece = await anext(pieces, None)


async def _unpacked(unpack: zlib._Decompress, piece: bytes) -> AsyncIterator[bytes]:
    """What a piece unpacks to, in pieces of bounded size."""
    while piece:
        yield unpack.decompress(piece, _PIECE_BYTES)
        piece = unpack.unconsumed_tail


async def _bring(ctx: Context, fetch: Fetch, name: str) -> None:
    """Have the image here, if any host has it: what nobody has, the engine looks for in a registry."""
    answers = await ask_for_image(ctx, name)
    found = newest({host: answer for host, answer in answers.items() if answer.status == 200})
    if not found.id or ctx.host in found.hosts:
        return
    try:
        await fetch(found.id, name, lambda _progress: None)
    except DroverError as error:
        log.warning("a base image could not be brought here", image=name, error=error.message)
