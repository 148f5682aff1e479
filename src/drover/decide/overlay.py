"""What one host must have of each cluster network, from the records alone.

Theory of operation. A cluster network with a VNI is one layer-2 network over all hosts: on each host that needs it
Docker's own bridge driver uses a bridge that Drover owns, and one VXLAN port joins the bridges. Nothing is learned and
nothing is flooded: every address elsewhere has a static entry. `realised` says, for one host, what that is; the
network driver makes it so, and nothing else remembers anything.

    what                         same on every host?   from
    bridge `dv<vni>`             yes                   the VNI
    VXLAN device `dx<vni>`       yes                   the VNI
    gateway address and its MAC  yes (anycast)         the network; the MAC from the address
    host address and its MAC     no                    the subnet's broadcast address minus the host's index
    remote entries               no                    claims whose container is placed on another host,
                                                       and the host addresses of the other hosts that use the network
    hosts to flood to            no                    the other hosts that use it, if the network asks for broadcast

A host uses a network while a container placed on it holds an address there, or moves there (the engine's container is
made before it does), or a published port leads there (every host answers those: `decide.tables`). A MAC follows from
its address (`02:42:` and the four bytes in hex, Docker's own rule), so it moves with the address and peers' ARP caches
stay true. An address whose placement changes changes one entry on each host that uses the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv4Network
from typing import Any

import msgspec

from drover.decide.addresses import host_room
from drover.decide.claims import claims_by_network
from drover.decide.encryption import DEVICE, VXLAN_OVERHEAD_BYTES, is_encrypted, vtep
from drover.errors import Invalid
from drover.model.cluster import Cluster
from drover.model.records import Address, Host, Network

ID_LABEL = "drover.id"
OVERLAY_DRIVERS = frozenset({"", "bridge", "overlay"})
VXLAN_PORT = 4789
DEFAULT_MTU_BYTES = 1500 - VXLAN_OVERHEAD_BYTES
MTU_OPTION = "com.docker.network.driver.mtu"
BROADCAST_OPTION = "drover.broadcast"
BRIDGE_OPTION = "com.docker.network.bridge.name"
DEFAULT_NETWORK = sha256(b"drover default network").hexdigest()
"""The id of the network of containers that name none: the same in every cluster, so that nobody has to look for it."""
DEFAULT_NETWORK_NAME = "drover"
HOST_ADDRESS = "drover-host"
"""The name under which a host's own address is kept out of the engine's pool (an auxiliary address)."""


class Remote(msgspec.Struct, frozen=True):
    """An address that answers behind the host with underlay address `vtep`."""

    ip: str
    mac: str
    vtep: str


class RealNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """One network as one host must have it. `host_ip` is empty where the subnet is too small for one per host.
    `underlay` is the address at which VXLAN ends, `through` the only device it may use (empty: any). `flood`: the
    ends on the hosts that get a copy of each broadcast and multicast packet."""

    id: str
    vni: int
    subnet: str
    gateway: str
    host_ip: str
    underlay: str
    mtu_bytes: int = DEFAULT_MTU_BYTES
    port: int = VXLAN_PORT
    through: str = ""
    remotes: frozenset[Remote] = frozenset()
    flood: frozenset[str] = frozenset()

    @property
    def bridge(self) -> str:
        return f"dv{self.vni}"

    @property
    def vxlan(self) -> str:
        return f"dx{self.vni}"

    @property
    def prefix_length(self) -> int:
        return int(self.subnet.partition("/")[2])

    @property
    def gateway_interface(self) -> str:
        """`10.44.0.1/16`: the gateway's address with the prefix of its subnet."""
        return f"{self.gateway}/{self.prefix_length}"

    @property
    def gateway_mac(self) -> str:
        return mac_of(self.gateway)

    @property
    def host_mac(self) -> str:
        """The VXLAN device's own MAC: unique per host, so that replies to the host come to this one."""
        return mac_of(self.host_ip or self.underlay)


