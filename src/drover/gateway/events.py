"""`GET /events`: the events of all engines as one stream.

Theory of operation. The past and the present are asked for separately, so that the past can be put in order: one
instant T is chosen; what lies between `since` and T comes as whole answers and is merged by time; from T on, each
host's stream is passed on as it comes.

    since, until                    past                 present
    none                            -                    all hosts, from now on
    since                           since .. T           all hosts, from T on
    since, until in the past        since .. until       -
    (since,) until in the future    since .. T, if any   all hosts, until `until`

A host that is lost ends its part only; a host that joins or comes back is added, from the time its part ended.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator

import msgspec

from drover.errors import DroverError
from drover.gateway.call import Call, Outcome, Reply
from drover.gateway.context import Context, log, query_of, target_of
from drover.gateway.eventlines import Event, Lines, concerns, engine_filters, read_event
from drover.gateway.filters import Filters, filters_text, parse_filters, parse_when

BUFFERED = 1024
"""Events that may wait for a slow client before the engines' streams are read no further."""
RETRY_S = 1.0
LAST_EVENTS_S = 5.0
"""How long after `until` an engine may take to end its stream."""


class Asked(msgspec.Struct, frozen=True):
    """What the client asked for. `since` as the client wrote it (empty: nothing of the past); `until` in seconds since
    the epoch, None for ever; `now` is T."""

    filters: Filters
    since: str
    until: float | None
    now: float


async def events(ctx: Context, call: Call) -> Outcome:
    now = ctx.clock()
    since, until = call.query("since"), call.query("until")
    if since:
        parse_when(since, now)
    asked = Asked(parse_filters(call.query("filters")), since, parse_when(until, now) if until else None, now)
    return Reply(stream=_stream(ctx, call, asked))


async def _stream(ctx: Context, call: Call, asked: Asked) -> AsyncIterator[bytes]:
    if asked.since:
        for event in await past(ctx, call, asked):
            yield event.line
    if asked.until is None or asked.until > asked.now:
        async for event in _Present(ctx, call, asked).events():
            yield event.line


async def past(ctx: Context, call: Call, asked: Asked) -> list[Event]:
    """All hosts' events from `since` to T (or `until`, if that is earlier), in order of time."""
    end = asked.now if asked.until is None else min(asked.until, asked.now)
    target = engine_target(ctx, call, asked, since=asked.since, until=stamp(end))
    hosts = [host for host in ctx.usable() if concerns(host, asked.filters)]
    parts = await asyncio.gather(*(_past_of(ctx, host, target) for host in hosts))
    return list(heapq.merge(*parts, key=lambda event: event.time_ns))


async def _past_of(ctx: Context, host: str, target: str) -> list[Event]:
    found: list[Event] = []
    lines = Lines()
    try:
        async for piece in ctx.links.stream(host, "GET", target):
            found += [event for line in lines.feed(piece) if (event := read_event(ctx.ids, host, line))]
    except DroverError as error:
        log.info("a host's past events are left out", host=host, why=error.message)
    return found


def engine_target(ctx: Context, call: Call, asked: Asked, since: str, until: str) -> str:
    filters = filters_text(engine_filters(ctx.cluster, asked.filters))
    return target_of(call, "/events", query_of(since=since, until=until, filters=filters))


def stamp(at_s: float) -> str:
    """Seconds since the epoch as engines read them, to the microsecond."""
    return f"{at_s:.6f}"


def just_after(time_ns: int) -> str:
    """The instant after an event: where its host's part goes on when it comes back."""
    seconds, rest = divmod(time_ns + 1, 10**9)
    return f"{seconds}.{rest:09d}"


class _Present:
    """The streams of all usable hosts, each pumped into one queue by a task of its own."""

    def __init__(self, ctx: Context, call: Call, asked: Asked) -> None:
        self._ctx = ctx
        self._call = call
        self._asked = asked
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(BUFFERED)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._since: dict[str, str] = {}

    async def events(self) -> AsyncIterator[Event]:
        """The events until `until`, or for ever."""
        keeper = asyncio.create_task(self._keep())
        try:
            while (event := await self._queue.get()) is not None:
                yield event
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _keep(self) -> None:
        """Keep one task per usable host; at `until`, let them end, then end the stream."""
        end = self._asked.until
        while end is None or self._ctx.clock() < end:
            self._pump_all()
            await asyncio.sleep(RETRY_S if end is None else min(RETRY_S, max(0.0, end - self._ctx.clock())))
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=LAST_EVENTS_S)
        await self._queue.put(None)

    def _pump_all(self) -> None:
        for host in self._ctx.usable():
            task = self._tasks.get(host)
            if concerns(host, self._asked.filters) and (task is None or task.done()):
                self._tasks[host] = asyncio.create_task(self._pump(host))

    async def _pump(self, host: str) -> None:
        """One host's part. The first begins now (or at T, where the past was told); later ones where it ended."""
        since = self._since.setdefault(host, stamp(self._asked.now) if self._asked.since else "")
        until = "" if self._asked.until is None else stamp(self._asked.until)
        lines = Lines()
        try:
            async for piece in self._ctx.links.stream(
                host, "GET", engine_target(self._ctx, self._call, self._asked, since, until)
            ):
                for line in lines.feed(piece):
                    await self._tell(host, line)
        except DroverError as error:
            log.info("a host's events end here", host=host, why=error.message)
            self._since[host] = self._since[host] or stamp(self._ctx.clock())

    async def _tell(self, host: str, line: bytes) -> None:
        event = read_event(self._ctx.ids, host, line)
        if event is not None:
            self._since[host] = just_after(event.time_ns)
            await self._queue.put(event)
