"""A tar archive as a stream of members: forward only, bounded memory, and every byte can be passed on as it came.

Theory of operation. `members` walks the archive; each `Member` has its header blocks (`head`, with whatever long-name
or PAX records precede it) and a body that can be read once, in pieces. What the caller leaves unread is skipped.
`tarfile` parses the headers; this module only finds where they are:

    block type       is                                      handled as
    x g L K          a record about the next member          collected into the next member's `head`
    512 zero bytes   the end (twice)                         `End`, with everything that follows
    anything else    a member, `size` bytes, padded to 512   `Member`

A stream that ends before its end mark raises `Unavailable`: it was cut. One that is no tar archive raises `Invalid`.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator

from drover.errors import Invalid, Unavailable

BLOCK_BYTES = 512
ZERO_BLOCK = bytes(BLOCK_BYTES)
TYPE_AT = 156
RECORD_TYPES = b"xgLK"
MAX_RECORD_BYTES = 1024 * 1024


def padding(size_bytes: int) -> int:
    """Bytes from the end of a body to the next block."""
    return -size_bytes % BLOCK_BYTES


class ByteReader:
    """Exact reads from a stream of pieces."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    async def some(self, limit: int) -> bytes:
        """At least one and at most `limit` bytes; empty at the end of the stream."""
        while not self._rest:
            piece = await anext(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        taken, self._rest = self._rest[:limit], self._rest[limit:]
        return taken

    async def exactly(self, size_bytes: int) -> bytes:
        """That many bytes. Raises `Unavailable` if the stream ends before."""
        parts = []
        while size_bytes:
            part = await self.some(size_bytes)
            if not part:
                raise Unavailable("an image archive ended in the middle", hint="it is fetched again by itself")
            parts.append(part)
            size_bytes -= len(part)
        return b"".join(parts)


class Member:
    """One member: `name`, `size_bytes`, `is_file`; `head` are its header blocks as received."""

    def __init__(self, head: bytes, info: tarfile.TarInfo, reader: ByteReader) -> None:
        self.head = head
        self.name = info.name
        self.is_file = info.isreg()
        self.size_bytes = info.size if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES else 0
        self._reader = reader
        self._left = self.size_bytes

    async def body(self) -> AsyncIterator[bytes]:
        """The content in pieces, without padding; what was read already does not come again."""
        while self._left:
            piece = await self._reader.some(self._left)
            if not piece:
                raise Unavailable(f"an image archive ended within {self.name}", hint="it is fetched again by itself")
            self._left -= len(piece)
            yield piece

    async def skip(self) -> None:
        """Read what is left of the body, and the padding."""
        async for _ in self.body():
            pass
        await self._reader.exactly(padding(self.size_bytes))


class End:
    """The end of the archive: its zero blocks and whatever follows them."""

    def __init__(self, head: bytes, reader: ByteReader) -> None:
        self._head = head
        self._reader = reader

    async def body(self) -> AsyncIterator[bytes]:
        yield self._head
        while piece := await self._reader.some(MAX_RECORD_BYTES):
            yield piece


async def members(archive: AsyncIterator[bytes]) -> AsyncIterator[Member | End]:
    """The archive's members in order, then its `End`."""
    reader = ByteReader(archive)
    while True:
        head = await reader.exactly(BLOCK_BYTES)
        if head == ZERO_BLOCK:
            yield End(head, reader)
            return
        member = await _member(head, reader)
        yield member
        await member.skip()


async def _member(head: bytes, reader: ByteReader) -> Member:
    """The member that begins with this block, with the records before it."""
    last = head
    while last[TYPE_AT] in RECORD_TYPES:
        size_bytes = _parsed(last).size
        if len(head) + size_bytes > MAX_RECORD_BYTES:
            raise Invalid("an image archive has an unreasonably long header", hint="save the image again")
        record = await reader.exactly(size_bytes + padding(size_bytes))
        last = await reader.exactly(BLOCK_BYTES)
        head += record + last
    return Member(head, _parsed(head), reader)


def _parsed(head: bytes) -> tarfile.TarInfo:
    """What header blocks say. Given one record's block alone, the record itself."""
    try:
        if len(head) == BLOCK_BYTES:
            return tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        with tarfile.open(fileobj=io.BytesIO(head), mode="r:") as parsed:
            info = parsed.next()  # and not `getmembers`: that one looks for the body, which is not here
    except tarfile.TarError as error:
        raise Invalid(f"an image archive is damaged: {error}", hint="save the image again") from error
    if info is None:
        raise Invalid("an image archive is damaged: a header is empty", hint="save the image again")
    return info
