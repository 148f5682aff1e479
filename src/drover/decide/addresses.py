"""Which subnet, VXLAN number and addresses: IP address management as pure functions of the cluster's records.

Theory of operation. A network made without a subnet gets the lowest free piece of a pool. The default pool is
10.128.0.0/9 in pieces of /20 (2,048 networks of some 3,800 containers). It touches neither Docker's own default pools
(172.17.0.0 to 172.31.255.255 and 192.168.0.0/16), so that networks an engine makes for itself never collide, nor the
lower half of 10.0.0.0/8, where most private underlays are. Pieces that hold a host's own address are skipped as well.

Of a subnet's addresses, from the lowest:

    addresses                         for
    first                             the network itself
    gateway, auxiliary addresses      what the create call says; the gateway is the lowest usable where it says nothing
    up to `broadcast - host room - 1` containers: `--ip`, else the lowest free one inside the ip-range
    the last `host_room(subnet)`      hosts: `broadcast - index`, one each on every network (`decide.overlay`)
    last                              broadcast

An address is taken while its claim (`addresses/<network id>/<ip>`) exists. One that is kept for a name
(`decide.grace`) goes to a container of that name, to whoever asks for it by `--ip`, and when nothing else is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network

import msgspec

from drover.decide.encryption import TUNNELS, is_encrypted
from drover.decide.sentences import container_name
from drover.errors import Conflict, Forbidden, Invalid
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.wire.nesting import MALFORMED

HOST_ROOM = 255
FIRST_VNI = 4096
LAST_VNI = 2**24 - 1


class Pool(msgspec.Struct, frozen=True):
    """Subnets of `prefix_length` are cut from `base`."""

    base: str
    prefix_length: int


DEFAULT_POOLS = (Pool("10.128.0.0/9", 20),)


class Ipam(msgspec.Struct, frozen=True):
    """The first IPv4 configuration of a network's create body; empty texts where it says nothing."""

    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    auxiliary: Mapping[str, str] = {}


class _Config(msgspec.Struct, rename="pascal"):
    subnet: str | None = None
    gateway: str | None = None
    ip_range: str | None = msgspec.field(name="IPRange", default=None)
    auxiliary: dict[str, str] | None = msgspec.field(name="AuxiliaryAddresses", default=None)


class _Ipam(msgspec.Struct, rename="pascal"):
    config: list[_Config] | None = None


class _Body(msgspec.Struct):
    ipam: _Ipam | None = msgspec.field(name="IPAM", default=None)
    enable_ipv6: bool | None = msgspec.field(name="EnableIPv6", default=None)


def _decoded(body_text: str) -> _Body:
    try:
        return msgspec.json.decode(body_text or "{}", type=_Body)
    except MALFORMED as error:
        raise Invalid(f"the network's configuration is malformed: {error}") from error


@lru_cache(maxsize=4096)
def parse_ipam(body_text: str) -> Ipam:
    """What a network's create body asks of its addresses. Raises `Invalid`."""
    body = _decoded(body_text)
    configs = (body.ipam.config if body.ipam else None) or []
    ipv4 = next((one for one in configs if ":" not in (one.subnet or "")), _Config())
    return Ipam(ipv4.subnet or "", ipv4.gateway or "", ipv4.ip_range or "", ipv4.auxiliary or {})


def subnet_for(cluster: Cluster, name: str, body_text: str, pools: Sequence[Pool] = DEFAULT_POOLS) -> tuple[str, str]:
    """(subnet, gateway) of a network to be made: as its create body asks, else from the pools.

    Raises `Invalid` for malformed addresses, `Forbidden` with the engine's words where the subnet overlaps another
    network's, `Conflict` where the pools are used up.
    """
    _refuse_ipv6(name, body_text)
    asked = parse_ipam(body_text)
    if not asked.subnet:
        return choose_subnet(cluster, name, pools)
    subnet = _network(asked.subnet)
    if is_encrypted(cluster) and subnet.overlaps(TUNNELS):
        raise Forbidden(
            "Pool overlaps with other one on this address space", hint=f"{TUNNELS} is for the tunnels between hosts"
        )
    for other in cluster.networks.values():
        if other.subnet and subnet.overlaps(_network(other.subnet)):
            raise Forbidden(
                "Pool overlaps with other one on this address space",
                hint=f"network {other.name} has {other.subnet}",
            )
    return str(subnet), _gateway(subnet, asked)


