"""WireGuard on this host: whether it can be had, one device with exactly the peers wanted, and what is wrong with it.

Theory of operation. The kernel's WireGuard and the program wireguard-go make a device of the same kind and are told
their peers by the same tool (`wg syncconf`, which touches only what differs: established sessions go on).

    means           the device is made by           it is gone with
    kernel          netlink                         the device
    wireguard-go    that program, as a daemon of    the device; the program ends by itself then. It is no child of
                    its own                         Drover's: traffic goes on without Drover's daemon (P6)

There is no third way: what cannot encrypt says so (`MissingTool`) and carries nothing.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from drover.decide.encryption import TUNNELS, Tunnel, TunnelPeer
from drover.drivers.network import links
from drover.drivers.network.filter import run
from drover.drivers.network.netlink import IPRoute, NetlinkError
from drover.errors import DroverError, Forbidden, MissingTool

KERNEL, USERSPACE = "kernel", "wireguard-go"
MEANS = (KERNEL, USERSPACE)
PRICE = "it carries about a tenth of what the kernel does, and needs ten times the CPU"
TUN = Path("/dev/net/tun")
PROBE = "dwprobe"
MADE_DEADLINE_S = 5.0


class Encryption(msgspec.Struct, frozen=True):
    """How this host encrypts: its means, and its private key (base64)."""

    means: str
    private_key: str


def can_encrypt(asked: str) -> str:
    """`available`, in this process's own network namespace."""
    with IPRoute() as ip:
        return available(ip, asked)


def available(ip: IPRoute, asked: str) -> str:
    """The means that this host has: the kernel's wherever it is there, wireguard-go only if `asked` for.

    Raises `MissingTool` with what is missing, and what the choice costs; `Forbidden` without the right to look.
    """
    if shutil.which("wg") is None:
        raise MissingTool("the program wg is missing, which tells WireGuard its peers", hint="Install wireguard-tools.")
    if _kernel_has_it(ip):
        return KERNEL
    if asked != USERSPACE:
        raise MissingTool(
            "the kernel of this host has no WireGuard",
            hint=f"Load its module (modprobe wireguard), or accept wireguard-go: --encrypt {USERSPACE} ({PRICE}).",
        )
    if shutil.which(USERSPACE) is None or not TUN.exists():
        missing = f"the program {USERSPACE}" if shutil.which(USERSPACE) is None else str(TUN)
        raise MissingTool(f"{missing} is missing", hint=f"Install {USERSPACE}, and load the module tun.")
    return USERSPACE


def _kernel_has_it(ip: IPRoute) -> bool:
    try:
        ip.link("add", ifname=PROBE, kind="wireguard")
    except NetlinkError as error:
        if error.code in (errno.EPERM, errno.EACCES):
            raise Forbidden(
                "this process may not look whether the kernel has WireGuard", hint="Run it as root."
            ) from error
        return bool(error.code == errno.EEXIST)
    link = links.find(ip, PROBE)
    if link is not None:
        ip.link("del", index=link.index)
    return True


def set_up(ip: IPRoute, tunnel: Tunnel, encryption: Encryption) -> None:
    """Make or repair the device, its address, and exactly the peers wanted."""
    link = _device(ip, tunnel.device, encryption.means)
    if link.mtu != tunnel.mtu_bytes:
        ip.link("set", index=link.index, mtu=tunnel.mtu_bytes)
    done = run(["wg", "syncconf", tunnel.device, "/dev/stdin"], configuration(tunnel, encryption.private_key))
    if done.returncode:
        raise DroverError(
            f"wg refused this host's peers: {done.stderr.strip()}", hint=f"See `wg show {tunnel.device}`."
        )
    if not link.up:
        ip.link("set", index=link.index, state="up")
    wanted = (tunnel.address, TUNNELS.prefixlen)
    have = links.addresses(ip, link.index)
    for address, length in set(have) - {wanted}:
        ip.addr("del", index=link.index, address=address, prefixlen=length)
    if wanted not in have:
        ip.addr("add", index=link.index, address=wanted[0], prefixlen=wanted[1])


def _device(ip: IPRoute, name: str, means: str) -> links.Link:
    """The device, made if it is not there."""
    found = links.find(ip, name)
    if found is None and means == KERNEL:
        ip.link("add", ifname=name, kind="wireguard")
    elif found is None:
        _start(name)
    return found or _made(ip, name)


def _start(name: str) -> None:
    """Run wireguard-go, which leaves a daemon of its own behind."""
    # Not by `run`: the daemon keeps what it inherits open, so an end of its output would never be seen.
    nowhere = subprocess.DEVNULL
    done = subprocess.run([USERSPACE, name], stdin=nowhere, stdout=nowhere, stderr=nowhere, check=False)
    if done.returncode:
        raise DroverError(
            f"{USERSPACE} could not make {name} (exit code {done.returncode}).", hint=f"Run it: {USERSPACE} -f {name}"
        )


def _made(ip: IPRoute, name: str) -> links.Link:
    end = time.monotonic() + MADE_DEADLINE_S
    while time.monotonic() < end:
        if (link := links.find(ip, name)) is not None:
            return link
        time.sleep(0.01)
    raise DroverError(f"The device {name} did not come up within {MADE_DEADLINE_S:g} s.", hint="See the kernel log.")


def configuration(tunnel: Tunnel, private_key: str) -> str:
    """What `wg syncconf` reads."""
    own = f"[Interface]\nPrivateKey = {private_key}\nListenPort = {tunnel.port}\n"
    return own + "".join(_peer(one, tunnel.port) for one in sorted(tunnel.peers, key=lambda one: one.address))


def _peer(peer: TunnelPeer, port: int) -> str:
    endpoint = f"[{peer.underlay}]" if ":" in peer.underlay else peer.underlay
    return f"[Peer]\nPublicKey = {peer.public_key}\nEndpoint = {endpoint}:{port}\nAllowedIPs = {peer.address}/32\n"


def remove(ip: IPRoute, name: str) -> None:
    """Delete the device; wireguard-go ends with it. No error if there is none."""
    link = links.find(ip, name)
    if link is not None:
        ip.link("del", index=link.index)


def differences(ip: IPRoute, tunnel: Tunnel) -> list[str]:
    """What is otherwise than `set_up` leaves it; one phrase each."""
    link = links.find(ip, tunnel.device)
    if link is None:
        return [f"the encrypted tunnel {tunnel.device} is not there"]
    found = [] if link.up else [f"the encrypted tunnel {tunnel.device} is down"]
    if link.mtu != tunnel.mtu_bytes:
        found.append(f"{tunnel.device} has an MTU of {link.mtu}, not {tunnel.mtu_bytes}")
    have, wanted = _peers(tunnel.device), {one.public_key: f"{one.address}/32" for one in tunnel.peers}
    found += [f"{tunnel.device} lacks the peer {wanted[one]}" for one in wanted if have.get(one) != wanted[one]]
    return found + [f"{tunnel.device} has a peer that is no host, {have[one]}" for one in have.keys() - wanted.keys()]


def _peers(device: str) -> Mapping[str, str]:
    """Public key to allowed addresses, as the device has them."""
    done = run(["wg", "show", device, "allowed-ips"])
    parts = (line.partition("\t") for line in done.stdout.splitlines())
    return {public: allowed for public, _, allowed in parts}
