"""What copying a volume costs who writes to it: the default policy against none, at half load.

    row         the foreground                                              half load
    database    pgbench from another host, at a fixed rate                  half of the rate that it reaches alone
    writes      random 8 KiB blocks of a file, each on disk before the      a pause as long as such a write takes when
                next                                                        it has the disk to itself

Both sides of a row are the same containers; only `replicas` changes. A rate that cannot be held shows as a lower one.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator

from bench.bed import Bed, container, running
from bench.frame import Budget, Row, interleaved, ratio
from drover.cli.client import Client
from drover.errors import DeadlineExceeded
from drover.lab import LabHost, images

BUDGET = Budget(0.8, at_most=False)
VOLUME, DATABASE, NETWORK = "bench-copied", "bench-pgdata", "bench-pgnet"
FILE_BLOCKS = 8192
SCALE = 20
"""pgbench's: about 300 MB."""
DEADLINE_S = 60.0
_FILL = f"dd if=/dev/urandom of=/data/f bs=8k count={FILE_BLOCKS} conv=fsync 2>/dev/null"
_WRITES = (
    "n=0; end=$(($(date +%s)+{seconds})); while [ $(date +%s) -lt $end ]; do "
    f"dd if=/dev/urandom of=/data/f bs=8k count=1 seek=$((RANDOM%{FILE_BLOCKS})) conv=notrunc,fsync 2>/dev/null; "
    "n=$((n+1)); usleep {pause_us}; done; echo $n"
)
_TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


def rows(bed: Bed) -> Iterator[Row]:
    yield from _database(bed)
    yield from _writes(bed)


def _sides(bed: Bed, volume: str, figure: Callable[[], float]) -> dict[str, list[float]]:
    """The figure with the default policy, and without copies."""
    daemon = Client(f"unix://{bed.host('h1').drover_socket}")

    def side(replicas: int) -> float:
        daemon.post(f"/volumes/{volume}/options", {"options": {"replicas": str(replicas)}})
        _settle(daemon, volume, replicas)
        return figure()

    return interleaved({"copied": lambda: side(1), "alone": lambda: side(0)}, bed.effort.lab_rounds + 1)


def _settle(daemon: Client, volume: str, replicas: int) -> None:
    """Wait for a copy, if there is to be one: the first is another matter."""
    _until(lambda: not replicas or daemon.get(f"/volumes/{volume}")["copies"], f"a copy of volume {volume}")


def _until(condition: Callable[[], object], missing: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise DeadlineExceeded(f"after {DEADLINE_S:g} s still missing: {missing}")
        time.sleep(0.2)


# -- a database --------------------------------------------------------------------------------------------------------


def _database(bed: Bed) -> Iterator[Row]:
    seconds = 20 if bed.effort.lab_rounds > 1 else 10
    client = bed.host("h3")

    def transactions_s(*options: str) -> float:
        argv = ("pgbench", "-h", "bench-db", "-U", "postgres", "-n", "-M", "prepared", "-c", "4", "-T", str(seconds))
        found = _TPS.search(_docker(client, "exec", "bench-pgbench", *argv, *options, "postgres"))
        if found is None:
            raise DeadlineExceeded("pgbench has not said how many transactions it made")
        return float(found[1])

    with _postgres(bed):
        half = max(1, int(transactions_s() / 2))
        found = _sides(bed, DATABASE, lambda: transactions_s("-R", str(half)))
    what = f"pgbench at half load ({half}/s), a copy every 5 s"
    yield ratio(what, "1/s", found["copied"], found["alone"], BUDGET)


@contextlib.contextmanager
def _postgres(bed: Bed) -> Iterator[None]:
    """`bench-db` on h1 with its data in a volume of the default driver, and `bench-pgbench` on h3."""
    host = bed.host("h1")
    images.load(images.archive("postgres", bed.say), [host])
    run = ("run", "-d", "--network", NETWORK, "-e")
    data = ("-v", f"{DATABASE}:/var/lib/postgresql/data", "-e", "POSTGRES_HOST_AUTH_METHOD=trust")
    try:
        _docker(host, "network", "create", NETWORK)
        _docker(host, "volume", "create", "--opt", "replicas=0", DATABASE)
        _docker(host, *run, "constraint:host==h1", "--name", "bench-db", *data, "postgres:15")
        _docker(host, *run, "constraint:host==h3", "--name", "bench-pgbench", "postgres:15", "sleep", "86400")
        ready = ["docker", "exec", "bench-db", "pg_isready", "-q", "-h", "127.0.0.1"]
        _until(lambda: host.exec(ready, check=False).returncode == 0, "PostgreSQL")
        _docker(host, "exec", "bench-db", "pgbench", "-i", "-q", "-s", str(SCALE), "-U", "postgres", "postgres")
        yield
    finally:
        for argv in (("rm", "-f", "bench-db", "bench-pgbench"), ("volume", "rm", DATABASE), ("network", "rm", NETWORK)):
            host.exec(["docker", *argv], timeout_s=DEADLINE_S, check=False)


def _docker(host: LabHost, *argv: str) -> str:
    return host.exec(["docker", *argv], timeout_s=180.0).stdout


# -- bare writes -------------------------------------------------------------------------------------------------------


def _writes(bed: Bed) -> Iterator[Row]:
    host, seconds = bed.host("h1"), 10 if bed.effort.lab_rounds > 1 else 5
    body = container("h1") | {"HostConfig": {"Binds": [f"{VOLUME}:/data"]}}
    daemon = Client(f"unix://{host.drover_socket}")

    def writes_s(pause_us: int) -> float:
        script = _WRITES.format(seconds=seconds, pause_us=pause_us)
        done = host.exec(["docker", "exec", "bench-writer", "sh", "-c", script], timeout_s=seconds * 4.0)
        return int(done.stdout) / seconds

    try:
        with running(host.gateway_socket, "bench-writer", body):
            host.exec(["docker", "exec", "bench-writer", "sh", "-c", _FILL], timeout_s=60.0)
            daemon.post(f"/volumes/{VOLUME}/options", {"options": {"replicas": "0"}})
            pause_us = int(1e6 / writes_s(0))
            found = _sides(bed, VOLUME, lambda: writes_s(pause_us))
    finally:
        host.exec(["docker", "volume", "rm", VOLUME], timeout_s=60.0, check=False)
    yield ratio("synced writes at half load, a copy every 5 s", "1/s", found["copied"], found["alone"], BUDGET)
