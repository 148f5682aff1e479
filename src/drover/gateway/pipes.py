"""Byte pipes: a framed one that has half-close inside TLS, and a splice of two.

Theory of operation. Everything that carries bytes here is an asyncio transport with a protocol above it. A
`FramedPipe` is both: the protocol of a TLS transport below, and the transport of a protocol above, which thus cannot
tell it from a Unix socket. A `Splice` joins two transports of any kind.

| event on one side of a splice | what the other side gets |
|---|---|
| bytes | the same bytes |
| end of its direction | `write_eof`; the opposite direction goes on |
| lost after its end | the end; what still comes for it is discarded until the other side ends too |
| lost before its end | abort: the truncation must be seen |
| its write buffer is full | its reading pauses, and resumes when the buffer has drained |
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from typing import Any, cast

from drover.gateway.receiving import Receiving, pass_on
from drover.gateway.secure import RECORD_BYTES
from drover.wire.bodies import Data
from drover.wire.frames import END, FRAME_LIMIT_BYTES, FrameDecoder, frame, header
from drover.wire.heads import BadMessage

BUFFER_BYTES = 512 * 1024
"""How much may wait in a transport's write buffer before the other side is no longer read."""
KERNEL_BYTES = 512 * 1024
"""How much of it the kernel takes at a Unix socket: at its usual 208 KiB a stream's writer and reader wake each other
for every piece of it, which costs more than the bytes."""
QUEUE_FULL_PAUSE_S = 0.005
_SO_SNDBUFFORCE = 32
"""Beyond the machine's limit, for who may; Python does not name it."""
_FIRST_BYTES = RECORD_BYTES - len(END)
"""What shares a TLS record with the head of its frame."""


def peer_gone(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer of a Unix socket has closed both directions; always false for other transports.

    A read of zero bytes cannot tell a half-close from a close; the poll event HUP can.
    """
    if not on_unix_socket(transport):
        return False
    poll = select.poll()
    try:
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLHUP)
        return any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
    except (OSError, ValueError):
        return True


def on_unix_socket(transport: asyncio.BaseTransport) -> bool:
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.family == socket.AF_UNIX


def give_room(sock: socket.socket) -> None:
    """Have the kernel take more of what is written to a Unix socket; as far as it lets us."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, KERNEL_BYTES)
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)


def peer_identity(transport: asyncio.BaseTransport) -> str:
    """Who is at the other end, as the kernel or a verified certificate says: `uid:1000`, `cn:NAME`, or empty."""
    if on_unix_socket(transport):
        raw = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return f"uid:{struct.unpack('3i', raw)[1]}"
    certificate: dict[str, Any] = transport.get_extra_info("peercert") or {}
    names = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
    return f"cn:{names[0]}" if names else ""


