"""`Belongings`: what is a container's own on both sides of a move, and when it is ready for its clients.

Theory of operation. A container's writable layer and log are parts that travel as volumes do, in rounds: while it runs
they are read as they are found; the last round, after the stop, is exact. The target stages them beside the engine's
container that it has made, and installs them before the claims pass: a move that is cut before that has touched nothing
of the source's, and one that is cut after it has everything.

    part     cannot be moved (then the move is refused, or made without it on request)
    layer    the storage driver has no directory for it (not overlay2)
    log      the log driver keeps it elsewhere (neither json-file nor local)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Protocol

import msgspec
import structlog

from drover.agent.view import View
from drover.agent.volumes import LAST_S, Given, Incoming, told
from drover.decide.moves import BEFORE_HAND_OVER
from drover.drivers.engine.port import Engine, OwnFiles, SeenContainer
from drover.drivers.insides.port import Insides
from drover.drivers.volumes.port import NoBase
from drover.errors import Conflict, DroverError, Unavailable
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.snapshots import next_id
from drover.model.spec import parse_spec
from drover.store.mirror import Mirror

log = structlog.get_logger()

CHECKPOINT_LABEL = "drover.checkpoint"
"""On a container: a command, for its own shell, that has it write to its volumes what it holds in memory."""
PARTS: tuple[r.Part, ...] = ("layer", "log")
RUNNING = ("running", "restarting", "paused")
READY_S = 10.0
"""How long clients wait for a container that has been started and does not listen yet."""
POLL_S = 0.02


class AskedPart(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the source of a move; with `last` when the container has ended, which is waited for."""

    container: str
    part: r.Part
    limit_bytes_s: int = 0
    compress: bool = False
    last: bool = False


class Stop:
    """A container's stop that its engine has not answered: what is known of it by then."""

    def __init__(self, answer: asyncio.Task[None], ended: asyncio.Event) -> None:
        self.answer = answer
        self.ended = ended
        self.log_closed = asyncio.Event()


class PartSource(Protocol):
    async def checkpoint(self, host: str, container: str) -> int:
        """Have a host run a container's checkpoint command: its exit code. Raises as `VolumeSource.open` does."""
        ...

    def open_part(self, host: str, asked: AskedPart, have: bytes) -> AbstractAsyncContextManager[Incoming]:
        """A stream from a host, less what this one has. Raises as `VolumeSource.open` does."""
        ...


