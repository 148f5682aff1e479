"""Volumes move between real engines: the fish, a database under a writer, and accidents on the way."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from drover.lab import Lab, cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"vol-{os.getpid()}"
    try:
        yield Lab.create(name, 3, images=("busybox", "postgres", "redis"))
    finally:
        Lab.open(name).destroy()


def on(lab: Lab, host: str, *argv: str, check: bool = True) -> str:
    """Run a command on a host; what it printed."""
    return lab.host(host).exec(list(argv), check=check, timeout_s=120.0).stdout.strip()


def asked(lab: Lab, host: str, *argv: str) -> Any:
    return json.loads(on(lab, host, *argv))


def until(condition: Callable[[], object], missing: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"after {DEADLINE_S} s still missing: {missing}"
        time.sleep(0.1)


def where(lab: Lab, volume: str) -> str:
    return str(asked(lab, "h1", "drover", "volume", "inspect", volume)["host"])


def fenced(lab: Lab, driver: str, volume: str) -> dict[str, bool]:
    """Which hosts have a live set of a volume."""
    part = {"btrfs": "pool", "directory": "directory", "shared": "shared"}[driver]
    roots = {host.name: host.state_dir / "volumes" / part / "live" for host in lab.hosts}
    return {name: volume in on(lab, name, "sh", "-c", f"ls {root} || true") for name, root in roots.items()}


@pytest.mark.parametrize("driver", ["btrfs", "directory", "shared"])
def test_the_fish_is_read_on_another_host(lab: Lab, driver: str) -> None:
    name = f"demo-{driver}"
    on(lab, "h1", "docker", "volume", "create", "--opt", f"driver={driver}", name)
    run = ("docker", "run", "--rm", "-v", f"{name}:/data", "-e")
    on(lab, "h1", *run, "constraint:host==h1", "busybox", "sh", "-c", "echo fish > /data/file")
    assert where(lab, name) == "h1"
    assert on(lab, "h2", *run, "constraint:host==h2", "busybox", "cat", "/data/file") == "fish"
    assert where(lab, name) == "h2"
    assert fenced(lab, driver, name) == {"h1": False, "h2": True, "h3": False}


def test_a_volume_in_use_elsewhere_is_refused_by_name(lab: Lab) -> None:
    run = ("docker", "run", "-d", "-v", "busy:/data", "-e")
    on(lab, "h1", *run, "constraint:host==h1", "--name", "holder", "busybox", "sleep", "infinity")
    refused = lab.host("h1").exec(["drover", "volume", "move", "busy", "--to", "h2"], check=False)
    assert refused.returncode == 5
    assert "volume busy is in use by container holder on h1" in refused.stderr
    second = lab.host("h2").exec([*run, "constraint:host==h2", "busybox", "true"], check=False)
    assert second.returncode != 0
    assert "busy is on h1" in second.stderr
    on(lab, "h1", "docker", "rm", "-f", "holder")


WRITER = """
psql -qc 'create table if not exists acks (n bigint primary key)'
n=0
while :; do
  n=$((n+1))
  psql -qc "insert into acks values ($n)" 2>/dev/null && echo $n $(date +%s.%N) >> /tmp/acks
