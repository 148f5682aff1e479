"""Large files by blocks: of a file that the receiver has in an older form, only the blocks that differ travel.

Theory of operation. The receiver keeps the checksums of a large file's blocks from when it wrote them (`Sums`, beside
its snapshot) and tells them in advance. The sender reads its file once, from data to data (holes are skipped), and
sends each block whose checksum is another one. A stream of patches is, for each file,

    length (4 bytes), JSON `Patch`      path, size, attributes, and whether to begin with the receiver's own copy
    (number, length: 4 bytes each), data    a block; number END_OF_FILE ends the file, NOTHING says nothing

and a length of 0 ends the stream. The receiver writes a copy of its file (sharing blocks where the filesystem can),
never the file itself: a snapshot is whole or not listed. A block of a file that is being written arrives as it was
read, and its checksum is that of what arrived.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from drover.drivers.volumes.beneath import Beneath
from drover.drivers.volumes.manifest import HOST_BOUND
from drover.errors import Unavailable
from drover.wire.nesting import MALFORMED

BLOCK_BYTES = 64 * 1024
END_OF_FILE = 0xFFFFFFFF
NOTHING = 0xFFFFFFFE
SIGN_BLOCKS = 4096
"""After so many blocks that need not travel the receiver is told that the sender still reads."""
SUM_BYTES = 8
_FICLONE = 0x40049409
MAX_HEAD_BYTES = 16 * 1024 * 1024
Sums = Mapping[str, str]
"""Path to the concatenated checksums of its blocks, in hexadecimal digits."""


class Patch(msgspec.Struct, frozen=True):
    """A file: `onto` says that blocks which are not sent are as in the receiver's copy; else they are zeros."""

    path: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    onto: bool
    attributes: dict[str, bytes] = {}


def checksum(block: bytes) -> bytes:
    return hashlib.blake2b(block, digest_size=SUM_BYTES).digest()


_ZEROS = bytes(BLOCK_BYTES)
_ZERO_SUM = checksum(_ZEROS)


def sums_of(file: Path) -> str:
    """The checksums of all blocks of a file, read now. Empty if it went."""
    found = bytearray()
    with contextlib.suppress(FileNotFoundError), file.open("rb", buffering=0) as opened:
        size = os.fstat(opened.fileno()).st_size
        for _, _, block in _blocks(opened.fileno(), size):
            found += checksum(block) if block else _ZERO_SUM
    return found.hex()


