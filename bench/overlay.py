"""Cluster networks between two hosts: throughput, latency, names.

Theory of operation. Three pairs of containers, one of each pair on h1 and one on h2, over the same underlay:

    pair        network
    drover      a cluster network
    hand-made   a bridge, a veth and a point-to-point VXLAN with learning, made here with `ip`
    swarm       an attachable overlay network of Docker Swarm, which the same two engines are made for a while

`SERVER` runs in the namespace of the one on h2, `CLIENT` in that of the one on h1. Bytes are counted by who receives
them. The swarm's VXLAN has a port of its own; its virtual addresses need ip_vs, which is not used here. A pair that
cannot be made is left out, and the row that needs it says why.

Names: four clients in the namespace of a container ask the host's name server one question after another, of
names that the cluster knows. For new names, one client in a container on each host asks every 5 ms for the name of a
container before it is started; the figure is from the answer to the start until the last of them has the address.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec

from bench.bed import IMAGE, Bed, container, running
from bench.frame import Budget, Row, Side, added, alone, interleaved, ratio
from bench.wire import KeepAlive
from drover.lab import Lab, LabHost

VXLAN, SWARM = Budget(0.95, at_most=False), Budget(1.0, at_most=False)
LATENCY = Budget(15.0)
QUERIES, P99, FRESH = Budget(5000, at_most=False), Budget(5.0), Budget(300.0)
ROUND_S = 1.0
APPEARS_DEADLINE_S = 30.0
HAND_MADE_PORT, SWARM_PORT = 4790, 4791
SERVER = """
import socket, threading
def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    room, total, kind = bytearray(1 << 20), 0, connection.recv(1)
    while size := connection.recv_into(room):
        total += size
        if kind == b"e":
            connection.sendall(room[:size])
        elif room[size - 1] == 1:
            break
    if kind != b"e":
        connection.sendall(total.to_bytes(8, "big"))
    connection.close()
server = socket.create_server(("0.0.0.0", 5300))
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
CLIENT = """
import socket, statistics, sys, time
kind, address, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
server = socket.create_connection((address, 5300), 20)
server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
begun = time.perf_counter()
if kind == "bytes":
    server.sendall(b"b")
    piece = bytes(1 << 20)
    while time.perf_counter() - begun < seconds:
        server.sendall(piece)
    server.sendall(b"\\1")
    received = int.from_bytes(server.recv(8), "big")
    print(received * 8 / 1e9 / (time.perf_counter() - begun))
else:
    server.sendall(b"e")
    times = []
    while time.perf_counter() - begun < seconds:
        before = time.perf_counter()
        server.sendall(b"x")
        server.recv(1)
        times.append(time.perf_counter() - before)
    print(statistics.median(times) * 1e6)
"""
ASK = """
import json, select, socket, struct, sys, time
address, names, seconds, clients = sys.argv[1], sys.argv[2].split(","), float(sys.argv[3]), 4
def question(name, number):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!6H", number & 65535, 0x100, 1, 0, 0, 0) + labels + b"\\0\\0\\1\\0\\1"
poll, sent, times, number, wrong = select.epoll(), {}, [], 0, 0
sockets = {}
for _ in range(clients):
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.connect((address, 53))
    sockets[asker.fileno()] = asker
    poll.register(asker, select.EPOLLIN)
begun = time.perf_counter()
for fileno, asker in sockets.items():
    sent[fileno] = time.perf_counter()
    asker.send(question(names[0], 0))
while (now := time.perf_counter()) - begun < seconds:
    for fileno, _ in poll.poll(1):
        answer = sockets[fileno].recv(600)
        now = time.perf_counter()
        times.append(now - sent[fileno])
        wrong += answer[3] & 15 != 0 or answer[7] == 0
        number += 1
        sent[fileno] = now
        sockets[fileno].send(question(names[number % len(names)], number))
times.sort()
print(json.dumps([len(times) / (now - begun), times[len(times) * 99 // 100] * 1e3, wrong]))
"""
APPEARS = """
import socket, struct, sys, time
address, name = sys.argv[1], sys.argv[2]
labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asker.settimeout(1)
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    try:
        asker.sendto(struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\\0\\0\\1\\0\\1", (address, 53))
        if asker.recv(600)[7]:
            print(time.monotonic(), flush=True)
            break
    except TimeoutError:
        continue
    time.sleep(0.005)
"""