done
"""


def _acknowledged(lab: Lab) -> list[tuple[int, float]]:
    lines = on(lab, "h3", "docker", "exec", "writer", "cat", "/tmp/acks", check=False).splitlines()
    return [(int(number), float(at)) for number, at in (line.split() for line in lines)]


def test_a_database_moves_around_under_a_writer(lab: Lab, record_property: Callable[[str, object], None]) -> None:
    on(lab, "h1", "docker", "network", "create", "app")
    on(lab, "h1", "docker", "volume", "create", "--opt", "replicas=0", "pgdata")
    image = ("-e", "POSTGRES_HOST_AUTH_METHOD=trust", "postgres:15")
    data = ("-v", "pgdata:/var/lib/postgresql/data")
    on(lab, "h1", "docker", "run", "-d", "--name", "db", "--network", "app", *data, "-e", "constraint:host==h1", *image)
    until(
        lambda: on(lab, "h1", "docker", "exec", "db", "pg_isready", "-h", "127.0.0.1", check=False).endswith(
            "accepting connections"
        ),
        "db",
    )
    who = ("-e", "PGHOST=db", "-e", "PGUSER=postgres", "-e", "PGCONNECT_TIMEOUT=2", "-e", "constraint:host==h3")
    on(
        lab,
        "h1",
        "docker",
        "run",
        "-d",
        "--name",
        "writer",
        "--network",
        "app",
        *who,
        "postgres:15",
        "bash",
        "-c",
        WRITER,
    )
    until(lambda: len(_acknowledged(lab)) > 20, "the writer's first commits")
    moved = []
    for target in ("h2", "h3", "h1"):
        moved.append(asked(lab, "h2", "drover", "move", "db", "--to", target, "--json"))
        count = len(_acknowledged(lab))
        until(lambda count=count: len(_acknowledged(lab)) > count + 20, f"commits on {target}")  # type: ignore[misc]
    acknowledged = _acknowledged(lab)
    on(lab, "h1", "docker", "stop", "-t", "1", "writer")
    stored = on(lab, "h1", "docker", "exec", "db", "psql", "-U", "postgres", "-Atc", "select n from acks")
    assert {number for number, _ in acknowledged} <= {int(line) for line in stored.splitlines()}
    times = [at for _, at in acknowledged]
    gaps_s = sorted(round(later - at, 2) for at, later in itertools.pairwise(times))[-3:]
    figures = {
        "commits": len(acknowledged),
        "gaps_s": gaps_s,
        "moved_bytes": [one["moved_bytes"] for one in moved],
        "after_stop_bytes": [one["last_bytes"] for one in moved],
        "stop_to_start_s": [round(one["ended_at"] - one["stopped_at"], 2) for one in moved],
    }
    record_property("figures", json.dumps(figures))
    print(json.dumps(figures))
    assert [one["phase"] for one in moved] == ["done"] * 3
    assert all(one["last_bytes"] * 2 < one["moved_bytes"] for one in moved)
    assert moved[2]["moved_bytes"] * 2 < moved[0]["moved_bytes"]


PUSHER = """
n=0
while :; do
  n=$((n+1)); said=$(redis-cli -h list rpush numbers $n 2>&1)
  case $said in
    ''|*[!0-9]*) echo "$n $said" >> /tmp/failed;;
    *) echo $n >> /tmp/acks;;
  esac
