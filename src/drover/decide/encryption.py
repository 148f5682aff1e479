"""Encryption between hosts: which addresses the tunnels have and who is whose peer, from the records alone.

Theory of operation. A cluster encrypts or it does not: the setting `encryption` is written when it is founded, and
never changed. Where it does, VXLAN runs between tunnel addresses, and WireGuard carries those between hosts:

    what                 is                                                    from
    tunnel address       10.126.0.0/16, by the host's index                    `Host.index`
    peer                 public key, underlay address, its tunnel address      `Host.wireguard_key`, `Host.address`
    VXLAN endpoints      tunnel addresses, through the tunnel's device only    `vtep`
    largest packet       80 bytes less than without                            `carried_bytes`

A host whose record has no key is no peer: nothing is sent to it, least of all in clear. None can join
(`api.membership`).
"""

from __future__ import annotations

from ipaddress import IPv4Network

import msgspec

from drover.model.cluster import Cluster
from drover.model.records import Host, Setting, key

ENCRYPTION_KEY = key("settings", "encryption")
WIREGUARD = "wireguard"
DEVICE = "dw0"
TUNNELS = IPv4Network("10.126.0.0/16")
MAX_INDEX = TUNNELS.num_addresses - 2
WIREGUARD_PORT = 51820
WIREGUARD_OVERHEAD_BYTES = 80
"""Over IPv6; 60 over IPv4. WireGuard's own default leaves room for the larger, too."""
VXLAN_OVERHEAD_BYTES = 50
"""Ethernet, VXLAN, UDP and IPv4 headers around each packet of a network."""


class TunnelPeer(msgspec.Struct, frozen=True):
    """Another host: its public key (base64), its underlay address, its address within the tunnels."""

    public_key: str
    underlay: str
    address: str


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """One host's end of all tunnels. `mtu_bytes`: the largest packet within them."""

    address: str
    mtu_bytes: int
    device: str = DEVICE
    port: int = WIREGUARD_PORT
    peers: frozenset[TunnelPeer] = frozenset()


def is_encrypted(cluster: Cluster) -> bool:
    """Whether all that containers say between hosts is encrypted."""
    found = cluster.rows("settings", Setting).get("encryption")
    return found is not None and found.value == WIREGUARD


def tunnel_address(host: Host) -> str:
    """The host's address within the tunnels, below MAX_INDEX."""
    return str(TUNNELS[host.index])


def vtep(host: Host) -> str:
    """The address at which VXLAN ends on a host. Only hosts of a cluster that encrypts have a key."""
    return tunnel_address(host) if host.wireguard_key else host.address


def through(cluster: Cluster) -> str:
    """The only device that VXLAN may use; empty for any."""
    return DEVICE if is_encrypted(cluster) else ""


def carried_bytes(cluster: Cluster, clear_bytes: int) -> int:
    """The largest packet of a network, where `clear_bytes` is that without encryption."""
    return clear_bytes - WIREGUARD_OVERHEAD_BYTES if is_encrypted(cluster) else clear_bytes


def tunnel(cluster: Cluster, host: str, clear_bytes: int) -> Tunnel | None:
    """This host's end of the tunnels; None in a cluster that does not encrypt, or that does not know the host."""
    this = cluster.hosts.get(host)
    if this is None or not is_encrypted(cluster):
        return None
    others = (other for other in cluster.hosts.values() if other is not this and other.wireguard_key)
    return Tunnel(
        address=tunnel_address(this),
        mtu_bytes=carried_bytes(cluster, clear_bytes) + VXLAN_OVERHEAD_BYTES,
        peers=frozenset(TunnelPeer(one.wireguard_key, one.address, tunnel_address(one)) for one in others),
    )


def hosts_without_key(cluster: Cluster) -> list[str]:
    """Members of a cluster that encrypts which cannot take part."""
    return sorted(host.name for host in cluster.hosts.values() if is_encrypted(cluster) and not host.wireguard_key)
