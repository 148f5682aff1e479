"""One call on its way through its hooks: pre-hooks in order, the handler or engine once, post-hooks in order.

Theory of operation. A `HookedCall` asks one adapter after another and waits for each. What a hook changes is what the
next one sees; post-hooks are shown the client's original request. The failure rules:

| what fails | the client gets | unwound | the engine's work |
|---|---|---|---|
| a pre-hook refuses (400 and above) | the refusal | those before it | never asked |
| a pre-hook fails (`on_error: fail`) | 502 or 504 that names it | it, and those before it | never asked |
| the client goes during pre-hooks | | those that were asked | never asked |
| the engine refuses, or is unreachable | its error, as post-hooks leave it | all, unless that is a success | none |
| a post-hook refuses or fails | the refusal, 502 or 504 | all | undone for new containers and networks |
| the client goes later | | nobody: what happened is not known | stays |
| a hook fails under `on_error: skip` | as if the adapter were not listed | | |

Unwinding posts `unwind-hook`, in reverse order, to the adapters that opted in. It runs beside the client's answer,
which it does not delay, and nothing that fails there is anybody's error but the log's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Protocol, TypeVar

import msgspec
import structlog

from drover.errors import DroverError
from drover.gateway.answers import error_reply, sentence
from drover.gateway.call import Call, EngineResponse, Handler, Headers, Outcome, Relay, Reply
from drover.gateway.context import message_of, target_of
from drover.gateway.hooks import stats
from drover.gateway.hooks.config import Adapter
from drover.gateway.hooks.match import Hooks
from drover.gateway.hooks.protocol import (
    JSON_TYPE,
    AdapterError,
    Extras,
    Failure,
    HookAnswer,
    HookType,
    Refused,
    Request,
    Response,
    message,
    read_post,
    read_pre,
    request_of,
)
from drover.gateway.hooks.streams import BODY_LIMIT_BYTES, request_is_readable, value_of, why_not_held
from drover.wire.heads import without
from drover.wire.nesting import MALFORMED

T = TypeVar("T", Request, Response)
_FRAMING = (b"content-length", b"transfer-encoding", b"connection", b"trailer", b"content-type")
_UNDONE_BY = {"/containers/create": ("/containers/", "?force=1&v=1"), "/networks/create": ("/networks/", "")}

log = structlog.get_logger("drover.gateway.hooks")


class Layer(Protocol):
    """What a hooked call needs of `HookLayer`."""

    def extras(self, call: Call, wanted: bool) -> Extras:
        """`wanted`: whether an adapter of the call speaks version 2."""
        ...

    async def ask(self, adapter: Adapter, body: bytes) -> HookAnswer: ...

    async def inner(self, handler: Handler, method: str, target: str) -> EngineResponse: ...

    def note(self, event: HookEvent) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it beside the call; it outlives the client."""
        ...


class HookEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One hook call that has ended. `before` and `after` are a `Request` or a `Response`."""

    adapter: Adapter
    kind: HookType
    call: Call
    trace_id: str
    outcome: stats.Outcome
    duration_s: float
    error: str
    before: Request | Response
    after: Request | Response


class HookedCall:
    """The chain of one call, and the `ResponseHook` of its relay."""

    def __init__(self, layer: Layer, hooks: Hooks, handler: Handler, call: Call) -> None:
        self._layer = layer
        self._hooks = hooks
        self._handler = handler
        self._call = call
        self._extras = layer.extras(call, any(each.protocol == 2 for each in (*hooks.pre, *hooks.post)))
        self._request = Request(method=call.method, request="")
        self._ran: list[Adapter] = []
        self._culprit = ""
        """The adapter that ended the chain."""
        self._by_lines = False

    async def run(self) -> Outcome:
        """The call's outcome. Raises `DroverError` if the request cannot be read, before any hook."""
        body = await self._call.read_body(BODY_LIMIT_BYTES) if request_is_readable(self._call) else None
        self._request = request_of(self._call, body)
        try:
            changed = await self._pre()
        except (Refused, AdapterError) as error:
            return self._stopped("pre-hook", error, None)
        except asyncio.CancelledError:
            self._unwind(Failure(stage="client", message="the client went away"), None)
            raise
        return await self._carry_out(_changed_call(self._call, self._request, changed), changed)

    async def _carry_out(self, call: Call, request: Request) -> Outcome:
        try:
            outcome = await self._handler(call)
        except DroverError as error:
            outcome = error_reply(error)
        if isinstance(outcome, Relay):
            return self._relayed(outcome, call, request)
        return await self._replied(outcome)

    def _relayed(self, relay: Relay, call: Call, request: Request) -> Relay:
        """The relay with what pre-hooks changed, where the handler did not make its own of it."""
        self._by_lines = relay.edit_lines is not None
        target = target_of(call, call.path) if call is not self._call else None
        hook = self if self._hooks.post or any(each.unwind for each in self._ran) else None
        return msgspec.structs.replace(
            relay,
            target=relay.target or target,
            body=request.body if relay.body is None and request.body is not self._request.body else relay.body,
            hook=hook,
        )

    async def _replied(self, reply: Reply) -> Reply:
        """The gateway's own answer, through the post-hooks."""
        if reply.stream is not None:
            self._log_skipped("the gateway answers with a stream")
            return reply
        no_content = reply.status in (204, 304)
        response = Response(
            status=reply.status,
            content_type=None if no_content else reply.content_type or None,
            body=reply.body,
            headers=reply.headers,
        )
        return await self._after(response) or reply

    # The relay's `ResponseHook`.

    def holds(self, status: int, headers: Headers, tunnel: bool) -> bool:
        """Whether the relay shall collect the response for `answer`; else it passes it on at once."""
        if status >= 400 and not tunnel:
            return True
        if not self._hooks.post:
            return False
        why = "it became a tunnel" if tunnel else why_not_held(self._call, status, headers)
        if not why and self._by_lines and status < 300:
            why = "the gateway passes it on line by line"
        if why:
            self._log_skipped(why)
        return not why

    async def answer(self, response: EngineResponse) -> Reply | None:
        """What the client gets for a held response; None: the response as it is."""
        content_type = value_of(response.headers, b"content-type") or None
        headers = without(response.headers, *_FRAMING)
        return await self._after(
            Response(status=response.status, content_type=content_type, body=response.body, headers=headers)
        )

    async def failed(self, error: DroverError, answered: bool) -> Reply:
        """The engine could not be reached or broke off; `answered`: the client has already got a part."""
        reply = error_reply(error)
        if not answered:
            return await self._replied(reply)
        self._unwind(Failure(stage="engine", code=reply.status, message=error.message), None)
        return reply

    # The chain.

    async def _pre(self) -> Request:
        request = self._request
        for adapter in self._hooks.pre:
            self._ran.append(adapter)
            try:
                request = await self._ask_pre(adapter, request)
            except Refused:
                self._ran.pop()
                raise
        return request

    async def _ask_pre(self, adapter: Adapter, request: Request) -> Request:
        tell = message(adapter.protocol, "pre-hook", request, self._extras)
        return await self._ask(
            adapter, "pre-hook", tell, request, lambda answer: read_pre(adapter.name, adapter.protocol, answer, request)
        )

    async def _after(self, engines: Response) -> Reply | None:
        """Post-hooks on a whole response; None if they left it as it is."""
        try:
            response = await self._post(engines)
        except (Refused, AdapterError) as error:
            try:
                await asyncio.shield(self._undo(engines))
            finally:  # the client may go meanwhile
                reply = self._stopped("post-hook", error, engines)
            return reply
        if engines.status >= 400 and response.status >= 400:
            said = message_of(engines.body)
            self._unwind(Failure(stage="engine", code=engines.status, message=said), engines)
        return None if response == engines else _reply(response)

    async def _post(self, response: Response) -> Response:
        for adapter in self._hooks.post:
            response = await self._ask_post(adapter, response)
        return response

    async def _ask_post(self, adapter: Adapter, response: Response) -> Response:
        tell = message(adapter.protocol, "post-hook", self._request, self._extras, response)
        return await self._ask(
            adapter,
            "post-hook",
            tell,
            response,
            lambda answer: read_post(adapter.name, adapter.protocol, answer, response),
        )

    async def _ask(self, adapter: Adapter, kind: HookType, tell: bytes, sent: T, read: Callable[[HookAnswer], T]) -> T:
        """One hook: what it makes of `sent`. Raises `Refused` or `AdapterError`, unless its errors are skipped."""
        started_s = asyncio.get_running_loop().time()
        outcome: stats.Outcome = "unchanged"
        result, said = sent, ""
        try:
            result = read(await self._layer.ask(adapter, tell))
            outcome = "unchanged" if result == sent else "changed"
        except (Refused, AdapterError) as error:
            outcome, said = _judged(adapter, error)
            if outcome != "skipped":
                self._culprit = adapter.name
                raise
            log.warning("an adapter failed and is skipped", adapter=adapter.name, hook=kind, why=said)
        except asyncio.CancelledError:
            outcome, said = "failed", "the client went away before it answered"
            raise
        finally:
            duration_s = asyncio.get_running_loop().time() - started_s
            self._layer.note(
                HookEvent(
                    adapter=adapter,
                    kind=kind,
                    call=self._call,
                    trace_id=self._extras.trace_id,
                    outcome=outcome,
                    duration_s=duration_s,
                    error=said,
                    before=sent,
                    after=result,
                )
            )
        return result

    def _stopped(
        self, stage: Literal["pre-hook", "post-hook"], error: Refused | AdapterError, engines: Response | None
    ) -> Reply:
        """The client's answer when a hook ends the chain; what ran before is unwound."""
        reply = error.reply if isinstance(error, Refused) else error_reply(error)
        text = message_of(reply.body)
        log.info("a hook ended a call", stage=stage, method=self._call.method, path=self._call.path, why=text)
        self._unwind(Failure(stage=stage, adapter=self._culprit, code=reply.status, message=text), engines)
        return reply

    def _log_skipped(self, why: str) -> None:
        names = [adapter.name for adapter in self._hooks.post]
        if names:
            log.info("post-hooks skipped", method=self._call.method, path=self._call.path, adapters=names, why=why)

    # Undoing.

    def _unwind(self, failure: Failure, engines: Response | None) -> None:
        adapters = [adapter for adapter in reversed(self._ran) if adapter.unwind]
        if adapters:
            self._layer.spawn(self._unwound(adapters, failure, engines))

    async def _unwound(self, adapters: list[Adapter], failure: Failure, engines: Response | None) -> None:
        for adapter in adapters:
            tell = message(adapter.protocol, "unwind-hook", self._request, self._extras, engines, failure)
            try:
                answer = await self._layer.ask(adapter, tell)
                why = f"it answered with status {answer.status}" if answer.status >= 400 else ""
            except AdapterError as error:
                why = error.message
            if why:
                log.warning("an adapter could not be unwound", adapter=adapter.name, why=why)

    async def _undo(self, engines: Response) -> None:
        """A post-hook failed on a creation: what was created goes again, so that name and addresses are free."""
        way = _UNDONE_BY.get(self._call.path) if self._call.method == "POST" and engines.status == 201 else None
        if way is None:
            return
        prefix, query = way
        try:
            created = msgspec.json.decode(engines.body, type=_Created).id
            answer = await self._layer.inner(self._handler, "DELETE", f"{prefix}{created}{query}")
            why = message_of(answer.body) if answer.status >= 400 else ""
        except (DroverError, *MALFORMED) as error:
            why = str(error)
        if why:
            log.warning("what a refused call had created could not be removed", path=self._call.path, why=why)


