"""Cluster networks, published ports and services on three real hosts, through the gateway and the CLI alone.

Figures are printed, never asserted. `make proofs` runs all of it at length:

    DROVER_NET_CONNECTIONS   3000   connections through a virtual address, during changes (and, at most 15,000, after)
    DROVER_NET_CHANGES       3      restarts of its containers meanwhile
    DROVER_NET_MOVES         2      moves of a container that is pinged
    DROVER_NET_ROUNDS        4      rounds of trouble
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from probes import ASK_WHO, CONNECT, FETCHES, PINGS, UDP_ASK, UDP_ECHO, WHO_ASKS

from drover.decide.overlay import mac_of
from drover.lab import Lab, LabHost
from drover.lab import cluster as drovers
from drover.lab.processes import wait_until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

DEADLINE_S = 120.0
CONNECTIONS = int(os.environ.get("DROVER_NET_CONNECTIONS", "3000"))
STEADY = min(CONNECTIONS, 15_000)
CHANGES = int(os.environ.get("DROVER_NET_CHANGES", "3"))
MOVES = int(os.environ.get("DROVER_NET_MOVES", "2"))
ROUNDS = int(os.environ.get("DROVER_NET_ROUNDS", "4"))
NETWORKS = ("red", "green", "blue")
SERVER = "hostname > /index.html; exec httpd -f -p 80 -h /"
LISTENS = "cat /proc/net/tcp /proc/net/tcp6 | grep -q ':0050 .* 0A '"
HEALTH = ("--health-cmd", LISTENS, "--health-interval", "500ms", "--health-retries", "1")


class Cluster:
    """A lab of three hosts, and what tests ask of it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.first = lab.hosts[0]

    def docker(self, *argv: str, host: LabHost | None = None, check: bool = True) -> str:
        done = (host or self.first).exec(["docker", *argv], check=check, timeout_s=DEADLINE_S)
        return (done.stdout + ("" if check else done.stderr)).strip()

    def run(self, name: str, *options: str, command: str = SERVER, host: str = "") -> None:
        pinned = ("--label", f"drover.constraint=host=={host}") if host else ()
        stop = ("--stop-timeout", "1")
        self.docker("run", "-d", "--name", name, *stop, *pinned, *options, "busybox", "sh", "-c", command)

    def host_of(self, name: str) -> LabHost:
        return self.lab.host(self.docker("inspect", "-f", '{{index .Config.Labels "drover.host"}}', name))

    def inside(self, name: str, *argv: str) -> list[str]:
        """The command that runs one of this machine's programs in the network namespace of a container."""
        pid = self.docker("inspect", "-f", "{{.State.Pid}}", name)
        return ["nsenter", f"--net=/proc/{pid}/ns/net", *argv]

    def fetch(self, host: LabHost, address: str) -> str:
        return host.exec(["curl", "-sS", "-m", "10", f"http://{address}/"], check=False).stdout.strip()

    def doctor(self) -> str:
        """What the doctor says; empty if all is right. An unreachable daemon has something to say, too."""
        done = self.first.exec(["drover", "doctor", "network"], check=False, timeout_s=DEADLINE_S)
        return (done.stdout + done.stderr).strip()

    def wait_for_health(self) -> None:
        """Until every host is ready, and the doctor is silent."""
        said: list[str] = []

        def well() -> bool:
            seen = self.first.exec(["drover", "status", "--json"], check=False, timeout_s=DEADLINE_S)
            ready = seen.returncode == 0 and json.loads(seen.stdout)["hosts"].get("ready") == 3
            said[:] = [self.doctor() if ready else "not all hosts are ready"]
            return not said[0]

        try:
            wait_until(well, "a silent doctor", deadline_s=DEADLINE_S, poll_s=1.0)
        except Exception as error:
            raise AssertionError(said) from error


@pytest.fixture(scope="module")
def world(cluster: Lab) -> Cluster:
    return Cluster(cluster)


def addresses(*hosts: LabHost) -> list[str]:
    return [host.address for host in hosts]


def test_pairs_reach_each_other_within_a_network_and_not_across(world: Cluster) -> None:
    ips = {}
    for network in NETWORKS:
        world.docker("network", "create", network)
        for host in world.lab.hosts:
            name = f"{network}-{host.name}"
            world.run(name, "--network", network, host=host.name, command="exec sleep 100000")
            shown = world.docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", name)
            ips[name] = json.loads(shown)[network]["IPAddress"]
    assert len(set(ips.values())) == len(ips)
    _see_who_asks(world, {name: ip for name, ip in ips.items() if name.startswith(NETWORKS[0])})
    with ThreadPoolExecutor(len(ips)) as pool:
        list(pool.map(lambda name: _see_what_it_reaches(world, name, ips), ips))
    world.docker("rm", "-f", *ips)
    world.docker("network", "rm", *NETWORKS)


