"""A connection attempt that crosses two real hosts' networks while its container goes from one to the other."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator

import pytest
from network_contract import network
from pyroute2 import netns

from drover.decide.overlay import Remote, mac_of
from drover.decide.parking import Parked
from drover.decide.tables import Tables
from drover.drivers.network.linux import LinuxNetwork

pytestmark = pytest.mark.lab
SERVER, CLIENT = "10.42.0.9", "10.42.0.10"
VTEPS = ("10.94.0.1", "10.94.0.2")
CONNECTING = f"""
import socket
print(socket.create_connection(("{SERVER}", 80), 60).recv(9).decode())
"""
LISTENING = f"""
import socket
server = socket.create_server(("{SERVER}", 80))
print("ready", flush=True)
while True:
    server.accept()[0].sendall(b"hello")
"""
NO_MORE_ATTEMPTS = (
    "nft add table ip t; nft add chain ip t o '{ type filter hook output priority 0; }';"
    "nft add rule ip t o 'tcp flags & (syn|ack) == syn drop'"
)
"""The kernel's repetition of the attempt a second later must not be what arrives."""


def sh(namespace: str, line: str) -> str:
    command = ["ip", "netns", "exec", namespace, "sh", "-ec", line]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def python_in(namespace: str, program: str) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


class Hosts:
    """Two hosts in namespaces, each with the overlay network, and namespaces for containers."""

    def __init__(self) -> None:
        self.base = f"prk-{uuid.uuid4().hex[:6]}"
        self.hosts = [f"{self.base}-{number}" for number in (1, 2)]
        self.drivers = [LinuxNetwork(), LinuxNetwork()]
        self.nets = [network(underlay=vtep, host_ip=f"10.42.255.{250 + n}") for n, vtep in enumerate(VTEPS)]
        self.made: list[str] = []

    async def start(self) -> None:
        for number, host in enumerate(self.hosts):
            self.made.append(host)
            netns.create(host)
            self._use_in(host, self.drivers[number])
        first, second = self.hosts
        sh(first, f"ip link add u0 type veth peer name u0 netns {second}")
        for number, host in enumerate(self.hosts):
            sh(host, f"ip link set lo up; ip addr add {VTEPS[number]}/24 dev u0; ip link set u0 up")
            await self.drivers[number].realise(self.nets[number])
            await self.drivers[number].set_services(Tables())

    def _use_in(self, namespace: str, driver: LinuxNetwork) -> None:
        def work() -> None:
            netns.setns(namespace)
            asyncio.run(driver.seen())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    def plug(self, name: str, ip: str, host: int) -> str:
        """A container with this address on a host's bridge; its namespace."""
        namespace, device = f"{self.base}-{name}{host}", f"v{name}"
        self.made.append(namespace)
        netns.create(namespace)
        sh(self.hosts[host], f"ip link add {device} type veth peer name e0 netns {namespace}")
        sh(self.hosts[host], f"ip link set {device} master dv42 up")
        sh(namespace, f"ip link set e0 address {mac_of(ip)} up; ip addr add {ip}/16 dev e0")
        return namespace

    async def knows(self, host: int, ips: tuple[str, ...]) -> None:
        """Have a host believe that these addresses are on the other one."""
        entries = {Remote(ip, mac_of(ip), VTEPS[1 - host]) for ip in ips}
        await self.drivers[host].set_remotes(self.nets[host], entries)

    async def close(self) -> None:
        for driver in self.drivers:
            await driver.close()
        for namespace in self.made:
            netns.remove(namespace)


@pytest.fixture
async def hosts() -> AsyncIterator[Hosts]:
    made = Hosts()
    try:
        await made.start()
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize(
    ("moved", "then"),
    [(True, set()), (False, set()), (True, {Parked("dv42", SERVER, passing=True)})],
    ids=["moved", "back", "handed"],
)
async def test_an_attempt_held_at_the_source_arrives_where_the_container_is_then(
    hosts: Hosts, moved: bool, then: set[Parked]
) -> None:
    """The client's host is the target: what it sent to the source must come back to it by the device it came by."""
    source = hosts.drivers[0]
    await hosts.knows(0, (CLIENT,))
    await hosts.knows(1, (SERVER,))
    client_at = hosts.plug("c", CLIENT, 1)
    await source.park({Parked("dv42", SERVER)})
    client = python_in(client_at, CONNECTING)
    async with asyncio.timeout(20):
        while True:
            if source.held_connections == 1:
                break
            await asyncio.sleep(0.01)
    sh(client_at, NO_MORE_ATTEMPTS)
    server = python_in(hosts.plug("s", SERVER, 1 if moved else 0), LISTENING)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        await hosts.knows(1, () if moved else (SERVER,))
        await hosts.knows(0, (CLIENT, SERVER) if moved else (CLIENT,))
        await source.park(then)
        assert (await asyncio.to_thread(client.communicate))[0] == "hello\n"
        assert ("NFQUEUE" in sh(hosts.hosts[0], "iptables -t mangle -S")) == bool(then)
    finally:
        server.kill()
        server.communicate()
