"""The network driver on a real kernel keeps the contract, and repairs what others break.

Each test has a network namespace of its own, with the underlay address on an interface named `u0`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import msgspec
import pytest
from network_contract import FEWER, OTHER, TABLES, UNDERLAY, A, B, C, NetworkContract, network, remotes
from network_namespaces import Shell, encryption, first_used_in, namespace
from pyroute2 import netns

from drover.decide.parking import Parked
from drover.decide.tables import Tables
from drover.drivers.network import filter
from drover.drivers.network.linux import LinuxNetwork
from drover.errors import DroverError

pytestmark = pytest.mark.lab


@pytest.fixture
def sh() -> Iterator[Shell]:
    """The test's namespace."""
    with namespace() as shell:
        shell(f"ip link add u0 type bridge; ip addr add {UNDERLAY}/24 dev u0; ip link set u0 up")
        yield shell


@pytest.fixture
async def driver(sh: Shell) -> AsyncIterator[LinuxNetwork]:
    made = LinuxNetwork(encryption=encryption(sh))
    first_used_in(sh, made)
    yield made
    await made.set_tunnel(None)
    await made.close()


class TestLinuxNetwork(NetworkContract):
    pass


async def test_a_damaged_table_is_repaired_by_the_next_change_or_look(driver: LinuxNetwork, sh: Shell) -> None:
    await driver.set_services(TABLES)
    sh("nft flush chain ip drover p_tcp_8080; nft delete element ip drover mesh '{ udp . 53 }'")
    assert await driver.doubts(TABLES) == ["chain p_tcp_8080 is different", "mesh lacks 17 . 53 : goto p_udp_53"]
    await driver.set_services(TABLES, verify=True)
    assert await driver.doubts(TABLES) == []
    sh("nft delete table ip drover")
    await driver.set_services(FEWER)
    assert await driver.doubts(FEWER) == []


BACKENDS = ("10.42.0.11", "10.42.0.12")
BEHIND = Tables(
    networks=(network(),), mesh={("tcp", 8080): tuple((ip, 80) for ip in BACKENDS)}, local=frozenset(BACKENDS)
)
ANSWERING = """
import socket, sys
server = socket.create_server((sys.argv[1], 80))
print("ready", flush=True)
while True:
    server.accept()[0].sendall(b"hello")
"""
MANY = """
import socket
told = []
for _ in range(4):
    try:
        told.append(socket.create_connection(("10.94.0.1", 8080), 30).recv(9).decode())
    except OSError as error:
        told.append(error.strerror)
print(",".join(told))
"""


TELLING = """
import socket, sys
server = socket.create_server((sys.argv[1], 80))
print("ready", flush=True)
while True:
    connection, client = server.accept()
    connection.sendall(f"{sys.argv[1]} {client[0]}".encode())
    connection.close()
"""
HEARING = """
import socket
for _ in range(4):
    print(socket.create_connection(("10.127.0.1", 80), 30).makefile().read(), flush=True)
"""


@contextmanager
def backends(sh: Shell, *listening: str, also: tuple[str, ...] = (), program: str = ANSWERING) -> Iterator[None]:
    """Two containers on the bridge of `network()`, of which these listen, and those with the addresses `also`."""
    with ExitStack() as stack:
        for number, ip in enumerate((*BACKENDS, *also)):
            name = f"{sh.namespace}-{number}"
            netns.create(name)
            stack.callback(netns.remove, name)
            sh(f"ip link add v{number} type veth peer name e0 netns {name}; ip link set v{number} master dv42 up")
            inside = (
                f"ip link set lo up; ip addr add {ip}/16 dev e0; ip link set e0 up; ip route add default via 10.42.0.1"
            )
            subprocess.run(["ip", "netns", "exec", name, "sh", "-ec", inside], check=True)
            if ip in listening:
                server = stack.enter_context(python_in(name, program, ip))
                stack.callback(server.kill)
                assert server.stdout is not None
                assert server.stdout.readline() == "ready\n"
        yield


async def told(sh: Shell) -> list[str]:
    """What four clients of the published port read, one after the other."""
    with python_in(sh.namespace, MANY) as client:
        return (await asyncio.to_thread(client.communicate))[0].strip().split(",")


async def test_backends_see_the_clients_own_address_through_a_virtual_one(driver: LinuxNetwork, sh: Shell) -> None:
    """Also a client that is a backend itself is answered, sometimes by itself."""
    await driver.realise(network())
    virtual = {("dv42", "10.127.0.1"): BACKENDS}
    await driver.set_services(Tables(networks=(network(),), virtual=virtual, local=frozenset(BACKENDS)))
    with backends(sh, *BACKENDS, also=("10.42.0.20",), program=TELLING):
        await driver.let_turn(42)
        assert await heard(sh, 2) == {(ip, "10.42.0.20") for ip in BACKENDS}
        assert await heard(sh, 0) == {(BACKENDS[0], network().host_ip), (BACKENDS[1], BACKENDS[0])}


