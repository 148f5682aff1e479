"""`HookLayer`: the hooks of one gateway, wrapped around its handler; the configuration is the cluster's.

Theory of operation. The record `adapters/current` is looked up in the mirror at each call and batch; when it is another
one, it is read anew, so that a change counts from the next call on and on every gateway. Calls that began before go on
with what they began with.

| the record | then |
|---|---|
| not known: nothing was read from the store yet | what could do anything is refused (503) |
| absent, or without endpoints | calls go to the handler, at the cost of one look |
| there | matching calls become a `HookedCall`; others go to the handler |
| of a newer version, unreadable here | the last readable one counts; if there is none, every call is refused (503) |

Containers of managed adapters are nobody's to change, and their names nobody's to take, as long as they are configured.
A call that hooks could not see into (HTTP/2, forms) is refused where hooks are configured.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import structlog

from drover.decide.resolve import resolve_container
from drover.errors import DroverError, Forbidden, Invalid, NotFound, Unavailable
from drover.gateway.answers import error_reply
from drover.gateway.call import Call, EngineResponse, Handler, Links, Outcome
from drover.gateway.hooks import stats
from drover.gateway.hooks.adapters import AdapterClient
from drover.gateway.hooks.chain import HookedCall, HookEvent
from drover.gateway.hooks.config import Adapter, HooksConfig, parse_config, warnings
from drover.gateway.hooks.dryrun import changes_between, dry_run
from drover.gateway.hooks.inner import inner_call
from drover.gateway.hooks.managed import PREFIX, ManagedAdapters
from drover.gateway.hooks.match import Matcher
from drover.gateway.hooks.protocol import Extras, HookAnswer
from drover.gateway.hooks.streams import BODY_LIMIT_BYTES, why_unhookable
from drover.model import records as r
from drover.model.spec import parse_spec
from drover.store.mirror import Mirror

_MEMBERS = re.compile(r"/networks/.+/(?:connect|disconnect)")
_CONTAINER_PATH = re.compile(r"/containers/(?!(?:create|json|prune)$)([^/]+)(?:/.*)?")

log = structlog.get_logger("drover.gateway.hooks")


class _Member(msgspec.Struct, rename="pascal"):
    """What the body of a network's connect or disconnect says of the container."""

    container: str = ""


async def _member(call: Call) -> str:
    """The container that a network's connect or disconnect is about; empty for other calls."""
    if call.method != "POST" or not _MEMBERS.fullmatch(call.path):
        return ""
    try:
        return msgspec.json.decode(await call.read_body(BODY_LIMIT_BYTES), type=_Member).container
    except msgspec.DecodeError:
        return ""  # the handler refuses it