def _see_what_it_reaches(world: Cluster, name: str, ips: Mapping[str, str]) -> None:
    """The containers of its own network, by address and by name, none of the others, and the world outside."""
    network, outside = name.split("-")[0], world.lab.topology.gateway
    own = {other: ip for other, ip in ips.items() if other.split("-")[0] == network}
    near, far = {*own.values(), outside}, set(ips.values()) - set(own.values())
    lost = _lost(world, name, near, far)
    assert set(lost) == near | far, (name, lost)
    assert {ip for ip, share in lost.items() if share == "0%"} == near, (name, lost)
    one, two = (f"{other}-h1" for other in NETWORKS if other != network)
    two_in_full = f"{two}.{two.split('-')[0]}"
    reverse = own[f"{network}-h1"]
    told = _looked_up(world, name, [*own, reverse, one, two_in_full])
    assert all(ip in told[other] for other, ip in own.items()), (name, told)
    assert f"{network}-h1.{network}" in told[reverse], (name, told)
    assert ips[one] not in told[one], (name, told)
    assert ips[two] not in told[two_in_full], (name, told)


def _lost(world: Cluster, name: str, near: Iterable[str], far: Iterable[str]) -> dict[str, str]:
    """The share of packets lost, by address (empty: not even sent); who is far is given up after a second."""
    ask = "lost() { echo $1 $(ping -i 0.2 -c $2 -W $3 $1 2>&1 | grep -o '[0-9]*% packet loss'); }"
    lines = [ask, *(f"lost {ip} 2 5 &" for ip in near), *(f"lost {ip} 1 1 &" for ip in far), "wait"]
    told = world.docker("exec", name, "sh", "-c", "\n".join(lines)).splitlines()
    return {ip: share.split(" ")[0] for ip, _, share in (line.partition(" ") for line in told)}


def _looked_up(world: Cluster, name: str, asked: Sequence[str]) -> dict[str, str]:
    """What the responder says of each name, found or not."""
    script = "; ".join(f"echo $(nslookup {one} 2>&1)" for one in asked)
    return dict(zip(asked, world.docker("exec", name, "sh", "-c", script).splitlines(), strict=True))


def _see_who_asks(world: Cluster, ips: dict[str, str]) -> None:
    """Each container sees the others under their own addresses: nothing is translated between containers."""
    for name, ip in ips.items():
        argv = world.host_of(name).argv(world.inside(name, sys.executable, "-c", WHO_ASKS))
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == "ready\n"
                for client, own in ips.items():
                    ask = world.inside(client, sys.executable, "-c", ASK_WHO, ip)
                    assert world.host_of(client).exec(ask).stdout.strip() == own, (client, name)
            finally:
                server.terminate()


def test_a_published_port_answers_on_every_host(world: Cluster) -> None:
    world.run("web", "-p", "8080:80", "-p", "127.0.0.1:9090:80", "-p", "5300:5300/udp", "-p", "7000-7009:80")
    short = world.docker("inspect", "-f", "{{.Config.Hostname}}", "web")
    own = world.host_of("web")
    for host in world.lab.hosts:
        for address in (*addresses(*world.lab.hosts), "127.0.0.1"):
            for port in (8080, 7000):
                wait_until(
                    lambda h=host, a=address, p=port: world.fetch(h, f"{a}:{p}") == short,  # type: ignore[misc]
                    f"{address}:{port} from {host.name}",
                    deadline_s=DEADLINE_S,
                    poll_s=0.2,
                )
        assert (world.fetch(host, "127.0.0.1:9090") == short) == (host.name == own.name)
        assert world.fetch(host, f"{own.address}:9090") == ""
    assert world.docker("port", "web", "80/tcp").splitlines() == ["0.0.0.0:7000", "0.0.0.0:8080", "127.0.0.1:9090"]
    with subprocess.Popen(
        own.argv(world.inside("web", sys.executable, "-c", UDP_ECHO)), stdout=subprocess.PIPE, text=True
    ) as echo:
        try:
            assert echo.stdout is not None
            assert echo.stdout.readline() == "ready\n"
            for host in world.lab.hosts:
                for address in (*addresses(*world.lab.hosts), "127.0.0.1"):
                    told = host.exec([sys.executable, "-c", UDP_ASK, address], check=False).stdout
                    assert told == "echo\n", (host.name, address)
        finally:
            echo.terminate()


