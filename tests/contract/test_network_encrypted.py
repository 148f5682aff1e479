"""Two hosts of a cluster that encrypts, on real kernels' namespaces: what is on the cable between them.

The underlay is one cable, `u0` on both. All that h1 sends is read there (AF_PACKET), while a known text goes from host
to host on their network.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from network_contract import network, remote
from network_namespaces import Cable, Shell, cabled, encryption, first_used_in, udp_ports, udp_socket

from drover.decide.encryption import TUNNELS, WIREGUARD_PORT, Tunnel, TunnelPeer
from drover.decide.overlay import VXLAN_PORT, RealNetwork
from drover.drivers.network.linux import LinuxNetwork
from drover.errors import NotFound
from drover.trust.wireguard import public_key

pytestmark = pytest.mark.lab

SECRET = b"the eagle lands at midnight"
PORT = 7000
DEADLINE_S = 20.0


class Host:
    """One end: its namespace, driver and what it is told. Addresses on the network: 10.42.255.253 and .254."""

    def __init__(self, shell: Shell, index: int) -> None:
        self.shell = shell
        self.index = index
        self.underlay = f"10.94.0.{index}"
        self.address = str(TUNNELS[index])
        self.ip = f"10.42.255.{255 - index}"
        self.device = f"dwt{uuid.uuid4().hex[:6]}"
        self.encryption = encryption(shell)
        self.driver = LinuxNetwork(encryption=self.encryption)
        first_used_in(shell, self.driver)

    def tunnel(self, other: Host) -> Tunnel:
        peer = TunnelPeer(public_key(other.encryption.private_key), other.underlay, other.address)
        return Tunnel(address=self.address, mtu_bytes=1420, device=self.device, peers=frozenset({peer}))

    @property
    def network(self) -> RealNetwork:
        return network(host_ip=self.ip, underlay=self.address, through=self.device, mtu_bytes=1370)

    async def follow(self, other: Host) -> None:
        await self.driver.set_peers([other.address], through=self.device)
        await self.driver.set_tunnel(self.tunnel(other))
        await self.driver.realise(self.network)
        await self.driver.set_remotes(self.network, [remote(other.ip, other.address)])


@pytest.fixture
async def hosts() -> AsyncIterator[tuple[Host, Host]]:
    async with AsyncExitStack() as stack:
        shells = stack.enter_context(cabled())
        one, two = Host(shells[0], 1), Host(shells[1], 2)
        for host in (one, two):
            stack.push_async_callback(host.driver.close)
            stack.push_async_callback(host.driver.set_tunnel, None)
        await one.follow(two)
        await two.follow(one)
        yield one, two


def arrives_once(sender: socket.socket, receiver: socket.socket, to: str) -> bool:
    try:
        sender.sendto(SECRET, (to, PORT))
        return receiver.recv(100) == SECRET
    except OSError:
        return False


def arrives(sender: socket.socket, receiver: socket.socket, to: str) -> bool:
    """Whether the text arrives, sent again and again: the first packets wait for the handshake."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if arrives_once(sender, receiver, to):
            return True
    return False


async def test_nothing_passes_in_clear_with_the_tunnel_or_without_it(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    cable = Cable(one.shell, "u0")
    sender, receiver = udp_socket(one.shell, one.ip, PORT), udp_socket(two.shell, two.ip, PORT)
    try:
        assert arrives(sender, receiver, two.ip)
        frames = cable.read()
        assert WIREGUARD_PORT in udp_ports(frames)
        assert VXLAN_PORT not in udp_ports(frames)
        assert not any(SECRET in frame for frame in frames)

        one.shell(f"ip link del {one.device}")
        cable.read()
        assert not any(arrives_once(sender, receiver, two.ip) for _ in range(3))
        with pytest.raises(NotFound, match="encrypted tunnel"):
            await one.driver.realise(one.network)
        frames = cable.read()
        assert VXLAN_PORT not in udp_ports(frames)
        assert not any(SECRET in frame for frame in frames)

        await one.driver.set_tunnel(one.tunnel(two), verify=True)
        await one.follow(two)
        assert arrives(sender, receiver, two.ip)
    finally:
        for each in (cable, sender, receiver):
            each.close()


async def test_clear_vxlan_is_dropped_both_ways(hosts: tuple[Host, Host]) -> None:
    """A hand-made VXLAN device on the underlay, as a host that does not encrypt would have it."""
    one, two = hosts
    for here, there in ((one, two), (two, one)):
        here.shell(
            f"ip link add clear0 type vxlan id 77 local {here.underlay} dstport {VXLAN_PORT} nolearning dev u0; "
            f"ip addr add 10.99.0.{here.index}/24 dev clear0; ip link set clear0 up; "
            f"bridge fdb append 00:00:00:00:00:00 dev clear0 dst {there.underlay}"
        )
    cable = Cable(one.shell, "u0")
    sender = udp_socket(one.shell, "10.99.0.1", PORT)
    try:
        one.shell("ip neigh replace 10.99.0.2 lladdr 02:00:00:00:00:02 dev clear0 nud permanent")
        for _ in range(3):
            sender.sendto(SECRET, ("10.99.0.2", PORT))
        assert VXLAN_PORT not in udp_ports(cable.read())
        one.shell("nft flush chain inet drover sent")
        before = received(two.shell)
        sender.sendto(SECRET, ("10.99.0.2", PORT))
        assert VXLAN_PORT in udp_ports(cable.read())
        assert received(two.shell) == before
    finally:
        cable.close()
        sender.close()


def received(shell: Shell) -> str:
    """What the VXLAN device of a namespace has received."""
    return shell("cat /sys/class/net/clear0/statistics/rx_packets").strip()
