"""The devices of a network: bridge, VXLAN port, addresses, route and settings, made or repaired through netlink.

Theory of operation. Each part is looked at first and written only where it differs, because some writes cost:
setting a bridge's MAC or taking it down, even to what it was, drops its neighbour entries.

    part                 wanted                                            why
    bridge MAC, MTU      of the gateway address; the network's             they would follow the ports otherwise
    bridge addresses     gateway/prefix first, then host/32                Docker adopts the first one in the subnet
    route                subnet on the bridge, source the host's address   the gateway address is on every host
    VXLAN device         VNI, underlay address, port, no learning          cannot be changed: made anew if it differs
                         the tunnel's device, in a cluster that encrypts   packets leave by that device or not at all
    VXLAN port           no learning, no unicast flood, ARP answered here  nothing but known unicast on the underlay
    settings             no redirects, no IPv6                             one gateway address on every host; IPv6 would
                                                                           announce itself from it
                         127.0.0.1 may be redirected to the bridge         published ports answer there (`services`)

Both devices carry the alias `drover:<network id>`; by that and the name they are known as ours. An engine that
starts before the daemon makes a bridge of the same name itself; it is adopted and repaired.
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from drover.decide.overlay import RealNetwork
from drover.drivers.network.bridge_ports import Port
from drover.drivers.network.forwarding import Devices
from drover.drivers.network.netlink import IPRoute, NetlinkError
from drover.drivers.network.port import Traffic
from drover.errors import NotFound

ALIAS = "drover:"
SYSCTL = Path("/proc/sys/net")
SCOPE_LINK = 253
MAIN_TABLE = 254
IFF_UP = 1
BRIDGE_OPTIONS = {"br_forward_delay": 0, "br_mcast_snooping": 0}
PORT_OPTIONS = {"learning": 0, "unicast_flood": 0, "neigh_suppress": 1}


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A network device. `options` are those of its kind, `port` those of its place in a bridge; both by kernel name."""

    index: int
    name: str
    kind: str = ""
    address: str = ""
    mtu: int = 0
    up: bool = False
    ifalias: str = ""
    master: int = 0
    options: dict[str, Any] = {}
    port: dict[str, Any] = {}
    traffic: Traffic = Traffic()


def bridges(ip: IPRoute) -> Iterator[tuple[int, Link]]:
    """VNI and device of each bridge that is ours by name and alias."""
    for message in ip.link("dump", kind="bridge"):
        link = _link(message)
        if (match := re.fullmatch(r"dv(\d+)", link.name)) and link.ifalias.startswith(ALIAS):
            yield int(match[1]), link


def vxlan_indexes(ip: IPRoute) -> frozenset[int]:
    """The indexes of our VXLAN devices."""
    links = (_link(message) for message in ip.link("dump", kind="vxlan"))
    return frozenset(link.index for link in links if re.fullmatch(r"dx\d+", link.name))


def find(ip: IPRoute, name: str) -> Link | None:
    """A device by name; None if there is none."""
    try:
        return _link(ip.link("get", ifname=name)[0])
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


def set_vxlans(ip: IPRoute, up: bool) -> bool:
    """Switch the VXLAN devices of all networks; true if any was not so."""
    found = [find(ip, f"dx{vni}") for vni, _ in bridges(ip)]
    wrong = [link for link in found if link is not None and link.up != up]
    for link in wrong:
        ip.link("set", index=link.index, state="up" if up else "down")
    return bool(wrong)


def realise(ip: IPRoute, net: RealNetwork, joined: bool = True) -> tuple[Devices, bool]:
    """Make or repair a network's devices. Returns their indexes, and whether entries may have been lost by it. Unless
    `joined`, the VXLAN device is not switched on."""
    bridge, bridge_changed = _bridge(ip, net)
    vxlan, vxlan_changed = _vxlan(ip, net, bridge, joined)
    addresses_changed = _addresses(ip, net, bridge)
    _route(ip, net, bridge)
    set_sysctls({"ipv4/conf/all/send_redirects": "0", f"ipv4/conf/{net.bridge}/send_redirects": "0"})
    set_sysctls({f"ipv4/conf/{net.bridge}/route_localnet": "1"})
    return Devices(bridge, vxlan), bridge_changed or vxlan_changed or addresses_changed