async def test_every_containers_port_turns_frames_and_no_other_device_does(driver: LinuxNetwork, sh: Shell) -> None:
    def turning() -> set[str]:
        shown = json.loads(sh("bridge -d -j link show"))
        return {port["ifname"] for port in shown if port.get("master") == "dv42" and port["hairpin"]}

    await driver.realise(network())
    with backends(sh):
        assert turning() == set()
        await driver.let_turn(42)
        assert turning() == {"v0", "v1"}
        sh("ip link add v9 type veth peer name p9; ip link set v9 master dv42 up")
        sh("ip link add v8 type veth peer name p8")
        await driver.let_turn(42)
        assert turning() == {"v0", "v1", "v9"}


async def heard(sh: Shell, number: int) -> set[tuple[str, str]]:
    """Who answered the container with this number, and whom they saw."""
    with python_in(f"{sh.namespace}-{number}", HEARING) as client:
        told = (await asyncio.to_thread(client.communicate))[0]
    return {(words[0], words[1]) for words in map(str.split, told.splitlines())}


async def test_one_of_several_backends_that_refuses_is_passed_over(driver: LinuxNetwork, sh: Shell) -> None:
    await driver.realise(network())
    await driver.set_services(BEHIND)
    with backends(sh, BACKENDS[1]):
        assert await told(sh) == ["hello"] * 4


async def test_where_all_refuse_the_client_hears_it(driver: LinuxNetwork, sh: Shell) -> None:
    await driver.realise(network())
    await driver.set_services(BEHIND)
    with backends(sh):
        assert set(await told(sh)) == {"Connection refused"}


async def test_the_only_backend_is_believed_at_once(driver: LinuxNetwork, sh: Shell) -> None:
    await driver.realise(network())
    await driver.set_services(Tables(networks=(network(),), mesh={("tcp", 8080): ((BACKENDS[0], 80),)}))
    with backends(sh, BACKENDS[1]):
        assert set(await told(sh)) == {"Connection refused"}
        assert "elements" not in sh("nft list set ip drover refusals")


KEEPING = """
import socket, time
kept = [socket.create_connection(("10.94.0.1", 8080), 30) for _ in range(6)]
print(",".join(one.recv(9).decode() for one in kept), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("many", [1000, 1])
async def test_connections_to_a_backend_that_ended_are_forgotten_and_no_others(
    driver: LinuxNetwork, sh: Shell, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drover.drivers.network.flows.MANY", many)
    await driver.realise(network())
    await driver.set_services(BEHIND)
    with backends(sh, *BACKENDS), python_in(sh.namespace, KEEPING) as client:
        assert client.stdout is not None
        assert client.stdout.readline().strip() == ",".join(["hello"] * 6)
        assert [tracked(sh, ip) for ip in BACKENDS] == [3, 3]
        alone = Tables(networks=BEHIND.networks, mesh={("tcp", 8080): ((BACKENDS[0], 80),)}, local=BEHIND.local)
        await driver.set_services(msgspec.structs.replace(alone, alive=frozenset(BACKENDS)))
        assert [tracked(sh, ip) for ip in BACKENDS] == [3, 3]
        await driver.set_services(msgspec.structs.replace(alone, alive=frozenset(BACKENDS[:1])))
        assert [tracked(sh, ip) for ip in BACKENDS] == [3, 0]
        client.kill()


def tracked(sh: Shell, ip: str) -> int:
    """How many connections to a backend the kernel knows."""
    return sh("cat /proc/net/nf_conntrack || conntrack -L 2>/dev/null").count(f"src={ip} ")


async def test_what_nft_refuses_is_said_in_its_words(driver: LinuxNetwork, sh: Shell) -> None:
    for length in (0, filter.SMALL):
        with pytest.raises(DroverError, match="No such file or directory"):
            await driver._run(lambda n=length: filter.apply("#" * n + "\nflush chain ip drover nowhere\n"))


CONTAINER = "10.77.0.9"
CONNECTING = """
import socket, sys
client = socket.create_connection(("10.77.0.9", 80), 30)
print(client.recv(9).decode(), flush=True)
"""
LISTENING = """
import socket
server = socket.create_server(("10.77.0.9", 80))
print("ready", flush=True)
while True:
    server.accept()[0].sendall(b"hello")
