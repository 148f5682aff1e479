"""`play(history)`: a history on virtual time, in two phases, to its verdict.

    phase   what happens                                          ends
    one     the cluster stands; people and faults, as drawn       at `heal_at`, or with the first broken promise
    two     all faults end; nobody asks for anything              when everything is as the records ask, or after
                                                                  SETTLE_S: then what is left is told, and is a failure
                                                                  unless a host that is gone excuses it

Logs of the production code are not shown; a fault of its own that it logs with a traceback is a broken promise.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import structlog

from drover.sim import clock, workload
from drover.sim.eye import BrokenPromise
from drover.sim.faults import Faults
from drover.sim.history import History
from drover.sim.settle import Unsettled, unsettled
from drover.sim.trace import Trace
from drover.sim.workload import Clients
from drover.sim.world import World

SETTLE_S = 200.0
LOOK_S = 1.0
CALM_S = 3.0
"""How long it has to stay settled."""
STAND_S = 1.5
"""How long a cluster takes to stand, about."""
ROUNDS = 50_000
"""More rounds than this at one instant are a loop that does not end."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """`broken`: the first promise that did not hold, empty if all did. `digest`: of the trace. `virtual_s`: how long it
    was played. `settled_s`: how long after all was healed it came to rest. `excused`: what then was left."""

    seed: int
    digest: str
    virtual_s: float
    broken: str = ""
    excused: tuple[str, ...] = ()
    settled_s: float = 0.0
    revisions: int = 0
    answers: dict[str, int] = {}


def play(history: History, write: Callable[[str], None] | None = None) -> Outcome:
    """Play it. `write` gets the lines of the trace."""
    game = _Game(history, write)
    with _faults_logged_to(game):
        broken = ""
        try:
            clock.run(game.main())
        except BrokenPromise as error:
            broken = str(error)
        except clock.Deadlock as error:
            broken = f"P5: {error}"
    return Outcome(
        seed=history.seed,
        digest=game.trace.digest,
        virtual_s=game.virtual_s,
        broken=broken,
        excused=tuple(f"{one.what}: {one.why}" for one in game.left),
        settled_s=game.settled_s,
        revisions=game.world.cluster.revision if game.world else 0,
        answers=dict(sorted(game.clients.answers.items())) if game.clients else {},
    )


class _Game:
    def __init__(self, history: History, write: Callable[[str], None] | None) -> None:
        self.history = history
        self.trace = Trace(write)
        self.world: World | None = None
        self.clients: Clients | None = None
        self.left: list[Unsettled] = []
        self.settled_s = 0.0
        self.virtual_s = 0.0
        self._rounds = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main(self) -> None:
        shape = self.history.shape
        world = self.world = World(shape.hosts, replicating=True, members=shape.members, scale=shape.scale)
        world.eye.trace = self.trace
        world.eye.skew_s = 2 * max((abs(float(e.what)) for e in self.history.events if e.kind == "clock"), default=0.0)
        self.clients, faults = Clients(world), Faults(world)
        await world.start()
        self._loop = asyncio.get_running_loop()
        self._loop.after_each = self._after_each  # type: ignore[attr-defined]
        self._loop.set_exception_handler(self._unheard)
        await asyncio.sleep(STAND_S)
        await self._phase_one(faults, self.clients)
        self.trace.tell("all is healed")
        await faults.heal()
        await self._phase_two(world, self.clients)

    def _unheard(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What failed in a callback, or in a task that nobody asked how it ended."""
        assert self.world is not None
        what = context.get("exception") or context.get("future") or context.get("task") or ""
        self.world.eye.fault(f"a fault of Drover's own: {context['message']}: {what!r}")

    def _after_each(self) -> None:
        """After each round of callbacks: many a second, so what did not change is not looked at."""
        assert self.world is not None
        assert self._loop is not None
        self.world.eye.check()
        now = self._loop.time()
        self._rounds += 1
        if now != self.virtual_s:
            self.virtual_s, self._rounds = now, 0
        elif self._rounds > ROUNDS:
            raise BrokenPromise(f"P5: at {now:.2f} s something goes round and round and waits for nothing")

    async def _phase_one(self, faults: Faults, clients: Clients) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for event in self.history.events:
            await asyncio.sleep(max(0.0, begun + event.at - loop.time()))
            (clients if event.kind in workload.KINDS else faults).begin(event)
        await asyncio.sleep(max(0.0, begun + self.history.heal_at - loop.time()))

    async def _phase_two(self, world: World, clients: Clients) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        calm_since: float | None = None
        while calm_since is None or loop.time() - calm_since < CALM_S:
            await asyncio.sleep(LOOK_S)
            world.eye.changed()  # all of it is looked at once more, whatever was told of it
            self.left = unsettled(world, clients)
            blamed = [one for one in self.left if not one.excused]
            calm_since = None if blamed else loop.time() if calm_since is None else calm_since
            if blamed and loop.time() - begun > SETTLE_S * self.history.shape.scale**0.5:
                raise BrokenPromise(f"not settled {loop.time() - begun:.0f} s after all was healed: {_told(blamed)}")
        self.settled_s = calm_since - begun
        if broken := clients.broken():
            raise BrokenPromise("; ".join(broken))


def _told(left: list[Unsettled]) -> str:
    return "; ".join(f"{one.what} ({one.why or 'in silence'})" for one in left)


@contextmanager
def _faults_logged_to(game: _Game) -> Iterator[None]:
    """Have the production code's logs go nowhere, but its own faults to the eye."""

    def hear(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        error = event.get("exc_info")
        error = sys.exc_info()[1] if error is True else error
        if isinstance(error, Exception) and not isinstance(error, BrokenPromise) and game.world is not None:
            game.world.eye.fault(f"a fault of Drover's own: {event.get('event')}: {error!r}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[hear], wrapper_class=structlog.make_filtering_bound_logger(30))
    try:
        with suppress(structlog.DropEvent):
            yield
    finally:
        structlog.configure(**before)
