"""The API's routes about the cluster's own events and the hooks on them.

    method and path                             body                         answer
    GET /events?since=S&until=S&type=GLOB…                                   events, oldest first
        …&subject=NAME&follow=1                                              one JSON line each, and those to come
    GET /event-hooks                                                         the hooks
    POST /event-hooks                           {url | command, types: []}   the hook
    DELETE /event-hooks/ID                                                   {removed}

`since` and `until` are seconds since the Unix epoch.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from drover.api.app import CONTEXT, body_of, commit, json_answer
from drover.api.membership import Decision
from drover.decide.happenings import TABLE, TYPES, matches
from drover.errors import Invalid, NotFound
from drover.model import records as r
from drover.model.cluster import Cluster, delete, put


class HookBody(msgspec.Struct, frozen=True):
    url: str = ""
    command: str = ""
    types: tuple[str, ...] = ()


class Asked(msgspec.Struct, frozen=True):
    """Which events."""

    since: float = 0.0
    until: float = float("inf")
    types: tuple[str, ...] = ()
    subject: str = ""

    def wants(self, event: r.Event) -> bool:
        in_time = self.since <= event.at <= self.until
        return in_time and matches(event, self.types) and self.subject in ("", event.subject)


def event_routes() -> list[web.RouteDef]:
    """The routes, for `ApiServer`."""
    return [
        web.get("/events", get_events),
        web.get("/event-hooks", get_hooks),
        web.post("/event-hooks", post_hook),
        web.delete("/event-hooks/{id}", delete_hook),
    ]


async def get_events(request: web.Request) -> web.StreamResponse:
    asked, cluster = _asked(request), request.app[CONTEXT].mirror.cluster
    rows = cluster.rows(TABLE, r.Event)
    shown = views(rows, sorted(rows), asked)
    if request.query.get("follow") != "1":
        return json_answer(shown)
    return await _followed(request, asked, shown)


def _asked(request: web.Request) -> Asked:
    try:
        since, until = float(request.query.get("since", 0)), float(request.query.get("until", "inf"))
    except ValueError as error:
        raise Invalid(f"since and until are seconds since the epoch: {error}") from None
    return Asked(since, until, tuple(request.query.getall("type", [])), request.query.get("subject", ""))


def views(rows: Mapping[str, r.Event], keys: Iterable[str], asked: Asked) -> list[dict[str, Any]]:
    return [{"id": key, **msgspec.to_builtins(rows[key])} for key in keys if key in rows and asked.wants(rows[key])]


async def _followed(request: web.Request, asked: Asked, shown: list[dict[str, Any]]) -> web.StreamResponse:
    """The past, then what is written from now on; until the client goes."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    mirror = request.app[CONTEXT].mirror
    batches = mirror.subscribe()
    await response.prepare(request)
    await _send(response, shown)
    async for batch in batches:
        keys = [change.key.partition("/")[2] for change in batch.changes if change.key.startswith(f"{TABLE}/")]
        await _send(response, views(mirror.cluster.rows(TABLE, r.Event), sorted(keys), asked))
    return response


async def _send(response: web.StreamResponse, shown: Iterable[dict[str, Any]]) -> None:
    for one in shown:
        await response.write(msgspec.json.encode(one) + b"\n")


async def get_hooks(request: web.Request) -> web.Response:
    rows = request.app[CONTEXT].mirror.cluster.rows("event_hooks", r.EventHook)
    return json_answer([msgspec.to_builtins(row) for _, row in sorted(rows.items())])


async def post_hook(request: web.Request) -> web.Response:
    """A new hook is told what happens from now on."""
    context, body = request.app[CONTEXT], await body_of(request, HookBody)
    _check(body)
    identity = secrets.token_hex(4)
    key = r.key("event_hooks", identity)

    def decided(cluster: Cluster) -> Decision:
        cursor = max(cluster.rows(TABLE, r.Event), default="0")
        hook = r.EventHook(id=identity, url=body.url, command=body.command, types=body.types, cursor=cursor)
        return Decision((put(key, hook),), {key: 0})

    await commit(context, decided)
    return json_answer(msgspec.to_builtins(context.mirror.cluster.rows("event_hooks", r.EventHook)[identity]))


def _check(body: HookBody) -> None:
    if bool(body.url) == bool(body.command):
        raise Invalid("a hook has either a URL or a command")
    if body.url and not body.url.startswith(("http://", "https://")):
        raise Invalid(f"{body.url} is no http:// or https:// URL")
    for pattern in body.types:
        if not any(matches(r.Event(type=one), (pattern,)) for one in TYPES):
            raise Invalid(f"there is no event {pattern}", hint=f"there are {', '.join(TYPES)}")


async def delete_hook(request: web.Request) -> web.Response:
    context, identity = request.app[CONTEXT], request.match_info["id"]
    key = r.key("event_hooks", identity)

    def decided(cluster: Cluster) -> Decision:
        if identity not in cluster.rows("event_hooks", r.EventHook):
            raise NotFound(f"no hook has the id {identity}", hint="see `drover events hook ls`")
        return Decision((delete(key),), {key: cluster.version(key)})

    await commit(context, decided)
    return json_answer({"removed": identity})
