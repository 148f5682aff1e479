"""What runs during chaos: a bank on PostgreSQL, a list in Redis, a raw writer; and clients that note what they hear.

Theory of operation. The three servers have replicated volumes and run on the hosts that suffer; their clients run on
one that does not (`observer`), each in a container, and keep a book `/tmp/acks` of what was acknowledged:
`NUMBER SECONDS`.

    container   does                                                           image
    bank        PostgreSQL; moves money between accounts, keeps a history      postgres:15
    list        Redis, every write synced before it is acknowledged            redis:7
    stamps      appends `NUMBER HOST EPOCH UPTIME` to a file, and syncs it     busybox

The raw writer learns host and epoch from its own mounts: its root's upper directory lies below the host's disk, and its
volume's path carries the epoch. So it says who wrote, whatever anybody else believes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.chaos import checks

from drover.cli.client import Client
from drover.lab import Lab
from drover.lab.host import LabHost
from drover.lab.processes import wait_until

SERVERS = ("bank", "list", "stamps")
CLIENTS = {"bank": "bank-client", "list": "list-client"}
IMAGES = ("busybox", "postgres", "redis")
NETWORK = "chaos"
ACCOUNTS, EACH = 10, 100
READY_DEADLINE_S = 120.0
COMMAND_TIMEOUT_S = 60.0
OVER = ("done", "aborted")
_BANK_CLIENT = """n=0; export PGCONNECT_TIMEOUT=2
while :; do
  n=$((n+1)); a=$((n % 10)); b=$(((n * 7 + 3) % 10))
  timeout 5 psql -h bank -U postgres -qc "begin; update accounts set balance = balance - 1 where id = $a;
    update accounts set balance = balance + 1 where id = $b; insert into history values ($n); commit" 2>/dev/null &&
    echo "$n $(date +%s.%N)" >>/tmp/acks || sleep 0.3
  sleep 0.05
done"""
_LIST_CLIENT = """n=0
while :; do
  n=$((n+1))
  case $(timeout 3 redis-cli -h list rpush numbers "$n" 2>/dev/null) in
    ''|*[!0-9]*) sleep 0.3;;
    *) echo "$n $(date +%s.%N)" >>/tmp/acks;;
  esac
  sleep 0.05
done"""
_STAMPS = r"""host=$(sed -n 's#.*upperdir=[^,]*/\(h[0-9]*\)/data/.*#\1#p' /proc/self/mountinfo | head -n 1)
epoch=$(sed -n 's#.*stamps@\([0-9]*\).* /data .*#\1#p' /proc/self/mountinfo | head -n 1)
n=$(tail -n 1 /data/log 2>/dev/null | cut -d' ' -f1); n=${n:-0}
trap 'exit 0' TERM
while :; do
  n=$((n+1))
  echo "$n $host $epoch $(cut -d' ' -f1 /proc/uptime)" >>/data/log && sync /data/log
  usleep 50000
done"""
_ENV = "CHAOS="
"""Each server's processes carry its name, so that whoever looks at the machine's processes knows them."""


def docker(host: LabHost, *argv: str, check: bool = True) -> str:
    return host.exec(["docker", *argv], check=check, timeout_s=COMMAND_TIMEOUT_S).stdout.strip()


def start(lab: Lab, observer: LabHost) -> None:
    """Make the volumes, servers and clients, and wait until the first writes are acknowledged."""
    docker(observer, "network", "create", NETWORK)
    for name in SERVERS:
        docker(observer, "volume", "create", "--opt", "replicas=2", "--opt", "interval=1s", name)
    _serve(observer, "bank", "/var/lib/postgresql/data", "-e", "POSTGRES_HOST_AUTH_METHOD=trust", "postgres:15")
    _serve(observer, "list", "/data", "redis:7", "redis-server", "--dir", "/data", "--protected-mode", "no",
           "--appendonly", "yes", "--appendfsync", "always")  # fmt: skip
    _serve(observer, "stamps", "/data", "busybox", "sh", "-c", _STAMPS)
    _wait(lambda: _bank_is_made(observer), "the bank's database")
    for server, (image, script) in {"bank": ("postgres:15", _BANK_CLIENT), "list": ("redis:7", _LIST_CLIENT)}.items():
        here = ("-e", f"constraint:host=={observer.name}", "--entrypoint", "")
        docker(
            observer, "run", "-d", "--name", CLIENTS[server], "--network", NETWORK, *here, image, "bash", "-c", script
        )
    wait_for_progress(observer)


def _serve(observer: LabHost, name: str, path: str, *rest: str) -> None:
    away = (
        "-e",
        f"constraint:host!={observer.name}",
        "-e",
        f"{_ENV}{name}",
        "--restart",
        "always",
        "--stop-timeout",
        "3",
    )
    docker(observer, "run", "-d", "--name", name, "--network", NETWORK, "-v", f"{name}:{path}", *away, *rest)


def _bank_is_made(observer: LabHost) -> bool:
    made = f"""create table if not exists history (n bigint primary key);
      create table if not exists accounts (id int primary key, balance int);
      insert into accounts select i, {EACH} from generate_series(0, {ACCOUNTS - 1}) i on conflict do nothing"""
    return (
        observer.exec(["docker", "exec", "bank", *_psql(made)], check=False, timeout_s=COMMAND_TIMEOUT_S).returncode
        == 0
    )


def _psql(statement: str) -> tuple[str, ...]:
    return ("psql", "-h", "127.0.0.1", "-U", "postgres", "-qAt", "-v", "ON_ERROR_STOP=1", "-c", statement)


def _wait(done: object, what: str) -> None:
    wait_until(done, what, deadline_s=READY_DEADLINE_S, poll_s=0.3)  # type: ignore[arg-type]


def acknowledged(observer: LabHost, server: str) -> list[checks.Ack]:
    return checks.acks(docker(observer, "exec", CLIENTS[server], "cat", "/tmp/acks", check=False).splitlines())


def stamped(observer: LabHost) -> list[checks.Stamp]:
    """What the raw writer's volume has now."""
    return checks.stamps(docker(observer, "exec", "stamps", "cat", "/data/log", check=False).splitlines())


