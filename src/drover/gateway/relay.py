"""One relayed exchange: the client's request to an engine, the engine's response to the client.

Theory of operation. `Relaying.run` opens a connection, starts the exchange and waits; everything between is driven by
the two connections' callbacks, without a task per chunk.

| event | what happens |
|---|---|
| the engine's head is complete | it goes to the client at once; interim heads too |
| the head opens a tunnel | from then on bytes pass both ways; each end is passed on as a half-close |
| the client's buffer is full | the engine is not read, and the other way round |
| the client ends its direction | so does the engine's; the response still comes |
| the client is gone | the engine's connection is cut, once what a tunnel's client said has been sent |
| the engine's answer must settle first | its lines go to the client when `Relay.settled` has returned |
| the engine fails before its head | `Unavailable` (or once more on a fresh connection, see `links`) |
| the relay's hook holds the response | nothing goes to the client; `held` has it when the exchange has ended |
| the engine fails later | the client's connection is cut, so that the truncation is seen |
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from drover.errors import DroverError
from drover.gateway.bodygate import BodyGate
from drover.gateway.call import Relay
from drover.gateway.edits import Held, ResponseEdit, choose_edit
from drover.gateway.engine_side import EngineConnection
from drover.gateway.intake import Intake
from drover.gateway.links import EngineLinks
from drover.gateway.pipes import peer_gone
from drover.wire.bodies import Data, Mode, Sink, response_framing
from drover.wire.heads import RequestHead, ResponseHead, render, without


class Client(Protocol):
    """What a relay needs of the client's connection."""

    intake: Intake
    ended: bool
    """Whether the client has ended its direction."""

    def send(self, data: Data) -> None: ...

    def send_eof(self) -> None: ...