def test_a_second_claim_is_refused_and_names_the_holder(world: Cluster) -> None:
    world.docker("create", "--name", "second", "-p", "8080:80", "busybox", "sh", "-c", SERVER)
    refused = world.docker("start", "second", check=False)
    assert "Bind for 0.0.0.0:8080 failed: port is already allocated" in refused
    assert "web" in refused
    world.docker("rm", "-f", "web")
    world.docker("start", "second")
    short = world.docker("inspect", "-f", "{{.Config.Hostname}}", "second")
    for host in world.lab.hosts:
        wait_until(
            lambda h=host: world.fetch(h, "127.0.0.1:8080") == short,  # type: ignore[misc]
            f"the new holder, from {host.name}",
            deadline_s=DEADLINE_S,
            poll_s=0.2,
        )
    world.docker("rm", "-f", "second")


def test_what_a_client_reads_of_the_default_network(world: Cluster) -> None:
    world.run("db", "-e", "PASSWORD=x", "--expose", "80")
    world.run("app", "--link", "db:store", "-P", "--expose", "80", command="exec sleep 100000")
    shown = json.loads(world.docker("inspect", "app"))[0]
    assert list(shown["NetworkSettings"]["Networks"]) == ["bridge"]
    assert shown["HostConfig"]["NetworkMode"] in ("default", "bridge")
    assert shown["NetworkSettings"]["IPAddress"] == shown["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] != ""
    assert shown["HostConfig"]["Links"] == ["/db:/app/store"]
    assert "drover" not in world.docker("network", "ls", "--format", "{{.Name}}").split()
    assert "app" in world.docker("ps", "--filter", "network=bridge", "--format", "{{.Names}}").split()
    environment = world.docker("exec", "app", "env").splitlines()
    assert {"STORE_NAME=/app/store", "STORE_ENV_PASSWORD=x"} <= set(environment)
    assert " 0% packet loss" in world.docker("exec", "app", "ping", "-c", "1", "-W", "5", "store")
    assert world.docker("port", "app", "80/tcp").startswith("0.0.0.0:")
    world.docker("rm", "-f", "app", "db")


def test_a_service_is_balanced_while_its_containers_change(world: Cluster, tmp_path: Path) -> None:
    world.docker("network", "create", "app")
    names, kills = ["back-1", "back-2", "back-3"], range(1, CHANGES, 5)
    for name, host in zip(names, world.lab.hosts, strict=True):
        label = ("--label", "drover.service=back", "--network-alias", "back")
        world.run(name, "--network", "app", *label, *HEALTH, "-p", "8888:80", host=host.name)
    world.run("client", "--network", "app", command="exec sleep 100000")
    asked: list[str] = []

    def virtual() -> bool:
        asked[:] = world.docker("exec", "client", "nslookup", "-type=a", "back", check=False).split("Address: ")[1:]
        return len(asked) == 1 and asked[0].startswith("10.127.")

    wait_until(virtual, "one virtual address", deadline_s=DEADLINE_S, poll_s=0.2)
    assert len(world.docker("exec", "client", "nslookup", "-type=a", "tasks.back").split("Address: ")) == 4
    _wait_for_backends(world, asked[0].strip(), 3)
    address, stop = asked[0].strip(), tmp_path / "stop"
    argv = world.inside("client", sys.executable, "-c", CONNECT, address, str(CONNECTIONS), str(stop))
    client = world.host_of("client").argv(argv)
    with subprocess.Popen(client, stdout=subprocess.PIPE, text=True) as rolling:
        try:
            for number in range(CHANGES):
                _change(world, names[number % len(names)], kill=number in kills)
                _wait_for_backends(world, address, 3)
        finally:
            stop.touch()
        assert rolling.stdout is not None
        during = msgspec.json.decode(rolling.stdout.read(), type=Outcome)
    steady = _connections(world, address, STEADY)
    print(f"\nduring {CHANGES} rolling changes: {during}\nsteady: {steady}")
    assert steady.failed == 0
    # One connection at a time: a kill may break the one that its container was answering, and no other.
    assert during.broken <= len(kills), during
    assert during.failed == during.broken, during
    assert len(steady.served) == 3
    assert all(abs(count - STEADY / 3) <= STEADY / 30 for count in steady.served.values())
    published = {world.fetch(world.first, "127.0.0.1:8888") for _ in range(6)}
    assert published == set(steady.served)


def _change(world: Cluster, name: str, *, kill: bool) -> None:
    if kill:
        world.docker("kill", name)
        world.docker("start", name)
    else:
        world.docker("restart", name)


class Outcome(msgspec.Struct):
    """What CONNECT tells: how many connections each backend served, how many failed and why, how many of these after
    they had been made, and the seconds."""

    served: dict[str, int]
    failed: int
    broken: int
    errors: dict[str, int]
    s: float


def _connections(world: Cluster, address: str, number: int) -> Outcome:
    argv = world.inside("client", sys.executable, "-c", CONNECT, address, str(number), "-")
    done = world.host_of("client").exec(argv, timeout_s=60 + number / 20)
    return msgspec.json.decode(done.stdout, type=Outcome)


def _wait_for_backends(world: Cluster, address: str, number: int) -> None:
    wait_until(
        lambda: len(_connections(world, address, 9).served) == number,
        f"{number} backends",
        deadline_s=DEADLINE_S,
        poll_s=0.3,
    )


def test_a_container_keeps_its_address_while_it_moves(world: Cluster, tmp_path: Path) -> None:
    """A pinger at 5 ms and an open-loop HTTP client, on h1, see what a move costs, and beside it what a restart of a
    container costs that only an engine knows: the difference is Drover's."""
    world.docker("network", "create", "way")
    world.run("watcher", "--network", "way", host="h1", command="exec sleep 100000")
    world.run("roamer", "--network", "way", "--stop-signal", "SIGKILL")
    ip = _address(world, "roamer")
    other = ".".join((*ip.split(".")[:3], "200"))
    engine = ("docker", "-H", f"unix://{world.first.docker_socket}")
    kept = ("--network", "way", "--ip", other, "--stop-signal", "SIGKILL", "busybox", "sh", "-c", SERVER)
    world.first.exec([*engine, "run", "-d", "--name", "reference", *kept])
    logs = {"ping": tmp_path / "ping", "http": tmp_path / "http"}
    programs = {"ping": (PINGS, "0.005"), "http": (FETCHES, "0.02")}
    clients = [
        subprocess.Popen(
            world.first.argv(
                world.inside("watcher", sys.executable, "-c", program, f"{ip},{other}", interval, str(log))
            )
        )
        for (program, interval), log in zip(programs.values(), logs.values(), strict=True)
    ]
    gaps: dict[str, list[dict[str, float]]] = {"restart": [], "move": []}
    try:
        wait_until(lambda: all(log.exists() for log in logs.values()), "replies", deadline_s=DEADLINE_S)
        for number in range(MOVES):
            restart = [*engine, "restart", "reference"]
            gaps["restart"].append(_gaps_ms(logs, other, lambda r=restart: world.first.exec(r)))  # type: ignore[misc]
            here = world.host_of("roamer")
            target = next(host for host in world.lab.hosts[number % 3 :] + world.lab.hosts if host.name != here.name)
            move = ["drover", "move", "roamer", "--to", target.name]
            gaps["move"].append(_gaps_ms(logs, ip, lambda m=move: world.first.exec(m, timeout_s=DEADLINE_S)))  # type: ignore[misc]
            assert world.host_of("roamer").name == target.name
            assert _address(world, "roamer") == ip
            entry = world.first.exec(world.inside("watcher", "ip", "neigh", "show", ip)).stdout
            assert f"lladdr {mac_of(ip)} " in entry, entry
            world.wait_for_health()
    finally:
        for client in clients:
            client.kill()
            client.wait()
    for what, kind in itertools.product(gaps, logs):
        each = [gap[kind] for gap in gaps[what]]
        print(f"\n{what}, {kind}: longest gap {statistics.median(each):.0f} ms (median), at most {max(each):.0f} ms")
    world.first.exec([*engine, "rm", "-f", "reference"])
    world.docker("rm", "-f", "roamer", "watcher")
    world.docker("network", "rm", "way")


def _address(world: Cluster, name: str) -> str:
    return world.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name)


