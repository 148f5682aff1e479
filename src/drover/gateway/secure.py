"""TLS over TCP as an asyncio transport that lets OpenSSL read and write the socket itself.

Theory of operation. The event loops' own TLS passes every byte through two memory buffers on its way in and out: for
long streams that costs several times what the encryption does. Here the socket is OpenSSL's, and the loop only says
when it can be read or written. What is read goes into the shared buffer (`receiving`), one TLS record after another
until the socket is empty or the buffer is full; what cannot be written waits, piece by piece.

| event | what the protocol sees |
|---|---|
| bytes | `buffer_updated`, many records at once |
| the peer's close_notify | `eof_received`; true keeps this direction open (TLS 1.3 lets directions end on their own) |
| the peer's TCP connection ends after it | `connection_lost(None)`: the peer does not read any more |
| it ends, or fails, without close_notify | `connection_lost(error)` |
| `close` | `connection_lost(None)` when what was written is sent, and the peer has closed too or was given its time |
| the write buffer is above its limit, or drained | `pause_writing`, `resume_writing` |

This side cannot end its direction alone: Python's `unwrap` insists on reading the peer's end as well. Where that is
needed, frames say it (`pipes.FramedPipe`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections import deque
from typing import Any

from drover.gateway.receiving import SIZE_BYTES, Receiving

RECORD_BYTES = 16 * 1024
_WRITE_BYTES = 4 * RECORD_BYTES
"""OpenSSL is given so much at a time: what it has begun it must be given again, whole."""
_HIGH_BYTES = 64 * 1024
LINGER_S = 2.0
"""How long a peer may go on sending to a connection that was closed: cutting it could cost it our last bytes."""
BULK_BYTES, WINDOW_S, REST_S = 128 * 1024, 0.01, 0.001
"""A connection that brought so much in the last window is read once per rest, not once per record: being woken costs
more than decrypting one. Calls stay below it; a stream does not notice a millisecond."""
_WOULD_BLOCK = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class TlsTransport(asyncio.Transport):
    """The transport of `protocol` over `tls`, a non-blocking socket whose handshake is done."""

    def __init__(self, tls: ssl.SSLSocket, protocol: Receiving) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        self._fd = tls.fileno()
        self._protocol = protocol
        self._backlog: deque[memoryview] = deque()
        self._backlog_bytes = 0
        self._high_bytes, self._low_bytes = _HIGH_BYTES, _HIGH_BYTES // 4
        self._peer_certificate = tls.getpeercert()
        self._window_since_s, self._window_bytes = 0.0, 0
        self._resting = False
        self._full = False
        self._reading = False
        self._ended = False
        self._closing = False
        self._lost = False
        self._linger: asyncio.TimerHandle | None = None
        self.resume_reading()
        protocol.connection_made(self)  # which may pause reading

    # Reading.

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)  # no matter if it rests

    def resume_reading(self) -> None:
        if not self._reading and not self._closing and not self._lost:
            self._reading = True
            self._watch()

    def _watch(self) -> None:
        if self._reading and not self._resting:
            self._loop.add_reader(self._fd, self._watch_peer if self._ended else self._read)

    def is_reading(self) -> bool:
        return self._reading

    def _read(self) -> None:
        """Take what has come. Whole records fit, so that none is left inside OpenSSL, where the loop sees none."""
        view, taken, error, ended = self._protocol.get_buffer(-1), 0, None, False
        try:
            while taken <= SIZE_BYTES - RECORD_BYTES and not ended:
                count = self._tls.recv_into(view[taken:])
                ended = count == 0
                taken += count
        except _WOULD_BLOCK:
            self._rest_if_bulk(taken)
        except ssl.SSLZeroReturnError:
            ended = True
        except OSError as failure:
            error = failure
        if taken:
            self._protocol.buffer_updated(taken)
        if error is not None:
            self._lose(error)
        elif ended:
            self._end()

    def _rest_if_bulk(self, taken_bytes: int) -> None:
        """The socket is empty: let it fill a little if it fills fast."""
        now_s = self._loop.time()
        if now_s - self._window_since_s > WINDOW_S:
            self._window_since_s, self._window_bytes = now_s, 0
        self._window_bytes += taken_bytes
        if self._window_bytes > BULK_BYTES:
            self._resting = True
            self._loop.remove_reader(self._fd)
            self._loop.call_later(REST_S, self._rested)

    def _rested(self) -> None:
        self._resting = False
        if not self._lost and not self._closing:
            self._watch()

    def _end(self) -> None:
        """The peer has ended its direction."""
        if self._closing or self._lost:
            return
        was_reading, self._ended = self._reading, True
        self.pause_reading()
        if not self._protocol.eof_received():
            self.close()
        elif was_reading:
            self.resume_reading()

    def _watch_peer(self) -> None:
        """After the peer's end only the end of TCP may follow."""
        try:
            surplus = os.read(self._fd, 1)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        self._lose(ConnectionResetError("bytes follow the end of a TLS connection") if surplus else None)

    # Writing.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """What cannot be sent at once waits, as views of `data`."""
        if self._closing or self._lost or not data:
            return
        idle, whole = not self._backlog, memoryview(data)
        self._backlog.extend(whole[at : at + _WRITE_BYTES] for at in range(0, len(whole), _WRITE_BYTES))
        self._backlog_bytes += len(whole)
        if not idle:
            self._tell_fullness()
            return
        self._send()
        if self._backlog and not self._lost:
            self._loop.add_writer(self._fd, self._writable)
            self._tell_fullness()

    def _send(self) -> None:
        """Send what waits, as far as the socket takes it."""
        try:
            while self._backlog:
                self._tls.send(self._backlog[0])
                self._backlog_bytes -= len(self._backlog.popleft())
        except _WOULD_BLOCK:
            return
        except OSError as error:
            self._loop.call_soon(self._lose, error)  # a protocol does not expect its end while it writes

    def _writable(self) -> None:
        self._send()
        if not self._backlog:
            self._loop.remove_writer(self._fd)
            if self._closing:
                self._say_goodbye()
        self._tell_fullness()

    def _tell_fullness(self) -> None:
        limit_bytes = self._low_bytes if self._full else self._high_bytes
        full = self._backlog_bytes > limit_bytes
        if full != self._full and not self._closing:
            self._full = full
            (self._protocol.pause_writing if full else self._protocol.resume_writing)()

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self._backlog_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high_bytes = _HIGH_BYTES if high is None else high
        self._low_bytes = self._high_bytes // 4 if low is None else low

    # The end.

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def close(self) -> None:
        """Close when all is sent; what the peer still sends is dropped."""
        if self._closing or self._lost:
            return
        self.pause_reading()
        self._closing = True
        if not self._backlog:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        """Say that this is the end, then read until the peer has seen it."""
        with contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()  # sends close_notify; that it has not read the peer's is no matter
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._tls, socket.SHUT_WR)
        self._linger = self._loop.call_later(LINGER_S, self._lose, None)
        self._loop.add_reader(self._fd, self._drop)

    def _drop(self) -> None:
        try:
            if os.read(self._fd, SIZE_BYTES):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._lose(None)

    def abort(self) -> None:
        """Close at once."""
        if not self._lost:
            self._closing = True
            self._release()
            self._loop.call_soon(self._protocol.connection_lost, None)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._release()
            self._protocol.connection_lost(error)

    def _release(self) -> None:
        self._lost = True
        if self._linger is not None:
            self._linger.cancel()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._backlog.clear()
        self._backlog_bytes = 0
        self._tls.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`socket`, `ssl_object` and `peercert`, as other TLS transports have them."""
        if name in ("socket", "ssl_object"):
            return self._tls
        return self._peer_certificate if name == "peercert" else default


async def connect_tls(
    protocol: Receiving, address: tuple[str, int], context: ssl.SSLContext, server_hostname: str
) -> None:
    """Connect `protocol`. Raises `OSError`, which what TLS refuses is, too; the caller sets the deadline."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    await _secured(sock, protocol, context, server_hostname=server_hostname)