class HookLayer:
    """`clock`: seconds since the Unix epoch. `new_trace_id`: a text that does not repeat soon."""

    def __init__(
        self,
        mirror: Mirror,
        links: Links,
        *,
        clock: Callable[[], float] = time.time,
        new_trace_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._mirror = mirror
        self._links = links
        self._clock = clock
        self._new_trace_id = new_trace_id
        self._record: r.Adapters | None = None
        self._broken: DroverError | None = None
        self._matcher = Matcher(HooksConfig())
        self._client = AdapterClient()
        self._stats: dict[str, stats.AdapterStats] = {}
        self._managed: ManagedAdapters | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._beside: set[asyncio.Task[None]] = set()
        self.config = HooksConfig()
        self.feed = stats.Feed()

    def wrap(self, handler: Handler) -> Handler:
        """`handler` with hooks before and after it. Once per layer: adapters' own containers are made by it too."""
        managed = self._managed = ManagedAdapters(handler, self._links, self._mirror)
        self._client.managed = managed
        self._unsubscribe()
        self._unsubscribe = self._mirror.on_batch(lambda batch: self._refresh())

        async def hooked(call: Call) -> Outcome:
            self._refresh()
            if self._broken is not None:
                return error_reply(self._broken)
            if not self._matcher:
                return await handler(call) if self._knows(call) else error_reply(self._not_read())
            if why := why_unhookable(call):
                return error_reply(Forbidden(f"This cluster has hooks, so {why}."))
            if forbidden := await self._about_managed(call):
                return error_reply(Forbidden(forbidden))
            hooks = self._matcher.find(call.method, call.path, call.version)
            return await HookedCall(self, hooks, handler, call).run() if hooks else await handler(call)

        return hooked

    def _knows(self, call: Call) -> bool:
        """Whether a call's hooks are known, or of no account: the gateway answers a daemon's first questions, and
        relays BuildKit's calls, before it has read any record."""
        return bool(self._mirror.cluster.revision) or call.method in ("GET", "HEAD")

    def _not_read(self) -> Unavailable:
        return Unavailable(f"this host has not read the cluster's adapters yet: {self._mirror.trouble}")

    def _refresh(self) -> None:
        """Take the configuration that the mirror shows, if it is another one."""
        record = self._mirror.cluster.rows("adapters", r.Adapters).get("current")
        if record is not self._record:
            self._record = record
            self._load(record)

    def _load(self, record: r.Adapters | None) -> None:
        try:
            config = parse_config(record.text) if record is not None else HooksConfig()
        except Invalid as error:
            log.error("the adapters' configuration cannot be read by this version of drover", why=error.message)
            if not self._matcher:
                self._broken = Unavailable(f"This host cannot read the cluster's adapters: {error.message}.")
            return
        self._broken, self.config, self._matcher = None, config, Matcher(config)
        self._client.keep_only(config.adapters.values())
        if self._managed is not None:
            self._managed.want([adapter for adapter in config.adapters.values() if adapter.image])
        self._stats = {name: self._stats.get(name) or stats.AdapterStats() for name in config.adapters}
        log.info("adapters are configured", adapters=list(config.adapters), endpoints=len(config.endpoints))

    async def close(self) -> None:
        """Wait for what runs beside calls, and close the ways to adapters."""
        if self._beside:
            await asyncio.gather(*self._beside, return_exceptions=True)
        self._unsubscribe()
        if self._managed is not None:
            await self._managed.close()
        await self._client.close()

    async def _about_managed(self, call: Call) -> str:
        """Why a call may not be made: it would change the container of a managed adapter, take its name, or take it off
        its network. Else whoever may remove and create containers could put an adapter of his own in its place."""
        names = {PREFIX + name for name, adapter in self.config.adapters.items() if adapter.image}
        if not names or call.method in ("GET", "HEAD"):
            return ""
        about = self._container(call.path) or self._resolved(await _member(call)) or {"Name": ""}
        taken = call.query("name").lstrip("/") if call.path.endswith(("/create", "/rename")) else ""
        name = next((name for name in (about["Name"], taken) if name in names), "")
        return name and f"Container {name} is kept by `drover adapter apply`."

    # What a hooked call needs (`chain.Layer`).

    def extras(self, call: Call, wanted: bool) -> Extras:
        if not wanted:
            return Extras(trace_id=self._new_trace_id())
        return Extras(
            trace_id=self._new_trace_id(),
            peer=call.peer,
            headers=call.headers,
            path=call.path,
            query_string=call.query_string,
            version=call.version,
            container=self._container(call.path),
        )

    def _container(self, path: str) -> dict[str, Any] | None:
        """Name, id, labels and host of the container that a path is about, if there is one."""
        found = _CONTAINER_PATH.fullmatch(path)
        return self._resolved(found[1]) if found else None

    def _resolved(self, ref: str) -> dict[str, Any] | None:
        try:
            record = resolve_container(self._mirror.cluster, ref) if ref else None
        except DroverError:
            return None
        if record is None:
            return None
        host = self._mirror.cluster.host_of(record.id)
        return {"Id": record.id, "Name": record.name, "Labels": parse_spec(record.body).labels, "Host": host}

    async def ask(self, adapter: Adapter, body: bytes) -> HookAnswer:
        return await self._client.ask(adapter, body)

    async def inner(self, handler: Handler, method: str, target: str) -> EngineResponse:
        return await inner_call(handler, self._links, method, target)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    def note(self, event: HookEvent) -> None:
        now = self._clock()
        counted = self._stats.get(event.adapter.name)
        if counted is not None:
            counted.note(event.outcome, event.duration_s, event.error, now)
        self.feed.tell(lambda: event_view(event, now))

    # What `drover.api.adapters` asks for.

    def check(self, text: str) -> list[str]:
        """Raises `Invalid` if the text is no configuration; returns warnings."""
        return warnings(parse_config(text))

    def views(self) -> list[dict[str, Any]]:
        """Each adapter with its numbers."""
        self._refresh()
        shown = []
        for name, adapter in self.config.adapters.items():
            uses = [one.expression for one in self.config.endpoints if name in (*one.pre, *one.post)]
            options = {
                "name": name,
                "url": adapter.url,
                "image": adapter.image,
                "on_error": adapter.on_error,
                "deadline_s": adapter.deadline_s,
                "protocol": adapter.protocol,
                "endpoints": uses,
                "trouble": self._managed.trouble(adapter) if self._managed is not None else "",
            }
            shown.append(options | self._stats[name].view())
        return shown

    def trace(self) -> AsyncIterator[dict[str, Any] | None]:
        return self.feed.listen()

    async def test(self, name: str, wish: dict[str, Any]) -> dict[str, Any]:
        """Ask one adapter about a made-up call; nothing reaches an engine and nothing is counted."""
        self._refresh()
        adapter = self.config.adapters.get(name)
        if adapter is None:
            known = ", ".join(self.config.adapters) or "none"
            raise NotFound(f"there is no adapter {name!r}", hint=f"there are: {known}")
        return await dry_run(self._client.ask, adapter, wish)


def event_view(event: HookEvent, now: float) -> dict[str, Any]:
    """One line of the trace: who, about what, with which outcome, and what was changed."""
    return {
        "at": now,
        "trace_id": event.trace_id,
        "adapter": event.adapter.name,
        "hook": event.kind,
        "method": event.call.method,
        "target": event.call.target,
        "outcome": event.outcome,
        "duration_s": event.duration_s,
        "error": event.error,
        "changes": msgspec.to_builtins(changes_between(event.before, event.after)),
    }
