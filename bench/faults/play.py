"""One round: start the things, break a host, wait until they answer elsewhere, repair it, and look at the traces.

fault     what is done to the host that runs everything              repaired by
power     its cable is pulled, then everything on it is killed       booting it
network   its cable is pulled                                        plugging it in
freeze    every process on it is stopped, containers included        thawing it
agent     the daemon is stopped (Swarm: the engine, which is both)   SIGCONT
engine    the engine is killed, and started again a second later     -
leader    as `power`, for the host that leads                        booting it
store     as `power`, for the host of the store's leader             booting it
shutdown  it hands over (`drover host shutdown`), then as `power`    booting it
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping

import msgspec

from bench.faults import evidence
from bench.faults.sides import Side, Traces, until
from drover.lab import LabHost, cluster

RECOVERY_DEADLINE_S = 90.0
WRITING_S = 3.0
"""How long there is writing before the fault."""
AFTERWARDS_S = 1.5
"""How long it is watched after the repair."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One round. `recovery_s` by thing; `after_thaw` are writes and answers of processes that were frozen with
    their host and thawed after others had taken over: the writes go to the old disk, which is not the volume any more;
    the answers are heard on that host only."""

    side: str
    fault: str
    number: int
    victim: str = ""
    recovery_s: dict[str, float] = {}
    silence_s: dict[str, float] = {}
    """The longest time without an answer that ended after the fault, by thing."""
    double_writes: int = 0
    duplicates: int = 0
    after_thaw: int = 0
    lost_s: float | None = None
    lost_all: bool = False
    """The next instance found an empty volume."""
    took_s: float = 0.0
    load: float = 0.0
    error: str = ""


def uptime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def play(side: Side, fault: str, number: int) -> Result:
    """Raises what kept the round from being played."""
    begun_s = uptime_s()
    victim = side.begin(number, fault)
    survivors = [host for host in side.lab.hosts if host.name != victim.name]
    _wait_heard(side, survivors, begun_s, "the first answers")
    time.sleep(WRITING_S)
    fault_s = uptime_s()
    BREAK[fault](side, victim)
    until(lambda: _recovered(side, survivors, begun_s, fault_s), "the recovery", RECOVERY_DEADLINE_S)
    time.sleep(AFTERWARDS_S)
    repaired_s = uptime_s()
    REPAIR[fault](side, victim)
    side.settle(survivors[0])
    time.sleep(AFTERWARDS_S)
    found = _result(side, fault, number, (victim, survivors), (begun_s, fault_s, repaired_s))
    side.end(survivors[0])
    return msgspec.structs.replace(found, took_s=round(uptime_s() - begun_s, 1))


def _wait_heard(side: Side, survivors: list[LabHost], since_s: float, what: str) -> None:
    def done() -> bool:
        return all(len(_heard(side, thing, [host], since_s)) > 3 for thing in side.things for host in survivors)

    until(done, what)


def _heard(side: Side, thing: str, hosts: list[LabHost], since_s: float) -> list[evidence.Heard]:
    assert isinstance(side, Traces)
    return evidence.heard(side.heard_by(thing, hosts), since_s)


def _recovered(side: Side, survivors: list[LabHost], begun_s: float, fault_s: float) -> bool:
    found = [evidence.recovery_s(_heard(side, thing, survivors, begun_s), fault_s) for thing in side.things]
    return all(one is not None for one in found)


def _result(
    side: Side,
    fault: str,
    number: int,
    who: tuple[LabHost, list[LabHost]],
    when: tuple[float, float, float],
) -> Result:
    assert isinstance(side, Traces)
    (victim, survivors), (begun_s, fault_s, repaired_s) = who, when
    heard = {thing: _heard(side, thing, survivors, begun_s) for thing in side.things}
    written = evidence.writes(side.read("writes"), begun_s)
    late = evidence.double_writes(written)
    thawed = [one for one in late if fault == "freeze" and one.at_s >= repaired_s]
    twice, twice_after_thaw = _duplicates(side, heard, victim, begun_s, repaired_s if fault == "freeze" else None)
    lost_s = evidence.lost_s(written, side.journal(survivors[0]), fault_s)
    recovered = {thing: evidence.recovery_s(found, fault_s) for thing, found in heard.items()}
    return Result(
        side=side.name,
        fault=fault,
        number=number,
        victim=victim.name,
        recovery_s={thing: round(one, 2) for thing, one in recovered.items() if one is not None},
        silence_s={thing: round(evidence.silence_s(found, fault_s), 2) for thing, found in heard.items()},
        double_writes=len(late) - len(thawed),
        after_thaw=len(thawed) + twice_after_thaw,
        duplicates=twice,
        lost_s=lost_s,
        lost_all=lost_s == float("inf"),
        load=os.getloadavg()[0],
    )


def _duplicates(
    side: Side, heard: Mapping[str, list[evidence.Heard]], victim: LabHost, since_s: float, thawed_s: float | None
) -> tuple[int, int]:
    """How many answers came from who was followed already; and how many more of them only the thawed host itself heard.
    `heard` is what the survivors heard; of exclusive things what the failed host heard counts as well."""
    found, after_thaw = 0, 0
    for thing, answers in heard.items():
        local = _heard(side, thing, [victim], since_s) if thing in side.exclusive else []
        late = evidence.duplicates(sorted([*answers, *local], key=lambda one: one.answered_s))
        thawed = [one for one in late if thawed_s is not None and one.answered_s >= thawed_s and one in local]
        found += len(late) - len(thawed)
        after_thaw += len(thawed)
    return found, after_thaw


Act = Callable[[Side, LabHost], None]


def _signal(number: signal.Signals) -> Act:
    return lambda side, host: os.kill(side.agent_pid(host), number)


def _kill_engine(side: Side, host: LabHost) -> None:
    pid = host.pid_of("dockerd")
    if pid is None:
        raise RuntimeError(f"no engine runs on {host.name}")
    os.kill(pid, signal.SIGKILL)
    until(lambda: host.pid_of("dockerd") is None, "the engine's end")
    time.sleep(1.0)
    # Here nobody collects dead processes, so the next engine would take the numbers in these files for running ones.
    host.exec(["rm", "-f", "/run/docker.pid", "/run/docker/containerd/containerd.pid"])
    host.start_engine()


def _shut_down(side: Side, host: LabHost) -> None:
    host.exec([cluster.drover(), "host", "shutdown"])
    host.kill()


def _nothing(side: Side, host: LabHost) -> None:
    return


def _revive(side: Side, host: LabHost) -> None:
    host.revive()


BREAK: Mapping[str, Act] = {
    "power": lambda side, host: host.kill(),
    "network": lambda side, host: host.cut(),
    "freeze": lambda side, host: host.freeze(),
    "agent": _signal(signal.SIGSTOP),
    "engine": _kill_engine,
    "leader": lambda side, host: host.kill(),
    "store": lambda side, host: host.kill(),
    "shutdown": _shut_down,
}
REPAIR: Mapping[str, Act] = {
    "power": _revive,
    "network": lambda side, host: host.heal(),
    "freeze": lambda side, host: host.thaw(),
    "agent": _signal(signal.SIGCONT),
    "engine": _nothing,
    "leader": _revive,
    "store": _revive,
    "shutdown": _revive,
}


def make_whole(side: Side) -> None:
    """After a round that broke off: undo what it did to hosts, as far as that goes."""
    for host in side.lab.hosts:
        with contextlib.suppress(Exception):
            if host.is_frozen:
                host.thaw()
        with contextlib.suppress(Exception):
            os.kill(side.agent_pid(host), signal.SIGCONT)