"""


def python_in(namespace: str, program: str, *argv: str) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", program, *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def container(sh: Shell) -> Iterator[str]:
    """A namespace behind the bridge dv77 in which somebody listens; its name."""
    name = f"{sh.namespace}-c"
    netns.create(name)
    sh("ip link add dv77 type bridge forward_delay 0; ip addr add 10.77.0.1/24 dev dv77; ip link set dv77 up")
    sh(f"ip link add v0 type veth peer name e0 netns {name}; ip link set v0 master dv77 up")
    subprocess.run(
        ["ip", "netns", "exec", name, "sh", "-ec", f"ip addr add {CONTAINER}/24 dev e0; ip link set e0 up"], check=True
    )
    server = python_in(name, LISTENING)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield name
    finally:
        server.kill()
        server.communicate()
        netns.remove(name)


async def held(driver: LinuxNetwork, count: int) -> None:
    """Wait until so many attempts are held back."""
    async with asyncio.timeout(20):
        while True:
            if driver.held_connections == count:
                return
            await asyncio.sleep(0.01)


async def test_a_new_connection_is_parked_and_let_go(driver: LinuxNetwork, sh: Shell, container: str) -> None:
    await driver.park({Parked("dv77", CONTAINER), Parked("dv77", "10.77.0.10")})
    client = python_in(sh.namespace, CONNECTING)
    await held(driver, 1)
    await driver.park({Parked("dv77", CONTAINER)})
    assert (driver.held_connections, client.poll()) == (1, None)
    await driver.park([])
    assert (await asyncio.to_thread(client.communicate))[0] == "hello\n"
    assert driver.held_connections == 0
    assert "NFQUEUE" not in sh("iptables -t mangle -S")


async def test_clients_are_let_in_before_the_records_say_so(driver: LinuxNetwork, sh: Shell, container: str) -> None:
    wanted = {Parked("dv77", CONTAINER)}
    await driver.park(wanted)
    client = python_in(sh.namespace, CONNECTING)
    await held(driver, 1)
    await driver.let_in(wanted)
    assert (await asyncio.to_thread(client.communicate))[0] == "hello\n"
    await driver.park(wanted)
    assert (await asyncio.to_thread(python_in(sh.namespace, CONNECTING).communicate))[0] == "hello\n"
    await driver.park([])
    await driver.park(wanted)
    again = python_in(sh.namespace, CONNECTING)
    await held(driver, 1)
    await driver.park([])
    assert (await asyncio.to_thread(again.communicate))[0] == "hello\n"


async def test_parking_that_a_dead_daemon_has_left_lets_pass_and_goes(sh: Shell, container: str) -> None:
    died = LinuxNetwork()
    first_used_in(sh, died)
    await died.park({Parked("dv77", CONTAINER)})
    await died.close()
    client = python_in(sh.namespace, CONNECTING)
    assert (await asyncio.to_thread(client.communicate))[0] == "hello\n"
    new = LinuxNetwork()
    first_used_in(sh, new)
    await new.park([])
    assert "NFQUEUE" not in sh("iptables -t mangle -S")
    await new.purge()
    assert "DROVER" not in sh("iptables -t mangle -S")
    await new.close()


async def test_nobody_is_parked_for_ever(
    driver: LinuxNetwork, sh: Shell, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drover.drivers.network.parking.LIMIT_S", 0.5)
    await driver.park({Parked("dv77", CONTAINER)})
    client = python_in(sh.namespace, CONNECTING)
    assert (await asyncio.to_thread(client.communicate))[0] == "hello\n"


async def test_others_tables_are_left_alone(driver: LinuxNetwork, sh: Shell) -> None:
    sh("nft add table ip others; nft add chain ip others mine")
    await driver.set_services(TABLES)
    await driver.purge()
    assert sh("nft list tables").split() == ["table", "ip", "others"]


async def test_the_gateway_is_the_first_address_and_the_route_has_the_host_as_source(
    driver: LinuxNetwork, sh: Shell
) -> None:
    await driver.realise(network())
    addresses = [line.split()[3] for line in sh("ip -o -4 addr show dv42").splitlines()]
    assert addresses == ["10.42.0.1/16", "10.42.255.254/32"]
    assert "src 10.42.255.254" in sh("ip route show 10.42.0.0/16")
    assert "02:42:0a:2a:00:01" in sh("ip link show dv42")
    assert "02:42:0a:2a:ff:fe" in sh("ip link show dx42")


async def test_nothing_can_flood_or_learn_and_ipv6_is_off(driver: LinuxNetwork, sh: Shell) -> None:
    await driver.realise(network())
    port = sh("ip -d link show dx42")
    assert "nolearning" in port
    assert "learning off flood off" in port
    assert "neigh_suppress on" in port
    assert "00:00:00:00:00:00" not in sh("bridge fdb show dev dx42")
    assert "inet6" not in sh("ip addr show dv42; ip addr show dx42")


async def test_a_bridge_that_the_engine_made_is_adopted(driver: LinuxNetwork, sh: Shell) -> None:
    sh("ip link add dv42 type bridge; ip addr add 10.42.0.1/16 dev dv42; ip link set dv42 up")
    await driver.realise(network())
    await driver.set_remotes(network(), [A])
    assert (await driver.seen())[42].complete
    assert "02:42:0a:2a:00:01" in sh("ip link show dv42")
    assert sh("ip route show 10.42.0.0/16").count("\n") == 1
    assert await remotes(driver) == {A}


@pytest.mark.parametrize(
    "damage",
    [
        "ip link del dx42",
        "ip link del dv42",
        "ip link del dx42; ip link del dv42",
        "ip link set dv42 down",
        "ip link set dx42 down",
        "ip link set dx42 nomaster",
        "ip link set dv42 address 02:00:00:00:00:01",
        "ip link set dv42 mtu 1000",
        "ip addr flush dev dv42",
        "ip addr del 10.42.255.254/32 dev dv42",
        "ip route del 10.42.0.0/16",
        "bridge link set dev dx42 learning on flood on neigh_suppress off",
        "ip link del dx42; ip link add dx42 type vxlan id 42 local 10.94.0.1 dstport 4790",
        "ip link del dx42; ip link add dx42 type bridge",
    ],
)
async def test_whatever_is_broken_is_repaired(driver: LinuxNetwork, sh: Shell, damage: str) -> None:
    def state() -> tuple[str, ...]:
        lines = (
            "ip -o -4 addr show dv42 | cut -d' ' -f7",
            "ip route show 10.42.0.0/16",
            "bridge -d link show dev dx42",
        )
        shown = [sh(line) for line in lines]
        return (*shown[:2], shown[2].partition("state forwarding")[2], sh("cat /sys/class/net/d[vx]42/address"))

    await driver.realise(network())
    await driver.set_remotes(network(), [A, C])
    before = state()
    sh(damage)
    await driver.realise(network())
    await driver.set_remotes(network(), [A, C])
    assert state() == before
    assert (await driver.seen())[42].complete
    assert await remotes(driver) == {A, C}


@pytest.mark.parametrize(
    "damage",
    [
        f"bridge fdb del {A.mac} dev dx42 self",
        f"bridge fdb del {A.mac} dev dx42 master",
        f"ip neigh del {A.ip} dev dv42",
        f"ip neigh replace {A.ip} lladdr {B.mac} dev dv42 nud permanent",
        f"bridge fdb replace {B.mac} dev dx42 dst {OTHER} self permanent",
    ],
)
async def test_verify_repairs_entries(driver: LinuxNetwork, sh: Shell, damage: str) -> None:
    def entries() -> set[str]:
        return set(sh("bridge fdb show dev dx42; ip neigh show dev dv42").splitlines())

    await driver.realise(network())
    await driver.set_remotes(network(), [A, C])
    before = entries()
    sh(damage)
    assert entries() != before
    await driver.set_remotes(network(), [A, C], verify=True)
    assert entries() == before


async def test_entries_after_the_devices_vanished_are_refused_with_a_hint(driver: LinuxNetwork, sh: Shell) -> None:
    await driver.realise(network())
    sh("ip link del dx42; ip link del dv42")
    with pytest.raises(Exception, match="are gone"):
        await driver.set_remotes(network(), [A])


async def test_a_new_driver_takes_over_without_a_change(driver: LinuxNetwork, sh: Shell) -> None:
    await driver.realise(network())
    await driver.set_remotes(network(), [A, B])
    index = sh("cat /sys/class/net/dx42/ifindex")
    second = LinuxNetwork()
    first_used_in(sh, second)
    try:
        await second.realise(network())
        await second.set_remotes(network(), [B, C])
    finally:
        await second.close()
    assert sh("cat /sys/class/net/dx42/ifindex") == index
    assert await remotes(driver) == {B, C}


async def test_the_filter_names_the_peers_and_leaves_other_tables_alone(driver: LinuxNetwork, sh: Shell) -> None:
    sh("nft add table inet other; nft add chain inet other c; nft add chain inet drover elsewhere || true")
    other = sh("nft list table inet other")
    await driver.set_peers(["10.94.0.3", "10.94.0.2"])
    await driver.set_peers(["10.94.0.2"])
    rules = sh("nft list table inet drover")
    assert "elements = { 10.94.0.2 }" in rules
    assert rules.count("udp dport 4789 ip saddr != @peers drop") == 1
    await driver.purge()
    assert sh("nft list ruleset") == other


async def test_purge_leaves_no_interface_route_or_rule(driver: LinuxNetwork, sh: Shell) -> None:
    def everything() -> str:
        return sh("ls /sys/class/net; ip -4 addr; ip route; ip neigh; bridge fdb; nft list ruleset")

    before = everything()
    await driver.realise(network())
    await driver.set_remotes(network(), [A, B, C])
    await driver.set_peers([OTHER])
    assert everything() != before
    await driver.purge()
    assert everything() == before