async def connect_unix(protocol: asyncio.BaseProtocol, path: str) -> None:
    """Connect `protocol` to a Unix socket, waiting while the listener's queue is full.

    The loops' own way takes EAGAIN for a connection in progress, which a Unix socket never has, and yields a
    transport that is not connected. Raises `OSError`; the caller sets the deadline.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    give_room(sock)
    try:
        while not _connected(sock, path):  # noqa: ASYNC110 - the kernel tells nobody when the queue has room
            await asyncio.sleep(QUEUE_FULL_PAUSE_S)
    except BaseException:
        sock.close()
        raise
    await asyncio.get_running_loop().create_unix_connection(lambda: protocol, sock=sock)


def _connected(sock: socket.socket, path: str) -> bool:
    try:
        sock.connect(path)
    except BlockingIOError:
        return False
    return True


class FramedPipe(asyncio.Transport, Receiving):
    """A transport with half-close for the protocol `upper`, over the TLS transport it is the protocol of."""

    keeps_views = False

    def __init__(self, upper: Receiving) -> None:
        super().__init__()
        self.upper = upper
        self._below: asyncio.Transport | None = None
        self._decoder = FrameDecoder()
        self._end_sent = False

    @property
    def _transport(self) -> asyncio.Transport:
        if self._below is None:
            raise RuntimeError("the pipe is not connected")
        return self._below

    # As the protocol of the transport below.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = cast(asyncio.Transport, transport)
        self._below.set_write_buffer_limits(high=BUFFER_BYTES)
        self.upper.connection_made(self)

    def data_received(self, data: Data) -> None:
        had_ended = self._decoder.ended
        try:
            pieces = self._decoder.feed(data)
        except BadMessage:
            self.abort()
            return
        if pieces:  # one write further on costs more than putting the pieces together
            self.upper.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._decoder.ended and not had_ended:
            self._ended()

    def _ended(self) -> None:
        keep_open = self.upper.eof_received()
        if not keep_open or self._end_sent:
            self.close()

    def eof_received(self) -> None:
        # TLS ended; asyncio closes the transport next, and connection_lost tells the protocol above.
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        complete = self._decoder.ended and self._end_sent
        cut = None if complete else ConnectionResetError("the pipe closed before its end")
        self.upper.connection_lost(exc or cut)

    def pause_writing(self) -> None:
        self.upper.pause_writing()

    def resume_writing(self) -> None:
        self.upper.resume_writing()

    # As the transport of the protocol above.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._end_sent or self._transport.is_closing():
            return
        whole = memoryview(data)
        if len(whole) <= _FIRST_BYTES:
            self._transport.write(frame(whole))
            return
        for at in range(0, len(whole), FRAME_LIMIT_BYTES):
            piece = whole[at : at + FRAME_LIMIT_BYTES]
            first = b"".join((header(len(piece)), piece[:_FIRST_BYTES]))
            self._transport.writelines((first, piece[_FIRST_BYTES:]))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """End this direction; closes the connection once both have ended."""
        if self._end_sent or self._transport.is_closing():
            return
        self._end_sent = True
        self._transport.write(END)
        if self._decoder.ended:
            self.close()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


class Flow:
    """Pauses and resumes a transport's reading; safe to repeat and on a closing transport."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._paused = False

    def pause(self, paused: bool = True) -> None:
        if paused == self._paused or self._transport.is_closing():
            return
        self._paused = paused
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def resume(self) -> None:
        self.pause(False)


class SpliceEnd(Receiving):
    """One side of a splice. What comes before the other side is connected waits, unread, in the kernel."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._flow: Flow | None = None
        self._other: SpliceEnd | None = None
        self._ended = False
        self._lost = False

    def join(self, other: SpliceEnd) -> None:
        """Start passing bytes both ways; both sides must be connected."""
        self._other, other._other = other, self
        if self._lost or other._lost:
            self.abort()
            other.abort()
            return
        self._resume()
        other._resume()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=BUFFER_BYTES)
        self._flow = Flow(self._transport)
        if self._other is None:
            self._flow.pause()

    def data_received(self, data: Data) -> None:
        if self._other is not None:
            self._other._write(data)

    def _write(self, data: Data) -> None:
        if self._transport is not None and not self._lost:
            pass_on(self._transport, data)

    def eof_received(self) -> bool:
        self._ended = True
        if self._other is not None:
            self._other._write_eof()
        return True

    def _write_eof(self) -> None:
        if self._transport is None or self._lost or self._transport.is_closing():
            return
        self._transport.write_eof()
        if self._ended:
            self._close()

    def _close(self) -> None:
        """Both directions have ended: close both sides once their buffers are written."""
        for end in (self, self._other):
            if end is not None and end._transport is not None:
                end._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._other is None or self._other._lost:
            return
        if self._ended:
            self._other._peer_left()
        else:
            self._other.abort()

    def _peer_left(self) -> None:
        """The other side is gone, all it said is on its way.

        A Unix socket may close at once. A connection over TCP must not while its peer still sends: the reset would
        overtake the last output. So it discards until the peer has seen the end and closes.
        """
        self._write_eof()
        self._resume()
        if self._transport is not None and not isinstance(self._transport, FramedPipe):
            self._transport.close()

    def _resume(self) -> None:
        if self._flow is not None:
            self._flow.resume()

    def pause_writing(self) -> None:
        if self._other is not None and self._other._flow is not None:
            self._other._flow.pause()

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other._resume()