def _refuse_ipv6(name: str, body_text: str) -> None:
    """Raise `Invalid` for a network that asks for IPv6: never one that silently has less than was asked."""
    body = _decoded(body_text)
    pools = (body.ipam.config if body.ipam else None) or []
    if body.enable_ipv6 or any(":" in (pool.subnet or "") for pool in pools):
        raise Invalid(
            f"network {name} cannot have IPv6: networks of the cluster carry IPv4 only",
            hint="leave out --ipv6 and IPv6 subnets; a macvlan network (-d macvlan) can have IPv6",
        )


def choose_subnet(cluster: Cluster, name: str, pools: Sequence[Pool] = DEFAULT_POOLS) -> tuple[str, str]:
    """(subnet, gateway) of the lowest free piece of the first pool that has one. Raises `Conflict`, naming pools
    and network, where none has."""
    taken = [_network(network.subnet) for network in cluster.networks.values() if network.subnet]
    taken += [_network(host.address) for host in cluster.hosts.values() if _is_ipv4(host.address)]
    for pool in pools:
        subnet = _free_piece(_network(pool.base), pool.prefix_length, taken)
        if subnet is not None:
            return str(subnet), _gateway(subnet, Ipam())
    told = " and ".join(f"{pool.base} (in pieces of /{pool.prefix_length})" for pool in pools)
    raise Conflict(
        f"no subnet is left for network {name}: all of {told} is used",
        hint="remove networks that nobody needs, or give a subnet with --subnet",
    )


def next_vni(cluster: Cluster) -> int:
    """A VXLAN number no network has: one above the highest, so that a number just given up is not used again at
    once; the lowest free one when the highest is reached."""
    used = {network.vni for network in cluster.networks.values()}
    above = max(used | {FIRST_VNI - 1}) + 1
    return above if above <= LAST_VNI else next(n for n in range(FIRST_VNI, LAST_VNI) if n not in used)


