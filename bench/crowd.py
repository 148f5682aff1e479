"""10 hosts with 300 containers each: `python -m bench.crowd [--hosts N] [--each N]`. No root, no engine.

Theory of operation. The production agents, leaders and fences of all hosts run in the simulated world (`drover.sim`) on
virtual time, in this process, over fakes; its eye looks at every instant that no promise is broken. Time is the
world's; the cost is this process's CPU clock, of which each host has its share, the eye's and the fakes' work included.

    act       begins                                ends when
    deploy    all records are written               everything runs
    idle      -                                     a minute has passed, in which nothing happened
    kill      two hosts lose their power            everything runs elsewhere
    drain     a third one is drained                nothing is left on it, everything runs

Exit status 1 if an act does not come to its end.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from drover.model import records as r
from drover.model.cluster import put
from drover.sim import clock
from drover.sim.world import World

IDLE_S = 60.0
DEADLINE_S = 3600.0


class Act(msgspec.Struct, frozen=True):
    """What an act took: seconds of the world's time, and of this process's CPU."""

    name: str
    world_s: float
    cpu_s: float


async def acts(hosts: int, each: int, tell: Callable[[Act], None]) -> list[Act]:
    """Play them all. Raises `TimeoutError` if one does not end, `BrokenPromise` if the eye sees something."""
    world = World(hosts)
    await world.start()
    await world.until(lambda: len(world.cluster.alive) == hosts, DEADLINE_S)
    done: list[Act] = []

    async def act(name: str, play: Callable[[], Awaitable[None]]) -> None:
        begun_s, cpu_s = asyncio.get_running_loop().time(), time.process_time()
        await play()
        took_s = asyncio.get_running_loop().time() - begun_s
        done.append(Act(name, round(took_s, 1), time.process_time() - cpu_s))
        tell(done[-1])

    async def deploy() -> None:
        for number in range(hosts * each):
            at = number % hosts + 1
            address = f"10.44.{1 + number // 250}.{1 + number % 250}"
            world.run(f"c{number}", f"h{at}", body={"Labels": {"drover.max_unavailable": "16"}}, address=address)
        await _all_run(world)

    async def idle() -> None:
        await asyncio.sleep(IDLE_S)

    async def kill() -> None:
        for name in ("h2", "h3"):
            await world.hosts[name].power_off()
        await _all_run(world)

    async def drain() -> None:
        record = msgspec.structs.replace(world.cluster.hosts["h4"], scheduling="drain")
        world.shared.commit([put(r.key("hosts", "h4"), record)], {}, None)
        await world.until(lambda: not any(p.host == "h4" for p in world.cluster.placements.values()), DEADLINE_S)
        await _all_run(world)

    for name, play in (("deploy", deploy), ("idle", idle), ("kill", kill), ("drain", drain)):
        await act(name, play)
    return done


async def _all_run(world: World) -> None:
    """Each container once, where its placement says."""

    def done() -> bool:
        runs = Counter((one.container, one.host) for one in world.live())
        return runs == Counter((p.container, p.host) for p in world.cluster.placements.values())

    await world.until(done, DEADLINE_S)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.crowd", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, default=10)
    parser.add_argument("--each", type=int, default=300, help="containers per host (default 300)")
    asked = parser.parse_args()
    structlog.configure(processors=[], logger_factory=lambda *_: _Silent())

    def tell(act: Act) -> None:
        share = act.cpu_s / max(act.world_s, 0.1) / asked.hosts * 100
        print(
            f"{act.name:8} {act.world_s:8.1f} s   CPU {act.cpu_s:8.2f} s   {share:6.2f} % of a core and host",
            flush=True,
        )

    try:
        clock.run(acts(asked.hosts, asked.each, tell))
    except TimeoutError as error:
        print(f"it did not come to its end: {error}")
        return 1
    return 0


class _Silent:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


if __name__ == "__main__":
    sys.exit(main())
