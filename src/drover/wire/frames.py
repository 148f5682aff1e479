"""The framed byte pipe between daemons: two directions that end independently, inside one TLS connection.

Theory of operation. TLS in asyncio has no half-close: the first end closes both directions. `docker run -i` needs
one (the end of stdin, while output goes on), so each direction is a sequence of frames:

    u32 length, big endian | that many bytes        length 0: this direction has ended, nothing may follow

A receiver passes on the pieces of a frame as they arrive; frames carry no meaning and may be cut anywhere.
"""

from __future__ import annotations

import struct

from drover.wire.heads import BadMessage

FRAME_LIMIT_BYTES = 16 * 1024 * 1024
_LENGTH = struct.Struct(">I")
END = _LENGTH.pack(0)
"""The frame that ends a direction."""


def frame(data: bytes) -> bytes:
    """The frame that carries `data`, which must not be empty nor larger than 16 MiB."""
    if not 0 < len(data) <= FRAME_LIMIT_BYTES:
        raise ValueError(f"a frame carries 1 to {FRAME_LIMIT_BYTES} bytes, not {len(data)}")
    return b"".join((_LENGTH.pack(len(data)), data))


class FrameDecoder:
    """One direction, receiving side. `ended` is true once the end frame has arrived."""

    def __init__(self) -> None:
        self.ended = False
        self._left_bytes = 0
        self._length = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The payload pieces in `data`, in order. Raises `BadMessage` on an oversized frame or bytes after the end."""
        pieces = []
        at = 0
        while at < len(data):
            if self.ended:
                raise BadMessage("bytes follow the end of a framed direction")
            if self._left_bytes == 0:
                at = self._read_length(data, at)
                continue
            piece = data[at : at + self._left_bytes]
            self._left_bytes -= len(piece)
            at += len(piece)
            pieces.append(piece)
        return pieces

    def _read_length(self, data: bytes, at: int) -> int:
        taken = data[at : at + _LENGTH.size - len(self._length)]
        self._length += taken
        if len(self._length) == _LENGTH.size:
            (self._left_bytes,) = _LENGTH.unpack(self._length)
            self._length = b""
            self.ended = self._left_bytes == 0
            if self._left_bytes > FRAME_LIMIT_BYTES:
                raise BadMessage(f"a frame of {self._left_bytes} bytes is larger than allowed")
        return at + len(taken)
