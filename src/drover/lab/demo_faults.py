"""The demo's acts about hosts that die and come back.

Theory of operation. `Callers` are clients that never stop: one thread per gateway of a survivor, each making the calls
of a list in turn and noting how long each took and whether it failed. What they noted while a host died is the
promise "the survivors answer every call".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from drover.lab.clients import Docker, Ran
from drover.lab.demo_acts import SIX
from drover.lab.stage import HOST_FIELD, Stage
from drover.lab.story import Row, expect

CREATE_DEADLINE_S = 10.0
KNOWN_DOWN_S = 30.0
AT_ONCE_S = 2.0
ELSEWHERE_S = 60.0
BOUND = "bound"
"""A container that may run on h3 only, so that it shows what is said while its host is dead."""
_CALLER_TIMEOUT_S = 15.0
_TABLE = f"table {{{{.Names}}}}\t{HOST_FIELD}\t{{{{.Status}}}}"


class Callers:
    """Clients that call until told to stop; `ran` is all they did."""

    def __init__(self, clients: Sequence[Docker], calls: Sequence[Sequence[str]]) -> None:
        self.ran: list[Ran] = []
        self._calls = calls
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(client,), daemon=True) for client in clients]

    @property
    def failed(self) -> list[Ran]:
        return [ran for ran in self.ran if ran.status != 0]

    @property
    def slowest(self) -> Ran:
        return max(self.ran, key=lambda ran: ran.took_s)

    @contextmanager
    def calling(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _call(self, client: Docker) -> None:
        """Every call in turn, and again; the list is gone through once at least."""
        while True:
            for call in self._calls:
                self.ran.append(client.run(*call, timeout_s=_CALLER_TIMEOUT_S))
            if self._stop.is_set():
                return


def _not_on(stage: Stage, host: str) -> tuple[str, str]:
    """Two of the six that do not run on the host; on two hosts, if they can be."""
    others = {at: name for name, at in zip(SIX, stage.host_of(*SIX), strict=True) if at != host}
    expect(others, f"some of the six elsewhere than on {host}", stage.host_of(*SIX))
    names = list(others.values())
    return names[0], names[-1]


def power_cut(stage: Stage) -> None:
    with stage.story.promise("a container may be bound to its host"):
        stage.docker("run", "-d", "--name", BOUND, "-e", "constraint:host==h3", "busybox", "sleep", "1000")
    near, far = _not_on(stage, "h3")
    calls = [["ps"], ["inspect", near], ["exec", far, "true"], ["logs", "--tail", "1", far], ["exec", near, "true"]]
    callers = Callers([stage.client("h1"), stage.client("h2")], calls)
    with stage.story.promise("h3 dies, and the survivors answer every call") as row:
        with callers.calling():
            stage.story.tell("the power of h3 is cut; nobody is told")
            stage.lab.host("h3").kill()
            cut_at = time.monotonic()
            _creates_at_once(stage)
            _until_known_down(stage, BOUND, cut_at)
        _no_call_failed(row, callers)
    _dead_host_is_named(stage, BOUND)
    _run_elsewhere(stage, "h3", cut_at)


def _run_elsewhere(stage: Stage, lost: str, cut_at: float) -> None:
    """Until all of the six run, none of them on the lost host."""

    def moved() -> float | None:
        alive = stage.client()("inspect", "--format", "{{.State.Running}}", *SIX).split()
        done = lost not in stage.host_of(*SIX) and set(alive) == {"true"}
        return time.monotonic() - cut_at if done else None

    with stage.story.promise(f"what ran on {lost} runs elsewhere") as row:
        after_s = stage.until(moved, f"the containers of {lost} on other hosts", ELSEWHERE_S)
        stage.docker("ps", "-a", "--format", _TABLE)
        row.figure = f"{after_s:.1f} s after the power cut"


def _creates_at_once(stage: Stage) -> None:
    with stage.story.promise(f"a create right after a power cut takes less than {CREATE_DEADLINE_S:g} s") as row:
        begin = time.monotonic()
        name = f"after-{stage.first}"
        stage.docker("run", "-d", "--name", name, "busybox", "sleep", "1000")
        took_s = time.monotonic() - begin
        expect(took_s < CREATE_DEADLINE_S, f"less than {CREATE_DEADLINE_S:g} s", f"{took_s:.1f} s")
        row.figure = f"{took_s:.1f} s, on {stage.host_of(name)[0]}"


def _until_known_down(stage: Stage, lost: str, cut_at: float) -> None:
    def known() -> float | None:
        said = stage.client().run("exec", lost, "true", timeout_s=_CALLER_TIMEOUT_S)
        return time.monotonic() - cut_at if "is down since" in said.err else None

    after_s = stage.until(known, "the news of the power cut", KNOWN_DOWN_S)
    stage.story.tell(f"the survivors know after {after_s:.1f} s")


def _no_call_failed(row: Row, callers: Callers) -> None:
    expect(not callers.failed, "no call to fail", "\n".join(f"{ran.line}: {ran.words}" for ran in callers.failed))
    slowest = callers.slowest
    row.figure = f"{len(callers.ran)} calls, slowest {slowest.took_s:.1f} s ({slowest.line.split()[1]})"


def _dead_host_is_named(stage: Stage, lost: str) -> None:
    with stage.story.promise("a call about a container on it says at once which host, and since when") as row:
        begin = time.monotonic()
        said = stage.refused("logs", lost)
        took_s = time.monotonic() - begin
        expect("host h3 is down since" in said, "the host and the time", said)
        expect(took_s < AT_ONCE_S, f"less than {AT_ONCE_S:g} s", f"{took_s:.1f} s")
        row.figure = f"{took_s * 1000:.0f} ms"


def come_back(stage: Stage) -> None:
    with stage.story.promise("h3 boots with its disk and is used again") as row:
        begin = time.monotonic()
        stage.lab.host("h3").revive()
        stage.docker("start", BOUND)
        row.figure = f"{BOUND} runs {time.monotonic() - begin:.1f} s after power-on"
        stage.docker("exec", BOUND, "echo", "here I am again")
        stage.docker("run", "--rm", "-e", "constraint:host==h3", "busybox", "echo", "a new one on h3")
        stage.drover("host", "ls")


def first_host_dies(stage: Stage) -> None:
    stage.first = "h2"
    with stage.story.promise("h1 dies, too: h2 and h3 answer every call") as row:
        there = _not_on(stage, "h1")[0]
        calls = [["ps"], ["exec", there, "true"], ["exec", BOUND, "true"], ["inspect", there]]
        callers = Callers([stage.client("h2"), stage.client("h3")], calls)
        with callers.calling():
            stage.story.tell("the power of h1 is cut: it founded the cluster, and led it")
            stage.lab.host("h1").kill()
            cut_at = time.monotonic()
            _creates_at_once(stage)
            stage.docker("exec", there, "echo", "work goes on")
        _no_call_failed(row, callers)
    _run_elsewhere(stage, "h1", cut_at)
