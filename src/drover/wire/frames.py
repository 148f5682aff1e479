"""The framed byte pipe between daemons: two directions that end independently, inside one TLS connection.

Theory of operation. TLS could end its directions one by one, but Python's `ssl` cannot say so to a peer that still
sends. `docker run -i` needs it (the end of stdin, while output goes on), so each direction is a sequence of frames:

    u32 length, big endian | that many bytes        length 0: this direction has ended, nothing may follow

A receiver passes on the pieces of a frame as they arrive; frames carry no meaning and may be cut anywhere.
"""

from __future__ import annotations

import struct

from drover.wire.bodies import Data
from drover.wire.heads import BadMessage

FRAME_LIMIT_BYTES = 16 * 1024 * 1024
_LENGTH = struct.Struct(">I")
END = _LENGTH.pack(0)
"""The frame that ends a direction."""


def header(length_bytes: int) -> bytes:
    """What goes before a frame's bytes, of which there must be some, and no more than 16 MiB."""
    if not 0 < length_bytes <= FRAME_LIMIT_BYTES:
        raise ValueError(f"a frame carries 1 to {FRAME_LIMIT_BYTES} bytes, not {length_bytes}")
    return _LENGTH.pack(length_bytes)


def frame(data: Data) -> bytes:
    """The frame that carries `data`, in one piece."""
    return b"".join((header(len(data)), data))


class FrameDecoder:
    """One direction, receiving side. `ended` is true once the end frame has arrived."""

    def __init__(self) -> None:
        self.ended = False
        self._left_bytes = 0
        self._length = b""

    def feed(self, data: Data) -> list[Data]:
        """The payload pieces in `data`, in order, views if it is one. Raises `BadMessage` on an oversized
        frame or bytes after the end."""
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

    def _read_length(self, data: Data, at: int) -> int:
        taken = data[at : at + _LENGTH.size - len(self._length)]
        self._length += taken
        if len(self._length) == _LENGTH.size:
            (self._left_bytes,) = _LENGTH.unpack(self._length)
            self._length = b""
            self.ended = self._left_bytes == 0
            if self._left_bytes > FRAME_LIMIT_BYTES:
                raise BadMessage(f"a frame of {self._left_bytes} bytes is larger than allowed")
        return at + len(taken)
