"""Receiving into one buffer that all connections share, so that bytes that are only passed on are never copied or
allocated.

Theory of operation. A connection's bytes are read into the thread's buffer and handed to `data_received` as a view,
which holds until the next read by anybody. So whoever keeps bytes beyond its call copies them, and whoever writes a
view does it by `pass_on`: a transport that could not write all at once keeps the view, and then the buffer is its own,
and the next read gets another one.

    what becomes of the view                       cost
    written at once (the usual case)               none
    the transport keeps a part of it               a new buffer
    the transport has `keeps_views = False`        none: it copies what it keeps
    it is parsed or kept                           `bytes(view)`
"""

from __future__ import annotations

import asyncio
import threading

from drover.wire.bodies import Data

SIZE_BYTES = 120 * 1024
"""Below the size from which `daemon.heap` has memory go back to the kernel at once: buffers are used again, and memory
that comes fresh from the kernel costs more than copying into it."""


class _Shared(threading.local):
    """One thread's buffer: a thread has at most one event loop, which reads from one connection at a time."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(SIZE_BYTES))


_shared = _Shared()


class Receiving(asyncio.BufferedProtocol):
    """A protocol that reads into the shared buffer."""

    def get_buffer(self, sizehint: int) -> memoryview:
        return _shared.view

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(_shared.view[:nbytes])

    def data_received(self, data: Data) -> None:
        """Bytes have come; a view holds until this returns."""


def pass_on(transport: asyncio.WriteTransport, data: Data) -> None:
    """Write `data`, a view perhaps, to a transport that may keep what it cannot write at once."""
    transport.write(data)
    if isinstance(data, memoryview) and transport.get_write_buffer_size() and getattr(transport, "keeps_views", True):
        _shared.view = memoryview(bytearray(SIZE_BYTES))
