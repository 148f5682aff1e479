"""`make chaos`: rounds of accidents on real hosts, each followed by the proof that no promise broke.

    python -m tests.chaos [--rounds N] [--seed S] [--from N] [--report FILE] [--name LAB]

Three hosts suffer (`drawing`), a fourth runs the clients. After every round all is mended, the servers must answer
again within a deadline, and `checks` looks at what clients were told, what the volumes hold, who wrote, and what the
kernels and engines have. FILE gets one JSON line per round. The exit status is 1 if a promise broke; the lab goes
anyway.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
from tests.chaos import checks, drawing, workload
from tests.chaos.watch import LagWatch, LiveWatch

from drover.lab import Lab, cluster
from drover.lab.processes import wait_until

SUFFERING = ("h1", "h2", "h3")
OBSERVER = "h4"
WHOLE_DEADLINE_S = 150.0
LOSES_HOST = frozenset({"power", "cable", "pair", "freeze", "hang", "agent", "engine"})


class Outcome(msgspec.Struct):
    """One round's end: what broke (none: all is well), how many acknowledged writes were lost, the seconds it took."""

    round: drawing.Round
    broken: list[str]
    lost: dict[str, int] = {}
    took_s: float = 0.0


class Chaos:
    """One lab, its workload, and what is known about it from round to round."""

    def __init__(self, name: str, seed: int) -> None:
        self.seed = seed
        self.lab = Lab.create(name, len(SUFFERING) + 1, images=workload.IMAGES)
        self.observer = self.lab.host(OBSERVER)
        workload.start(self.lab, self.observer)
        self._addresses = workload.addresses(self.observer)
        self._known = {server: frozenset[int]() for server in workload.CLIENTS}
        self._live = LiveWatch(self.lab)
        self._lags = LagWatch(self.observer)

    def close(self) -> None:
        self._live.stop()
        self._lags.stop()
        self.lab.destroy()

    @property
    def looks(self) -> int:
        return self._live.looks

    @property
    def brief(self) -> list[str]:
        return self._live.brief

    def play(self, number: int) -> Outcome:
        """Draw a round, do it, mend it, and look."""
        drawn = drawing.draw(self.seed, number, SUFFERING, workload.SERVERS)
        print(drawn, flush=True)
        begin, epochs = time.monotonic(), workload.homes(self.observer)
        if drawn.moved:
            move = [cluster.drover(), "move", drawn.moved, "--to", drawn.target, "--detach"]
            self.observer.exec(move, check=False)
            time.sleep(drawn.delay_s)
        fault_at = time.time()
        lags = {server: self._lags.lag_s(server) for server in workload.SERVERS}
        self._suffer(drawn)
        outcome = Outcome(drawn, self._mended(drawn))
        if not outcome.broken:
            self._judge(outcome, fault_at, lags, epochs)
        outcome.took_s = time.monotonic() - begin
        return outcome

    def _suffer(self, drawn: drawing.Round) -> None:
        host = self.lab.host(drawn.host)
        match drawn.fault:
            case "power":
                host.kill()
            case "cable":
                host.cut()
            case "pair":
                host.cut(drawn.peer)
            case "freeze":
                host.freeze()
            case "agent":
                _signal(host.pid_of("drover"), signal.SIGKILL)
            case "hang":
                _signal(host.pid_of("drover"), signal.SIGSTOP)
            case "engine":
                _signal(host.pid_of("dockerd"), signal.SIGKILL)
        time.sleep(drawn.hold_s)

    def _mended(self, drawn: drawing.Round) -> list[str]:
        """Undo the fault, and wait until everything is as it should be; what is not, if the deadline passes."""
        host = self.lab.host(drawn.host)
        match drawn.fault:
            case "power":
                host.revive()
            case "cable" | "pair":
                host.heal()
            case "freeze":
                host.thaw()
            case "agent":
                cluster.start_daemon(host)
            case "hang":
                _signal(host.pid_of("drover"), signal.SIGCONT)
            case "engine":
                host.start_engine()
        said = ["nothing was asked yet"]

        def whole() -> bool:
            said[:] = self._amiss()
            return not said

        try:
            wait_until(whole, "a whole cluster", deadline_s=WHOLE_DEADLINE_S, poll_s=0.5)
            workload.wait_for_progress(self.observer)
        except Exception as error:  # whatever it is, it is what the round ends with
            return [f"P5: {error}", *said]
        return []

    def _amiss(self) -> list[str]:
        """What is not yet as it should be: the first thing that is found."""
        for argv in (
            ["drover", "status", "--json"],
            ["drover", "doctor", "network"],
            ["drover", "host", "ls", "--json"],
        ):
            done = self.observer.exec(argv, check=False, timeout_s=60.0)
            if done.returncode != 0:
                return [(done.stdout + done.stderr).strip() or f"{' '.join(argv)} ended with {done.returncode}"]
        states = [one["state"] for one in msgspec.json.decode(done.stdout)]
        if states != ["ready"] * len(self.lab.hosts):
            return [f"the hosts are {states}"]
        return checks.engines(workload.engines(self.lab))

    def _judge(
        self,
        outcome: Outcome,
        fault_at: float,
        lags: dict[str, float],
        before: dict[str, tuple[str, int, float | None]],
    ) -> None:
        # What was acknowledged is read first: the clients go on.
        told = {server: workload.acknowledged(self.observer, server) for server in workload.CLIENTS}
        now, held = workload.homes(self.observer), workload.stored(self.observer)
        for server in workload.CLIENTS:
            missing = checks.lost(told[server], held[server], self._known[server])
            promoted = outcome.round.fault in LOSES_HOST and now[server][1] > before[server][1]
            outcome.broken += checks.beyond_the_lag(server, missing, fault_at, lags[server] if promoted else None)
            outcome.lost[server] = len(missing)
            self._known[server] |= {ack.number for ack in missing}
        total, wanted = workload.total(self.observer), workload.ACCOUNTS * workload.EACH
        outcome.broken += checks.balance(total, wanted, list(held["bank"]))
        outcome.broken += checks.writers(workload.stamped(self.observer))
        outcome.broken += checks.holders(self._addresses, workload.addresses(self.observer))
        outcome.broken += self._live.found
        self._live.found = []


def _signal(pid: int | None, number: signal.Signals) -> None:
    """Nothing to do for a process that has ended."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def rounds(options: argparse.Namespace) -> Iterator[Outcome]:
    chaos = Chaos(options.name, options.seed)
    try:
        for number in range(options.first, options.first + options.rounds):
            yield chaos.play(number)
    finally:
        print(f"{chaos.looks} looks at the processes; for one look only: {chaos.brief or 'nothing'}")
        chaos.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", dest="first", type=int, default=1, metavar="N", help="the first round's number")
    parser.add_argument("--report", type=Path, default=Path("out/chaos.jsonl"))
    parser.add_argument("--name", default=f"chaos{os.getpid()}", help="the lab's name")
    options = parser.parse_args()
    options.report.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    faults: Counter[str] = Counter()
    broken = lost = 0
    with options.report.open("ab") as report:
        for outcome in rounds(options):
            report.write(msgspec.json.encode(outcome) + b"\n")
            report.flush()
            faults[outcome.round.fault] += 1
            broken += bool(outcome.broken)
            lost += sum(outcome.lost.values())
            print(
                "\n".join(f"   BROKEN {line}" for line in outcome.broken) or f"   held, {outcome.took_s:.0f} s",
                flush=True,
            )
    print(f"{sum(faults.values())} rounds: {dict(sorted(faults.items()))}")
    print(f"{broken} broke a promise; {lost} acknowledged writes were lost, within the lag on display")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