def remove(ip: IPRoute, vni: int) -> None:
    """Delete the devices of a VNI; addresses, routes and entries go with them."""
    for name, kind in ((f"dx{vni}", "vxlan"), (f"dv{vni}", "bridge")):
        link = find(ip, name)
        if link is not None and link.kind == kind:
            ip.link("del", index=link.index)


def mtu_of(ip: IPRoute, address: str) -> int | None:
    """The MTU in bytes of the interface that has an address; None if none has."""
    indexes = [message["index"] for message in ip.get_addr(family=socket.AF_INET, address=address)]
    return _link(ip.link("get", index=indexes[0])[0]).mtu if indexes else None


def _bridge(ip: IPRoute, net: RealNetwork) -> tuple[int, bool]:
    made = _made(ip, net.bridge, "bridge", {}, {"address": net.gateway_mac, "mtu": net.mtu_bytes, **BRIDGE_OPTIONS})
    link = _existing(ip, net.bridge)
    wrong = {name: value for name, value in BRIDGE_OPTIONS.items() if link.options.get(name) != value}
    if wrong:
        ip.link("set", index=link.index, kind="bridge", **wrong)
    return link.index, _settle(ip, net, link, net.gateway_mac) or made


def _vxlan(ip: IPRoute, net: RealNetwork, bridge: int, joined: bool) -> tuple[int, bool]:
    wanted = {"vxlan_id": net.vni, "vxlan_local": net.underlay, "vxlan_port": net.port, "vxlan_learning": 0}
    if net.through:
        wanted["vxlan_link"] = _tunnel_index(ip, net)
    made = _made(ip, net.vxlan, "vxlan", wanted, {"address": net.host_mac, "mtu": net.mtu_bytes})
    link = _existing(ip, net.vxlan)
    if link.master != bridge:
        ip.link("set", index=link.index, master=bridge)
        link = _existing(ip, net.vxlan)
        made = True
    if any(link.port.get(name) != value for name, value in PORT_OPTIONS.items()):
        ip.brport("set", index=link.index, **PORT_OPTIONS)
    return link.index, _settle(ip, net, link, net.host_mac, joined) or made


def _tunnel_index(ip: IPRoute, net: RealNetwork) -> int:
    link = find(ip, net.through)
    if link is None:
        raise NotFound(
            f"The encrypted tunnel {net.through} is not there, so network {net.id} reaches no other host.",
            hint="See `drover doctor network` on this host.",
        )
    return link.index


def _made(ip: IPRoute, name: str, kind: str, fixed: dict[str, Any], initial: dict[str, Any]) -> bool:
    """Make a device unless it is there with the right kind and the options that are fixed. True if it was made."""
    link = find(ip, name)
    if link is not None:
        if link.kind == kind and all(link.options.get(option) == value for option, value in fixed.items()):
            return False
        ip.link("del", index=link.index)
    ip.link("add", ifname=name, kind=kind, **fixed, **initial)
    return True


def _existing(ip: IPRoute, name: str) -> Link:
    """A device that was just made or seen."""
    link = find(ip, name)
    if link is None:
        raise OSError(f"The network device {name} vanished while it was being set up.")
    return link


def _settle(ip: IPRoute, net: RealNetwork, link: Link, mac: str, up: bool = True) -> bool:
    """MAC, MTU, alias, no IPv6, and (with `up`) up. True if a change drops the entries of the device."""
    _set_sysctl(f"ipv6/conf/{link.name}/disable_ipv6", "1")
    wanted = {"address": mac, "mtu": net.mtu_bytes, "ifalias": ALIAS + net.id}
    wrong = {name: value for name, value in wanted.items() if getattr(link, name) != value}
    if wrong:
        ip.link("set", index=link.index, **wrong)
    if up and not link.up:
        ip.link("set", index=link.index, state="up")
    return "address" in wrong or not link.up