class Relaying:
    """One exchange of `client`'s request `head`, relayed as `relay` says; `target` is the client's own, canonical."""

    def __init__(self, client: Client, head: RequestHead, target: str, relay: Relay, links: EngineLinks) -> None:
        self._client = client
        self._intake = client.intake
        self._head = head
        self._target = target
        self._relay = relay
        self._links = links
        self._body = client.intake.payload if relay.body is None else relay.body
        self._connection: EngineConnection | None = None
        self._done: asyncio.Future[None] | None = None
        self._gate: BodyGate | None = None
        self._edit: ResponseEdit | None = None
        self._unsent = b""
        """A head that waits for the body bytes that came with it, never longer: one write, one wake-up."""
        self._keep_alive = False
        self._in_tunnel = False
        self._succeeded = False
        self._engine_ended = False
        self._settles = False
        """Whether the response has come whole, and its lines wait for what the relay calls settled."""

    async def run(self) -> bool:
        """Relay to the end; whether the client's connection may be kept. Raises `DroverError`."""
        host, has_body = self._relay.host, self._intake.has_body or bool(self._body)
        connection = await self._links.connect(host)
        try:
            return await self._attempt(connection)
        except DroverError:
            if not self._links.stale(connection, self._head.method, has_body):
                raise
        return await self._attempt(await self._links.connect(host, fresh=True))

    @property
    def held(self) -> Held | None:
        """The response, if the relay's hook holds it: complete when `run` has returned."""
        return self._edit if isinstance(self._edit, Held) else None

    async def _attempt(self, connection: EngineConnection) -> bool:
        self._connection = connection
        done = self._done = asyncio.get_running_loop().create_future()
        try:
            self._begin(connection)
            await done
            await self._settle()
            return self._keep_alive and self._intake.complete
        finally:
            self._leave(connection)

    def _begin(self, connection: EngineConnection) -> None:
        raw = self._raw_head()
        if self._body is None:
            connection.begin(self, self._head, raw)
            self._relay_body(connection)
        else:
            connection.begin(self, self._head, raw + self._body)
            self._intake.discard()
        self._pass_end_on()

    def _relay_body(self, connection: EngineConnection) -> None:
        if self._relay.inspect is None:
            self._intake.relay(connection.write)
            return
        self._gate = BodyGate(self._relay.inspect, self._intake, connection.write, self._pass_end_on)
        self._intake.relay(self._gate.write, self._gate.see)

    @property
    def _withheld(self) -> bool:
        return self._gate is not None and self._gate.holding

    def _pass_end_on(self) -> None:
        """Tell the engine that the client has ended its direction, once all that belongs to the exchange is sent."""
        if self._connection is not None and self._client.ended and not self._intake.pending and not self._withheld:
            self._connection.write_eof()

    def _raw_head(self) -> bytes:
        """The request's head for the engine: as received unless the relay changes something."""
        target = self._relay.target or self._target
        if self._body is None and target == self._head.target:
            return self._head.raw
        headers = self._head.headers
        if self._body is not None:
            kept = without(headers, b"content-length", b"transfer-encoding", b"expect", b"trailer")
            headers = (*kept, (b"Content-Length", b"%d" % len(self._body)))
        return render(f"{self._head.method} {target} HTTP/{self._head.version}", headers)

    def _leave(self, connection: EngineConnection) -> None:
        """The exchange is over: pool, flush or cut the engine's connection."""
        self._connection = None
        self._intake.hold(False)
        body_sent = self._body is not None or (self._intake.complete and not self._withheld)
        if self._gate is not None:
            self._gate.close()
        if self._in_tunnel and self._client.ended:
            connection.finish()
        elif body_sent:
            self._links.release(connection)
        else:
            connection.abort()

    # What the client's connection tells.

    def client_full(self, full: bool) -> None:
        """The client's write buffer is above its limit, or has drained."""
        if self._connection is not None:
            self._connection.pause_reading(full)

    def client_ended(self, gone: bool) -> None:
        """The client has ended its direction; `gone`: it does not read either."""
        self._pass_end_on()
        if gone or self._engine_ended:
            self._finish()

    # What the engine's connection tells (a `Receiver`).

    def response_head(self, head: ResponseHead, tunnel: bool) -> Sink | None:
        if head.interim:
            self._client.send(head.raw)
            return None
        hook = self._relay.hook
        held = hook is not None and hook.holds(head.status, head.headers, tunnel)
        if tunnel:
            self._open_tunnel(head)
            return None
        self._edit = choose_edit(self._relay, self._head, head, held)
        self._succeeded = head.status < 300
        self._keep_alive = self._head.keep_alive and self._may_keep(head)
        if self._edit is None:
            self._unsent = head.raw
            return None
        self._guarded(self._edit.start)
        return self._edit_piece

    def _may_keep(self, head: ResponseHead) -> bool:
        """Whether the client can tell where the response ends, and was not told that the connection does."""
        if self._edit is not None:
            return self._head.version == "1.1"
        return head.keep_alive and response_framing(self._head.method, head).mode is not Mode.EOF

    def _open_tunnel(self, head: ResponseHead) -> None:
        self._in_tunnel = True
        self._client.send(head.raw)
        if self._connection is not None:
            self._intake.tunnel(self._connection.write)
        self._pass_end_on()

    def _edit_piece(self, piece: bytes) -> None:
        edit = self._edit
        if edit is not None:
            self._guarded(lambda: edit.feed(piece))

    def _guarded(self, edit: _Step) -> None:
        """Send what an edit returns; an error of the edit (a handler's code) ends the exchange."""
        if self._done is None or self._done.done():
            return
        try:
            data = edit()
        except Exception as error:  # whatever it is, `run` raises it
            self._done.set_exception(error)
            return
        if data:
            self._client.send(data)

    def response_data(self, data: Data) -> None:
        if self._unsent:
            data, self._unsent = b"".join((self._unsent, data)), b""
        self._client.send(data)

    def response_flush(self) -> None:
        if self._unsent:
            self.response_data(b"")

    def response_end(self) -> None:
        self.response_flush()
        if self._in_tunnel:
            self._engine_ended = True
            self._client.send_eof()
            if not self._client.ended and not self._engine_gone():
                return
        elif self._edit is not None and self._relay.settled is not None and self._succeeded:
            self._settles = True
        elif self._edit is not None:
            self._guarded(self._edit.end)
        self._finish()

    async def _settle(self) -> None:
        """Wait until the cluster agrees with what the engine said, and pass it on."""
        if not self._settles or self._relay.settled is None or self._edit is None:
            return
        await self._relay.settled()
        if data := self._edit.end():
            self._client.send(data)

    def _engine_gone(self) -> bool:
        transport = self._connection.peer_transport if self._connection is not None else None
        return transport is None or peer_gone(transport)

    def response_failed(self, error: DroverError) -> None:
        if self._engine_ended:
            self._finish()
        elif self._done is not None and not self._done.done():
            self._done.set_exception(error)

    def engine_full(self, full: bool) -> None:
        (self._intake.hold if self._gate is None else self._gate.engine_full)(full)

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


class _Step(Protocol):
    def __call__(self) -> bytes: ...
