"""TLS over TCP as an asyncio transport that encrypts and decrypts many records between two system calls.

Theory of operation. OpenSSL given the socket asks the kernel twice for each record of 16 KiB it reads and once for each
it writes, and every small write wakes the peer: for long streams that costs more than the encryption. The event loops'
own TLS copies more often and decrypts into fresh memory. So here OpenSSL has two memory buffers, the socket is read and
written in pieces of many records, and what is decrypted goes straight into the shared buffer (`receiving`).

| event | what the protocol sees |
|---|---|
| bytes | `buffer_updated`, many records at once |
| the peer's close_notify | `eof_received`; true keeps this direction open (TLS 1.3 lets directions end on their own) |
| the peer's TCP connection ends after it | `connection_lost(None)`: the peer does not read any more |
| it ends, or fails, without close_notify | `connection_lost(error)` |
| `close` | `connection_lost(None)` when what was written is sent, and the peer has closed too or was given its time |
| the write buffer is above its limit, or drained | `pause_writing`, `resume_writing` |

What is written is encrypted at once, so that nothing of the caller's is kept; what waits for the socket is encrypted.
This side cannot end its direction alone: Python's `unwrap` insists on reading the peer's end as well. Where that is
needed, frames say it (`pipes.FramedPipe`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from drover.gateway.receiving import SIZE_BYTES, Receiving

RECORD_BYTES = 16 * 1024
_WRITE_BYTES = 8 * RECORD_BYTES
"""At most so much is encrypted before it is sent: all that is read at once."""
_HIGH_BYTES = 64 * 1024
LINGER_S = 2.0
"""How long a peer may go on sending to a connection that was closed: cutting it could cost it our last bytes."""
BULK_BYTES, WINDOW_S, REST_S = 128 * 1024, 0.01, 0.001
"""A connection that brought so much in the last window is read once per rest, not once per record: being woken costs
more than decrypting one. Calls stay below it; a stream does not notice a millisecond."""
_WOULD_BLOCK = (BlockingIOError, InterruptedError)


class _Encrypted(threading.local):
    """Where a thread's connections read the socket; OpenSSL takes it over at once."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(SIZE_BYTES - RECORD_BYTES))


_encrypted = _Encrypted()


class Secured:
    """A connected socket, its TLS, and the memory between the two."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, **how: Any) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, **how)

    async def shake_hands(self) -> None:
        """Raises `OSError`, which what TLS refuses is, too; then the peer has been told why."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self.socket.send(self.outgoing.read())
                raise
            else:
                await loop.sock_sendall(self.socket, self.outgoing.read())
                return
            await loop.sock_sendall(self.socket, self.outgoing.read())
            self.took(await loop.sock_recv(self.socket, RECORD_BYTES))

    def took(self, encrypted: bytes | memoryview) -> None:
        """What the socket gave; nothing: its end."""
        if encrypted:
            self.incoming.write(encrypted)
        else:
            self.incoming.write_eof()