def wait_for_progress(observer: LabHost) -> None:
    """Until each server has acknowledged something new."""
    before = {server: len(acknowledged(observer, server)) for server in CLIENTS}
    stamps = stamped(observer)
    last = stamps[-1].uptime_s if stamps else 0.0
    for server, count in before.items():
        _wait(lambda s=server, c=count: len(acknowledged(observer, s)) > c + 2, f"new writes of {server}")
    _wait(lambda: any(stamp.uptime_s > last for stamp in stamped(observer)[-3:]), "new stamps")


def moving(observer: LabHost) -> list[str]:
    """The moves that are not over, in words."""
    moves = Client(f"unix://{observer.drover_socket}").get("/moves")
    return [f"{one['name']} moves to {one['target']}: {one['phase']}" for one in moves if one["phase"] not in OVER]


def stored(observer: LabHost) -> Mapping[str, frozenset[int]]:
    """The numbers that each server has."""
    history = docker(observer, "exec", "bank", *_psql("select n from history")).split()
    numbers = docker(observer, "exec", "list", "redis-cli", "lrange", "numbers", "0", "-1").split()
    return {"bank": frozenset(map(int, history)), "list": frozenset(map(int, numbers))}


def total(observer: LabHost) -> int:
    return int(docker(observer, "exec", "bank", *_psql("select sum(balance) from accounts")))


def addresses(observer: LabHost) -> dict[str, str]:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}}{{end}}"
    return {name: docker(observer, "inspect", "--format", form, name) for name in SERVERS}


def engines(lab: Lab) -> dict[str, list[str]]:
    """The hosts whose own engines run each server."""
    found: dict[str, list[str]] = {name: [] for name in SERVERS}
    for host in lab.hosts:
        running = docker(host, "-H", f"unix://{host.docker_socket}", "ps", "--format", "{{.Names}}").split()
        for name in set(running) & set(SERVERS):
            found[name].append(host.name)
    return found


def homes(observer: LabHost) -> dict[str, tuple[str, int, float | None]]:
    """Of each server's volume: the host, the epoch, and the time of its newest copy elsewhere (None: there is none)."""
    shown = json.loads(observer.exec(["drover", "volume", "ls", "--json"], timeout_s=COMMAND_TIMEOUT_S).stdout)
    return {
        one["name"]: (one["host"], one["epoch"], max((copy["synced_at"] for copy in one["copies"]), default=None))
        for one in shown
        if one["name"] in SERVERS
    }


def live_sets(lab: Lab) -> dict[str, list[tuple[str, int]]]:
    """The hosts and epochs of the live sets that disks have of each server's volume."""
    found: dict[str, list[tuple[str, int]]] = {name: [] for name in SERVERS}
    for host in lab.hosts:
        listed = host.exec(["sh", "-c", f"ls -d {host.state_dir}/volumes/*/live/*@*"], check=False, timeout_s=30.0)
        for path in listed.stdout.split():
            name, _, epoch = path.rpartition("/")[2].rpartition("@")
            if name in found:
                found[name].append((host.name, int(epoch)))
    return found