def host_room(subnet: IPv4Network) -> int:
    """How many addresses at the end of a subnet are kept for hosts: 255, or less than a quarter of a small one."""
    return max(0, min(HOST_ROOM, subnet.num_addresses // 4 - 1))


def choose_address(cluster: Cluster, network: r.Network, wanted_ip: str | None, container: str, name: str = "") -> str:
    """The address for a container (an id) on a network: `wanted_ip` if given and free or its own already, else the
    one kept for its name, else the lowest free one, else the one kept longest for another name. Raises `Invalid` or
    `Conflict` with who has it."""
    if wanted_ip:
        return _checked(cluster, network, _address(wanted_ip), container)
    kept = kept_for(cluster, network.id, name) if name else None
    free = kept.ip if kept else next(free_addresses(cluster, network), None) or _kept_longest(cluster, network)
    if free is None:
        raise Conflict(
            f"network {network.name} has no free address left in {parse_ipam(network.body).ip_range or network.subnet}",
            hint="remove containers that nobody needs, or make a network with a larger subnet",
        )
    return free


def kept_for(cluster: Cluster, network: str, name: str) -> r.KeptAddress | None:
    """The address of a network (an id) that is kept for a name; the newest, should there be several."""
    found = [one for one in cluster.kept_addresses.values() if (one.network, one.name) == (network, name)]
    return max(found, key=lambda one: one.at, default=None)


def _kept_longest(cluster: Cluster, network: r.Network) -> str | None:
    """Of the addresses that containers may have without asking for them, the one kept since the longest time."""
    kept = [one for one in cluster.kept_addresses.values() if one.network == network.id]
    asked = parse_ipam(network.body).ip_range
    within = _network(asked) if asked else _subnet_of(network)
    given = [one for one in kept if IPv4Address(one.ip) in within]
    return min(given, key=lambda one: one.at).ip if given else None


def free_addresses(cluster: Cluster, network: r.Network) -> Iterator[str]:
    """The addresses of a network that nobody has and that are kept for no name, lowest first. Taking many from one
    iterator costs one pass over the subnet."""
    subnet = _subnet_of(network)
    asked = parse_ipam(network.body)
    within = _network(asked.ip_range) if asked.ip_range else subnet
    first = max(int(within.network_address), int(subnet.network_address) + 1)
    last = min(int(within.broadcast_address), int(subnet.broadcast_address) - host_room(subnet) - 1)
    aside = {network.gateway, *asked.auxiliary.values()}
    for number in range(first, last + 1):
        ip = _dotted(number)
        key = f"{network.id}/{ip}"
        if ip not in aside and key not in cluster.addresses and key not in cluster.kept_addresses:
            yield ip


def _checked(cluster: Cluster, network: r.Network, ip: IPv4Address, container: str) -> str:
    subnet = _subnet_of(network)
    if ip not in subnet:
        raise Invalid(f"address {ip} is outside the subnet {network.subnet} of network {network.name}")
    claim = cluster.addresses.get(f"{network.id}/{ip}")
    if claim is not None and claim.container == container:
        return str(ip)
    holder = f"taken by {container_name(cluster, claim.container)}" if claim else _set_aside(network, subnet, ip)
    if holder:
        raise Conflict(f"address {ip} of network {network.name} is {holder}", hint="ask for another, or for none")
    return str(ip)


def _set_aside(network: r.Network, subnet: IPv4Network, ip: IPv4Address) -> str:
    """What an address of the subnet is kept for, or empty if a container may have it."""
    auxiliary = {address: name for name, address in parse_ipam(network.body).auxiliary.items()}
    if ip == subnet.network_address or ip == subnet.broadcast_address:
        return "the network's own or its broadcast address"
    if str(ip) == network.gateway:
        return "its gateway"
    if str(ip) in auxiliary:
        return f"set aside as the auxiliary address {auxiliary[str(ip)]}"
    first_host = subnet.broadcast_address - host_room(subnet)
    return f"in the range kept for hosts ({first_host} to the end)" if ip >= first_host else ""


def _free_piece(pool: IPv4Network, prefix_length: int, taken: Iterable[IPv4Network]) -> IPv4Network | None:
    size = 2 ** (32 - prefix_length)
    base, count = int(pool.network_address), pool.num_addresses // size
    covered: set[int] = set()
    for other in taken:
        if pool.overlaps(other):
            first = max(0, (int(other.network_address) - base) // size)
            last = min(count - 1, (int(other.broadcast_address) - base) // size)
            covered.update(range(first, last + 1))
    free = next((number for number in range(count) if number not in covered), None)
    return None if free is None else IPv4Network((base + free * size, prefix_length))


def _gateway(subnet: IPv4Network, asked: Ipam) -> str:
    """The gateway asked for, else the subnet's lowest usable address that is not set aside."""
    if asked.gateway:
        gateway = _address(asked.gateway)
        if gateway not in subnet:
            raise Invalid(f"no matching subnet for gateway {gateway}")
        return str(gateway)
    aside = set(asked.auxiliary.values())
    usable = range(int(subnet.network_address) + 1, int(subnet.broadcast_address))
    found = next((ip for number in usable if (ip := _dotted(number)) not in aside), None)
    if found is None:
        raise Invalid(f"the subnet {subnet} is too small: it has no address for a gateway")
    return found


def _subnet_of(network: r.Network) -> IPv4Network:
    if not network.subnet:
        raise Invalid(f"network {network.name} has no subnet, so it has no addresses to give")
    return _network(network.subnet)


@lru_cache(maxsize=4096)
def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text, strict=False)
    except ValueError as error:
        raise Invalid(f"invalid CIDR address: {text}", hint="write e.g. 10.44.0.0/16") from error


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError as error:
        raise Invalid(f"invalid IPv4 address: {text}") from error


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def _dotted(number: int) -> str:
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
