"""Tools for the tests of hooks: scripted adapters on loopback, a gateway with hooks before a scripted engine.

`HookWorld` is the wire tests' world (real sockets, a scripted engine) with a `HookLayer` around a handler that relays
everything to host h1, and the configuration where production has it: in a record that a mirror shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from gateway_wire_tools import DEADLINE_S, FakeEngine, Peer, World, ok, until

from drover.gateway.call import Call, Outcome
from drover.gateway.hooks.layer import HookLayer
from drover.model.cluster import put
from drover.model.records import Adapters, Setting, key
from drover.store.memory import MemoryCluster
from drover.store.mirror import Mirror

CREATE = "/v1.41/containers/create"
Behaviour = Callable[[dict[str, Any]], Awaitable[web.StreamResponse] | web.StreamResponse]


class ScriptedAdapter:
    """An adapter on loopback; `asked` has every message it got, `lines` is the log it shares with others."""

    def __init__(self, name: str, behave: Behaviour, lines: list[str]) -> None:
        self.name = name
        self.behave = behave
        self.asked: list[dict[str, Any]] = []
        self.gone = 0
        self._lines = lines
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def start(self, unix: Path | None = None, tls: Any = None) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{anything:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        if unix is not None:
            await web.UnixSite(self._runner, str(unix)).start()
            return
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls).start()
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        told = json.loads(await request.read())
        self.asked.append(told)
        self._lines.append(f"{self.name} {told['Type']}")
        try:
            answer = self.behave(told)
            return answer if isinstance(answer, web.StreamResponse) else await answer
        except asyncio.CancelledError:
            self.gone += 1
            raise


def echoed(told: dict[str, Any]) -> dict[str, Any]:
    """What an adapter that changes nothing answers."""
    if told["Type"] == "pre-hook":
        return {"PowerstripProtocolVersion": 1, "ModifiedClientRequest": dict(told["ClientRequest"])}
    shown = told["ServerResponse"] or {"ContentType": None, "Body": None, "Code": 200}
    return {"PowerstripProtocolVersion": 1, "ModifiedServerResponse": dict(shown)}


def echo(told: dict[str, Any]) -> web.Response:
    return web.json_response(echoed(told))


def modify(**fields: Any) -> Behaviour:
    """Echo with these fields set in the answer's object."""

    def behave(told: dict[str, Any]) -> web.Response:
        answer = echoed(told)
        next(value for key, value in answer.items() if key.startswith("Modified")).update(fields)
        return web.json_response(answer)

    return behave


def append_to_body(mark: str) -> Behaviour:
    """Add `mark` to the list `Marks` in the JSON body of the request or response."""

    def behave(told: dict[str, Any]) -> web.Response:
        answer = echoed(told)
        changed = next(value for key, value in answer.items() if key.startswith("Modified"))
        body = json.loads(changed["Body"])
        changed["Body"] = json.dumps(body | {"Marks": [*body.get("Marks", []), mark]})
        return web.json_response(answer)

    return behave


def answer(status: int = 200, text: str = "", content_type: str = "application/json", **headers: str) -> Behaviour:
    return lambda told: web.Response(status=status, text=text, content_type=content_type, headers=headers)


def never() -> Behaviour:
    async def behave(told: dict[str, Any]) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    return behave


class Answer:
    """A response as a client sees it."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.head, self.body = head, body
        self.status = int(head.split()[1])

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["message"])

    def header(self, name: str) -> str | None:
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            found, _, value = line.partition(":")
            if found.lower() == name.lower():
                return value.strip()
        return None


class HookWorld:
    """`lines`: in which order adapters and the engine were asked. `engine_bodies`: what the engine was sent."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.wire = World(tmp)
        self.engine: FakeEngine = self.wire.engine
        self.engine.script = self._engine
        self.engine_answer = ok(
            b'{"Id":"e1","Warnings":[]}\n', b"Content-Type: application/json", status=b"201 Created"
        )
        self.engine_bodies: list[bytes] = []
        self.lines: list[str] = []
        self.adapters: dict[str, ScriptedAdapter] = {}
        self.store = MemoryCluster().client()
        self.mirror = Mirror(self.store)
        self.layer = HookLayer(self.mirror, self.wire.links)
        self._relay = self.wire.handler

    async def _engine(self, peer: Peer, head: bytes) -> None:
        self.lines.append("engine")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        self.engine_bodies.append(await peer.exactly(int(lengths[0].split(b":")[1])) if lengths else b"")
        await peer.send(self.engine_answer)

    def handle_with(self, handler: Callable[[Call], Awaitable[Outcome]]) -> None:
        self.wire.handler = self.layer.wrap(handler)

    async def start(self) -> None:
        await self.wire.start()
        await self.store.commit([put(key("settings", "founded"), Setting(value="yes"))])
        assert await self.mirror.start()
        self.handle_with(self._relay)

    async def stop(self) -> None:
        await self.wire.stop()
        await self.layer.close()
        await self.mirror.stop()
        for adapter in self.adapters.values():
            await adapter.stop()

    async def adapter(self, name: str, behave: Behaviour = echo) -> ScriptedAdapter:
        made = self.adapters[name] = ScriptedAdapter(name, behave, self.lines)
        await made.start()
        return made

    async def configure(self, endpoints: dict[str, dict[str, list[str]]], **options: dict[str, Any] | str) -> None:
        """Endpoints, and per adapter what differs from its URL alone (a text replaces the URL)."""
        adapters: dict[str, Any] = {name: one.url for name, one in self.adapters.items()}
        for name, told in options.items():
            adapters[name] = told if isinstance(told, str) else {"url": adapters.get(name), **told}
        await self.apply(json.dumps({"version": 1, "endpoints": endpoints, "adapters": adapters}))

    async def apply(self, text: str) -> None:
        revision = await self.store.commit([put(key("adapters", "current"), Adapters(text=text))])
        await self.mirror.reached(revision, DEADLINE_S)

    async def ask(
        self, method: str = "POST", target: str = CREATE, body: bytes | None = b'{"Image":"a"}', *lines: bytes
    ) -> Answer:
        """One call of a client of its own."""
        client = await self.wire.client()
        try:
            head, payload = await client.ask(request(method, target, body, *lines))
        finally:
            client.close()
        return Answer(head, payload)

    async def quiet(self) -> None:
        """Wait for what runs beside the calls."""
        await until(lambda: not self.layer._beside)


def request(
    method: str, target: str, body: bytes | None = None, *lines: bytes, content_type: bytes = b"application/json"
) -> bytes:
    """A request's bytes; with a body it has Content-Length and a type."""
    head = [f"{method} {target} HTTP/1.1".encode(), b"Host: a", *lines]
    if body is not None:
        typed = [b"Content-Type: " + content_type] if content_type else []
        head += [*typed, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(head) + b"\r\n\r\n" + (body or b"")


@contextlib.asynccontextmanager
async def hook_world(tmp: Path) -> AsyncIterator[HookWorld]:
    made = HookWorld(tmp)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
