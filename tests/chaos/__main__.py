"""`make chaos`: rounds of accidents on real hosts, each followed by the proof that no promise broke.

    python -m tests.chaos [--rounds N] [--minutes M] [--seed S] [--report FILE] [--docs] [--name LAB]

Three hosts suffer (`drawing`), a fourth runs the clients. After every round all is mended, the servers must answer
again within a deadline, and `checks` looks at what clients were told, what the volumes hold, who wrote, and what the
kernels, the engines and the store have. FILE gets one JSON line per round; a run goes on where the last one with that
seed stopped, until N rounds are done or M minutes are over, so that 200 rounds need not be one sitting. A round that
broke something ends its lab, and the next begins with a new one. --docs writes the account of all rounds into
docs/reliability.md (`--rounds 0 --docs`: nothing else). The exit status is 1 if a promise broke in this sitting.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from tests.chaos import account, checks, drawing, moments, workload
from tests.chaos.watch import LagWatch, LiveWatch

from drover.errors import DroverError
from drover.lab import Lab, cluster
from drover.lab.host import LabHost
from drover.lab.processes import exit_on_sigterm, wait_until

SUFFERING = ("h1", "h2", "h3")
OBSERVER = "h4"
WHOLE_DEADLINE_S = 150.0
LOSES_HOST = frozenset({"power", "cable", "pair", "freeze", "hang", "agent", "engine", "silent", "one-way", "deaf"})
SIGNALS = {
    "agent": ("drover", signal.SIGKILL),
    "hang": ("drover", signal.SIGSTOP),
    "engine": ("dockerd", signal.SIGKILL),
    "silent": ("dockerd", signal.SIGSTOP),
}
FILL = "chaos-fill"
LEFT_BYTES = 1 << 20
DOCS = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


class Outcome(msgspec.Struct):
    """One round's end: what broke (none: all is well), how many acknowledged writes were lost, the seconds it took, and
    of those until all was whole again (from the mending on). `acknowledged`: by server, so far in its lab."""

    round: drawing.Round
    broken: list[str]
    lost: dict[str, int] = {}
    took_s: float = 0.0
    whole_s: float = 0.0
    seed: int = 0
    acknowledged: dict[str, int] = {}
    oldest_lost_s: float = 0.0
    looks: int = 0


class Chaos:
    """One lab, its workload, and what is known about it from round to round."""

    def __init__(self, name: str, seed: int) -> None:
        self.seed = seed
        self.lab = Lab.create(name, len(SUFFERING) + 1, images=workload.IMAGES)
        self.observer = self.lab.host(OBSERVER)
        workload.start(self.lab, self.observer)
        self._addresses = workload.addresses(self.observer)
        self._known = {server: frozenset[int]() for server in workload.CLIENTS}
        self._stored = {server: frozenset[int]() for server in workload.CLIENTS}
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
        mending, looked = time.monotonic(), self._live.looks
        outcome = Outcome(drawn, self._mended(drawn), seed=self.seed)
        outcome.whole_s = time.monotonic() - mending
        if not outcome.broken:
            try:
                self._judge(outcome, fault_at, lags, epochs)
            except DroverError as error:  # a server that answered a moment ago
                outcome.broken.append(f"P5: whole, and then not: {error}")
        outcome.took_s = time.monotonic() - begin
        outcome.looks = self._live.looks - looked
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
            case "agent" | "hang" | "engine" | "silent":
                program, number = SIGNALS[drawn.fault]
                _signal(host.pid_of(program), number)
            case "one-way":
                host.deafen(drawn.peer)
            case "store":
                _signal(_store_pid(host), signal.SIGKILL)
            case "full":
                _fill(host)
            case "slow":
                moments.slow(_pool(host), drawn.hold_s)
            case "deaf":
                others = [one for one in self.lab.hosts if one.name != drawn.host]
                print(f"   forgotten before {moments.deaf(host, self.observer, others, drawn.hold_s)}", flush=True)
            case unknown if unknown != "none":
                raise NotImplementedError(unknown)
        if drawn.fault not in moments.FAULTS:
            time.sleep(drawn.hold_s)

    def _mended(self, drawn: drawing.Round) -> list[str]:
        """Undo the fault, and wait until everything is as it should be; what is not, if the deadline passes."""
        host = self.lab.host(drawn.host)
        match drawn.fault:
            case "power":
                host.revive()
            case "cable" | "pair" | "one-way":
                host.heal()
            case "freeze":
                host.thaw()
            case "agent":
                cluster.start_daemon(host)
            case "hang":
                _signal(host.pid_of("drover"), signal.SIGCONT)
            case "engine":
                host.start_engine()
            case "silent":
                _signal(host.pid_of("dockerd"), signal.SIGCONT)
            case "full":
                (_pool(host) / FILL).unlink(missing_ok=True)
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
        if moving := workload.moving(self.observer):
            return moving
        running = workload.engines(self.lab)
        store = {name: (host, epoch) for name, (host, epoch, _) in workload.homes(self.observer).items()}
        return checks.engines(running) or checks.agreement(store, running, workload.live_sets(self.lab))

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
            outcome.acknowledged[server] = len(told[server])
            outcome.oldest_lost_s = max([outcome.oldest_lost_s, *(fault_at - ack.at for ack in missing)])
            if not promoted:
                outcome.broken += checks.kept(self._stored[server], held[server], self._known[server])
            self._known[server] |= {ack.number for ack in missing}
            self._stored[server] = held[server]
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


def _store_pid(host: LabHost) -> int | None:
    """The host's member of the store; None if it has none."""
    for pid in host.cgroup.pids():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "etcd":
                return pid
    return None


