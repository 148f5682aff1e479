"""What befalls a simulated cluster: a fault begins, lasts, and ends; several of a kind on a host end with the last.

kind             on                what                            effect while it lasts
cut              host                                              no packets, no store
mute             host                                              the store's answers do not arrive
one-way          host, other                                       packets from host to other do not arrive
partition                          hosts of one side               no packets between the sides
freeze           host                                              its daemon is stopped (SIGSTOP)
kill             host                                              its daemon is gone (SIGKILL)
end              host                                              its daemon ended in order (SIGTERM)
power            host                                              no power
gone             host                                              no power, until all is healed
engine-silent    host                                              its engine does not answer, processes run
engine-restart   host                                              the same, and processes end
slow-engine, slow-disk, slow-store, slow-watch: seconds            each call, each way, each batch takes that long
deaf             host                                              its watch of the store brings nothing
full-disk        host                                              it receives no snapshot
unmounted        host                                              without power, then without the disk of volumes
clock            host              seconds                         its wall clock is wrong by that
drift            host              part                            the store's clock is faster by that
election                                                           the store has no leader
compact                                                            the store forgets its history (an instant)
crash                              container                       its process dies (an instant)
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from itertools import product

from drover.drivers.engine.port import ID_LABEL
from drover.sim.history import Event
from drover.sim.host import SimHost
from drover.sim.world import World

Switch = Callable[[SimHost, Event, bool], None]
DOWN = ("power", "gone", "unmounted")
AWAY = ("kill", "end")


def _slow_engine(host: SimHost, event: Event, on: bool) -> None:
    host.engine.slow_s = float(event.what) if on else 0.0


def _slow_disk(host: SimHost, event: Event, on: bool) -> None:
    host.disk.slow_s = float(event.what) if on else 0.0


def _slow_store(host: SimHost, event: Event, on: bool) -> None:
    host.store.slow_s = min(float(event.what), 0.3) if on else 0.0


def _slow_watch(host: SimHost, event: Event, on: bool) -> None:
    host.store.watch_slow_s = float(event.what) / 5 if on else 0.0


def _mute(host: SimHost, event: Event, on: bool) -> None:
    host.store.lose_answers = on


def _deaf(host: SimHost, event: Event, on: bool) -> None:
    host.store.deaf = on


def _full(host: SimHost, event: Event, on: bool) -> None:
    host.disk.full = on


def _clock(host: SimHost, event: Event, on: bool) -> None:
    host.skew_s = float(event.what) if on else 0.0


def _drift(host: SimHost, event: Event, on: bool) -> None:
    host.store.drift = float(event.what) if on else 0.0


def _freeze(host: SimHost, event: Event, on: bool) -> None:
    host.stop() if on else host.cont()


def _silent(host: SimHost, event: Event, on: bool) -> None:
    host.engine.down = on or not host.powered


def _restart(host: SimHost, event: Event, on: bool) -> None:
    if host.powered:
        host.engine.down = True  # whoever listens hears that it ends, at its end at the latest
    if host.powered and not on:
        host.engine.restart_by_itself("an engine's restart")
        host.engine.down = False


SWITCHES: dict[str, Switch] = {
    "mute": _mute,
    "freeze": _freeze,
    "engine-silent": _silent,
    "engine-restart": _restart,
    "slow-engine": _slow_engine,
    "slow-disk": _slow_disk,
    "slow-store": _slow_store,
    "slow-watch": _slow_watch,
    "deaf": _deaf,
    "full-disk": _full,
    "clock": _clock,
    "drift": _drift,
}
LIFE = (*DOWN, *AWAY)
KINDS = frozenset((*SWITCHES, *LIFE, "cut", "one-way", "partition", "election", "compact", "crash"))


class Faults:
    """Begins and ends them. `gone` are the hosts that stay without power when all else is healed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._now: Counter[tuple[str, str]] = Counter()
        self._begun: dict[int, Event] = {}
        self._timers: list[asyncio.TimerHandle] = []
        self._lives: dict[str, asyncio.Lock] = {name: asyncio.Lock() for name in world.hosts}
        self._tasks: list[asyncio.Task[None]] = []
        self._number = 0

    def begin(self, event: Event) -> None:
        """Let it befall the cluster, and end after its time."""
        self._world.eye.trace.tell(f"fault {event.kind} {event.host} {event.what} {event.other} for {event.for_s:g}")
        if event.kind == "compact":
            self._world.shared.compact(self._world.cluster.revision)
        elif event.kind == "crash":
            self._crash(event.what)
        else:
            self._number += 1
            number = self._number
            self._begun[number] = event
            self._switch(event, True)
            if event.kind != "gone":
                loop = asyncio.get_running_loop()
                self._timers.append(loop.call_later(event.for_s, self._end, number))

    async def heal(self) -> None:
        """End all of them, and wait until every daemon that should runs."""
        for timer in self._timers:
            timer.cancel()
        for number in list(self._begun):
            self._end(number)
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _end(self, number: int) -> None:
        event = self._begun.pop(number, None)
        if event is not None:
            self._world.eye.trace.tell(f"over {event.kind} {event.host}")
            self._switch(event, False)

    def _switch(self, event: Event, on: bool) -> None:
        """One more or one less of its kind on its host."""
        key = event.kind, event.host
        self._now[key] += 1 if on else -1
        if event.kind in ("one-way", "partition", "cut"):
            self._reconnect()
        elif event.kind == "election":
            self._elect()
        elif event.kind in LIFE:
            self._later(self._live(event.host))
        elif on or not self._now[key]:
            SWITCHES[event.kind](self._world.hosts[event.host], event, on)

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    # -- network and store -----------------------------------------------------------------------------------------

    def _reconnect(self) -> None:
        for name, host in self._world.hosts.items():
            if self._now["cut", name] and host.connected:
                host.cut()
            elif not self._now["cut", name] and not host.connected:
                host.heal()
        cuts = {cut for event in self._begun.values() for cut in self._cuts(event)}
        self._world.set_cuts(cuts)
        self._world.spread_store()

    def _cuts(self, event: Event) -> Iterable[tuple[str, str]]:
        if event.kind == "one-way":
            return [(event.host, event.other)]
        if event.kind != "partition":
            return []
        side = event.what.split()
        others = [name for name in self._world.hosts if name not in side]
        return [*product(side, others), *product(others, side)]

    def _elect(self) -> None:
        shared = self._world.shared
        if self._now["election", ""] and not shared.electing:
            shared.begin_election()
        elif not self._now["election", ""] and shared.electing:
            shared.end_election()
            self._world.spread_store()

    # -- machines and daemons ----------------------------------------------------------------------------------------

    async def _live(self, name: str) -> None:
        """Bring a host's power and daemon to what the faults leave of them."""
        async with self._lives[name]:
            host = self._world.hosts[name]
            down = any(self._now[kind, name] for kind in DOWN)
            away = down or any(self._now[kind, name] for kind in AWAY)
            if down and host.powered:
                await self._power_off(host)
            elif away and host.serves:
                await (host.kill_daemon() if self._now["kill", name] else host.end_daemon())
            elif not down and not host.powered:
                await self._power_on(host)
            elif not away and not host.serves:
                await host.start_daemon()
            self._world.spread_store()

    async def _power_off(self, host: SimHost) -> None:
        await host.power_off()
        host.disk.away = bool(self._now["unmounted", host.name])

    async def _power_on(self, host: SimHost) -> None:
        host.engine.slow_s = host.disk.slow_s = 0.0
        self._world.spread_store()
        await host.power_on()
        if any(self._now[kind, host.name] for kind in AWAY):
            await host.kill_daemon()
        if host.disk.away:
            await asyncio.sleep(UNMOUNTED_S)
            host.disk.away = False

    def _crash(self, name: str) -> None:
        for host in self._world.hosts.values():
            for process in list(host.engine.processes()):
                if process.name == name and process.labels.get(ID_LABEL):
                    host.engine.kill_process(process.engine_id, "a crash")


UNMOUNTED_S = 6.0
"""How long a host of whose disk nothing is seen after its boot is without it."""