class Belongings:
    def __init__(
        self,
        host: str,
        mirror: Mirror,
        view: View,
        engine: Engine,
        insides: Insides,
        source: PartSource,
        now: Callable[[], float],
    ) -> None:
        self._host = host
        self._mirror = mirror
        self._view = view
        self._engine = engine
        self._insides = insides
        self._source = source
        self._now = now
        self._given = ""
        self._places: dict[str, OwnFiles] = {}
        self.stopping: dict[str, Stop] = {}
        """By container: its stop that the engine has not answered yet, though its processes may have ended."""

    @property
    def _cluster(self) -> Cluster:
        return self._mirror.cluster

    def _seen(self, container: str) -> SeenContainer:
        """Raises `Unavailable` while the engine does not show it."""
        seen = self._view.containers.get(container)
        if seen is None:
            raise Unavailable(f"the engine of {self._host} does not show container {container[:12]}")
        return seen

    async def _files(self, container: str, part: r.Part) -> OwnFiles:
        """Raises `Conflict` if the part is not in files that can be moved."""
        files = await self._place(self._seen(container).engine_id)
        if part == "layer" and not files.layer:
            raise Conflict(
                f"what it wrote outside its volumes is kept by {self._host}'s storage driver {files.storage_driver}",
                hint="only overlay2's can be moved: drover move --without-layer leaves it behind",
            )
        if part == "log" and not files.log_directory:
            raise Conflict(
                f"its log is kept by the log driver {files.log_driver} on {self._host}",
                hint="those of json-file and local can be moved: drover move --without-log leaves it behind",
            )
        return files

    async def _place(self, engine_id: str) -> OwnFiles:
        """Asked once: it never changes, and the container stands still while it is needed."""
        if engine_id not in self._places:
            self._places[engine_id] = await self._engine.own_files(engine_id)
        return self._places[engine_id]

    # -- source ----------------------------------------------------------------------------------------------------

    async def checkpoint(self, container: str) -> int:
        """Run the container's checkpoint command: its exit code. Only for a move that this host is the source of."""
        move, record = self._cluster.moves.get(container), self._cluster.containers.get(container)
        command = checkpoint_command(record)
        if move is None or move.source != self._host or move.phase != "copying" or not command:
            raise Conflict(f"container {container[:12]} is not being copied from {self._host}")
        return await self._engine.run(self._seen(container).engine_id, ("/bin/sh", "-c", command))

    async def give(self, asked: AskedPart, have: bytes) -> Given:
        """A part as it is now. Only to a move that this host is the source of, and after its stop only of a container
        that has ended."""
        move = self._cluster.moves.get(asked.container)
        if move is None or move.source != self._host or move.phase not in BEFORE_HAND_OVER:
            raise Conflict(f"container {asked.container[:12]} is not being moved from {self._host}")
        if asked.last:
            await self._end_of(asked.container)
        stop = self.stopping.get(asked.container)
        ended = stop is not None and (asked.last or move.phase == "stopped")  # though the engine has not said so yet
        if ended and stop is not None and asked.part == "log":
            await self._log_is_whole(stop)
        seen = self._seen(asked.container)
        self.refuse_left_behind(move, seen)
        running = seen.state in RUNNING and not ended
        if running and move.phase == "stopped":
            raise Conflict(f"container {seen.name} runs again on {self._host}")
        files = await self._files(asked.container, asked.part)
        at = self._now()
        self._given = next_id([self._given] if self._given else [], 1, at)
        return Given(self._given, self._insides.send(files, asked.part, have, running), at)

    def refuse_left_behind(self, move: r.Move, seen: SeenContainer) -> None:
        """Nothing is silently destroyed: an anonymous volume would stay here and go with the old container."""
        known = {*move.volumes, *parse_spec(self._cluster.containers[move.container].body).volume_names}
        left = [name for name in seen.volumes if name not in known]
        if left:
            raise Conflict(
                f"container {seen.name} has {len(left)} anonymous volume(s) ({left[0][:12]}…), which would be lost",
                hint="give the path a named volume: docker run -v NAME:/path …",
            )

    async def _end_of(self, container: str) -> None:
        """Wait for the end of what its move stops. Raises `Unavailable` where that takes long, or is not told before
        the engine answers."""
        try:
            async with asyncio.timeout(LAST_S):
                while (stop := self.stopping.get(container)) is None or not stop.ended.is_set():
                    move = self._cluster.moves.get(container)
                    if move is None or move.phase not in ("copying", "stopping"):
                        break
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            stop = None
        if stop is None or not stop.ended.is_set():
            raise Unavailable(f"container {container[:12]} was not seen to end on {self._host}", hint="ask again")

    async def _log_is_whole(self, stop: Stop) -> None:
        """Wait until the engine writes no more of a log. It closes the log before it tells of the container's end, and
        answers the stop after it has taken down the networks, which may take as long as all else."""
        told = asyncio.create_task(stop.log_closed.wait())
        try:
            await asyncio.wait([stop.answer, told], return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()

    def died(self, engine_id: str) -> None:
        """The engine tells of a container's end."""
        for container, stop in self.stopping.items():
            seen = self._view.containers.get(container)
            if seen is not None and seen.engine_id == engine_id:
                stop.log_closed.set()

    def ending(self, seen: SeenContainer) -> AbstractAsyncContextManager[asyncio.Event]:
        """See `Insides.ending`."""
        return self._insides.ending(seen.pid, seen.engine_id)

    async def listening(self, container: str) -> tuple[int, ...]:
        """The TCP ports it listens on."""
        seen = self._view.containers.get(container)
        if seen is None or not seen.pid:
            return ()
        return tuple(sorted(await self._insides.listening(seen.pid)))

    # -- target ----------------------------------------------------------------------------------------------------

    async def checkpointed(self, move: r.Move) -> str:
        """Have the source run the checkpoint command, if the container has one; why that failed, else nothing. A move
        without it takes longer, and is no less safe."""
        try:
            code = await self._source.checkpoint(move.source, move.container)
        except DroverError as error:
            return f"its checkpoint command cannot be run: {error.message}"
        return f"its checkpoint command ended with {code}" if code else ""

    async def pull(self, move: r.Move, part: r.Part, counted: Callable[[int], None], last: bool = False) -> None:
        """Stage a part of the container that is about to come here; `last`: as it is when that has ended. `counted` is
        told the bytes of each piece."""
        files = await self._files(move.container, part)
        asked = AskedPart(
            container=move.container,
            part=part,
            limit_bytes_s=move.limit_bytes_s,
            compress=move.compress,
            last=last,
        )
        try:
            await self._pull_onto(move.source, asked, files, await self._insides.have(files, part), counted)
        except NoBase:
            await self._pull_onto(move.source, asked, files, b"", counted)

    async def _pull_onto(
        self, source: str, asked: AskedPart, files: OwnFiles, have: bytes, counted: Callable[[int], None]
    ) -> None:
        opened = self._source.open_part(source, asked, have)
        async with opened as incoming, aclosing(told(incoming.pieces, counted)) as pieces:
            await self._insides.receive(files, asked.part, incoming.snapshot, pieces)

    async def install(self, move: r.Move) -> None:
        """Give the engine's container here what was staged. Refused for one that has run: its files are newer."""
        seen = self._seen(move.container)
        if seen.state != "created":
            raise Conflict(f"container {seen.name} has been started on {self._host} already")
        for part in carried(move):
            await self._insides.install(await self._files(move.container, part), part)

    async def settle(self, move: r.Move) -> None:
        """After the start: wait until it listens as it did and passes its health check. Clients are let in after this:
        not before it is of use, and after READY_S in any case."""
        try:
            async with asyncio.timeout(READY_S):
                await self._until_ready(move)
        except TimeoutError:
            log.warning("a moved container is not ready yet", container=move.container, after_s=READY_S)

    async def clean(self, move: r.Move) -> None:
        """Remove what staging has left; what stays goes with the container."""
        try:
            engine_id = self._seen(move.container).engine_id
            await self._insides.clean(await self._place(engine_id))
            self._places.pop(engine_id, None)
        except DroverError as error:
            log.warning("staging has left something", container=move.container, error=error.message)

    async def _until_ready(self, move: r.Move) -> None:
        """Both at the same time: a check begins to run long before the engine has begun to run it."""
        async with asyncio.TaskGroup() as group:
            for is_so in (self._listens, self._is_well):
                group.create_task(self._until(move, is_so))

    async def _until(self, move: r.Move, is_so: Callable[[r.Move, SeenContainer], Awaitable[bool]]) -> None:
        """A container that has ended meanwhile is as ready as it will be, and so is one that cannot be asked."""
        try:
            while move.running:
                seen = self._view.containers.get(move.container)
                if seen is None or seen.state != "running" or await is_so(move, seen):
                    return
                await asyncio.sleep(POLL_S)
        except DroverError as error:
            log.warning("a moved container cannot be asked", container=move.container, error=error.message)

    async def _listens(self, move: r.Move, seen: SeenContainer) -> bool:
        return set(move.listening) <= await self._insides.listening(seen.pid)

    async def _is_well(self, move: r.Move, seen: SeenContainer) -> bool:
        return await self._engine.passes_its_check(seen.engine_id, int(READY_S))


def checkpoint_command(record: r.Container | None) -> str:
    """What the container's label asks to be run before the last part of it is copied; empty: nothing."""
    return "" if record is None else parse_spec(record.body).labels.get(CHECKPOINT_LABEL, "")


def carried(move: r.Move) -> list[r.Part]:
    """What of the container's own files goes along."""
    return [part for part in PARTS if part not in move.leave] if move.container else []
