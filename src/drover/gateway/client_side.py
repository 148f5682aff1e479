"""One client's connection to the gateway: one request after another, one task per request.

Theory of operation. The protocol reads a head, starts a task that asks the handler and carries out its outcome, and
when that has ended reads the next. Requests that were sent ahead wait their turn, unread beyond a limit.

| event | between requests | while a handler thinks | while relaying |
|---|---|---|---|
| bytes | head; 408 if it takes longer than 30 s | held by the intake | engine |
| end of file, still reading | close | remembered; answered, then closed | passed on to the engine |
| end of file, gone (or not a Unix socket) | close | the handler is cancelled | passed on to the engine |
| lost | | the handler is cancelled | the engine's connection is cut |
| unreadable head or chunk | 400, close | 400, close | close |
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, cast

import structlog

from drover.errors import DroverError
from drover.gateway.answers import CONTINUE, LAST_CHUNK, chunk, error_reply, has_body, reply_head
from drover.gateway.call import Call, Outcome, Relay, Reply, ResponseHook
from drover.gateway.intake import Intake
from drover.gateway.pipes import BUFFER_BYTES, Flow, on_unix_socket, peer_gone, peer_identity
from drover.gateway.receiving import Receiving, pass_on
from drover.gateway.relay import Relaying
from drover.gateway.targets import read_target
from drover.wire.bodies import Data, request_framing
from drover.wire.heads import BadMessage, RequestHead, RequestReader

if TYPE_CHECKING:
    from drover.gateway.server import GatewayServer

LINGER_S = 2.0
"""How long a client that is being closed may go on sending, so that it reads its answer before a reset."""

log = structlog.get_logger()


class ClientConnection(Receiving):
    """The server's side of one client connection; `Client` of `gateway.relay`."""

    intake: Intake

    def __init__(self, server: GatewayServer) -> None:
        self.ended = False
        self._peer = ""
        self._server = server
        self._wire: asyncio.Transport | None = None
        self._reader = RequestReader()
        self._head_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._relaying: Relaying | None = None
        self._answered = False
        self._closing = False
        self._writable = asyncio.Event()
        self._writable.set()

    # As an asyncio protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        self._wire.set_write_buffer_limits(high=BUFFER_BYTES)
        self._peer = peer_identity(self._wire)
        self.intake = Intake(Flow(self._wire), self._refuse)
        self._server.opened(self)

    def data_received(self, data: Data) -> None:
        if self._closing:
            return
        if self._task is not None:
            self.intake.feed(data)
        else:
            self._read_head(bytes(data))

    def eof_received(self) -> bool:
        self.ended = True
        if self._task is None:
            return False  # closes
        gone = self._gone()
        self.intake.end()
        if self._relaying is not None:
            self._relaying.client_ended(gone)
        elif gone:
            self._abort()
        return True

    def _gone(self) -> bool:
        """Whether the client, having ended its direction, is taken not to read either: what a Unix socket knows;
        elsewhere unless something is being relayed, for which the engine decides."""
        if self._wire is None or on_unix_socket(self._wire):
            return self._wire is None or peer_gone(self._wire)
        return self._relaying is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._stop_head_timer()
        if self._task is not None:
            self._task.cancel()
        self._writable.set()
        self._server.closed(self)

    def pause_writing(self) -> None:
        self._writable.clear()
        if self._relaying is not None:
            self._relaying.client_full(True)

    def resume_writing(self) -> None:
        self._writable.set()
        if self._relaying is not None:
            self._relaying.client_full(False)

    # Heads.

    def _read_head(self, data: bytes) -> None:
        try:
            read = self._reader.feed(data)
        except BadMessage as error:
            self._refuse(error)
            return
        if read is None:
            self._start_head_timer()
            return
        self._stop_head_timer()
        self._begin(*read)

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            loop = asyncio.get_running_loop()
            late = BadMessage("the request's head did not arrive in time", 408)
            self._head_timer = loop.call_later(self._server.head_deadline_s, self._refuse, late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: BadMessage) -> None:
        """The client does not speak HTTP that we could trust: answer if it still makes sense, and close."""
        self._server.counters.errors += 1
        self._stop_head_timer()
        if self._task is not None:
            self._task.cancel()
        if self._answered:
            self._abort()
            return
        reply = error_reply(error)
        self.send(reply_head(reply, (), chunked=False, keep_alive=False) + reply.body)
        self._close()

    # One request.

    def _begin(self, head: RequestHead, follows: bytes) -> None:
        self._server.counters.requests += 1
        self._answered = False
        self.intake.begin(request_framing(head), follows)
        self._task = asyncio.create_task(self._serve(head))

    async def _serve(self, head: RequestHead) -> None:
        """Answer one request, whatever happens; then the next, or the end."""
        try:
            keep_alive = await self._carry_out(head)
        except asyncio.CancelledError:
            # By the connection, which then is closing; or by something inside the handler, which must not be a hang.
            if not self._closing:
                self._abort()
            raise
        except Exception as error:  # a failing handler must not take the connection's task with it unseen
            keep_alive = await self._answer_error(head, error)
        self._task = None
        if keep_alive and not self._closing:
            self._next()
        else:
            self._close()

    async def _carry_out(self, head: RequestHead) -> bool:
        await self._writable.wait()  # a client that sends ahead must read what it got first
        target = read_target(head.target)
        outcome: Outcome = await self._server.handler(
            self._call(head, target.path, target.version, target.query_string)
        )
        if isinstance(outcome, Reply):
            return await self._reply(head, outcome)
        return await self._relay(head, target.canonical, outcome)

    def _call(self, head: RequestHead, path: str, version: str, query_string: str) -> Call:
        async def read_body(limit_bytes: int) -> bytes:
            return await self.intake.read(limit_bytes, lambda: self._ask_for_body(head))

        return Call(
            method=head.method,
            path=path,
            version=version,
            target=head.target,
            query_string=query_string,
            headers=head.headers,
            read_body=read_body,
            peer=self._peer,
        )

    def _ask_for_body(self, head: RequestHead) -> None:
        if head.expects_continue:
            self._write(CONTINUE)

    async def _relay(self, head: RequestHead, target: str, relay: Relay) -> bool:
        if relay.hook is None:
            return await self._run(Relaying(self, head, target, relay, self._server.links))
        return await self._relay_hooked(head, target, relay, relay.hook)

    async def _run(self, relaying: Relaying) -> bool:
        self._relaying = relaying
        try:
            return await relaying.run()
        finally:
            self._relaying = None

    async def _relay_hooked(self, head: RequestHead, target: str, relay: Relay, hook: ResponseHook) -> bool:
        """A relay whose response may be held: then the hook says what the client gets."""
        relaying = Relaying(self, head, target, relay, self._server.links)
        try:
            keep_alive = await self._run(relaying)
        except DroverError as error:
            reply = await hook.failed(error, self._answered)
            if self._answered:
                raise
        else:
            if relaying.held is None:
                return keep_alive
            answer = await hook.answer(relaying.held.response)
            if answer is None:
                self.send(relaying.held.raw)
                return keep_alive
            reply = answer
        return await self._reply(head, reply)

    async def _answer_error(self, head: RequestHead, error: Exception) -> bool:
        reply = error_reply(error)
        if not isinstance(error, DroverError):
            log.error("the gateway failed", method=head.method, target=head.target, exc_info=error)
        if self._answered:
            log.warning("an answer was cut short", method=head.method, target=head.target, error=str(error))
            self._server.counters.errors += 1
            self._abort()
            return False
        return await self._reply(head, reply)

    async def _reply(self, head: RequestHead, reply: Reply) -> bool:
        """Send the gateway's own answer; whether the connection may be kept."""
        self._server.counters.errors += reply.status >= 500
        unasked = head.expects_continue and not self.intake.complete
        keep_alive = head.keep_alive and self.intake.discardable and not unasked
        body = has_body(head.method, reply.status)
        chunked = reply.stream is not None and head.version == "1.1"
        keep_alive = keep_alive and (chunked or reply.stream is None or not body)
        self.intake.discard()
        first = reply_head(reply, self._server.default_headers, chunked=chunked, keep_alive=keep_alive)
        if reply.stream is None or not body:
            self.send(first + (reply.body if body else b""))
        else:
            self.send(first)
            await self._send_stream(reply.stream, chunked)
        return keep_alive and await self._body_dropped()

    async def _send_stream(self, stream: AsyncIterator[bytes], chunked: bool) -> None:
        try:
            async for piece in stream:
                self.send(chunk(piece) if chunked else piece)
                await self._writable.wait()
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()  # at once, not when it is collected: it may hold a connection
        if chunked:
            self.send(LAST_CHUNK)

    async def _body_dropped(self) -> bool:
        """Wait until the unwanted rest of the request's body has been read."""
        await self.intake.finished()
        return self.intake.complete

    def _next(self) -> None:
        self._reader = RequestReader()
        follows = self.intake.take_pending()
        if follows:
            self._read_head(follows)
        if self.ended and self._task is None:
            self._close()

    # Writing and closing.

    def send(self, data: Data) -> None:
        """Bytes of a response."""
        self._answered = True
        self._write(data)

    def _write(self, data: Data) -> None:
        if self._wire is not None and not self._closing and not self._wire.is_closing():
            pass_on(self._wire, data)

    def send_eof(self) -> None:
        """End this direction, if the transport can (TLS cannot: it closes when the exchange ends)."""
        if self._wire is not None and not self._wire.is_closing() and self._wire.can_write_eof():
            self._wire.write_eof()

    def _close(self) -> None:
        """Close when all is written; a client that still sends may do so for a moment, unheard."""
        if self._closing or self._wire is None:
            return
        self._closing = True
        self.intake.take_pending()
        if not self._must_linger(self._wire):
            self._wire.close()
            return
        self.send_eof()
        asyncio.get_running_loop().call_later(LINGER_S, self._wire.close)

    def _must_linger(self, wire: asyncio.Transport) -> bool:
        """Whether closing at once could keep the client from its answer: while it sends a body, and over TCP, where
        the reset overtakes the answer."""
        if self.ended or not wire.can_write_eof():
            return False
        return not self.intake.complete or not on_unix_socket(wire)

    def _abort(self) -> None:
        self._closing = True
        if self._wire is not None:
            self._wire.abort()

    def abort(self) -> None:
        """Cut the connection (the daemon stops)."""
        self._abort()
