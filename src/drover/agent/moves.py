"""`Mover`: this host's part in moves: copying as the target, stopping as the source, and the commits between.

Theory of operation. `decide.moves` has the phases; each method here is one step, and can be repeated after a crash at
any point. As target, rounds are copied until one takes less than `SMALL_S`, or the rounds do not get shorter any more.

A container may have a checkpoint command (`CHECKPOINT_LABEL`), for what it would otherwise write only when it is told
to stop, in the gap: the source runs it when the rest is small, and the rounds begin again.

    error while copying             then
    the stream broke                again from the last snapshot that both sides have, `TRIES` times in a row
    anything else, or too often     the move is aborted, with the error's sentence

The engine's container is made before the source stops: what can be done earlier must not be in the gap. It is made
with `nocopy`, as its volumes have their content already and are not there to be copied into yet.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import msgspec
import structlog

from drover.agent.belongings import RUNNING, Belongings, Stop, carried, checkpoint_command
from drover.agent.report import Reporter
from drover.agent.tally import Tally
from drover.agent.view import View
from drover.agent.volumes import VolumeKeeper, VolumeSource, Wanted, bind_options
from drover.decide import moves
from drover.decide.converge import answer_of
from drover.decide.replicas import first_base
from drover.drivers.engine.port import Engine
from drover.errors import DroverError, EngineError, Unavailable
from drover.model import records as r
from drover.model.cluster import Cluster, put
from drover.store.mirror import Mirror
from drover.store.port import CommitConflict

log = structlog.get_logger()

SMALL_S = 0.3
MIN_ROUNDS = 2
MAX_ROUNDS = 12
TRIES = 5
RETRY_S = 0.5
LOOK_S = 0.2
IN_USE = 409
READ_YOUR_WRITES_S = 5.0


class Containers(Protocol):
    """What a mover needs of whoever makes containers."""

    async def prepare(self, container: str, epoch: int) -> None:
        """Make the engine's container with this epoch, before its volumes are here."""
        ...

    async def start_engine(self, engine_id: str, verb: str) -> tuple[int, str]:
        """Start the engine's container: its status and text. Raises `Unavailable` without a lease."""
        ...

    async def look(self, container: str) -> None:
        """Look at the container again, and report."""
        ...

    async def park(self) -> None:
        """Hold back new connections to what stands still, as the records have it now."""
        ...

    async def let_in(self, container: str) -> None:
        """Let its clients in now, though the records still say that it stands still."""
        ...


class Sources(NamedTuple):
    """What moves, on this host and from others."""

    keeper: VolumeKeeper
    volumes: VolumeSource
    belongings: Belongings


