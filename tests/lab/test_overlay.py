"""The overlay on three real engines, from a hand-made `Cluster`: no Drover daemon, only its parts.

Each host has an `Agent`: a thread in the host's network namespace with an event loop, the kernel driver, the responder
and the engine's API. `World.follow` does on every host what a daemon does when the records change.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pyroute2 import netns

from drover.decide.names import names, shared
from drover.decide.overlay import Remote, engine_network_body, mac_of, peers, realised
from drover.drivers.engine.docker import DockerEngine
from drover.drivers.network.dns import Responder
from drover.drivers.network.linux import LinuxNetwork
from drover.lab import Lab, LabHost
from drover.lab.processes import wait_until
from drover.model.cluster import Change, Cluster, put
from drover.model.records import Address, Alive, Container, ContainerFacts, Host, Network, Placement, key

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

T = TypeVar("T")
DEADLINE_S = 60.0
APP = Network(
    id="a" * 64, name="app", body='{"Labels":{"tier":"web"}}', subnet="10.44.0.0/16", gateway="10.44.0.1", vni=4096
)
BACK = Network(id="b" * 64, name="back", body='{"Internal":true}', subnet="10.45.0.0/24", gateway="10.45.0.1", vni=4097)
HERE = {"web1": ("h1", "10.44.0.11"), "web2": ("h2", "10.44.0.12"), "web3": ("h3", "10.44.0.13")}
BEHIND = {"db1": ("h1", "10.45.0.11"), "db2": ("h2", "10.45.0.12")}
DNS_OVER_TCP = """
import socket, struct, sys
question = b"".join(bytes([len(p)]) + p.encode() for p in sys.argv[2].split(".")) + b"\\0\\0\\1\\0\\1"
query = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + question
with socket.create_connection((sys.argv[1], 53), 20) as server:
    server.sendall(len(query).to_bytes(2, "big") + query)
    answer = server.makefile("rb").read(2 + len(query) + 16)
print(socket.inet_ntoa(answer[-4:]))
"""


class Agent:
    """What a daemon has of one host: driver, responder and engine, used from a thread in the host's namespace."""

    def __init__(self, host: LabHost) -> None:
        self.host = host
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self.driver, self.responder, self.engine = self.run(self._parts())

    def _work(self) -> None:
        netns.setns(self.host.lab.netns(self.host.name))
        self._loop.run_forever()

    async def _parts(self) -> tuple[LinuxNetwork, Responder, DockerEngine]:
        return LinuxNetwork(), Responder(upstreams=list), DockerEngine(str(self.host.docker_socket))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)

    def docker(self, *argv: str) -> str:
        return self.host.exec(["docker", *argv]).stdout.strip()

    def sh(self, line: str) -> str:
        return self.host.exec(["sh", "-c", line], check=False).stdout

    async def follow(self, cluster: Cluster) -> None:
        """Make this host's networks, entries and names those of the records."""
        name = self.host.name
        await self.driver.set_peers(peers(cluster, name))
        await self.driver.join_hosts(True)
        present = await self.engine.networks()
        wanted = realised(cluster, name)
        for network, real in wanted.items():
            record = cluster.networks[network]
            await self.driver.realise(real)
            await self.driver.set_remotes(real, real.remotes)
            if network not in present:
                await self.engine.create_network(engine_network_body(record, real))
            await self.responder.serve(
                network, real.gateway_interface, names(cluster, network), shared(cluster, network)
            )
        for record in cluster.networks.values():
            if record.id in present and record.id not in wanted:
                await self.drop(record)

    async def drop(self, network: Network) -> None:
        await self.responder.stop(network.id)
        await self.engine.remove_network(network.name)
        await self.driver.remove(network.vni)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)

    async def _close(self) -> None:
        await self.responder.close()
        await self.driver.close()
        await self.engine.close()


