"""`make proof`: a database under load moves around three hosts, and comes back after a host's death.

    python -m bench.database [--scale 65] [--turns 2] [--kill] [--out FILE]

Theory of operation. PostgreSQL 15 runs with its data in a btrfs volume, and moves h1 -> h2 -> h3 -> h1, as often as
asked. Beside it, on h3, two clients that know what was acknowledged:

    client    does                                               knows
    pgbench   100 transactions a second, for ever                each acknowledged transaction, and when it ended
    acks      a new connection and an insert every 0.1 s         each number, begin and end; what each failure said

Both are light: a client that connects as fast as it can takes a core, and the figures then tell of that. The gap is the
longest time in which neither was told of a commit; it is known to about 10 ms. What clients that connect anew see is
told beside it: the slowest insert, connection included, and as an upper bound the time from the begin of one insert to
the end of the next.

A connection that the stop cuts is no failed connection; one that cannot be made is (`CUT` tells them apart). After a
death one that PostgreSQL itself refuses while it recovers is counted apart (`RECOVERING`): no host can spare a client
that. In a planned move it counts. At the end the sums of pgbench's balances must agree, and everything acknowledged
must be there.

Before each move the database is checkpointed and restarted where it is (`docker restart`), and that gap is told beside
the move's: it is what PostgreSQL and the engine need for a stop and a start under this load, and no move is shorter.
What fails meanwhile is not counted: nothing is parked then.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.bed import remove_lab
from drover.lab import Lab
from drover.lab.processes import exit_on_sigterm

LAB = "proof"
DEADLINE_S = 180.0
ROUND_TRIP = ("h2", "h3", "h1")
BETWEEN_S = 45.0
"""Between two moves: hosts forget old snapshots after half a minute, and deleting those slows a disk down."""
CUT = ("terminating connection", "closed the connection unexpectedly", "connection to server was lost", "SSL SYSCALL")
"""What a client says whose connection was there and ended."""
RECOVERING = (
    "the database system is starting up",
    "not yet accepting connections",
    "in recovery mode",
    "Connection refused",  # its container runs, and it does not listen yet
)
"""What PostgreSQL says to a client that has reached it too early."""
SUMS = """
select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches),
       (select sum(tbalance) from pgbench_tellers), (select coalesce(sum(delta), 0) from pgbench_history),
       (select count(*) from pgbench_history)
