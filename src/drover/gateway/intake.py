"""What a client sends after a request's head: held, read whole, relayed or discarded, always bounded.

Theory of operation. Nothing is consumed until somebody says how; until then at most 64 KiB (and one read) are held
and then the client is no longer read. Bytes after the body's end belong to the next request and are held the same way.

| how | who | bytes go to |
|---|---|---|
| held | nobody yet | a buffer; reading pauses beyond the limit |
| `read` | a handler that wants the body | a list, up to the handler's limit, without chunk sizes |
| `relay` | a relay | the engine, as they came; reading pauses while the engine's buffer is full |
| `tunnel` | a relay after 101 | the engine, for ever |
| `discard` | a reply that did not need the body | nowhere |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from drover.errors import Invalid
from drover.gateway.pipes import Flow
from drover.wire.bodies import Body, Data, Framing, Mode, Sink
from drover.wire.heads import BadMessage

HOLD_BYTES = 64 * 1024
DISCARD_BYTES = 256 * 1024
"""An unwanted body up to this declared length is read and dropped to keep the connection."""

Write = Callable[[Data], None]


class Intake:
    """The client's side of the bodies of one connection. `broken` is called with what is wrong about a body."""

    def __init__(self, flow: Flow, broken: Callable[[BadMessage], None]) -> None:
        self._flow = flow
        self._broken = broken
        self._framing = Framing(Mode.NONE)
        self._body: Body | None = None
        self._write: Write | None = None
        self._tunnel = False
        self._pending: Data = b""
        self._engine_full = False
        self._ended = False
        self._complete: asyncio.Future[None] | None = None
        self.payload: bytes | None = None
        """The body as a handler has read it."""

    def begin(self, framing: Framing, follows: bytes) -> None:
        """A new request; `follows` is what arrived after its head."""
        self._framing = framing
        self._body = Body(framing) if framing.mode is Mode.NONE else None
        self._write = self._complete = self.payload = None
        self._pending = follows
        self._regulate()

    @property
    def complete(self) -> bool:
        """Whether the whole body has been consumed."""
        return self._body is not None and self._body.done

    @property
    def discardable(self) -> bool:
        """Whether the rest of the body is small enough to be read for nothing."""
        short = self._framing.mode is Mode.LENGTH and self._framing.length_bytes <= DISCARD_BYTES
        return self.complete or short

    @property
    def has_body(self) -> bool:
        return self._framing.mode is not Mode.NONE

    @property
    def pending(self) -> bool:
        """Whether bytes have arrived that nobody has taken: of a body, the next request, or a tunnel to be."""
        return bool(self._pending)

    def take_pending(self) -> bytes:
        """What has arrived of the next request."""
        pending, self._pending = self._pending, b""
        self._regulate()
        return bytes(pending)

    def feed(self, data: Data) -> None:
        """Bytes from the client; what is not passed on at once is copied."""
        if self._tunnel and self._write is not None:
            self._write(data)
            return
        self._pending = b"".join((self._pending, data)) if self._pending else data
        self._pump()
        self._pending = bytes(self._pending)

    def end(self) -> None:
        """The client has ended its direction."""
        self._ended = True
        if not self._tunnel:
            self._pump()

    def hold(self, engine_full: bool) -> None:
        """The engine's write buffer is full, or has drained."""
        self._engine_full = engine_full
        self._regulate()

    async def read(self, limit_bytes: int, before: Callable[[], None]) -> bytes:
        """The whole payload; `before` is called if the client must be asked to send it. Raises `Invalid` if larger
        than `limit_bytes`."""
        if self.payload is None:
            self.payload = await self._collect(limit_bytes, before)
        return self.payload

    async def _collect(self, limit_bytes: int, before: Callable[[], None]) -> bytes:
        too_large = Invalid(f"The request body is larger than {limit_bytes} bytes.")
        if self._framing.length_bytes > limit_bytes:
            raise too_large
        pieces: list[bytes] = []
        complete = self._complete = asyncio.get_running_loop().create_future()
        size = 0

        def collect(piece: bytes) -> None:
            nonlocal size
            size += len(piece)
            if size <= limit_bytes:
                pieces.append(piece)
            elif not complete.done():
                complete.set_exception(too_large)

        self._consume(Body(self._framing, collect), None)
        if not complete.done():
            before()
        await complete
        return b"".join(pieces)

    def relay(self, write: Write, sink: Sink | None = None) -> None:
        """Pass the body on as it comes; `sink` gets each piece of the payload before `write` its bytes."""
        self._consume(self._body or Body(self._framing, sink), write)

    def discard(self) -> None:
        """Drop the rest of the body."""
        self._consume(self._body or Body(self._framing), None)

    async def finished(self) -> None:
        """Wait until the body, being relayed or discarded, has been consumed."""
        if not self.complete:
            self._complete = asyncio.get_running_loop().create_future()
            await self._complete

    def tunnel(self, write: Write) -> None:
        """From now on every byte goes to `write`."""
        self._tunnel, self._write = True, write
        pending = self.take_pending()
        if pending:
            write(pending)

    def _consume(self, body: Body, write: Write | None) -> None:
        self._body, self._write = body, write
        self._pump()

    def _pump(self) -> None:
        """Hand on what is pending, as far as it belongs to the body."""
        try:
            if self._body is not None and not self._body.done and self._pending:
                self._hand_on(self._body)
        except BadMessage as error:
            self._pending = b""
            self._broken(error)
        if self.complete and self._complete is not None and not self._complete.done():
            self._complete.set_result(None)
        self._regulate()
        if self._ended and self._body is not None and not self._body.done:
            self._broken(BadMessage("the connection ended in the middle of the body"))

    def _hand_on(self, body: Body) -> None:
        pending: Data = self._pending
        self._pending = b""
        used = body.feed(pending)
        if self._write is not None and used:
            self._write(pending if used == len(pending) else pending[:used])
        self._pending = pending[used:]

    def _regulate(self) -> None:
        self._flow.pause(self._engine_full or len(self._pending) > HOLD_BYTES)