class World:
    """The records, three agents, and the containers that tests run."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.agents = {host.name: Agent(host) for host in lab.hosts}
        members = [
            put(key("hosts", host.name), Host(name=host.name, id=host.name, index=n, address=host.address))
            for n, host in enumerate(lab.hosts, 1)
        ]
        members += [put(key("alive", host.name), Alive(host=host.name, session="1")) for host in lab.hosts]
        networks = [put(key("networks", network.id), network) for network in (APP, BACK)]
        self.cluster = Cluster().apply(1, members + networks)

    def commit(self, changes: Iterable[Change]) -> None:
        self.cluster = self.cluster.apply(self.cluster.revision + 1, changes)

    def follow(self) -> None:
        for agent in self.agents.values():
            agent.run(agent.follow(self.cluster))

    def place(self, name: str, host: str, addresses: dict[str, str], epoch: int = 1, alias: str = "") -> None:
        """Write a container's records: placed on a host, with network id to address, running."""
        body = json.dumps({"NetworkingConfig": {"EndpointsConfig": {"app": {"Aliases": [alias] if alias else []}}}})
        facts = ContainerFacts(container=name, host=host, state="running", epoch=epoch)
        claims = [Address(network=n, ip=ip, container=name, epoch=epoch) for n, ip in addresses.items()]
        self.commit(
            [
                put(key("containers", name), Container(id=name, name=name, body=body)),
                put(key("placements", name), Placement(container=name, host=host, epoch=epoch)),
                put(key("container_facts", host, name), facts),
                *(put(key("addresses", claim.network, claim.ip), claim) for claim in claims),
            ]
        )

    def start(self, name: str, host: str, network: Network, ip: str) -> None:
        """As an agent makes it: with the link address that follows from the address, where newer engines choose one."""
        endpoint = {"IPAMConfig": {"IPv4Address": ip}, "MacAddress": mac_of(ip)}
        body = {
            "Image": "busybox:latest",
            "Cmd": ["sleep", "100000"],
            "StopTimeout": 0,
            "MacAddress": mac_of(ip),
            "HostConfig": {"NetworkMode": network.name, "Dns": [network.gateway]},
            "NetworkingConfig": {"EndpointsConfig": {network.name: endpoint}},
        }
        agent = self.agents[host]
        ident, _ = agent.run(agent.engine.create_container(name, body))
        status, words = agent.run(agent.engine.order(ident, "start"))
        assert status == 204, words

    def inside(self, name: str, host: str, *argv: str) -> str:
        """The output of a command in a container, whether or not it succeeds."""
        return self.agents[host].host.exec(["docker", "exec", name, *argv], check=False).stdout

    def pings(self, name: str, host: str, ip: str, tries: int = 2) -> bool:
        return ", 0% packet loss" in self.inside(name, host, "ping", "-c", str(tries), "-i", "0.1", "-W", "2", ip)

    def in_its_namespace(self, name: str, host: str, *argv: str) -> str:
        """The output of one of this machine's programs, run in the network namespace of a container."""
        agent = self.agents[host]
        pid = agent.docker("inspect", "-f", "{{.State.Pid}}", name)
        return agent.host.exec(["nsenter", f"--net=/proc/{pid}/ns/net", *argv]).stdout.strip()

    def close(self) -> None:
        for agent in self.agents.values():
            agent.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Three hosts; on each a container on `app`, on the first two one on `back`."""
    base = Path(tempfile.mkdtemp(prefix="ovt-", dir="/var/tmp"))
    name = f"o{os.getpid()}"
    try:
        made = World(Lab.create(name, 3, base=base, cluster=False, images=("busybox",)))
        try:
            for container, (host, ip) in HERE.items():
                made.place(container, host, {APP.id: ip}, alias="web")
            for container, (host, ip) in BEHIND.items():
                made.place(container, host, {BACK.id: ip})
            made.follow()
            for containers, network in ((HERE, APP), (BEHIND, BACK)):
                for container, (host, ip) in containers.items():
                    made.start(container, host, network, ip)
            yield made
        finally:
            made.close()
    finally:
        if (base / name / "lab.json").exists():
            Lab.open(name, base=base).destroy()
        shutil.rmtree(base, ignore_errors=True)


def test_all_pairs_of_a_network_reach_each_other(world: World) -> None:
    for containers in (HERE, BEHIND):
        for name, (host, _) in containers.items():
            for _, ip in containers.values():
                assert world.pings(name, host, ip), (name, ip)


def test_networks_do_not_reach_each_other(world: World) -> None:
    for name, (host, _) in HERE.items():
        for _, ip in BEHIND.values():
            assert not world.pings(name, host, ip, tries=1), (name, ip)


def test_gateway_egress_and_hosts(world: World) -> None:
    for name, (host, _) in HERE.items():
        assert world.pings(name, host, APP.gateway)
        for other in world.lab.hosts:
            assert world.pings(name, host, other.address), (name, other.name)
        for number in (1, 2, 3):
            assert world.pings(name, host, f"10.44.255.{255 - number}"), (name, number)


def test_every_host_reaches_every_container(world: World) -> None:
    for agent in world.agents.values():
        for _, ip in HERE.values():
            assert ", 0% packet loss" in agent.sh(f"ping -c 2 -i 0.1 -W 2 {ip}"), (agent.host.name, ip)


def test_the_engine_shows_the_clients_labels_and_our_bridge(world: World) -> None:
    shown = json.loads(world.agents["h1"].docker("network", "inspect", "app"))[0]
    assert shown["Labels"] == {"tier": "web", "drover.id": APP.id}
    assert shown["Options"]["com.docker.network.bridge.name"] == "dv4096"
    assert shown["IPAM"]["Config"][0]["AuxiliaryAddresses"] == {"drover-host": "10.44.255.254"}
    assert json.loads(world.agents["h1"].docker("network", "inspect", "back"))[0]["Internal"] is True


def test_names_resolve_across_hosts(world: World) -> None:
    for name, (host, _) in HERE.items():
        for other, (_, ip) in HERE.items():
            for asked in (other, f"{other}.app"):
                assert ip in world.inside(name, host, "nslookup", asked).split("Name:")[-1], (name, asked)
        assert "NXDOMAIN" in world.inside(name, host, "nslookup", "db1")
    assert "10.45.0.12" in world.inside("db1", "h1", "nslookup", "db2")


def test_other_networks_may_not_ask(world: World) -> None:
    assert "REFUSED" in world.inside("web1", "h1", "nslookup", "db1", BACK.gateway)


def test_an_alias_has_all_addresses_and_an_address_its_name(world: World) -> None:
    found = world.inside("web1", "h1", "nslookup", "-type=a", "web")
    assert all(ip in found for _, ip in HERE.values())
    assert "web3.app" in world.inside("web1", "h1", "nslookup", "10.44.0.13")


@pytest.mark.parametrize("server", ["127.0.0.11", APP.gateway])
def test_names_resolve_over_tcp(world: World, server: str) -> None:
    told = world.in_its_namespace("web1", "h1", sys.executable, "-c", DNS_OVER_TCP, server, "web3")
    assert told == "10.44.0.13"


def test_a_name_follows_the_records_within_a_table_swap(world: World) -> None:
    world.place("late", "h3", {APP.id: "10.44.0.99"})
    world.follow()
    assert "10.44.0.99" in world.inside("web1", "h1", "nslookup", "late")
    world.commit(
        [put(key("container_facts", "h3", "late"), ContainerFacts(container="late", host="h3", state="exited"))]
    )
    world.follow()
    assert "NXDOMAIN" in world.inside("web1", "h1", "nslookup", "late")
    world.commit([Change(key("addresses", APP.id, "10.44.0.99"), None), Change(key("containers", "late"), None)])


def test_nothing_is_flooded_on_the_underlay(world: World) -> None:
    """Asking for unknown addresses sends no frame to another host; a known one sends only frames addressed to it."""
    heard: list[bytes] = []
    done = threading.Event()

    def listen() -> None:
        netns.setns(world.agents["h2"].host.lab.netns("h2"))
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as tap:
            tap.bind(("eth0", 0x0800))
            tap.settimeout(0.1)
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    packet = tap.recv(2048)
                    if packet[9] == socket.IPPROTO_UDP and packet[22:24] == (4789).to_bytes(2, "big"):
                        heard.append(packet[36:])

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        for ip in ("10.44.0.200", "10.44.7.7", "10.44.255.255"):
            assert not world.pings("web1", "h1", ip, tries=1)
        assert world.pings("web1", "h1", "10.44.0.12")
        wait_until(lambda: bool(heard), "a frame for web2", deadline_s=DEADLINE_S)
    finally:
        done.set()
        listener.join(DEADLINE_S)
    assert {frame[0:6].hex(":") for frame in heard} == {mac_of("10.44.0.12")}
    assert {frame[12:14] for frame in heard} == {b"\x08\x00"}


def test_only_peers_may_send(world: World) -> None:
    agent, address = world.agents["h1"], world.lab.host("h2").address
    try:
        agent.run(agent.driver.set_peers([address]))
        assert world.pings("web2", "h2", "10.44.0.11")
        assert not world.pings("web3", "h3", "10.44.0.11", tries=1)
    finally:
        agent.run(agent.driver.set_peers(peers(world.cluster, "h1")))
    assert world.pings("web3", "h3", "10.44.0.11")


def test_an_address_moves_and_peers_notice_nothing(world: World) -> None:
    def arp() -> str:
        return world.in_its_namespace("web3", "h3", "ip", "neigh", "show", "10.44.0.50").split(" lladdr ")[1].split()[0]

    world.place("mover", "h1", {APP.id: "10.44.0.50"})
    world.follow()
    world.start("mover", "h1", APP, "10.44.0.50")
    assert world.pings("web3", "h3", "10.44.0.50")
    before = arp()
    for epoch, (source, target) in enumerate((("h1", "h2"), ("h2", "h3"), ("h3", "h1")), 2):
        world.agents[source].docker("rm", "-f", "mover")
        world.place("mover", target, {APP.id: "10.44.0.50"}, epoch)
        world.follow()
        world.start("mover", target, APP, "10.44.0.50")
        for name, (host, _) in HERE.items():
            assert world.pings(name, host, "10.44.0.50"), (target, name)
        assert arp() == before == mac_of("10.44.0.50")
        assert "10.44.0.50" in world.inside("web3", "h3", "nslookup", "mover")
    world.agents["h1"].docker("rm", "-f", "mover")
    world.commit([Change(key("addresses", APP.id, "10.44.0.50"), None), Change(key("placements", "mover"), None)])
    world.follow()
    for agent in world.agents.values():
        assert "10.44.0.50" not in agent.sh("ip neigh show dev dv4096 nud permanent")


def test_an_engine_that_restarts_finds_its_network(world: World) -> None:
    agent = world.agents["h2"]
    before = agent.sh("ip addr show dv4096; bridge fdb show dev dx4096; ip neigh show dev dv4096 nud permanent")
    agent.sh("kill $(cat /run/docker.pid)")
    wait_until(lambda: not agent.sh("pgrep -x dockerd -F /run/docker.pid"), "the engine's end", deadline_s=DEADLINE_S)
    agent.host.start_engine()
    agent.docker("start", "web2", "db2")
    agent.run(agent.follow(world.cluster))
    assert agent.sh("ip addr show dv4096; bridge fdb show dev dx4096; ip neigh show dev dv4096 nud permanent") == before
    assert world.pings("web1", "h1", "10.44.0.12")
    assert world.pings("web2", "h2", "10.44.0.13")


def test_two_thousand_entries_and_one_change(world: World, record_property: pytest.RecordProperty) -> None:
    """Shows the cost; asserts only what is in the kernel afterwards."""
    agent = world.agents["h1"]
    real = realised(world.cluster, "h1")[APP.id]
    more = [
        Remote(ip, mac_of(ip), world.lab.host("h2").address)
        for ip in (f"10.44.{n >> 8}.{n & 255}" for n in range(4096, 6096))
    ]
    started = time.perf_counter()
    agent.run(agent.driver.set_remotes(real, (*real.remotes, *more)))
    print(f"2,000 entries: {time.perf_counter() - started:.3f} s")
    changes_ms = []
    for n in range(20):
        more[n] = Remote(more[n].ip, more[n].mac, world.lab.host("h3").address)
        started = time.perf_counter()
        agent.run(agent.driver.set_remotes(real, (*real.remotes, *more)))
        changes_ms.append((time.perf_counter() - started) * 1e3)
    print(f"one change among them: median {statistics.median(changes_ms):.2f} ms, most {max(changes_ms):.2f} ms")
    assert agent.run(agent.driver.seen())[APP.vni].remotes == {*real.remotes, *more}
    agent.run(agent.driver.set_remotes(real, real.remotes, verify=True))
    assert agent.run(agent.driver.seen())[APP.vni].remotes == real.remotes


def test_removal_leaves_no_interface_route_or_rule(world: World) -> None:
    """Last: takes the networks away, from all hosts."""
    for containers in (HERE, BEHIND):
        for name, (host, _) in containers.items():
            world.agents[host].docker("rm", "-f", name)
            world.commit([Change(key("placements", name), None)])
    world.follow()
    for agent in world.agents.values():
        assert agent.run(agent.driver.seen()) == {}
        agent.run(agent.driver.purge())
        left = agent.sh("ip -br link; ip -4 addr; ip route; ip neigh; nft list tables; iptables-save; ss -lun; ss -ltn")
        assert left
        for trace in ("dv4", "dx4", "10.44.", "10.45.", "drover"):
            assert trace not in left, (agent.host.name, trace, left)
