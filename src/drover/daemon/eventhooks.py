"""`HookRunner`: tells webhooks and commands about events, at least once each; the leader's host does it.

Theory of operation. Each hook has a cursor in the store: the key of the last event that was dealt with. The leader
takes the next event after it that matches, delivers it, then moves the cursor. If it dies in between, the next leader
delivers once more.

    delivery                              then
    2xx, or exit status 0                 the cursor moves
    anything else, or TIMEOUT_S is over   again after a pause that doubles from FIRST_PAUSE_S, TRIES times in all;
                                          then the event `hook.failed` is written, and the cursor moves
    another host leads meanwhile          nothing: it goes on from the cursor

A webhook gets the event as a JSON body by POST. A command is run by `sh -c` with the JSON on its standard input and
DROVER_EVENT_TYPE, DROVER_EVENT_SUBJECT and DROVER_EVENT_SAYS in its environment.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import aiohttp
import msgspec
import structlog

from drover.decide.happenings import TABLE, matches
from drover.errors import DroverError
from drover.model import records as r
from drover.model.cluster import Cluster, put
from drover.store.mirror import Mirror
from drover.store.port import Batch, CommitConflict, Store
from drover.store.waking import woken

log = structlog.get_logger("drover.daemon.eventhooks")

TRIES = 6
FIRST_PAUSE_S = 1.0
TIMEOUT_S = 10.0
LOOK_S = 30.0
REACH_S = 2.0
SAID_CHARACTERS = 200


def due(cluster: Cluster, hook: r.EventHook) -> tuple[str, r.Event | None]:
    """The key to move a hook's cursor to, and the event to tell before that (None: nothing matched up to there)."""
    events = cluster.rows(TABLE, r.Event)
    later = sorted(key for key in events if key > hook.cursor)
    for key in later:
        if matches(events[key], hook.types):
            return key, events[key]
    return (later[-1] if later else hook.cursor), None


def event_json(key: str, event: r.Event) -> bytes:
    """`{"id": …, "type": …, "subject": …, "says": …, "at": seconds since the Unix epoch}`."""
    return msgspec.json.encode({"id": key, **msgspec.to_builtins(event)})


class HookRunner:
    def __init__(self, store: Store, mirror: Mirror, leads: Callable[[], bool], now: Callable[[], float]) -> None:
        """`leads()`: whether this host does it now; `now()` is in seconds since the Unix epoch."""
        self._store = store
        self._mirror = mirror
        self._leads = leads
        self._now = now
        self._wake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """For ever: each hook has a task of its own, so that one that is slow holds up no other."""
        self._mirror.on_batch(self._on_batch)
        try:
            while True:
                for name in self._mirror.cluster.rows("event_hooks", r.EventHook) if self._leads() else ():
                    if name not in self._busy:
                        self._begin(name)
                await woken(self._wake, LOOK_S)
        finally:
            for task in self._busy.values():
                task.cancel()

    def _begin(self, name: str) -> None:
        task = asyncio.create_task(self._serve(name), name=f"hook {name}")
        self._busy[name] = task
        task.add_done_callback(lambda _: self._busy.pop(name, None))

    def _on_batch(self, batch: Batch) -> None:
        if any(change.key.startswith(("events/", "event_hooks/", "settings/")) for change in batch.changes):
            self._wake.set()

    async def _serve(self, name: str) -> None:
        """Until the hook has been told everything, or this host leads no more."""
        while self._leads() and self._mirror.healthy:
            hook = self._mirror.cluster.rows("event_hooks", r.EventHook).get(name)
            if hook is None:
                return
            key, event = due(self._mirror.cluster, hook)
            if key == hook.cursor:
                return
            if event is not None:
                await self._tell(hook, key, event)
            if self._leads():
                await self._move_on(name, hook, key)

    async def _tell(self, hook: r.EventHook, key: str, event: r.Event) -> None:
        why = ""
        for number in range(TRIES):
            if number:
                await asyncio.sleep(FIRST_PAUSE_S * 2 ** (number - 1))
            if not self._leads():
                return
            why = await deliver(hook, key, event)
            if not why:
                return
            log.warning("an event was not delivered", hook=hook.id, event_type=event.type, why=why)
        if event.type != "hook.failed":
            await self._note_failure(hook, key, f"hook {hook.id} was not told of {event.type} ({key}): {why}")

    async def _note_failure(self, hook: r.EventHook, key: str, says: str) -> None:
        failed = r.Event(type="hook.failed", subject=hook.id, says=says, at=self._now())
        newest = max(self._mirror.cluster.rows(TABLE, r.Event), default=key)
        try:
            await self._store.commit([put(r.key(TABLE, f"{newest}.{hook.id}"), failed)])
        except DroverError as error:
            log.warning("a failure could not be written down", why=error.message)

    async def _move_on(self, name: str, hook: r.EventHook, cursor: str) -> None:
        key = r.key("event_hooks", name)
        changed = msgspec.structs.replace(hook, cursor=cursor)
        try:
            revision = await self._store.commit([put(key, changed)], {key: self._mirror.cluster.version(key)})
            await self._mirror.reached(revision, REACH_S)
        except CommitConflict:
            return
        except DroverError as error:
            log.warning("a hook's cursor was not moved: it may be told twice", hook=name, why=error.message)
            await asyncio.sleep(FIRST_PAUSE_S)


async def deliver(hook: r.EventHook, key: str, event: r.Event) -> str:
    """Tell one event; empty, or why it did not arrive."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await (_post(hook.url, key, event) if hook.url else _execute(hook.command, key, event))
    except TimeoutError:
        return f"it did not end within {TIMEOUT_S:g} s"
    except (OSError, aiohttp.ClientError) as error:
        return str(error) or type(error).__name__


async def _post(url: str, key: str, event: r.Event) -> str:
    headers = {"Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=event_json(key, event), headers=headers) as answer,
    ):
        return "" if answer.status < 300 else f"{url} answered {answer.status}"


async def _execute(command: str, key: str, event: r.Event) -> str:
    told = {f"DROVER_EVENT_{name.upper()}": getattr(event, name) for name in ("type", "subject", "says")}
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **told},
    )
    try:
        _, said = await process.communicate(event_json(key, event))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return ""
    return f"exit status {process.returncode}: {said.decode(errors='replace').strip()[:SAID_CHARACTERS]}"