class _Created(msgspec.Struct, rename="pascal"):
    id: str


def _judged(adapter: Adapter, error: Refused | AdapterError) -> tuple[stats.Outcome, str]:
    """What an adapter's error counts as, and its sentence."""
    if isinstance(error, AdapterError):
        return ("skipped" if adapter.on_error == "skip" else "failed"), sentence(error)
    said = message_of(error.reply.body)
    if not error.crashed:
        return "refused", said
    return ("skipped" if adapter.on_error == "skip" else "failed"), said


def _changed_call(call: Call, original: Request, changed: Request) -> Call:
    """The call as pre-hooks left it: its body and its query."""
    if changed == original:
        return call
    body = changed.body

    async def read_body(limit_bytes: int) -> bytes:
        return body or b""

    query = changed.request.partition("?")[2] if changed.request != original.request else call.query_string
    return msgspec.structs.replace(
        call,
        query_string=query,
        target=changed.request if changed.request != original.request else call.target,
        read_body=call.read_body if body is original.body else read_body,
    )


def _reply(response: Response) -> Reply:
    content_type = response.content_type or (JSON_TYPE if response.body else "")
    return Reply(
        status=response.status,
        body=response.body,
        content_type=content_type,
        headers=without(response.headers, *_FRAMING),
    )
