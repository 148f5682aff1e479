"""One connection to an engine, local or through a tunnel, used for one exchange after another.

Theory of operation. `EngineConnection` parses response heads and finds where bodies end; a `Receiver` gets the parts.
Between two exchanges it has no receiver and lies in its host's pool.

| event | idle | before the head | in the body | tunnel |
|---|---|---|---|---|
| bytes | closes | head, perhaps more | counted and passed on | passed on |
| end of file | closes | failed | ends a body without length, else failed | ended |
| lost | leaves the pool | failed | failed | failed |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from drover.errors import DroverError, Unavailable
from drover.gateway.pipes import BUFFER_BYTES, Flow
from drover.gateway.receiving import Receiving, pass_on
from drover.wire.bodies import Body, Data, Sink, becomes_tunnel, response_framing
from drover.wire.heads import BadMessage, RequestHead, ResponseHead, ResponseReader

SETTLE_S = 0.002
"""How long a tunnel's first bytes wait behind its head. Clients that read the head through a buffer (docker-py) lose
what arrives together with it; an engine writes the two apart, and a relay must not bring them together."""


class Receiver(Protocol):
    """Gets one exchange's response, part by part, in the event loop's thread; must not block."""

    def response_head(self, head: ResponseHead, tunnel: bool) -> Sink | None:
        """A complete head (interim ones too). A returned sink gets the body's payload instead of `response_data`
        getting the body's bytes as they came, in views that hold until it returns."""
        ...

    def response_data(self, data: Data) -> None: ...

    def response_flush(self) -> None:
        """All that arrived together has been handed over: what is held back to be sent in one piece must go now."""
        ...

    def response_end(self) -> None:
        """The body is complete, or the engine has ended its direction of a tunnel."""
        ...

    def response_failed(self, error: DroverError) -> None:
        """Nothing more will come; called at most once, and after `response_end` only in a tunnel, where it says
        that the engine no longer reads either."""
        ...

    def engine_full(self, full: bool) -> None:
        """The write buffer is above its limit (true) or has drained (false)."""
        ...


class EngineConnection(Receiving):
    """The connection; `host` is whose engine it leads to, `on_lost` is called once when it is gone."""

    def __init__(self, host: str, on_lost: Callable[[EngineConnection], None]) -> None:
        self.host = host
        self.address: object = None
        self.uses = 0
        self.answered = False
        """Whether a byte has come since the current exchange began."""
        self._on_lost = on_lost
        self._wire: asyncio.Transport | None = None
        self._flow: Flow | None = None
        self._receiver: Receiver | None = None
        self._request: RequestHead | None = None
        self._reader = ResponseReader()
        self._body: Body | None = None
        self._raw = True
        self._tunnel = False
        self._keep_alive = False
        self._half_closed = False
        self._settling: list[bytes] | None = None
        self._ended_early = False

    # For the one who makes an exchange.

    def begin(self, receiver: Receiver, request: RequestHead, raw_head: bytes) -> None:
        """Send a request's head; the response goes to `receiver`. `request` says how the response is framed."""
        self._receiver, self._request = receiver, request
        self._reader, self._body, self._tunnel = ResponseReader(), None, False
        self.answered = False
        self.uses += 1
        self.write(raw_head)

    def write(self, data: Data) -> None:
        if self._wire is not None and not self._half_closed and not self._wire.is_closing():
            pass_on(self._wire, data)

    def write_eof(self) -> None:
        """End this direction; the connection cannot be used again afterwards."""
        if self._wire is not None and not self._half_closed and not self._wire.is_closing():
            self._half_closed = True
            self._wire.write_eof()

    def pause_reading(self, paused: bool) -> None:
        if self._flow is not None:
            self._flow.pause(paused)

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow the one that has ended."""
        open_both_ways = self._wire is not None and not self._wire.is_closing() and not self._half_closed
        return open_both_ways and self._receiver is None and self._keep_alive

    def close(self) -> None:
        """Close once the write buffer is empty."""
        self._receiver = None
        if self._wire is not None:
            self._wire.close()

    def finish(self) -> None:
        """End this direction and close once all is written, though the engine may still be talking."""
        self.write_eof()
        self.close()

    def abort(self, error: DroverError | None = None) -> None:
        """Close at once; with an error, the receiver is told."""
        if error is not None:
            self._fail(error)
        self._receiver = None
        if self._wire is not None:
            self._wire.abort()

    # As an asyncio protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        self._wire.set_write_buffer_limits(high=BUFFER_BYTES)
        self._flow = Flow(self._wire)

    def data_received(self, data: Data) -> None:
        self.answered = True
        try:
            while data and self._receiver is not None:
                data = self._take(data)
            if self._receiver is not None:
                self._receiver.response_flush()
        except BadMessage as error:
            self.abort(Unavailable(f"The engine of host {self.host} did not answer in HTTP: {error.reason}."))
        if data and self._receiver is None:
            self.abort()

    def _take(self, data: Data) -> Data:
        """Pass on what belongs to the current part of the response; returns the rest."""
        if self._settling is not None:
            self._settling.append(bytes(data))
            return b""
        if self._tunnel:
            self._to_receiver(data)
            return b""
        if self._body is None:
            return self._take_head(bytes(data))
        used = self._body.feed(data)
        if self._raw:
            self._to_receiver(data if used == len(data) else data[:used])
        self._finish_if_done()
        return data[used:]

    def _to_receiver(self, data: Data) -> None:
        if self._receiver is not None:
            self._receiver.response_data(data)

    def _take_head(self, data: bytes) -> bytes:
        read = self._reader.feed(data)
        if read is None or self._receiver is None or self._request is None:
            return b""
        head, rest = read
        self._reader = ResponseReader()
        self._tunnel = becomes_tunnel(self._request, head)
        self._keep_alive = head.keep_alive and not self._tunnel
        sink = self._receiver.response_head(head, self._tunnel)
        if self._tunnel:
            self._settling = []
            asyncio.get_running_loop().call_later(SETTLE_S, self._settled)
        elif not head.interim:
            self._raw = sink is None
            self._body = Body(response_framing(self._request.method, head), sink)
            self._finish_if_done()
        return rest

    def _finish_if_done(self) -> None:
        if self._body is not None and self._body.done and self._receiver is not None:
            receiver, self._receiver = self._receiver, None
            receiver.response_end()

    def _settled(self) -> None:
        """Pass on what came since the tunnel opened, and its end if that came too."""
        held, self._settling = self._settling, None
        if held:
            self._to_receiver(b"".join(held))
        if self._ended_early:
            self._ended_early = False
            self.eof_received()

    def eof_received(self) -> bool:
        self._keep_alive = False
        if self._settling is not None:
            self._ended_early = True
            return True
        if self._receiver is None:
            self.close()
        elif self._tunnel:
            self._receiver.response_end()
        elif self._body is None:
            self._fail(self._cut())
        else:
            self._end_body(self._body)
        return True

    def _end_body(self, body: Body) -> None:
        try:
            body.end()
        except BadMessage:
            self._fail(self._cut())
        else:
            self._finish_if_done()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._settling is not None:
            self._settled()
        self._keep_alive = False
        self._on_lost(self)
        self._fail(self._cut())

    def pause_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.engine_full(True)

    def resume_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.engine_full(False)

    def _fail(self, error: DroverError) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.response_failed(error)

    def _cut(self) -> Unavailable:
        when = "in the middle of its answer" if self.answered else "before it answered"
        return Unavailable(f"The engine of host {self.host} closed the connection {when}.")

    @property
    def peer_transport(self) -> asyncio.BaseTransport | None:
        """The transport, for questions about the peer."""
        return self._wire