def _blocks(handle: int, size: int) -> Iterator[tuple[int, int, bytes]]:
    """Each block's number, length and content; an empty one is all zeros."""
    data_at = -1
    for number in range(-(-size // BLOCK_BYTES)):
        start = number * BLOCK_BYTES
        end = min(start + BLOCK_BYTES, size)
        if data_at < start:
            data_at = _data_from(handle, start, size)
        block = os.pread(handle, end - start, start) if data_at < end else b""
        yield number, end - start, b"" if block == _ZEROS[: len(block)] else block


def _data_from(handle: int, start: int, size: int) -> int:
    """Where the next data is at or after `start`; `size` if there is none."""
    try:
        return os.lseek(handle, start, os.SEEK_DATA)
    except OSError:
        return size


# -- sending -----------------------------------------------------------------------------------------------------------


def pieces(root: Path, path: str, known: str | None) -> Iterator[bytes]:
    """One file's part of the stream. `known`: the receiver's checksums of its copy, None if it has none. A file that
    went meanwhile is left out."""
    try:
        with Beneath(root) as beneath:
            place, name = beneath.at(path)
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno == errno.ELOOP:  # it is a link now
            return
        raise
    try:
        found = os.fstat(handle)
        head = Patch(
            path=path,
            size=found.st_size,
            mode=found.st_mode & 0o7777,
            uid=found.st_uid,
            gid=found.st_gid,
            mtime_ns=found.st_mtime_ns,
            onto=known is not None,
            attributes={one: os.getxattr(handle, one) for one in os.listxattr(handle) if one not in HOST_BOUND},
        )
        packed = msgspec.json.encode(head)
        yield len(packed).to_bytes(4, "big") + packed
        yield from _changed(handle, found.st_size, bytes.fromhex(known or ""), onto=known is not None)
        yield END_OF_FILE.to_bytes(4, "big") + bytes(4)
    finally:
        os.close(handle)


def _changed(handle: int, size: int, known: bytes, onto: bool) -> Iterator[bytes]:
    for number, length, block in _blocks(handle, size):
        theirs = (known[number * SUM_BYTES : (number + 1) * SUM_BYTES] if onto else b"") or _ZERO_SUM
        ours = checksum(block) if block else _ZERO_SUM
        if ours == theirs and number % SIGN_BLOCKS == SIGN_BLOCKS - 1:
            yield NOTHING.to_bytes(4, "big") + bytes(4)
        if ours != theirs:
            data = block or _ZEROS[:length]
            yield number.to_bytes(4, "big") + len(data).to_bytes(4, "big") + data


def end() -> bytes:
    return bytes(4)


# -- receiving ---------------------------------------------------------------------------------------------------------


class Patcher:
    """Applies a stream of patches below `part`, with the receiver's copies below `base`. Fed in pieces of any length;
    `sums` are those of the files written, `ended` whether the stream's end has come."""

    def __init__(self, part: Path, base: Path | None, known: Sums) -> None:
        self._known = known
        self._part = Beneath(part, make=True)
        self._base = None if base is None else Beneath(base)
        self._buffer = bytearray()
        self._patch: Patch | None = None
        self._handle = -1
        self._sums = bytearray()
        self.sums: dict[str, str] = {}
        self.ended = False

    @property
    def rest(self) -> bytes:
        """What came after the end."""
        return bytes(self._buffer[4:])

    def feed(self, piece: bytes) -> None:
        """Take a piece. Raises OSError, and `Unavailable` for what is no such stream."""
        self._buffer += piece
        while not self.ended and self._step():
            pass

    def close(self) -> None:
        self._close_file()
        self._part.close()
        if self._base is not None:
            self._base.close()

    def _close_file(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _step(self) -> bool:
        """Use up what is complete in the buffer; False if there is nothing."""
        if self._patch is None:
            return self._head()
        if len(self._buffer) < 8:
            return False
        number, length = (int.from_bytes(self._buffer[at : at + 4], "big") for at in (0, 4))
        if length > BLOCK_BYTES:
            raise Unavailable("a volume's stream is damaged", hint="it is asked for again")
        if len(self._buffer) < 8 + length:
            return False
        block = bytes(self._buffer[8 : 8 + length])
        del self._buffer[: 8 + length]
        if number == END_OF_FILE:
            self._finish(self._patch)
        elif number != NOTHING:
            self._write(number, block)
        return True

    def _head(self) -> bool:
        if len(self._buffer) < 4:
            return False
        length = int.from_bytes(self._buffer[:4], "big")
        self.ended = length == 0
        if length > MAX_HEAD_BYTES:
            raise Unavailable("a volume's stream is damaged", hint="it is asked for again")
        if self.ended or len(self._buffer) < 4 + length:
            return False
        try:
            self._patch = msgspec.json.decode(bytes(self._buffer[4 : 4 + length]), type=Patch)
        except MALFORMED as error:
            raise Unavailable(f"a volume's stream is damaged: {error}", hint="it is asked for again") from error
        del self._buffer[: 4 + length]
        self._open(self._patch)
        return True

    def _open(self, patch: Patch) -> None:
        place, name = self._part.at(patch.path)
        self._handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=place)
        os.ftruncate(self._handle, patch.size)
        blocks = -(-patch.size // BLOCK_BYTES)
        self._sums = bytearray(_ZERO_SUM * blocks)
        if patch.onto and self._base is not None:
            place, name = self._base.at(patch.path)
            _copied(name, place, self._handle)
            os.ftruncate(self._handle, patch.size)
            known = bytes.fromhex(self._known.get(patch.path, ""))[: blocks * SUM_BYTES]
            self._sums[: len(known)] = known

    def _write(self, number: int, block: bytes) -> None:
        os.pwrite(self._handle, block, number * BLOCK_BYTES)
        known = _ZERO_SUM if not block.strip(b"\0") else checksum(block)
        self._sums[number * SUM_BYTES : (number + 1) * SUM_BYTES] = known

    def _finish(self, patch: Patch) -> None:
        handle = self._handle
        os.fchown(handle, patch.uid, patch.gid)
        os.fchmod(handle, patch.mode)
        for name in set(os.listxattr(handle)) - set(patch.attributes):
            os.removexattr(handle, name)
        for name, value in patch.attributes.items():
            os.setxattr(handle, name, value)
        os.utime(handle, ns=(patch.mtime_ns, patch.mtime_ns))
        self._close_file()
        self.sums[patch.path] = self._sums.hex()
        self._patch = None


def _copied(name: str, place: int, writing: int) -> None:
    """A regular file's content, into an open one: blocks are shared if the filesystem can, and holes stay."""
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    try:
        try:
            fcntl.ioctl(writing, _FICLONE, reading)
            return
        except OSError:
            size = os.fstat(reading).st_size
            os.ftruncate(writing, size)
        data_at = _data_from(reading, 0, size)
        while data_at < size:
            hole_at = os.lseek(reading, data_at, os.SEEK_HOLE)
            _copy_range(reading, writing, data_at, hole_at)
            data_at = _data_from(reading, hole_at, size)
    finally:
        os.close(reading)


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        done = os.copy_file_range(source, target, min(end - start, 1 << 26), start, start)
        if done == 0:
            return
        start += done