def mac_of(ip: str) -> str:
    """`10.44.0.9` is `02:42:0a:2c:00:09`, as Docker derives it."""
    return "02:42:" + ":".join(f"{int(part):02x}" for part in ip.split("."))


def host_address(network: Network, index: int) -> str:
    """The address of the host with `index` on a network: broadcast minus index, in the range kept for hosts.

    Empty where there is none: the subnet is too small, or the network has its gateway there. Such a host reaches only
    the containers of its own; its containers are not concerned.
    """
    broadcast, room = _host_range(network.subnet)
    if index > room:
        return ""
    number = broadcast - index
    address = f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return address if address != network.gateway else ""


@lru_cache(maxsize=4096)
def _host_range(subnet: str) -> tuple[int, int]:
    """A subnet's broadcast address as a number, and how many addresses below it are kept for hosts."""
    parsed = IPv4Network(subnet)
    return int(parsed.broadcast_address), host_room(parsed)


def is_overlay(network: Network) -> bool:
    """Whether Drover carries the network between hosts; others (macvlan, …) are the engine's own affair."""
    return network.driver in OVERLAY_DRIVERS and network.vni > 0


@lru_cache(maxsize=4096)
def _is_internal(body_text: str) -> bool:
    return bool(msgspec.json.decode(body_text or "{}", type=dict[str, Any]).get("Internal"))


def is_internal(network: Network) -> bool:
    """Whether nothing leads out of the network, nor a published port into it."""
    return _is_internal(network.body)


def realised(
    cluster: Cluster,
    host: str,
    *,
    mtu_bytes: int = DEFAULT_MTU_BYTES,
    port: int = VXLAN_PORT,
    everywhere: frozenset[str] = frozenset(),
    coming: frozenset[str] = frozenset(),
) -> dict[str, RealNetwork]:
    """Network id to what `host` must have of it, for every overlay network that a container placed there is on, those
    among `everywhere`, which all hosts have, and those among `coming`, which this one has, whoever else does.

    `mtu_bytes` is the largest the underlay carries (its own MTU less 50); a network's own MTU option may lower it.
    Empty if the cluster does not know the host.
    """
    this = cluster.hosts.get(host)
    if this is None:
        return {}
    found = {}
    claims = claims_by_network(cluster)
    for network_id in dict.fromkeys([*claims, *sorted(everywhere | coming)]):
        network = cluster.networks.get(network_id)
        if network is None or not is_overlay(network):
            continue
        placed_here = list(placed(cluster, claims.get(network_id, ())))
        if network_id in everywhere | coming or any(home is this for _, home in placed_here):
            homes = cluster.hosts.values() if network_id in everywhere else [home for _, home in placed_here]
            entries = {remote(claim, home) for claim, home in placed_here if home is not this}
            found[network_id] = real_network(network, this, homes, entries, mtu_bytes=mtu_bytes, port=port)
    return found


def placed(cluster: Cluster, claims: Iterable[Address]) -> Iterator[tuple[Address, Host]]:
    """The claims whose container is placed on a member host, with that host."""
    placements, hosts = cluster.placements, cluster.hosts
    for claim in claims:
        placement = placements.get(claim.container)
        home = hosts.get(placement.host) if placement else None
        if home is not None:
            yield claim, home


def remote(claim: Address, home: Host) -> Remote:
    """The entry for an address whose container is placed on another host."""
    return Remote(claim.ip, claim.mac or mac_of(claim.ip), vtep(home))


def real_network(
    network: Network,
    this: Host,
    homes: Iterable[Host],
    entries: Iterable[Remote],
    *,
    mtu_bytes: int = DEFAULT_MTU_BYTES,
    port: int = VXLAN_PORT,
) -> RealNetwork:
    """What a host must have of one network: `entries` for addresses elsewhere, and those of the other hosts themselves
    (of `homes`, which use the network)."""
    return RealNetwork(
        id=network.id,
        vni=network.vni,
        subnet=network.subnet,
        gateway=network.gateway,
        host_ip=host_address(network, this.index),
        underlay=vtep(this),
        mtu_bytes=min(mtu_bytes, _mtu_asked(network.body) or mtu_bytes),
        port=port,
        through=DEVICE if this.wireguard_key else "",
        remotes=frozenset(entries) | host_entries(network, this, homes),
        flood=_flood(network, this, homes),
    )