"""
ACKS = """
n=0; psql=$(ls /usr/lib/postgresql/*/bin/psql)  # not Debian's wrapper, which starts a Perl each time
while [ ! -e /tmp/end ]; do
  n=$((n+1)); begin=$EPOCHREALTIME
  if said=$($psql -h db -U postgres -Xqc "insert into acks values ($n)" 2>&1); then
    end=$EPOCHREALTIME; echo "$n $begin $end" >> /tmp/acks
  else
    end=$EPOCHREALTIME; echo "$begin $end $(echo $said)" >> /tmp/failed
  fi
  left_us=$((100000 - ${end/./} + ${begin/./}))
  if [ $left_us -gt 0 ]; then sleep $(printf 0.%06d $left_us); fi
done
exec sleep infinity  # what it wrote down is asked for by exec, which a container that ended refuses
"""
LOAD = """
mkdir -p /tmp/load; cd /tmp/load; n=0
while [ ! -e /tmp/end ]; do
  n=$((n+1))
  pgbench -h db -U postgres -n -M prepared -c 4 -T 20 -R 100 -l --log-prefix=run$n postgres >/dev/null 2>>/tmp/failed
done
echo done > /tmp/ended
exec sleep infinity
"""


class Proof:
    """The lab with the database and its clients."""

    def __init__(self, lab: Lab, scale: int) -> None:
        self.lab = lab
        self.scale = scale

    def on(self, host: str, *argv: str, check: bool = True) -> str:
        return self.lab.host(host).exec(list(argv), check=check, timeout_s=DEADLINE_S).stdout.strip()

    def asked(self, *argv: str) -> Any:
        return json.loads(self.on("h2", *argv))

    def sql(self, text: str) -> str:
        return self.on("h2", "docker", "exec", "db", "psql", "-U", "postgres", "-Atqc", text)

    def until(self, condition: Callable[[], object], missing: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > end:
                self.tell()
                raise SystemExit(f"after {DEADLINE_S:.0f} s still missing: {missing}")
            time.sleep(0.2)

    def tell(self) -> None:
        """What the clients do, for whoever looks for what went wrong."""
        look = "ls /tmp; tail -n 3 /tmp/failed; tail -n 3 /tmp/acks; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo"
        print(
            self.on("h2", "curl", "-s", "--unix-socket", str(self.lab.host("h2").drover_socket), "http://drover/moves")
        )
        for name in ("load", "acks"):
            print(self.inside(name, "sh", "-c", look), flush=True)
        print(self.on("h2", "sh", "-c", "drover why db; docker logs --tail 20 db 2>&1", check=False), flush=True)

    def start(self, replicas: int) -> None:
        """The database with its data, and the two clients."""
        self.on("h1", "docker", "network", "create", "app")
        options = ("--opt", f"replicas={replicas}", "--opt", "interval=1s")
        self.on("h1", "docker", "volume", "create", *options, "pgdata")
        check = ("--health-cmd", "pg_isready -q -h 127.0.0.1", "--health-interval", "5s")
        data = ("-v", "pgdata:/var/lib/postgresql/data", "-e", "POSTGRES_HOST_AUTH_METHOD=trust")
        label = ("--label", "drover.checkpoint=psql -U postgres -qc checkpoint")
        where = ("-e", "constraint:host==~h1") if replicas else ("-e", "constraint:host==h1")
        tuned = ("postgres", "-c", "max_wal_size=4GB", "-c", "checkpoint_timeout=30s")
        run = ("docker", "run", "-d", "--network", "app")
        self.on("h1", *run, "--name", "db", *data, *check, *label, *where, "postgres:15", *tuned)
        self.until(self.ready, "the database")
        fill = ("pgbench", "-i", "-q", "-s", str(self.scale), "-U", "postgres", "postgres")
        self.on("h1", "docker", "exec", "db", *fill)
        self.sql("create table acks (n bigint primary key); checkpoint")
        for name, script in (("acks", ACKS), ("load", LOAD)):
            self.on("h3", *run, "--name", name, "-e", "constraint:host==h3", "postgres:15", "bash", "-c", script)
        self.until(lambda: len(self.acknowledged()) > 20 and self.transactions() > 20, "the first commits")

    def last_move(self) -> dict[str, Any]:
        """The database's last move, as the API shows it."""
        socket = str(self.lab.host("h2").drover_socket)
        listed = self.asked("curl", "-s", "--unix-socket", socket, "http://drover/moves")
        return next(one for one in listed if one["name"] == "db")

    def ready(self) -> bool:
        said = self.on("h2", "docker", "exec", "db", "pg_isready", "-h", "127.0.0.1", check=False)
        return said.endswith("accepting connections")

    def inside(self, name: str, *argv: str) -> str:
        return self.on("h3", "docker", "exec", name, *argv, check=False)

    def acknowledged(self) -> list[tuple[int, float, float]]:
        """Number, begin and end of each insert that was acknowledged."""
        lines = (line.split() for line in self.inside("acks", "cat", "/tmp/acks").splitlines())
        return [(int(number), float(begin), float(end)) for number, begin, end in lines]

    def transactions(self) -> int:
        """Transactions that pgbench was told are committed, as far as it has written that down."""
        return int(self.inside("load", "sh", "-c", "cat /tmp/load/run* | wc -l") or 0)

    def transaction_ends(self, since: float) -> list[float]:
        """When those were committed (the fifth and sixth column of pgbench's log), since a moment."""
        told = self.inside("load", "sh", "-c", "cat /tmp/load/run*").splitlines()
        rows = (line.split() for line in told if line.count(" ") >= 5)  # the last one may be half written
        return sorted(end for row in rows if (end := int(row[4]) + int(row[5]) / 1e6) > since)

    def both_commit(self, since: float) -> bool:
        """Whether both clients have written down a commit since a moment."""
        return self.acknowledged()[-1][2] > since and bool(self.transaction_ends(since))

    def failures(self) -> list[str]:
        """What failed otherwise than by the end of a connection that was there."""
        said = [self.inside(name, "sh", "-c", "cat /tmp/failed 2>/dev/null || true") for name in ("acks", "load")]
        lines = [line for text in said for line in text.splitlines()]
        refused = [line for line in lines if "could not connect" in line or "connection to server at" in line]
        return [line for line in refused if not any(words in line for words in CUT)]

    def finish(self) -> None:
        """Stop the clients; each has written down what it knows."""
        self.on("h3", "docker", "exec", "acks", "touch", "/tmp/end")
        self.on("h3", "docker", "exec", "load", "touch", "/tmp/end")
        self.until(lambda: self.inside("load", "cat", "/tmp/ended") == "done", "the end of pgbench")


def restart(proof: Proof) -> float:
    """The longest wait for a commit while the database is restarted in its place, in seconds."""
    proof.sql("checkpoint")
    begin = time.time()
    proof.on("h2", "docker", "restart", "db")
    end = time.time()
    proof.until(lambda: proof.both_commit(end + 1), "commits after a restart")
    found = gaps([one for one in proof.acknowledged() if one[2] > begin - 1], proof.transaction_ends(begin - 1))
    for name in ("acks", "load"):
        proof.inside(name, "sh", "-c", ": > /tmp/failed")
    return found["gap_s"]


def move(proof: Proof, target: str) -> dict[str, Any]:
    """One move under load: what travelled, how long each part took, and the longest wait for a commit."""
    begin = time.time()
    proof.on("h2", "drover", "move", "db", "--to", target, "--detach")
    proof.until(lambda: proof.last_move()["phase"] in ("done", "aborted"), f"the end of the move to {target}")
    shown = proof.last_move()
    if shown["phase"] == "aborted":
        raise SystemExit(f"not moved: {shown['why']}")
    proof.until(lambda: proof.both_commit(shown["ended_at"] + 1), f"commits on {target}")
    keys = ("stopping_at", "stopped_at", "handed_at", "ended_at")
    parts = [round(shown[later] - shown[earlier], 3) for earlier, later in itertools.pairwise(keys)]
    return {
        "target": target,
        "moved_bytes": shown["moved_bytes"],
        "last_bytes": shown["last_bytes"],
        "rounds": shown["rounds"],
        "phase_one_s": round(shown["stopping_at"] - shown["started_at"], 2),
        "stop_delta_start_s": parts,
        **gaps([one for one in proof.acknowledged() if one[2] > begin - 1], proof.transaction_ends(begin - 1)),
        "load": round(os.getloadavg()[0], 1),
    }


def gaps(inserts: list[tuple[int, float, float]], transaction_ends: list[float]) -> dict[str, float]:
    """The longest times without a commit, as the module says."""
    ends = sorted([end for _, _, end in inserts] + transaction_ends)
    return {
        "gap_s": round(max(later - earlier for earlier, later in itertools.pairwise(ends)), 3),
        "slowest_insert_s": round(max(end - begin for _, begin, end in inserts), 3),
        "inserts_apart_s": round(max(later[2] - earlier[1] for earlier, later in itertools.pairwise(inserts)), 3),
    }


def verdict(proof: Proof, lost_allowed: bool = False) -> dict[str, Any]:
    """Whether the invariants hold, and what was lost of what was acknowledged (`lost_allowed`: after a death)."""
    accounts, branches, tellers, history, count = map(int, proof.sql(SUMS).split("|"))
    stored = {int(line) for line in proof.sql("select n from acks").splitlines()}
    acknowledged = [number for number, _, _ in proof.acknowledged()]
    lost = sorted(set(acknowledged) - stored)
    failures = proof.failures()
    recovering = [line for line in failures if lost_allowed and any(words in line for words in RECOVERING)]
    return {
        "balances_agree": accounts == branches == tellers == history,
        "history": count,
        "transactions_acknowledged": proof.transactions(),
        "inserts_acknowledged": len(acknowledged),
        "inserts_lost": len(lost),
        "lost_are_the_newest": not lost_allowed or _is_suffix(lost, acknowledged, stored),
        "failed_connections": [line for line in failures if line not in recovering],
        "refused_while_recovering": len(recovering),
    }


def _is_suffix(lost: list[int], acknowledged: list[int], stored: set[int]) -> bool:
    """Whether nothing older than what was lost is missing, up to the loss."""
    before = [number for number in acknowledged if not lost or number < lost[0]]
    return set(before) <= stored and (not lost or set(range(lost[0], lost[-1] + 1)).isdisjoint(stored))


def moves(proof: Proof, turns: int) -> dict[str, Any]:
    proof.start(replicas=0)
    made = []
    for target in ROUND_TRIP * turns:
        restart_gap_s = restart(proof)
        time.sleep(BETWEEN_S)
        made.append({**move(proof, target), "restart_gap_s": restart_gap_s})
        print(json.dumps(made[-1]), flush=True)
    proof.finish()
    median_s = statistics.median(one["gap_s"] for one in made)
    restarts_s = statistics.median(one["restart_gap_s"] for one in made)
    size_bytes = proof.sql("select sum(pg_database_size(oid)) from pg_database")
    medians = {"gap_median_s": median_s, "restart_gap_median_s": restarts_s}
    return {"moves": made, **medians, "size_bytes": int(size_bytes), **verdict(proof)}


def death(proof: Proof) -> dict[str, Any]:
    """The database's host loses power under load: the newest copy is promoted."""
    proof.start(replicas=1)
    view = proof.asked("drover", "volume", "inspect", "pgdata")
    begun_at = time.time()

    def copied() -> bool:
        """What the clients have written: a copy from before says, rightly, that much more is lost."""
        copies = proof.asked("drover", "volume", "inspect", "pgdata")["copies"]
        return any(one["taken_at"] > begun_at for one in copies)

    proof.until(copied, "a copy of what the clients wrote")
    time.sleep(10)
    home = str(view["host"])
    shown = proof.asked("drover", "volume", "inspect", "pgdata")
    killed_at = time.time()
    proof.lab.host(home).kill()
    proof.until(proof.ready, "the database on another host")
    count = len(proof.acknowledged())
    proof.until(lambda: len(proof.acknowledged()) > count + 10, "commits on another host")
    back_s = time.time() - killed_at
    proof.finish()
    after = proof.asked("drover", "volume", "inspect", "pgdata")
    told = {"shown_before": shown["copies"], "note": after["message"], "back_after_s": round(back_s, 1)}
    stored = {int(line) for line in proof.sql("select n from acks").splitlines()}
    ends = {number: end for number, _, end in proof.acknowledged()}
    lost_s = [killed_at - end for number, end in ends.items() if number not in stored]
    return {**told, "oldest_lost_s": round(max(lost_s, default=0.0), 2), **verdict(proof, lost_allowed=True)}


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    remove_lab(LAB)
    try:
        yield Lab.create(LAB, hosts=3, images=("busybox", "postgres"))
    finally:
        remove_lab(LAB)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.database", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=65, help="pgbench's scale: 65 is 1 GB")
    parser.add_argument("--turns", type=int, default=2, help="how often around the three hosts")
    parser.add_argument("--kill", action="store_true", help="a host's death instead of moves")
    parser.add_argument("--out", type=Path, default=Path("out/proof.json"), help="where the figures go")
    asked = parser.parse_args()
    exit_on_sigterm()
    with lab() as made:
        proof = Proof(made, asked.scale)
        figures = death(proof) if asked.kill else moves(proof, asked.turns)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))
    good = figures["balances_agree"] and figures["lost_are_the_newest"] and not figures["failed_connections"]
    return 0 if good and (asked.kill or not figures["inserts_lost"]) else 1


if __name__ == "__main__":
    sys.exit(main())