class TlsTransport(asyncio.Transport):
    """The transport of `protocol` over `secured`, non-blocking, whose handshake is done."""

    keeps_views = False

    def __init__(self, secured: Secured, protocol: Receiving) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._secured = secured
        self._tls, self._socket, self._fd = secured.tls, secured.socket, secured.fd
        self._protocol = protocol
        self._backlog: deque[memoryview] = deque()
        self._backlog_bytes = 0
        self._high_bytes, self._low_bytes = _HIGH_BYTES, _HIGH_BYTES // 4
        self._peer_certificate = self._tls.getpeercert()
        self._window_since_s, self._window_bytes = 0.0, 0
        self._resting = False
        self._full = False
        self._reading = False
        self._ended = False
        self._closing = False
        self._goodbye = False
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
            if self._secured.incoming.pending and not self._ended:  # it came with the handshake, or before a pause
                self._loop.call_soon(self._take)

    def _watch(self) -> None:
        if self._reading and not self._resting:
            self._loop.add_reader(self._fd, self._watch_peer if self._ended else self._read)

    def is_reading(self) -> bool:
        return self._reading

    def _read(self) -> None:
        """Take what has come."""
        room = _encrypted.view
        try:
            count = self._socket.recv_into(room)
        except _WOULD_BLOCK:
            return
        except OSError as error:
            self._lose(error)
            return
        self._secured.took(room[:count])
        self._take()
        if 0 < count < len(room):
            self._rest_if_bulk(count)

    def _take(self) -> None:
        """Decrypt all that is whole, unless the protocol pauses in between."""
        full = True
        while full and self._reading and not self._ended:
            full = self._decrypt()

    def _decrypt(self) -> bool:
        """Fill the shared buffer; whether more may be there. Only whole records are taken, so that none is left
        inside OpenSSL, of which `resume_reading` would not know."""
        view, taken, error, ended = self._protocol.get_buffer(-1), 0, None, False
        read: Any = self._tls.read  # given a buffer it returns a count
        try:
            while taken <= SIZE_BYTES - RECORD_BYTES and not ended:
                count = read(RECORD_BYTES, view[taken:])
                ended = count == 0
                taken += count
        except ssl.SSLWantReadError:
            full = False
        except ssl.SSLZeroReturnError:
            full, ended = False, True
        except OSError as failure:
            full, error = False, failure
        else:
            full = True
        if taken:
            self._protocol.buffer_updated(taken)
        if self._secured.outgoing.pending:  # an answer of TLS itself, to a new key
            self._flush()
        if error is not None:
            self._lose(error)
        elif ended:
            self._end()
        return full

    def _rest_if_bulk(self, taken_bytes: int) -> None:
        """The socket is empty: let it fill a little if it fills fast."""
        now_s = self._loop.time()
        if now_s - self._window_since_s > WINDOW_S:
            self._window_since_s, self._window_bytes = now_s, 0
        self._window_bytes += taken_bytes
        if self._window_bytes > BULK_BYTES and not self._resting and not self._lost and not self._closing:
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
        if self._secured.incoming.pending:
            self._lose(_surplus())
        elif not self._protocol.eof_received():
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
        self._lose(_surplus() if surplus else None)

    # Writing.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.writelines((data,))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """Encrypts all, and sends what the socket takes."""
        if self._closing or self._lost:
            return
        pending = 0
        try:
            for data in list_of_data:
                whole = memoryview(data)
                for at in range(0, len(whole), _WRITE_BYTES):
                    piece = whole[at : at + _WRITE_BYTES]
                    if pending and pending + len(piece) > _WRITE_BYTES:
                        self._flush()
                        pending = 0
                    pending += self._tls.write(piece)
        except OSError as error:
            self._loop.call_soon(self._lose, error)  # a protocol does not expect its end while it writes
            return
        self._flush()
        self._tell_fullness()

    def _flush(self) -> None:
        """Send what is encrypted; what the socket does not take waits."""
        encrypted = memoryview(self._secured.outgoing.read())
        if not encrypted:
            return
        idle = not self._backlog
        self._backlog.append(encrypted)
        self._backlog_bytes += len(encrypted)
        if idle:
            self._send()
            if self._backlog and not self._lost:
                self._loop.add_writer(self._fd, self._writable)

    def _send(self) -> None:
        """Send what waits, as far as the socket takes it."""
        try:
            while self._backlog:
                piece = self._backlog[0]
                sent = self._socket.send(piece)
                self._backlog_bytes -= sent
                if sent < len(piece):
                    self._backlog[0] = piece[sent:]
                else:
                    self._backlog.popleft()
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
        if not self._goodbye:
            self._goodbye = True
            with contextlib.suppress(OSError, ValueError):
                self._tls.unwrap()  # close_notify; that it has not read the peer's is no matter
            self._flush()
        if self._backlog or self._lost:
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._linger = self._loop.call_later(LINGER_S, self._lose, None)
        self._loop.add_reader(self._fd, self._drop)

    def _drop(self) -> None:
        try:
            if self._socket.recv_into(_encrypted.view):
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
        self._lost, self._reading = True, False
        if self._linger is not None:
            self._linger.cancel()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._backlog.clear()
        self._backlog_bytes = 0
        self._socket.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`socket`, `ssl_object` and `peercert`, as other TLS transports have them."""
        if name == "socket":
            return self._socket
        if name == "ssl_object":
            return self._tls
        return self._peer_certificate if name == "peercert" else default


def _surplus() -> ConnectionResetError:
    return ConnectionResetError("bytes follow the end of a TLS connection")


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
        secured = Secured(sock, context, **how)
        await secured.shake_hands()
    except BaseException:
        sock.close()
        raise
    TlsTransport(secured, protocol)