def _gaps_ms(logs: dict[str, Path], address: str, action: Callable[[], object]) -> dict[str, float]:
    """The longest time without a reply, by client, from an action's begin until both have replies again after it."""
    begun = time.monotonic()
    action()
    done = time.monotonic()
    found = {}
    for kind, log in logs.items():
        wait_until(lambda f=log: _replies(f, address)[-1] > done, "a reply", deadline_s=DEADLINE_S)  # type: ignore[misc]
        times = [reply for reply in _replies(log, address) if reply > begun - 0.5]
        found[kind] = max(after - before for before, after in itertools.pairwise(times)) * 1000
    return found


def _replies(log: Path, address: str) -> list[float]:
    """When replies came from an address, the last ones."""
    lines = [line.split() for line in log.read_text().splitlines()[-20_000:]]
    return [0.0, *sorted(float(words[1]) for words in lines if len(words) == 2 and words[0] == address)]


def test_names_go_on_while_a_host_has_no_daemon(world: Cluster) -> None:
    """A container asks as ever; the engine's own socket is the way in, since its host has no gateway either."""
    world.docker("network", "create", "known")
    world.run("far", "--network", "known", host="h1", command="exec sleep 100000")
    world.run("near", "--network", "known", host="h2", command="exec sleep 100000")
    host, ip = world.lab.host("h2"), _address(world, "far")
    ask = ["docker", "-H", f"unix://{host.docker_socket}", "exec", "near", "nslookup", "-type=a", "far"]

    def known() -> bool:
        return ip in host.exec(ask, check=False).stdout

    wait_until(known, "the name", deadline_s=DEADLINE_S, poll_s=0.2)
    time.sleep(2.0)  # longer than a daemon takes to note a name for its deputy
    pid = host.pid_of("drover")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: host.pid_of("drover") is None, "the end of the daemon", deadline_s=DEADLINE_S)
    wait_until(known, "the name without a daemon", deadline_s=DEADLINE_S, poll_s=0.2)
    assert host.pid_of("drover") is None
    drovers.start_daemon(host)
    drovers.wait_for_gateway(host)
    again = ("exec", "near", "nslookup", "-type=a", "far")
    wait_until(lambda: ip in world.docker(*again, check=False), "the name from the next daemon", deadline_s=DEADLINE_S)
    world.docker("rm", "-f", "far", "near")
    world.docker("network", "rm", "known")
    world.wait_for_health()