async def accept_tls(protocol: Receiving, sock: socket.socket, context: ssl.SSLContext, deadline_s: float) -> None:
    """Serve `protocol` to an accepted connection. Raises `OSError`, and `TimeoutError` after `deadline_s`."""
    async with asyncio.timeout(deadline_s):
        await _secured(sock, protocol, context, server_side=True)


async def _secured(sock: socket.socket, protocol: Receiving, context: ssl.SSLContext, **how: Any) -> None:
    """Shake hands, then hand the connection to `protocol`; a socket that fails is closed."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = context.wrap_socket(sock, do_handshake_on_connect=False, suppress_ragged_eofs=False, **how)
    except BaseException:
        sock.close()
        raise
    try:
        await _shake_hands(tls)
    except BaseException:
        tls.close()
        raise
    TlsTransport(tls, protocol)


async def _shake_hands(tls: ssl.SSLSocket) -> None:
    loop, fd = asyncio.get_running_loop(), tls.fileno()
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await _turn(loop.add_reader, loop.remove_reader, fd)
        except ssl.SSLWantWriteError:
            await _turn(loop.add_writer, loop.remove_writer, fd)
        else:
            return


async def _turn(watch: Any, forget: Any, fd: int) -> None:
    """Wait until the socket is ready."""
    ready = asyncio.get_running_loop().create_future()
    watch(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        forget(fd)
