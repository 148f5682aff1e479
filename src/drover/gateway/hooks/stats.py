"""What adapters did, counted and told: numbers for `drover adapter ls`, a live feed for `drover adapter trace`.

Theory of operation. Every hook call ends in one `note`. Numbers are of this host's gateway since its daemon started;
durations are those of the last `KEPT` calls, so that memory is flat. The feed costs nothing while nobody listens:
events, and the diffs in them, are made only then. A listener that reads too slowly loses the oldest events and is
told how many.

| outcome | what happened | counts as |
|---|---|---|
| `unchanged`, `changed` | the adapter answered | call |
| `refused` | it answered with 400 to 499, or `Refuse` | call, refusal |
| `failed` | no answer, no protocol, or 500 and above | call, error |
| `skipped` | the same, under `on_error: skip` | call, error |
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

import msgspec

KEPT = 1024
WAITING_EVENTS = 1000
IDLE_S = 1.0
CHANGES_LIMIT = 200
_ABSENT = object()

Outcome = Literal["unchanged", "changed", "refused", "failed", "skipped"]


class AdapterStats:
    """The numbers of one adapter. Times are seconds; `last_error_at` since the Unix epoch."""

    def __init__(self) -> None:
        self.calls = self.refusals = self.errors = 0
        self.last_error = ""
        self.last_error_at = 0.0
        self._durations_s: deque[float] = deque(maxlen=KEPT)

    def note(self, outcome: Outcome, duration_s: float, error: str, now: float) -> None:
        self.calls += 1
        self.refusals += outcome == "refused"
        self._durations_s.append(duration_s)
        if outcome in ("failed", "skipped"):
            self.errors += 1
            self.last_error, self.last_error_at = error, now

    def view(self) -> dict[str, Any]:
        ordered = sorted(self._durations_s)
        return {
            "calls": self.calls,
            "refusals": self.refusals,
            "errors": self.errors,
            "last_error": self.last_error,
            "last_error_at": self.last_error_at,
            "p50_s": quantile(ordered, 0.50),
            "p99_s": quantile(ordered, 0.99),
        }


def quantile(ordered: list[float], share: float) -> float:
    """The value that `share` of the ordered values do not exceed; 0 if there are none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Feed:
    """Events to whoever listens."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def tell(self, make: Callable[[], dict[str, Any]]) -> None:
        """`make()` is called only if somebody listens."""
        if self._listeners:
            event = make()
            for listener in self._listeners:
                listener.put(event)

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    async def listen(self) -> AsyncIterator[dict[str, Any] | None]:
        """Events from now on, for ever; `{"lost": n}` where n were dropped; None once a second while nothing happens,
        so that the caller can look whether its own reader is still there."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            while True:
                yield await listener.take()
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque()
        self._lost = 0
        self._ready = asyncio.Event()

    def put(self, event: dict[str, Any]) -> None:
        if len(self._events) >= WAITING_EVENTS:
            self._events.popleft()
            self._lost += 1
        self._events.append(event)
        self._ready.set()

    async def take(self) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(IDLE_S):
                await self._ready.wait()
        except TimeoutError:
            return None
        if self._lost:
            lost, self._lost = self._lost, 0
            return {"lost": lost}
        event = self._events.popleft()
        if not self._events:
            self._ready.clear()
        return event


class Change(msgspec.Struct, frozen=True):
    """One field that a hook changed; `before` or `after` is absent where the field was."""

    field: str
    before: Any = msgspec.UNSET
    after: Any = msgspec.UNSET


def body_changes(before: bytes | None, after: bytes | None) -> list[Change]:
    """How two bodies differ: by field if both are JSON, else as one text."""
    if before == after:
        return []
    try:
        return list(_take(_differences("Body", _value(before), _value(after)), CHANGES_LIMIT))
    except RecursionError:
        return [Change("Body (nested too deeply to compare)")]


def _take(changes: Iterator[Change], limit: int) -> Iterator[Change]:
    for number, change in enumerate(changes):
        if number >= limit:
            yield Change(f"… and more than {limit} others")
            return
        yield change


def _value(body: bytes | None) -> Any:
    try:
        return msgspec.json.decode(body or b"null")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return (body or b"").decode("utf-8", "replace")


def _differences(field: str, old: Any, new: Any) -> Iterator[Change]:
    if type(old) is type(new) and isinstance(old, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(f"{field}.{key}", old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif type(old) is type(new) and isinstance(old, list):
        for at in range(max(len(old), len(new))):
            yield from _differences(f"{field}[{at}]", _at(old, at), _at(new, at))
    elif old is _ABSENT or new is _ABSENT or old != new or type(old) is not type(new):
        yield Change(field, *(msgspec.UNSET if value is _ABSENT else value for value in (old, new)))


def _at(values: list[Any], at: int) -> Any:
    return values[at] if at < len(values) else _ABSENT