class Pair(msgspec.Struct, frozen=True):
    """Two namespaces, as `nsenter` takes them, and the server's address."""

    client: str
    server: str
    address: str


def rows(bed: Bed) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        pairs = {"drover": stack.enter_context(_drover(bed)), "hand-made": stack.enter_context(_hand_made(bed.lab))}
        without = ""
        try:
            pairs["swarm"] = stack.enter_context(_swarm(bed))
        except subprocess.CalledProcessError as error:
            without = f"no swarm: {error.stderr.strip()[-100:]}"
        for pair in pairs.values():
            stack.enter_context(_serving(pair))
        rate = interleaved(_sides(pairs, "bytes"), bed.effort.stream_rounds)
        yield ratio("overlay throughput, against a hand-made VXLAN", "Gbit/s", rate["drover"], rate["hand-made"], VXLAN)
        if "swarm" in rate:
            yield ratio("overlay throughput, against Swarm's", "Gbit/s", rate["drover"], rate["swarm"], SWARM)
        else:
            yield alone("overlay throughput", "Gbit/s", rate["drover"], note=without)
        trip = interleaved(_sides(pairs, "trips"), bed.effort.stream_rounds)
        yield added("overlay round trip, against a hand-made VXLAN", "us", trip["drover"], trip["hand-made"], LATENCY)
    yield from _names(bed)


def _sides(pairs: dict[str, Pair], kind: str) -> dict[str, Side]:
    def side(pair: Pair) -> Side:
        return lambda: float(_inside(pair.client, CLIENT, kind, pair.address, str(ROUND_S)))

    return {name: side(pair) for name, pair in pairs.items()}