class Mover:
    def __init__(
        self,
        host: str,
        mirror: Mirror,
        view: View,
        reporter: Reporter,
        engine: Engine,
        sources: Sources,
        containers: Containers,
        now: Callable[[], float],
    ) -> None:
        self._host = host
        self._mirror = mirror
        self._view = view
        self._reporter = reporter
        self._engine = engine
        self._keeper, self._source, self._belongings = sources
        self._containers = containers
        self._now = now
        self._was_running: dict[str, bool] = {}
        self._listened: dict[str, tuple[int, ...]] = {}
        self._made_from: dict[str, r.Container] = {}
        self._whole: dict[str, set[r.Part]] = {}
        """By container that comes: what of its own is staged here as it was at its end."""

    @property
    def _cluster(self) -> Cluster:
        return self._mirror.cluster

    async def _commit(self, commit: moves.Commit | None) -> bool:
        """Commit and see it; False if somebody else was faster, or there is nothing to do."""
        if commit is None:
            return False
        try:
            revision = await self._reporter.commit(list(commit.changes), commit.expect)
        except CommitConflict:
            await self._mirror.overtaken(commit.expect, READ_YOUR_WRITES_S)
            return False
        await self._mirror.reached(revision, READ_YOUR_WRITES_S)
        return True

    # -- target ----------------------------------------------------------------------------------------------------

    async def copy_rounds(self, key: str) -> None:
        """Make the engine's container, copy until the rest is small, and let the source stop."""
        move = self._cluster.moves[key]
        tally = Tally(self._host, key, move, self._reporter)
        try:
            if move.container:
                await self._prepare(move)
            await self._rounds(key, move, tally)
        except DroverError as error:
            await self.abort(key, error.message)
            return
        if await self._commit(moves.passed(self._cluster, key, "stopping", stopping_at=self._now())):
            await self._ahead(key, self._cluster.moves.get(key, move), tally)

    async def _ahead(self, key: str, move: r.Move, tally: Tally) -> None:
        """Take what came last as soon as it stands still, beside the commit that says so. `take_over` finds it done, or
        does it: so nothing that goes wrong here matters. It ends when the move goes another way."""
        tally.begin_last()
        pulls = asyncio.gather(
            *(self._pull_ahead(move, volume, tally) for volume in move.volumes),
            *(self._pull_part_ahead(move, part, tally) for part in carried(move)),
        )
        try:
            while not pulls.done() and self._goes_on(key, move):
                await asyncio.wait([pulls], timeout=LOOK_S)
        finally:
            pulls.cancel()
            await asyncio.wait([pulls])
            if not pulls.cancelled() and isinstance(error := pulls.exception(), Exception):
                log.error("copying ahead failed in a way nobody foresaw", move=key, exc_info=error)

    async def _pull_ahead(self, move: r.Move, volume: str, tally: Tally) -> None:
        wanted = self._wanted(move, volume, last=True)
        try:
            await self._keeper.receive(self._source, move.source, wanted, tally.add)
        except DroverError as error:
            log.info("what came last is copied when the records say so", volume=volume, error=error.message)

    async def _pull_part_ahead(self, move: r.Move, part: r.Part, tally: Tally) -> None:
        try:
            await self._belongings.pull(move, part, tally.add, last=True)
            self._whole.setdefault(move.container, set()).add(part)
        except DroverError as error:
            log.info("what came last is copied when the records say so", part=part, error=error.message)

    def _goes_on(self, key: str, move: r.Move) -> bool:
        """Whether a move that was told to stop its container still goes to be handed over."""
        now = self._cluster.moves.get(key)
        same = now is not None and now.number == move.number and now.phase in ("stopping", "stopped")
        return same and move.source in self._cluster.alive

    async def _rounds(self, key: str, move: r.Move, tally: Tally) -> None:
        for volume in move.volumes:
            await self._pull_base(key, move, volume, tally)
        await self._until_small(key, move, tally)
        if checkpoint_command(self._cluster.containers.get(move.container)) and self._still(key, move):
            if why := await self._belongings.checkpointed(move):
                log.warning("a move goes on without a checkpoint", move=key, why=why)
                tally.report(why)
            await self._until_small(key, move, tally)

    async def _pull_base(self, key: str, move: r.Move, volume: str, tally: Tally) -> None:
        """What makes the way from the source short. It can be done without, if a third host does not give it."""
        base = first_base(self._cluster, volume, move.source, self._host)
        if base is None:
            return
        host, snapshot = base
        try:
            await self._pull(key, move, volume, snapshot, tally, host)
        except DroverError as error:
            if host == move.source:
                raise
            log.warning("a move begins without a base", move=key, volume=volume, base=base, error=error.message)

    async def _until_small(self, key: str, move: r.Move, tally: Tally) -> None:
        """Copy again and again what came meanwhile, until that takes no time, or no less time."""
        loop = asyncio.get_running_loop()
        before_s = float("inf")
        for number in range(1, MAX_ROUNDS + 1):
            begin = loop.time()
            tally.begin_round(lambda: self._size_bytes(move))
            for volume in move.volumes:
                await self._pull(key, move, volume, "", tally)
            for part in carried(move):
                await self._pull_part(key, move, part, tally)
            took_s = loop.time() - begin
            enough = number >= (MIN_ROUNDS if move.container else 1)  # what nobody writes does not change meanwhile
            if not self._still(key, move) or (enough and (took_s < SMALL_S or took_s > before_s * 0.8)):
                return
            before_s = took_s

    def _size_bytes(self, move: r.Move) -> int:
        """What the source said of its volumes' sizes."""
        facts = (self._cluster.volume_facts.get(f"{move.source}/{volume}") for volume in move.volumes)
        return sum(one.size_bytes for one in facts if one is not None)

    def _still(self, key: str, move: r.Move) -> bool:
        """Whether this very move is still in the phase it was in."""
        now = self._cluster.moves.get(key)
        return now is not None and (now.number, now.phase) == (move.number, move.phase)

    async def _pull(self, key: str, move: r.Move, volume: str, snapshot: str, tally: Tally, host: str = "") -> None:
        """One volume's snapshot (empty: a new one), from the source or another host."""
        wanted = self._wanted(move, volume, snapshot)
        await self._tried(key, move, lambda: self._keeper.receive(self._source, host or move.source, wanted, tally.add))

    def _wanted(self, move: r.Move, volume: str, snapshot: str = "", last: bool = False) -> Wanted:
        return Wanted(
            volume=volume,
            epoch=self._keeper.record(volume).epoch,
            snapshot=snapshot,
            last=last,
            limit_bytes_s=move.limit_bytes_s,
            compress=move.compress,
        )

    async def _pull_part(self, key: str, move: r.Move, part: r.Part, tally: Tally) -> None:
        await self._tried(key, move, lambda: self._belongings.pull(move, part, tally.add))

    async def _tried(self, key: str, move: r.Move, pull: Callable[[], Awaitable[None]]) -> None:
        """Pull. A broken stream is tried again; then raises what broke it."""
        for left in reversed(range(TRIES)):
            try:
                await pull()
                return
            except Unavailable as error:
                if not left or not self._still(key, move):
                    raise
                log.warning("copying was interrupted", move=key, error=error.message, tries_left=left)
                await asyncio.sleep(RETRY_S)

    async def _prepare(self, move: r.Move) -> None:
        """Make the engine's volumes and container as they will be, with the paths that come with the claim."""
        record, placement = self._cluster.containers[move.container], self._cluster.placements[move.container]
        for name in move.volumes:
            volume = self._keeper.record(name)
            body = json.loads(volume.body or "{}") | {
                "DriverOpts": bind_options(self._keeper.path_at(volume, volume.epoch + 1))
            }
            await self._bound(volume, body)
        await self._drop_prepared(move.container)
        await self._containers.prepare(move.container, placement.epoch + 1)
        self._made_from[move.container] = record

    async def _bound(self, volume: r.Volume, body: dict[str, object]) -> None:
        """Bind it. A stopped container that stayed here, and still has the engine's volume as it was, is made anew
        meanwhile: that is waited for."""
        for left in reversed(range(TRIES)):
            try:
                await self._keeper.bind(volume, volume.epoch + 1, body)
                return
            except EngineError as error:
                if error.status != IN_USE or not left:
                    raise
                await asyncio.sleep(RETRY_S)

    async def _drop_prepared(self, container: str) -> None:
        seen = self._view.containers.get(container)
        if seen is not None:
            await self._engine.order(seen.engine_id, "remove", "force=1")
            self._view.lose(seen.engine_id)
        self._made_from.pop(container, None)
        self._whole.pop(container, None)

    async def take_over(self, key: str) -> None:
        """Copy what came last and put it in its place, then pass all claims in one commit."""
        move = self._cluster.moves[key]
        tally = Tally(self._host, key, move, self._reporter)
        tally.begin_last()
        try:
            if self._is_outdated(move):
                await self._prepare(move)
            await self._pull_last(key, move, tally)
            if move.container:
                await self._belongings.install(move)
        except DroverError as error:
            await self.abort(key, error.message)
            return
        tally.report("")
        if self._is_outdated(move):
            return  # it is made again, and taken over then
        await self._containers.park()
        commit = moves.hand_over(self._cluster, key, self._now())
        if commit is not None and move.container in self._cluster.containers:
            commit = self._with_answer(commit, move)
        ahead = [self._prepare_live(*one) for one in move.final.items()] if commit is not None else []
        handed, *_ = await asyncio.gather(self._commit(commit), *ahead)
        if not handed and commit is not None:
            log.info("a hand-over is decided again: the records changed meanwhile", move=key)

    async def _pull_last(self, key: str, move: r.Move, tally: Tally) -> None:
        """What came last of everything, at the same time: the container stands still. Raises the first error."""
        pulls = [self._pull(key, move, volume, snapshot, tally) for volume, snapshot in move.final.items()]
        missing = [part for part in carried(move) if part not in self._whole.get(move.container, ())]
        pulls += [self._pull_part(key, move, part, tally) for part in missing]
        ended = await asyncio.gather(*pulls, return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def _prepare_live(self, volume: str, snapshot: str) -> None:
        """Have the live set nearly made beside the commit that lets it be made: `EnsureVolume` finds that, or does it
        all."""
        try:
            await self._keeper.prepare(volume, snapshot)
        except DroverError as error:
            log.info("a volume is made live when the records say so", volume=volume, error=error.message)

    def _is_outdated(self, move: r.Move) -> bool:
        """Whether the container was renamed, updated or connected since it was made here, or is not here: it is made
        again then, as it is now."""
        record = self._cluster.containers.get(move.container)
        if record is None:
            return False
        made = self._made_from.get(move.container, record)
        return _what(made) != _what(record) or move.container not in self._view.containers

    def _with_answer(self, commit: moves.Commit, move: r.Move) -> moves.Commit:
        """The orders that the source has answered are not performed again: its last answer becomes ours."""
        answer = answer_of(self._cluster, move.source, {}, move.container)
        self._view.answers[move.container] = answer
        seen = self._view.containers.get(move.container)
        facts = r.ContainerFacts(
            container=move.container,
            host=self._host,
            engine_id=seen.engine_id if seen else "",
            state=seen.state if seen else "missing",
            epoch=seen.epoch if seen else 0,
            answer=answer,
            at=self._now(),
        )
        facts_key = r.key("container_facts", self._host, move.container)
        self._reporter.adopt(facts_key, facts)
        return moves.Commit((*commit.changes, put(facts_key, facts)), commit.expect)

    async def finish(self, key: str) -> None:
        """The container has been started: its clients are let in when it is ready for them."""
        self._made_from.pop(key, None)
        self._whole.pop(key, None)
        move = self._cluster.moves[key]
        if move.container:
            await self._belongings.settle(move)
        ended_at = self._now()
        if move.container:
            await self._containers.let_in(move.container)
        await self._commit(moves.passed(self._cluster, key, "done", ended_at=ended_at))
        if move.container:
            await self._belongings.clean(move)

    # -- source ----------------------------------------------------------------------------------------------------

    async def stop(self, key: str) -> None:
        """Stop the container and set its volumes aside: from here on nobody writes them."""
        move = self._cluster.moves[key]
        try:
            await self._containers.park()
            running = await self._stopped(move) if move.container else False
            final = {volume: await self._keeper.set_aside(volume) for volume in move.volumes}
            ports, now = self._listened.pop(key, ()), self._now()
            stopped = {"final": final, "running": running, "listening": ports, "stopped_at": now}
            await self._commit(moves.passed(self._cluster, key, "stopped", **stopped))
        except Unavailable:
            raise
        except DroverError as error:
            await self.abort(key, error.message)
        except asyncio.CancelledError:
            if stopping := self._belongings.stopping.get(move.container):
                stopping.answer.cancel()
            raise
        finally:
            await self._stop_answered(move.container)

    async def _stop_answered(self, container: str) -> None:
        """Nothing else is done about the container while its engine is busy with its stop."""
        stopping = self._belongings.stopping.get(container)
        if stopping is None:
            return
        try:
            await stopping.answer
        except DroverError as error:
            log.warning("a container has ended, and its stop failed", container=container, error=error.message)
        except asyncio.CancelledError:
            stopping.answer.cancel()
            raise
        finally:
            self._belongings.stopping.pop(container, None)

    async def _stopped(self, move: r.Move) -> bool:
        """Stop the container, and wait until it has ended; whether it ran. Repeated after a crash, what is desired has
        to do for that. What an engine does after a container's end before it answers is not waited for here: nobody
        writes the volumes any more, and a start finds no path."""
        seen = self._view.containers.get(move.container)
        if seen is None:
            return self._cluster.containers[move.container].desired == "running"
        self._belongings.refuse_left_behind(move, seen)
        if seen.state not in RUNNING:
            return self._was_running.get(move.container, seen.state != "created")
        self._was_running[move.container] = True
        self._view.stopped_for_move.add(seen.engine_id)
        self._listened[move.container] = await self._belongings.listening(move.container)
        async with self._belongings.ending(seen) as ended:
            stop = asyncio.create_task(self._stop(move, seen.engine_id))
            self._belongings.stopping[move.container] = Stop(stop, ended)
            end = asyncio.create_task(ended.wait())
            try:
                await asyncio.wait([stop, end], return_when=asyncio.FIRST_COMPLETED)
            finally:
                end.cancel()
        if stop.done():
            del self._belongings.stopping[move.container]
            stop.result()
        return True

    async def _stop(self, move: r.Move, engine_id: str) -> None:
        query = f"t={move.grace_s}" if move.grace_s >= 0 else ""
        status, text = await self._engine.order(engine_id, "stop", query)
        if status >= 400:
            raise DroverError(f"the container cannot be stopped: {text}")
        await self._containers.look(move.container)

    async def restore(self, key: str) -> None:
        """After an abort: the volumes' live sets again, in the same epoch, and the container as it was."""
        move = self._cluster.moves[key]
        for name in move.volumes:
            volume = self._cluster.volumes.get(name)
            if volume is not None and volume.host == self._host and not volume.removed:
                await self._keeper.put_back(name)
        if await self._restart(move):
            ports = self._listened.pop(key, move.listening)
            await self._belongings.settle(msgspec.structs.replace(move, listening=ports, running=True))
        await self._commit(moves.passed(self._cluster, key, "aborted", ended_at=self._now()))

    async def _restart(self, move: r.Move) -> bool:
        """Start the container again if the move has stopped it; whether it has."""
        record, seen = self._cluster.containers.get(move.container), self._view.containers.get(move.container)
        stopped_by_us = self._was_running.pop(move.container, move.running)
        if record is None or seen is None or record.desired != "running" or seen.state in RUNNING:
            return False
        if not stopped_by_us or self._cluster.host_of(move.container) != self._host:
            return False
        status, text = await self._containers.start_engine(seen.engine_id, "start")
        await self._containers.look(move.container)
        if status >= 400:
            raise DroverError(f"the container cannot be started again: {text}")
        return True

    # -- both --------------------------------------------------------------------------------------------------------

    async def abort(self, key: str, why: str) -> None:
        """Let the source go on as before; nothing after the hand-over."""
        log.warning("a move is aborted", move=key, why=why)
        await self._commit(moves.passed(self._cluster, key, "aborting", why=why))


def _what(record: r.Container) -> tuple[object, ...]:
    return record.name, record.body, record.image_id, record.attachments
