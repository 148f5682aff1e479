"""The API's routes about hooks: their configuration in the store, and what this host's gateway saw of them.

    method and path                  body         answer
    GET /adapters                                 {applied_at, previous_at, adapters: [numbers per adapter]}
    GET /adapters/config?previous=1               {text, applied_at}
    POST /adapters/config            {text}       {applied_at, warnings}
    POST /adapters/rollback                       {applied_at}
    GET /adapters/trace                           one JSON object per line, as it happens, without end
    POST /adapters/NAME/test         a call       what the adapter was sent, answered, and would have changed

A configuration is checked before it is written, and one commit makes it current and keeps the one before it; so it
counts on every gateway or on none. Numbers and trace are of this host's gateway. Times are seconds since the epoch.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec
from aiohttp import web

from drover.api.app import CONTEXT, body_of, commit, json_answer
from drover.api.membership import Decision
from drover.errors import NotFound
from drover.model.cluster import Cluster, put
from drover.model.records import Adapters, key

CURRENT = key("adapters", "current")
PREVIOUS = key("adapters", "previous")
NOTHING = "endpoints: {}\nadapters: {}\n"


class Hooks(Protocol):
    """What the gateway's hooks offer; `gateway.hooks.layer.HookLayer`."""

    def check(self, text: str) -> list[str]:
        """Raises `Invalid`, or returns warnings."""
        ...

    def views(self) -> list[dict[str, Any]]: ...

    def trace(self) -> AsyncIterator[dict[str, Any] | None]:
        """Events for ever; None now and then while there are none."""
        ...

    async def test(self, name: str, wish: dict[str, Any]) -> dict[str, Any]: ...


class ConfigBody(msgspec.Struct, frozen=True):
    text: str


def adapter_routes(hooks: Hooks) -> list[web.RouteDef]:
    """The routes, for `ApiServer`."""
    routes = _Routes(hooks)
    return [
        web.get("/adapters", routes.get_adapters),
        web.get("/adapters/config", get_config),
        web.post("/adapters/config", routes.post_config),
        web.post("/adapters/rollback", post_rollback),
        web.get("/adapters/trace", routes.get_trace),
        web.post("/adapters/{name}/test", routes.post_test),
    ]


class _Routes:
    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    async def get_adapters(self, request: web.Request) -> web.Response:
        cluster = request.app[CONTEXT].mirror.cluster
        times = {"applied_at": _applied_at(cluster, "current"), "previous_at": _applied_at(cluster, "previous")}
        return json_answer(times | {"adapters": self._hooks.views()})

    async def post_config(self, request: web.Request) -> web.Response:
        context, body = request.app[CONTEXT], await body_of(request, ConfigBody)
        warnings = self._hooks.check(body.text)
        made = Adapters(text=body.text, applied_at=context.clock())
        await commit(context, lambda cluster: decide_apply(cluster, made))
        return json_answer({"applied_at": made.applied_at, "warnings": warnings})

    async def get_trace(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            async for event in self._hooks.trace():
                if event is not None:
                    await response.write(msgspec.json.encode(event) + b"\n")
                elif request.transport is None:
                    break
        return response

    async def post_test(self, request: web.Request) -> web.Response:
        wish = await body_of(request, dict[str, Any])
        return json_answer(await self._hooks.test(request.match_info["name"], wish))


async def get_config(request: web.Request) -> web.Response:
    which = "previous" if request.query.get("previous") else "current"
    record = _record(request.app[CONTEXT].mirror.cluster, which)
    if record is None and which == "previous":
        raise NotFound("no other configuration of adapters was applied before")
    shown = record or Adapters(text=NOTHING)
    return json_answer({"text": shown.text, "applied_at": shown.applied_at})


async def post_rollback(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    await commit(context, lambda cluster: decide_rollback(cluster, context.clock()))
    return json_answer({"applied_at": _applied_at(context.mirror.cluster, "current")})


def decide_apply(cluster: Cluster, made: Adapters) -> Decision:
    """Make a configuration current, and keep the one it replaces (at first, an empty one)."""
    before = _record(cluster, "current") or Adapters(text=NOTHING)
    return Decision((put(CURRENT, made), put(PREVIOUS, before)), _expected(cluster))


def decide_rollback(cluster: Cluster, now: float) -> Decision:
    """Exchange the current and the previous configuration, so that a rollback can be rolled back."""
    before, previous = _record(cluster, "current"), _record(cluster, "previous")
    if before is None or previous is None:
        raise NotFound("no other configuration of adapters was applied before", hint="see `drover adapter show`")
    again = msgspec.structs.replace(previous, applied_at=now)
    return Decision((put(CURRENT, again), put(PREVIOUS, before)), _expected(cluster))


def _expected(cluster: Cluster) -> dict[str, int]:
    return {each: cluster.version(each) for each in (CURRENT, PREVIOUS)}


def _record(cluster: Cluster, which: str) -> Adapters | None:
    return cluster.rows("adapters", Adapters).get(which)


def _applied_at(cluster: Cluster, which: str) -> float:
    record = _record(cluster, which)
    return record.applied_at if record is not None else 0.0
