"""`Fence`: stops what is exclusive on this host before its lease ends, and lets it run again when that is safe.

Theory of operation (`docs/adr/0004-fencing.md` says why). Time counts on the monotonic clock, from when the last good
renewal of the lease was sent (`Session.fence_at`).

    state       the agent may                  networks       claim holders    becomes
    returning   remove strays                  left as found  left as found    open, or shut when `fence_at` passes
    open        everything                     joined         run              shut when `fence_at` passes
    shut        nothing                        cut off        killed, until    returning when the lease is held anew
                                                              none runs

    shut -> returning needs    the lease is held anew
    returning -> open needs    the lease is held;
                               the mirror shows the revision at which it was taken: claims that passed are in it;
                               the engine answers, and nothing runs here that runs elsewhere now

A daemon begins as `returning` with the deadline that its predecessor left behind; until it has read the records, what
is exclusive is what its predecessor told the watchdog, and the watchdog sees to it. At every renewal, and before every
step, the `Watchdog` learns the deadline and what to stop: it is another process, and does the same if this one hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from operator import is_
from typing import Literal, Protocol

import structlog

from drover.agent.session import AT_ONCE, Session
from drover.agent.view import View
from drover.decide.converge import running_strays
from drover.decide.fence import Target, targets
from drover.drivers.engine.port import Engine, SeenContainer
from drover.drivers.network.port import NetworkDriver
from drover.errors import DroverError, Unavailable
from drover.store.mirror import Mirror
from drover.store.waking import woken

log = structlog.get_logger("drover.agent.fence")

TICK_S = 0.25
"""How often it looks while it is not open."""
KILL_DEADLINE_S = 1.0
TARGETS_REST_ON = ("containers", "names", "volumes", "networks")
"""The tables that say what is exclusive (`decide.fence.targets`), and the numbers of networks."""
RETIRE_LOOK_S = 0.05
RUNNING = ("running", "paused", "restarting")
State = Literal["returning", "open", "shut"]
SAYS: dict[State, str] = {
    "open": "",
    "returning": "yes, coming back: what runs elsewhere now is removed first, then the networks are joined",
    "shut": "yes: containers that write a volume or have a fixed address are stopped, networks end at this host; "
    "all of it goes on when most of the store's members can be reached",
}


class Watchdog(Protocol):
    """The other process that fences if this one does not."""

    def prior_deadline(self) -> float:
        """The deadline that an earlier daemon of this host left behind, on the monotonic clock; -inf if none did."""
        ...

    def tell(self, deadline: float, kill: Sequence[Target] | None, networks: Collection[int] | None) -> None:
        """Kill the containers and cut the networks (VNIs) if no later deadline is told before this one (inf: never).
        None: what was told before, by an earlier daemon perhaps."""
        ...

    def stopped(self) -> frozenset[str]:
        """The engine ids of what was fenced and did not start again since, by this process or by the watchdog."""
        ...

    def note_stopped(self, engine_ids: Collection[str]) -> None:
        """Replace them: they outlive the daemon, and not the machine."""
        ...


class Fence:
    def __init__(
        self, host: str, mirror: Mirror, session: Session, view: View, engine: Engine, network: NetworkDriver
    ) -> None:
        self._host = host
        self._mirror = mirror
        self._session = session
        self._view = view
        self._engine = engine
        self._network = network
        self._wake = asyncio.Event()
        self._prior = AT_ONCE
        self._watchdog: Watchdog | None = None
        self._told: tuple[float, tuple[Target, ...], frozenset[int]] | None = None
        self._known: tuple[list[object], tuple[Target, ...], frozenset[int]] = ([], (), frozenset())
        self._looks_at = AT_ONCE
        self.state: State = "returning"
        self._retired = False
        self.on_shut: list[Callable[[], None]] = []
        self.on_look: list[Callable[[], None]] = []
        self.on_open: list[Callable[[], None]] = []
        session.on_change = self._renewed

    def use(self, watchdog: Watchdog) -> None:
        """Begin with what an earlier daemon left behind. Its deadline may be far (it ended in order), and counts only
        as far as one of our own: from now on the lease may be ours, and shorter."""
        self._watchdog = watchdog
        latest = asyncio.get_running_loop().time() + self._session.self_fence_s
        self._prior = min(watchdog.prior_deadline(), latest)
        self._view.fenced = set(watchdog.stopped())
        if self._prior > AT_ONCE:
            watchdog.tell(self._prior, None, None)

    # -- what the agent asks -------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When to stop, on the loop's clock."""
        return max(self._session.fence_at, self._prior)

    @property
    def says(self) -> str:
        """What `drover status` tells of it; empty while this host takes part."""
        return SAYS[self.state]

    def allows(self, *, stray: bool = False) -> bool:
        """Whether a step may begin now; `stray`: one that removes a stray."""
        if asyncio.get_running_loop().time() >= self.deadline:
            return False
        return self.state == "open" or (stray and self._is_current())

    def check(self) -> None:
        """Raises `Unavailable` if nothing may be started here now: asked right before an engine is."""
        if not self.allows():
            raise Unavailable(f"host {self._host} is cut off from the cluster, or returns to it: nothing is started")

    def tell(self) -> None:
        """Tell the watchdog what there is to stop, before anything is started."""
        if self._watchdog is None or self.state == "shut":
            return
        if not self._view.known or self._knows_less():
            self._watchdog.tell(self.deadline, None, None)
            return
        told = self.deadline, *self._exclusive()
        if told != self._told:
            self._told = told
            self._watchdog.tell(*told)

    # -- the loop ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever."""
        self._mirror.on_batch(lambda _: self._wake.set() if self.state != "open" else None)
        while True:
            try:
                await self._look()
            except DroverError as error:
                log.warning("the fence could not do all it should; it tries again", error=error.message)
            await woken(self._wake, self._pause_s())

    def _renewed(self) -> None:
        """While all is well there is nothing to look at before the deadline that it waits for already."""
        self._prior = AT_ONCE
        self.tell()
        if self.state != "open" or self.deadline < self._looks_at or self._newly_stopped():
            self._wake.set()

    def _pause_s(self) -> float:
        self._looks_at = self.deadline
        left_s = self._looks_at - asyncio.get_running_loop().time()
        return max(0.0, left_s) if self.state == "open" else TICK_S

    async def _look(self) -> None:
        self._learn_stopped()
        late = asyncio.get_running_loop().time() >= self.deadline
        if late and self.state != "shut":
            self._shut()
        if self.state == "shut":
            await self._stop()
            if not late and self._session.held.is_set() and not self._retired:
                self._come_back()
        elif self.state == "returning" and self._is_current():
            _call(self.on_look)
            if self._may_open():
                await self._open()

    async def retire(self, deadline_s: float) -> bool:
        """Stop what is exclusive, for good: this host is about to give its lease back. Whether nothing of it runs any
        more; if not, the lease must end by itself, and the watchdog does its work before."""
        self._retired = True
        self._shut()
        give_up = asyncio.get_running_loop().time() + deadline_s
        while {target.engine_id for target in self._targets()} & self._running():
            if asyncio.get_running_loop().time() > give_up:
                return False
            try:
                await self._stop()
            except DroverError as error:
                log.warning("not all could be stopped; trying again", error=error.message)
            await asyncio.sleep(RETIRE_LOOK_S)
        await self._network.join_hosts(False)
        return self._view.known

    def _come_back(self) -> None:
        """The watchdog hears of it before anything is joined again, which is a tick later at the earliest."""
        self.state = "returning"
        self._told = None
        self.tell()

    def _learn_stopped(self) -> None:
        """The watchdog was faster: what it did is as if this process had done it."""
        if stopped := self._newly_stopped():
            self._view.fenced |= stopped
            if self.state == "open":
                self._shut()

    def _newly_stopped(self) -> frozenset[str]:
        stopped = self._watchdog.stopped() if self._watchdog is not None else frozenset()
        return stopped - self._view.fenced

    def _shut(self) -> None:
        if self.state == "open":
            log.warning("the lease was not renewed in time: what is exclusive stops", host=self._host)
        self.state = "shut"
        _call(self.on_shut)

    async def _stop(self) -> None:
        """Cut the networks and kill, again and again while shut: a start under way may end after the first kill."""
        kill = [] if self._knows_less() else self._to_kill()
        if kill:
            self._note(self._view.fenced | {target.engine_id for target in kill})
        try:
            async with asyncio.timeout(KILL_DEADLINE_S):
                work = (self._network.join_hosts(False), *(self._kill(target) for target in kill))
                ended = await asyncio.gather(*work, return_exceptions=True)
        except TimeoutError:
            raise Unavailable("the engine does not answer: its containers are left to the watchdog") from None
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    async def _kill(self, target: Target) -> None:
        status, text = await self._engine.order(target.engine_id, "kill")
        log.warning("a claim holder was killed", engine_id=target.engine_id[:12], status=status, said=text.strip())
        seen = await self._engine.container(target.engine_id)
        if seen is not None:
            self._view.learn(seen)

    def _note(self, stopped: set[str]) -> None:
        self._view.fenced = stopped
        if self._watchdog is not None:
            self._watchdog.note_stopped(stopped)

    # -- coming back ---------------------------------------------------------------------------------------------

    def _is_current(self) -> bool:
        """Whether the picture shows all that passed while this host had no lease."""
        held = self._session.held.is_set() and self._mirror.healthy
        return held and self._mirror.cluster.revision >= self._session.revision

    def _may_open(self) -> bool:
        return self._view.known and not running_strays(self._mirror.cluster, self._host, self._view.seen())

    async def _open(self) -> None:
        await self._network.join_hosts(True)
        self.state = "open"
        log.info("this host takes part: its lease is held and nothing runs here that runs elsewhere", host=self._host)
        _call(self.on_open)

    def started(self, engine_id: str) -> None:
        """A container runs again: it is no longer one that the fence stopped."""
        if engine_id in self._view.fenced:
            self._note(self._view.fenced - {engine_id})

    # -- what there is to stop -----------------------------------------------------------------------------------

    def _targets(self) -> tuple[Target, ...]:
        return self._exclusive()[0]

    def _exclusive(self) -> tuple[tuple[Target, ...], frozenset[int]]:
        """Containers and networks. Asked at every renewal: decided anew only if one of those here, or what the records
        say of them, is another."""
        view, tables = self._view, self._mirror.cluster.tables
        rests_on: list[object] = [*map(tables.get, TARGETS_REST_ON), *view.networks]
        rests_on += [*view.containers.values(), None, *view.strays.values()]
        before, found, vnis = self._known
        if len(before) != len(rests_on) or not all(map(is_, before, rests_on)):
            here = {container: _target(one) for container, one in view.containers.items()}
            found = targets(self._mirror.cluster, here, map(_target, view.strays.values()))
            vnis = frozenset(self._vnis())
            self._known = rests_on, found, vnis
        return found, vnis

    def _to_kill(self) -> list[Target]:
        running = self._running()
        return [target for target in self._targets() if target.engine_id in running]

    def _knows_less(self) -> bool:
        """Whether this daemon has read no record yet: to know of none would mean to kill all. What holds claims the one
        before has told the watchdog, which sees to it. If nobody told, the machine has booted, or nothing was left that
        needs a lease: what runs was started by the engine, which starts no claim holder."""
        return not self._mirror.cluster.revision

    def _running(self) -> set[str]:
        everything = (*self._view.containers.values(), *self._view.strays.values())
        return {seen.engine_id for seen in everything if seen.state in RUNNING}

    def _vnis(self) -> set[int]:
        networks = self._mirror.cluster.networks
        known = (networks[one].vni for one in self._view.networks if one in networks)
        return {vni for vni in known if vni}


def _call(listeners: Sequence[Callable[[], None]]) -> None:
    for listener in listeners:
        listener()


def _target(seen: SeenContainer) -> Target:
    return Target(seen.engine_id, seen.pid if seen.state in RUNNING else 0)