def test_trouble_leaves_the_tables_right(world: Cluster) -> None:
    world.run("steady", "-p", "8081:80", "--restart", "always")
    dice = random.Random(4)
    for number in range(ROUNDS):
        host = dice.choice(world.lab.hosts)
        kind = dice.choice((_kill_daemon, _restart_engine, _cut, _cut_for_long))
        started = time.monotonic()
        kind(host)
        world.wait_for_health()
        print(f"\nround {number}: {kind.__name__} {host.name}: right again after {time.monotonic() - started:.1f} s")
        assert _twice(world) == []
        for one in world.lab.hosts:
            wait_until(
                lambda h=one: world.fetch(h, "127.0.0.1:8081") != "",  # type: ignore[misc]
                f"port 8081 on {one.name}",
                deadline_s=DEADLINE_S,
                poll_s=0.3,
            )


def _kill_daemon(host: LabHost) -> None:
    """Rules stay, so published ports go on answering; then the daemon is started again."""
    pid = host.pid_of("drover")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert "chain replies" in host.exec(["nft", "list", "table", "ip", "drover"]).stdout
    drovers.start_daemon(host)
    drovers.wait_for_gateway(host)


def _restart_engine(host: LabHost) -> None:
    """As `systemctl restart docker` does: its containers stop with it, and come back by their records."""
    pid = host.pid_of("dockerd")
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: host.pid_of("dockerd") is None, "the end of the engine", deadline_s=DEADLINE_S)
    host.start_engine()


def _cut(host: LabHost) -> None:
    host.cut()
    time.sleep(2)
    host.heal()


def _cut_for_long(host: LabHost) -> None:
    """Longer than its lease: its containers go to other hosts."""
    host.cut()
    time.sleep(8)
    host.heal()


def _twice(world: Cluster) -> list[str]:
    """The addresses that running containers of more than one engine have."""
    show = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    found: Counter[str] = Counter()
    for host in world.lab.hosts:
        engine = f"docker -H unix://{host.docker_socket}"
        line = f"{engine} inspect -f '{show}' $({engine} ps -q --filter label=drover.id) ''"
        found.update(host.exec(["sh", "-c", line], check=False).stdout.split())
    return [ip for ip, number in found.items() if number > 1]


def test_damage_is_named_and_repaired(world: Cluster) -> None:
    host = world.lab.hosts[1]
    assert world.doctor() == ""
    host.exec(["nft", "flush", "chain", "ip", "drover", "p_tcp_8081"])
    told = world.doctor()
    assert f"{host.name}: chain p_tcp_8081 is different" in told or told == ""  # repaired in the meantime
    world.wait_for_health()
