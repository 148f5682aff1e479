"""Broadcast and multicast between two hosts, on a network that asks for them and on one that does not."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from network_contract import network, remote
from network_namespaces import Shell, cabled, first_used_in, udp_socket

from drover.drivers.network.linux import LinuxNetwork

pytestmark = pytest.mark.lab

PORT = 7001
GROUP = "239.1.2.3"
EVERYBODY = "10.42.255.255"
IPS = ("10.42.255.254", "10.42.255.253")
TRIES = 20


class Host:
    """One end of the cable, with the network's devices."""

    def __init__(self, shell: Shell, index: int) -> None:
        self.shell = shell
        self.driver = LinuxNetwork()
        first_used_in(shell, self.driver)
        self.ip, self.other = IPS[index - 1], IPS[2 - index]
        self.underlay, self.peer = f"10.94.0.{index}", f"10.94.0.{3 - index}"

    async def follow(self, *, broadcast: bool) -> None:
        flood = frozenset({self.peer}) if broadcast else frozenset()
        wanted = network(host_ip=self.ip, underlay=self.underlay, flood=flood)
        await self.driver.realise(wanted)
        await self.driver.set_remotes(wanted, [remote(self.other, self.peer)])


@pytest.fixture
async def hosts() -> AsyncIterator[tuple[Host, Host]]:
    async with AsyncExitStack() as stack:
        shells = stack.enter_context(cabled())
        made = Host(shells[0], 1), Host(shells[1], 2)
        for host in made:
            stack.push_async_callback(host.driver.close)
        yield made


def heard(sender: socket.socket, receiver: socket.socket, to: str) -> bool:
    """Whether one of several packets to an address arrives on the other host."""
    for _ in range(TRIES):
        sender.sendto(b"who is there", (to, PORT))
        try:
            return receiver.recv(100) == b"who is there"
        except TimeoutError:
            continue
    return False


@pytest.mark.parametrize("to", [EVERYBODY, GROUP])
async def test_they_arrive_where_the_network_asks_for_them(hosts: tuple[Host, Host], to: str) -> None:
    one, two = hosts
    for host in hosts:
        await host.follow(broadcast=False)
    sender, receiver = udp_socket(one.shell, one.ip, PORT), udp_socket(two.shell, "0.0.0.0", PORT, timeout_s=0.1)
    try:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(one.ip))
        member = socket.inet_aton(GROUP) + socket.inet_aton(two.ip)
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        assert heard(sender, receiver, two.ip)
        assert not heard(sender, receiver, to)
        for host in hosts:
            await host.follow(broadcast=True)
        assert heard(sender, receiver, to)
        for host in hosts:
            await host.follow(broadcast=False)
        assert not heard(sender, receiver, to)
    finally:
        sender.close()
        receiver.close()