def _flood(network: Network, this: Host, homes: Iterable[Host]) -> frozenset[str]:
    """Where broadcasts go: nowhere, unless the network asks for it."""
    others = homes if is_broadcast(network.body) else ()
    return frozenset(vtep(home) for home in others if home is not this)


@lru_cache(maxsize=4096)
def is_broadcast(body_text: str) -> bool:
    """Whether a network's create body asks for broadcast and multicast. Raises `Invalid` for neither yes nor no."""
    options = msgspec.json.decode(body_text or "{}", type=dict[str, Any]).get("Options") or {}
    asked = str(options.get(BROADCAST_OPTION, "false")).lower()
    if asked not in ("true", "false"):
        raise Invalid(f"{BROADCAST_OPTION}={asked} is neither true nor false", hint=f"--opt {BROADCAST_OPTION}=true")
    return asked == "true"


def host_entries(network: Network, this: Host, homes: Iterable[Host]) -> frozenset[Remote]:
    """The entries for the addresses of the other hosts that use a network."""
    others = {home.name: home for home in homes if home is not this}.values()
    return frozenset(Remote(ip, mac_of(ip), vtep(home)) for home in others if (ip := host_address(network, home.index)))


def peers(cluster: Cluster, host: str) -> frozenset[str]:
    """The addresses from which `host` accepts VXLAN: those of all other members whose lease is held. A host
    that lost its lease and does not know it yet is not heard, whatever addresses its containers still think to have."""
    others = (other for name, other in cluster.hosts.items() if name != host and name in cluster.alive)
    return frozenset(vtep(other) for other in others if other.wireguard_key or not is_encrypted(cluster))


@lru_cache(maxsize=4096)
def _mtu_asked(body_text: str) -> int:
    """The MTU option of a network's create body in bytes; 0 if it says none, or none that is a number."""
    options = msgspec.json.decode(body_text or "{}", type=dict[str, Any]).get("Options") or {}
    asked = str(options.get(MTU_OPTION, ""))
    return int(asked) if asked.isdecimal() else 0


def engine_network_body(network: Network, real: RealNetwork | None) -> dict[str, Any]:
    """The body of `POST /networks/create` for this host's engine.

    With `real`, a bridge network on Drover's bridge: the client's labels, options, ip-range and auxiliary addresses are
    kept, what only a swarm understands is dropped. Without (a network Drover does not carry), the client's own body.
    Both carry the label `drover.id`.
    """
    asked = msgspec.json.decode(network.body or "{}", type=dict[str, Any])
    common: dict[str, Any] = {
        "Name": network.name,
        "CheckDuplicate": True,
        "Labels": {**(asked.get("Labels") or {}), ID_LABEL: network.id},
    }
    if real is None:
        return {**asked, **common}
    return {
        **common,
        "Internal": bool(asked.get("Internal")),
        "Attachable": bool(asked.get("Attachable")),
        "Driver": "bridge",
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Config": [_ipam_config(asked, real)]},
        "Options": {**(asked.get("Options") or {}), BRIDGE_OPTION: real.bridge, MTU_OPTION: str(real.mtu_bytes)},
    }


def _ipam_config(asked: Mapping[str, Any], real: RealNetwork) -> dict[str, Any]:
    """The client's pool with our subnet and gateway, the host's address kept out of it."""
    pools = (asked.get("IPAM") or {}).get("Config") or []
    pool: dict[str, Any] = next((p for p in pools if p.get("Subnet", real.subnet) == real.subnet), {})
    config = {**pool, "Subnet": real.subnet, "Gateway": real.gateway}
    if real.host_ip:
        config["AuxiliaryAddresses"] = {**(pool.get("AuxiliaryAddresses") or {}), HOST_ADDRESS: real.host_ip}
    return config