done
"""


def test_redis_moves_with_the_directory_driver_and_its_clients_connect_throughout(lab: Lab) -> None:
    """Each push is a connection of its own: those that the stop cuts may fail, none may find nobody."""
    on(lab, "h1", "docker", "network", "create", "cache")
    on(lab, "h1", "docker", "volume", "create", "--opt", "driver=directory", "--opt", "replicas=0", "list")
    run = ("docker", "run", "-d", "--network", "cache", "-e")
    server = ("redis-server", "--dir", "/data", "--protected-mode", "no", "--appendonly", "yes", "--appendfsync")
    on(lab, "h1", *run, "constraint:host==h1", "--name", "list", "-v", "list:/data", "redis:7", *server, "always")
    on(lab, "h1", *run, "constraint:host==h3", "--name", "pusher", "redis:7", "bash", "-c", PUSHER)

    def acknowledged() -> set[int]:
        return set(map(int, on(lab, "h3", "docker", "exec", "pusher", "cat", "/tmp/acks", check=False).split()))

    until(lambda: len(acknowledged()) > 20, "the first pushes")
    for target in ("h2", "h1"):
        assert asked(lab, "h2", "drover", "move", "list", "--to", target, "--json")["phase"] == "done"
        count = len(acknowledged())
        until(lambda count=count: len(acknowledged()) > count + 20, f"pushes on {target}")  # type: ignore[misc]
    known = acknowledged()
    stored = on(lab, "h3", "docker", "exec", "list", "redis-cli", "lrange", "numbers", "0", "-1").split()
    assert known <= set(map(int, stored))
    failed = on(lab, "h3", "docker", "exec", "pusher", "sh", "-c", "cat /tmp/failed 2>/dev/null || true")
    assert "Could not connect" not in failed
    on(lab, "h1", "docker", "rm", "-f", "list", "pusher")
    on(lab, "h1", "docker", "network", "rm", "cache")


def _start_writing(lab: Lab, name: str, volume: str, constraint: str = "constraint:host==h1") -> None:
    """A container on h1 that counts up in a file, each number synced before the next."""
    write = "n=$((n+1)); echo $n > /data/new; sync /data/new; mv /data/new /data/n"
    loop = f"trap 'exit 0' TERM; n=0; while :; do {write}; done"
    run = ("docker", "run", "-d", "--name", name, "-v", f"{volume}:/data", "-e", constraint)
    on(lab, "h1", *run, "busybox", "sh", "-c", loop)
    until(lambda: _count(lab, name) > 10, "the first numbers")


def _count(lab: Lab, name: str, through: str = "h3") -> int:
    return int(on(lab, through, "docker", "exec", name, "cat", "/data/n", check=False) or 0)


@pytest.mark.parametrize("victim", ["h1", "h2"])
def test_a_daemon_killed_during_a_move(lab: Lab, victim: str) -> None:
    """The daemon of the source or of the target dies in the middle, and comes back."""
    name, volume = f"count-{victim}", f"numbers-{victim}"
    _start_writing(lab, name, volume)
    on(lab, "h3", "docker", "exec", name, "dd", "if=/dev/urandom", "of=/data/big", "bs=1M", "count=200")
    before = _count(lab, name)
    on(lab, "h3", "drover", "move", name, "--to", "h2", "--detach", "--limit", "60")
    time.sleep(1.5)
    on(lab, victim, "sh", "-c", f"kill -9 {lab.host(victim).pid_of('drover')}")
    cluster.start_daemon(lab.host(victim))
    cluster.wait_for_gateway(lab.host(victim))
    until(lambda: _ended(lab, name), "the end of the move")
    until(lambda: _count(lab, name) > before, "numbers after the move")
    home = "h2" if _ended(lab, name) == "done" else "h1"
    until(lambda: fenced(lab, "btrfs", volume) == {one: one == home for one in ("h1", "h2", "h3")}, "one live set")
    on(lab, "h3", "docker", "rm", "-f", name)


def _ended(lab: Lab, name: str) -> str:
    """How the move of a container ended; empty while it has not."""
    moves = json.loads(
        on(lab, "h3", "sh", "-c", f"curl -s --unix-socket {lab.host('h3').drover_socket} http://drover/moves")
    )
    phase = next(one["phase"] for one in moves if one["name"] == name)
    return phase if phase in ("done", "aborted") else ""


def test_snapshots_roll_back_and_clones_are_their_own(lab: Lab) -> None:
    """From a host that does not have the data: the one that has it does the work."""
    run = ("docker", "run", "--rm", "-v", "life:/data", "-e", "constraint:host==h1", "busybox", "sh", "-c")
    on(lab, "h1", *run, "echo fish > /data/file")
    taken = on(lab, "h2", "drover", "volume", "snapshot", "life", "--name", "before")
    on(lab, "h1", *run, "echo fowl > /data/file")
    on(lab, "h2", "drover", "volume", "clone", "life", "life2", "--snapshot", taken)
    assert on(lab, "h3", "docker", "run", "--rm", "-v", "life2:/data", "busybox", "cat", "/data/file") == "fish"
    assert on(lab, "h1", *run, "cat /data/file") == "fowl"
    on(lab, "h3", "drover", "volume", "rollback", "life", taken)
    assert on(lab, "h1", *run, "cat /data/file") == "fish"
    named = [one["name"] for one in asked(lab, "h3", "drover", "volume", "snapshots", "life", "--json")]
    assert "before.rollback" in named
    on(lab, "h2", "drover", "volume", "snapshot", "life", "--rm", taken)
    listed = asked(lab, "h1", "drover", "volume", "snapshots", "life", "--json")
    assert taken not in [one["id"] for one in listed]


def test_a_lost_hosts_volume_comes_back_from_its_copy(lab: Lab) -> None:
    """Power cut: the newest copy is promoted. The old one is kept, as a snapshot, when the host is back."""
    on(lab, "h1", "docker", "volume", "create", "--opt", "replicas=2", "--opt", "interval=1s", "survivor")
    _start_writing(lab, "phoenix", "survivor", "constraint:host==~h1")
    until(lambda: len(asked(lab, "h3", "drover", "volume", "inspect", "survivor")["copies"]) == 2, "two copies")
    home = str(asked(lab, "h3", "drover", "volume", "inspect", "survivor")["host"])
    others = [name for name in ("h1", "h2", "h3") if name != home]
    before = _count(lab, "phoenix", others[0])
    time.sleep(3)
    lab.host(home).kill()
    until(lambda: _count(lab, "phoenix", others[0]) > before, "numbers on another host")
    taken = asked(lab, others[0], "drover", "volume", "inspect", "survivor")
    assert taken["host"] in others
    assert taken["epoch"] == 2
    lab.host(home).revive()
    kept = lab.host(home).state_dir / "volumes" / "pool" / "snap" / "survivor"
    until(lambda: "-aside" in on(lab, home, "sh", "-c", f"ls {kept} || true"), "the old copy as a snapshot")
    live = fenced(lab, "btrfs", "survivor")
    assert live == {name: name == taken["host"] for name in live}
    on(lab, others[0], "docker", "rm", "-f", "phoenix")


def test_a_clone_elsewhere_is_read_while_the_writer_goes_on(lab: Lab) -> None:
    _start_writing(lab, "author", "book")
    until(lambda: asked(lab, "h1", "drover", "volume", "inspect", "book")["copies"], "a copy")
    other = asked(lab, "h1", "drover", "volume", "inspect", "book")["copies"][0]["host"]
    on(lab, "h3", "drover", "volume", "clone", "book", "book-read", "--on", other, "--read-only")
    before = _count(lab, "author")
    run = ("docker", "run", "--rm", "-v", "book-read:/data", "-e", f"constraint:host=={other}", "busybox")
    assert int(on(lab, "h1", *run, "cat", "/data/n")) > 0
    refused = lab.host("h1").exec([*run, "touch", "/data/x"], check=False)
    assert "Read-only file system" in refused.stderr
    assert where(lab, "book") == "h1"
    until(lambda: _count(lab, "author") > before, "more numbers")
    on(lab, "h1", "docker", "rm", "-f", "author")


def test_volumes_go_out_and_come_back_as_archives_and_backups(lab: Lab) -> None:
    """From hosts that do not have the data. Nothing of the password is in the cluster's records."""
    place = lab.host("h1").state_dir.parent.parent / "backups"
    for host in lab.hosts:
        secrets = host.state_dir / "backup.env"
        secrets.write_text("RESTIC_PASSWORD=sesame-open\n")
        secrets.chmod(0o600)
    run = ("docker", "run", "--rm", "-v", "ledger:/data", "-e", "constraint:host==h1", "busybox", "sh", "-c")
    on(lab, "h1", *run, "echo fish > /data/file; ln /data/file /data/link; mkfifo /data/pipe")
    made = on(lab, "h2", "drover", "volume", "backup", "ledger", "--to", str(place), "--keep", "2")
    archive = lab.host("h3").state_dir / "ledger.tar"
    on(lab, "h3", "drover", "volume", "export", "ledger", "-o", str(archive))
    on(lab, "h3", "drover", "volume", "import", "ledger2", str(archive))
    assert where(lab, "ledger2") == "h3"
    look = ("busybox", "sh", "-c", "cat /data/link; test -p /data/pipe && stat -c %h /data/file")
    assert on(lab, "h3", "docker", "run", "--rm", "-v", "ledger2:/data", *look).split() == ["fish", "2"]
    on(lab, "h1", *run, "echo fowl > /data/file")
    assert made in [one["id"] for one in asked(lab, "h2", "drover", "volume", "backups", "ledger", "--json")]
    on(lab, "h2", "drover", "volume", "restore", "ledger", "--id", made[:8])
    on(lab, "h2", "drover", "volume", "restore", "ledger3", "--of", "ledger")
    for name in ("ledger", "ledger3"):
        assert on(lab, "h2", "docker", "run", "--rm", "-v", f"{name}:/data", *look).split() == ["fish", "2"]
    leftovers = ("drover", "volume", "leftovers", "ledger", "--json")
    until(lambda: [one["snapshot"][-14:] for one in asked(lab, "h1", *leftovers)] == ["before.restore"], "a leftover")
    on(lab, "h1", *leftovers, "--drop")
    until(lambda: asked(lab, "h1", *leftovers) == [], "the leftover's end")
    assert "sesame" not in on(lab, "h1", "drover", "volume", "inspect", "ledger")


def test_a_size_is_kept_and_can_be_changed(lab: Lab) -> None:
    on(lab, "h1", "docker", "volume", "create", "--opt", "size=16M", "small")
    fill = ("docker", "run", "--rm", "-v", "small:/data", "-e", "constraint:host==h1", "busybox", "dd")
    write = (*fill, "if=/dev/urandom", "of=/data/big", "bs=1M", "count=120", "conv=fsync")
    refused = lab.host("h1").exec([*write], check=False)
    assert "quota exceeded" in refused.stderr.lower() or "No space left" in refused.stderr
    on(lab, "h2", "drover", "volume", "update", "small", "--opt", "size=1G")
    until(lambda: asked(lab, "h2", "drover", "volume", "inspect", "small")["size_limit_bytes"] == 1 << 30, "the limit")
    on(lab, "h1", *write)
    shown = asked(lab, "h3", "docker", "volume", "inspect", "small")[0]["Status"]
    assert (shown["Host"], shown["SizeLimit"]) == ("h1", 1 << 30)
    refused = lab.host("h1").exec(["docker", "volume", "create", "--opt", "sync=yes", "zero"], check=False)
    assert "sync=yes cannot be kept" in refused.stderr