def addresses(ip: IPRoute, index: int) -> list[tuple[str, int]]:
    """The IPv4 addresses of a device in their order, each with its prefix length."""
    return [(_attr(m, "IFA_LOCAL"), m["prefixlen"]) for m in ip.get_addr(family=socket.AF_INET, index=index)]


def _addresses(ip: IPRoute, net: RealNetwork, bridge: int) -> bool:
    """Exactly the gateway's and the host's address, in this order. True if any was written: a device that loses its
    last address loses its neighbour entries."""
    wanted = [(net.gateway, net.prefix_length)] + ([(net.host_ip, 32)] if net.host_ip else [])
    have = addresses(ip, bridge)
    kept = have if have == wanted[: len(have)] else []
    for address, length in have[len(kept) :]:
        ip.addr("del", index=bridge, address=address, prefixlen=length)
    for address, length in wanted[len(kept) :]:
        ip.addr("add", index=bridge, address=address, prefixlen=length)
    return have != wanted


def _route(ip: IPRoute, net: RealNetwork, bridge: int) -> None:
    """One route to the subnet; the kernel's own, made with the gateway address, has the wrong source."""
    wanted = net.host_ip or net.gateway
    route = {"dst": net.subnet, "oif": bridge, "scope": SCOPE_LINK, "table": MAIN_TABLE}
    found = ip.get_routes(family=socket.AF_INET, table=MAIN_TABLE, oif=bridge)
    network, _, length = net.subnet.partition("/")
    sources = [_attr(m, "RTA_PREFSRC") for m in found if (_attr(m, "RTA_DST"), m["dst_len"]) == (network, int(length))]
    for source in set(sources) - {wanted}:
        ip.route("del", **route, prefsrc=source) if source else ip.route("del", **route)
    if wanted not in sources:
        ip.route("replace", **route, prefsrc=wanted)


def let_turn(ip: IPRoute, ports: Iterable[Port]) -> None:
    """Let every container's port of a bridge send frames back to where they came from."""
    for port in ports:
        if port.kind == "veth" and not port.turns:
            ip.brport("set", index=port.device, mode=1)


def set_sysctls(settings: Mapping[str, str]) -> None:
    """Settings below /proc/sys/net and their values."""
    for name, value in settings.items():
        _set_sysctl(name, value)


def _set_sysctl(name: str, value: str) -> None:
    """Write a setting below /proc/sys/net if it differs; one that this kernel does not have is left alone."""
    path = SYSCTL / name
    with contextlib.suppress(FileNotFoundError):
        if path.read_text().strip() != value:
            path.write_text(value)


def _attr(message: Any, name: str) -> Any:
    return message.get_attr(name)


def _link(message: Any) -> Link:
    info = _nested(message, "IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=_attr(message, "IFLA_IFNAME"),
        kind=info.get("IFLA_INFO_KIND", ""),
        address=_attr(message, "IFLA_ADDRESS") or "",
        mtu=_attr(message, "IFLA_MTU") or 0,
        up=bool(message["flags"] & IFF_UP),
        ifalias=_attr(message, "IFLA_IFALIAS") or "",
        master=_attr(message, "IFLA_MASTER") or 0,
        options=_options(info.get("IFLA_INFO_DATA")),
        port=_options(info.get("IFLA_INFO_SLAVE_DATA")),
        traffic=_traffic(_attr(message, "IFLA_STATS64") or {}),
    )


def _traffic(counters: Mapping[str, int]) -> Traffic:
    return Traffic(
        received_bytes=counters.get("rx_bytes", 0),
        sent_bytes=counters.get("tx_bytes", 0),
        dropped_packets=counters.get("rx_dropped", 0) + counters.get("tx_dropped", 0),
    )


def _nested(message: Any, name: str) -> dict[str, Any]:
    found = _attr(message, name)
    return dict(found["attrs"]) if found else {}


def _options(found: Any) -> dict[str, Any]:
    """Options under the names that pyroute2 takes: `IFLA_VXLAN_ID` is `vxlan_id`, `IFLA_BRPORT_LEARNING` `learning`."""
    if not found:
        return {}
    short = ((name.removeprefix("IFLA_").lower().removeprefix("brport_"), value) for name, value in found["attrs"])
    return dict(short)