def _inside(namespace: str, program: str, *argv: str) -> str:
    argv = ("nsenter", f"--net={namespace}", sys.executable, "-c", program, *argv)
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@contextlib.contextmanager
def _started(namespace: str, program: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """A program in a namespace that has said that it is ready; it is ended with the block."""
    command = ["nsenter", f"--net={namespace}", sys.executable, "-c", program, *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def _serving(pair: Pair) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return _started(pair.server, SERVER)


# -- the pairs ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _drover(bed: Bed) -> Iterator[Pair]:
    socket = bed.host("h1").gateway_socket
    with running(socket, "bench-a", container("h1")), running(socket, "bench-b", container("h2")):
        with KeepAlive(socket) as api:
            one, other = (api.json("GET", f"/containers/bench-{which}/json") for which in "ab")
        networks = other["NetworkSettings"]["Networks"]
        address = next(iter(networks.values()))["IPAddress"]
        yield Pair(_namespace(one["State"]["Pid"]), _namespace(other["State"]["Pid"]), address)


def _namespace(pid: int) -> str:
    return f"/proc/{pid}/ns/net"


@contextlib.contextmanager
def _hand_made(lab: Lab) -> Iterator[Pair]:
    hosts = [lab.host("h1"), lab.host("h2")]
    made = ["bench-hand-1", "bench-hand-2"]
    try:
        for number, (host, other, inner) in enumerate(zip(hosts, reversed(hosts), made, strict=True), 1):
            for line in _hand_made_lines(lab.topology.netns(host.name), host, other, inner, number):
                subprocess.run(line.split(), check=True, capture_output=True, text=True)
        yield Pair(f"/run/netns/{made[0]}", f"/run/netns/{made[1]}", "10.99.0.2")
    finally:
        for host, inner in zip(hosts, made, strict=True):
            for line in (f"ip netns del {inner}", *_unmade_lines(lab.topology.netns(host.name))):
                subprocess.run(line.split(), check=False, capture_output=True)


def _hand_made_lines(netns: str, host: LabHost, other: LabHost, inner: str, number: int) -> list[str]:
    """A container's namespace by hand: veth, bridge and VXLAN, and leave for it in Docker's packet filter."""
    vxlan = f"id 99 local {host.address} remote {other.address} dstport {HAND_MADE_PORT}"
    return [
        f"ip netns add {inner}",
        f"ip -n {netns} link add hb0 type bridge",
        f"ip -n {netns} link add hx0 mtu 1450 type vxlan {vxlan}",
        f"ip -n {netns} link add hv0 mtu 1450 type veth peer name eth0 mtu 1450 netns {inner}",
        *(f"ip -n {netns} link set {port} master hb0 up" for port in ("hx0", "hv0")),
        f"ip -n {netns} link set hb0 up",
        f"ip -n {inner} addr add 10.99.0.{number}/24 dev eth0",
        f"ip -n {inner} link set eth0 up",
        f"ip netns exec {netns} iptables -I DOCKER-USER -i hb0 -o hb0 -j ACCEPT",
    ]


def _unmade_lines(netns: str) -> list[str]:
    return [
        f"ip -n {netns} link del hx0",
        f"ip -n {netns} link del hb0",
        f"ip netns exec {netns} iptables -D DOCKER-USER -i hb0 -o hb0 -j ACCEPT",
    ]


@contextlib.contextmanager
def _swarm(bed: Bed) -> Iterator[Pair]:
    first, second = bed.host("h1"), bed.host("h2")
    try:
        _engine(first, f"swarm init --advertise-addr {first.address} --data-path-port {SWARM_PORT}")
        token = _engine(first, "swarm join-token -q worker")
        _engine(second, f"swarm join --advertise-addr {second.address} --token {token} {first.address}:2377")
        _engine(first, "network create -d overlay --attachable bench-swarm")
        for host, name in ((first, "bench-sa"), (second, "bench-sb")):
            _engine(host, f"run -d --name {name} --network bench-swarm --stop-signal SIGKILL {IMAGE} sleep 86400")
        pids = [
            _engine(host, f"inspect -f {{{{.State.Pid}}}} bench-s{which}")
            for host, which in ((first, "a"), (second, "b"))
        ]
        shown = json.loads(_engine(second, "inspect bench-sb"))[0]["NetworkSettings"]["Networks"]
        yield Pair(_namespace(int(pids[0])), _namespace(int(pids[1])), shown["bench-swarm"]["IPAddress"])
    finally:
        for host, name in ((second, "bench-sb"), (first, "bench-sa")):
            for line in (f"rm -f {name}", "swarm leave --force"):
                with contextlib.suppress(subprocess.CalledProcessError):
                    _engine(host, line)


def _engine(host: LabHost, line: str) -> str:
    """The docker CLI at the host's own engine. Raises `CalledProcessError`."""
    argv = ["docker", "-H", f"unix://{host.docker_socket}", *line.split()]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout.strip()


# -- names -------------------------------------------------------------------------------------------------------------


def _names(bed: Bed) -> Iterator[Row]:
    socket = bed.host("h1").gateway_socket
    with running(socket, "bench-a", container("h1")), running(socket, "bench-b", container("h2")):
        with KeepAlive(socket) as api:
            shown = api.json("GET", "/containers/bench-a/json")
        endpoint = next(iter(shown["NetworkSettings"]["Networks"].values()))
        space, gateway = _namespace(shown["State"]["Pid"]), endpoint["Gateway"]
        asked = [
            json.loads(_inside(space, ASK, gateway, "bench-a,bench-b", "1")) for _ in range(bed.effort.stream_rounds)
        ]
        wrong = sum(one[2] for one in asked)
        note = f"{wrong} wrong answers" if wrong else ""
        yield alone("names: questions answered", "/s", [one[0] for one in asked], QUERIES, note)
        yield alone("names: 99 of 100 answered within", "ms", [one[1] for one in asked], P99)
        with contextlib.ExitStack() as stack:
            others = [host.name for host in bed.lab.hosts[1:]]
            for name in others:
                stack.enter_context(running(socket, f"bench-ask-{name}", container(name)))
            with KeepAlive(socket) as api:
                asking = [api.json("GET", f"/containers/bench-ask-{name}/json") for name in others]
            spaces = [space, *(_namespace(one["State"]["Pid"]) for one in asking)]
            fresh = [_appears_ms(bed, spaces, gateway, f"bench-new-{n}") for n in range(bed.effort.run_rounds)]
        yield alone("a new name on every host, after its start", "ms", fresh, FRESH)


def _appears_ms(bed: Bed, spaces: Sequence[str], gateway: str, name: str) -> float:
    """How long after its start until containers on all hosts, by their namespaces, find a new one by its name."""
    with contextlib.ExitStack() as stack:
        waiting = [
            stack.enter_context(_started(space, APPEARS, gateway, name, str(APPEARS_DEADLINE_S))) for space in spaces
        ]
        stack.enter_context(running(bed.host("h1").gateway_socket, name, container("h2")))
        begun = time.monotonic()
        said = [one.stdout.readline() for one in waiting if one.stdout]
    if not all(said):
        raise RuntimeError(f"{name} was not found by its name within {APPEARS_DEADLINE_S:g} s")
    return max(0.0, *(float(one) - begun for one in said)) * 1000