def _pool(host: LabHost) -> Path:
    """Where the host's pool is, as seen from here: through the root of one of its own processes."""
    return Path(f"/proc/{host.pid_of('drover') or host.pid_of('dockerd')}/root{host.state_dir}/volumes/pool")


def _fill(host: LabHost) -> None:
    """Take nearly all that is left on the disk of the host's volumes."""
    pool = _pool(host)
    free_bytes = shutil.disk_usage(pool).free - LEFT_BYTES
    with (pool / FILL).open("wb") as file, contextlib.suppress(OSError):
        while free_bytes > LEFT_BYTES:
            os.posix_fallocate(file.fileno(), file.tell(), min(free_bytes, 1 << 28))
            file.seek(0, os.SEEK_END)
            free_bytes = shutil.disk_usage(pool).free - LEFT_BYTES


def rounds(options: argparse.Namespace, first: int) -> Iterator[Outcome]:
    """From round `first` on. A round that broke something ends its lab."""
    end = time.monotonic() + options.minutes * 60
    number = first
    while number <= options.rounds and time.monotonic() < end:
        chaos = Chaos(options.name, options.seed)
        broken = False
        try:
            while not broken and number <= options.rounds and time.monotonic() < end:
                outcome = chaos.play(number)
                broken, number = bool(outcome.broken), number + 1
                yield outcome
        finally:
            print(f"{chaos.looks} looks at the processes; for one look only: {chaos.brief or 'nothing'}", flush=True)
            chaos.close()


def recorded(file: Path) -> list[Outcome]:
    """All rounds of a report, the last of each seed and number."""
    if not file.exists():
        return []
    found = [msgspec.json.decode(line, type=Outcome) for line in file.read_bytes().splitlines() if line.strip()]
    return list({(one.seed, one.round.number): one for one in found}.values())


def main() -> int:
    options = _options()
    options.report.parent.mkdir(parents=True, exist_ok=True)
    exit_on_sigterm()
    done = [one.round.number for one in recorded(options.report) if one.seed == options.seed]
    broken = 0
    with options.report.open("ab") as report:
        for outcome in rounds(options, max(done, default=0) + 1):
            report.write(msgspec.json.encode(outcome) + b"\n")
            report.flush()
            broken += bool(outcome.broken)
            held = f"   held, {outcome.took_s:.0f} s, {outcome.whole_s:.0f} of them until all was whole"
            print("\n".join(f"   BROKEN {line}" for line in outcome.broken) or held, flush=True)
    all_rounds = recorded(options.report)
    print(account.text(all_rounds))
    if options.docs:
        DOCS.write_text(account.written(DOCS.read_text(), all_rounds))
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="how many the report is to have of this seed")
    parser.add_argument("--minutes", type=float, default=600.0, help="how long this sitting may begin rounds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=Path("out/chaos.jsonl"))
    parser.add_argument("--docs", action="store_true", help="write the account into docs/reliability.md")
    parser.add_argument("--name", default=f"chaos{os.getpid()}", help="the lab's name")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
