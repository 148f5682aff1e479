"""Network namespaces for tests: a shell in one, a driver whose worker lives there, and what passes a device of it."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute, netns

from drover.drivers.network.linux import LinuxNetwork
from drover.drivers.network.wireguard import USERSPACE, Encryption, available

ALL_PROTOCOLS = 3
IPV4, UDP = b"\x08\x00", 17


class Shell:
    """Runs a shell line in a namespace; returns what it printed."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def __call__(self, line: str) -> str:
        command = ["ip", "netns", "exec", self.namespace, "sh", "-ec", line]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def inside(self, work: Callable[[], None]) -> None:
        """Do something in a thread of its own in the namespace."""

        def entered() -> None:
            netns.setns(self.namespace)
            work()

        thread = threading.Thread(target=entered)
        thread.start()
        thread.join()


class Cable:
    """Everything that passes a device of a namespace, from now on (AF_PACKET)."""

    def __init__(self, shell: Shell, device: str) -> None:
        made: list[socket.socket] = []
        shell.inside(lambda: made.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))))
        self._socket = made[0]
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self._socket.bind((device, ALL_PROTOCOLS))
        self._socket.setblocking(False)

    def read(self) -> list[bytes]:
        """The frames since the last look."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(65536))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


def udp_ports(frames: list[bytes]) -> set[int]:
    """The UDP ports that IPv4 frames go to."""
    udp = [frame for frame in frames if frame[12:14] == IPV4 and frame[14 + 9] == UDP]
    return {struct.unpack_from("!H", frame, 14 + 4 * (frame[14] & 15) + 2)[0] for frame in udp}


@contextmanager
def namespace() -> Iterator[Shell]:
    """A namespace with nothing but loopback, for as long as the block lasts."""
    name = f"ovt-{uuid.uuid4().hex[:8]}"
    netns.create(name)
    try:
        shell = Shell(name)
        shell("ip link set lo up")
        yield shell
    finally:
        netns.remove(name)


@contextmanager
def cabled() -> Iterator[tuple[Shell, Shell]]:
    """Two namespaces with one cable between them: `u0` on both, with 10.94.0.1 and 10.94.0.2."""
    with namespace() as one, namespace() as two:
        one(f"ip link add u0 type veth peer name u0 netns {two.namespace}")
        for index, shell in enumerate((one, two), 1):
            shell(f"ip addr add 10.94.0.{index}/24 dev u0; ip link set u0 up")
        yield one, two


def udp_socket(shell: Shell, ip: str, port: int, timeout_s: float = 0.5) -> socket.socket:
    """A UDP socket of a namespace, bound to an address."""
    made: list[socket.socket] = []
    shell.inside(lambda: made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
    made[0].bind((ip, port))
    made[0].settimeout(timeout_s)
    return made[0]


def first_used_in(shell: Shell, driver: LinuxNetwork) -> None:
    """Use the driver once from a thread in the namespace: its worker thread is made there and stays there."""

    def use() -> None:
        asyncio.run(driver.seen())

    shell.inside(use)


def encryption(shell: Shell) -> Encryption:
    """A new key, and what this machine encrypts with."""
    means: list[str] = []

    def look() -> None:
        with IPRoute() as ip:
            means.append(available(ip, USERSPACE))

    shell.inside(look)
    return Encryption(means[0], shell("wg genkey").strip())
