"""Published ports and virtual addresses in the kernel: Drover's own nftables table `ip drover`.

Theory of operation. `render` turns `decide.tables.Tables` into an `Image`: the rules of each chain and the elements of
each set, in the very words with which `nft list` shows them. `read` makes the same image from the kernel, `script` the
one transaction that leads from one image to another; nothing else is ever written, and connections that exist keep
the backend they have. The chains that look things up never change; what changes is elements, and chains of one rule.

    chain                  at                          does
    guard                  prerouting, before all      lets nobody on a network reach the host's 127.0.0.0/8
    refused                prerouting, tracked         believes a backend that refuses only the second time (below)
    arriving               prerouting, before Docker   virtual addresses (by bridge), published ports
    leaving                output, before Docker       published ports, for programs on the host itself
    replies                postrouting                 who must answer through this host sees the host's address
    p_…, v_…               from the maps               one published port, one virtual address: choose a backend
    n_<vni>                from `replies`              one network: who may see the client's own address

The host's address on the network is put in place of the client's where the reply would not come back otherwise:
the client is the backend itself, or is outside the network and the backend on another host.

A backend that has just died, or does not listen yet, refuses connections until this host hears of it. Where others
answer too, the first refusal is dropped: the client's next attempt, a second later, is a new connection to the kernel
(which forgets one that was refused) and goes to the next in turn. A second refusal within REFUSAL_S passes. A refusal
is the one segment of a reply with sequence number 0 (RFC 9293, 3.10.7.1).

Two more things are needed around the table: Docker's chain DOCKER-USER must accept what was redirected here
(`ACCEPTED`), and the kernel must show bridged replies to connection tracking (`SETTINGS`).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec

from drover.decide.overlay import RealNetwork
from drover.decide.tables import Tables, Target
from drover.drivers.network import filter as packet_filter

TABLE = packet_filter.SERVICES_TABLE
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
SETTINGS = {
    "bridge/bridge-nf-call-iptables": "1",
    "ipv4/ip_forward": "1",
}
ACCEPTED = (
    ("DOCKER-USER", "-o", "dv+", "-m", "conntrack", "--ctstate", "DNAT", "-j", "ACCEPT"),
    ("DOCKER-USER", "-i", "dv+", "-m", "conntrack", "--ctstate", "DNAT", "-j", "ACCEPT"),
    ("DOCKER-USER", "-i", "dv+", "-o", "dv+", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"),
)
"""The rules in Docker's chain for its users, the first one last: what was redirected to a backend, and its replies; and
what goes on between containers of ours, whose first packet the rules that follow have let pass: so not every frame of
it has to go through all of Docker's chain."""
SETS = {
    "networks": "map networks { type ifname : verdict; }",
    "virtual": "map virtual { type ifname . ipv4_addr : verdict; }",
    "mesh": "map mesh { type inet_proto . inet_service : verdict; }",
    "bound": "map bound { type ipv4_addr . inet_proto . inet_service : verdict; }",
    "own": "set own { type ipv4_addr; }",
    "local": "set local_backends { type ipv4_addr; }",
    "itself": "set itself { type ipv4_addr . ipv4_addr; }",
    "several": "set several { type ipv4_addr; }",
}
REFUSAL_S = 5
REFUSALS = "refusals"
"""The clients (address and port) that were refused a moment ago: the kernel writes it, and forgets by itself."""
_REFUSALS = (
    f"set {REFUSALS} {{ type ipv4_addr . inet_service; size 65535; flags dynamic,timeout; timeout {REFUSAL_S}s; }}"
)
_REFUSAL = "ct status 0x20 ip saddr @several tcp sequence 0"
_CLIENT = "ip daddr . tcp dport"
BASE_CHAINS = {
    "guard": "type filter hook prerouting priority -300; policy accept;",
    "refused": "type filter hook prerouting priority -150; policy accept;",
    "arriving": "type nat hook prerouting priority -105; policy accept;",
    "leaving": "type nat hook output priority -105; policy accept;",
    "replies": "type nat hook postrouting priority 95; policy accept;",
}
_PUBLISHED = (
    "ip daddr @own return",
    "ip daddr . meta l4proto . th dport vmap @bound",
    "fib daddr type 2 meta l4proto . th dport vmap @mesh",
)
BASE_RULES: dict[str, tuple[str, ...]] = {
    "guard": ('iifname "dv*" ip daddr 127.0.0.0/8 drop',),
    "refused": (f"{_REFUSAL} {_CLIENT} @{REFUSALS} accept", f"{_REFUSAL} add @{REFUSALS} {{ {_CLIENT} }} drop"),
    "arriving": ("iifname . ip daddr vmap @virtual", *_PUBLISHED),
    "leaving": _PUBLISHED,
    "replies": ("ct status 0x20 oifname vmap @networks",),
}
KEPT = 16_384
"""How many rendered balancers are kept: a change of one must not cost the words of all."""
_SPACES = re.compile(r"\s+")
_BLOCK = re.compile(r"^\t(?:map|set|chain) (\S+) \{\n(.*?)^\t\}", re.MULTILINE | re.DOTALL)
_ELEMENTS = re.compile(r"elements = \{(.*)\}", re.DOTALL)


class Image(msgspec.Struct, frozen=True):
    """`chains`: name to rules. `elements`: set to its elements; of a map, `key : verdict`."""

    chains: Mapping[str, tuple[str, ...]] = {}
    elements: Mapping[str, frozenset[str]] = {}


NOTHING = Image()


class Balancer(msgspec.Struct, frozen=True):
    """One published port or virtual address: its chain with one rule, and the element that leads there."""

    chain: str
    rules: tuple[str]
    element: str


def render(tables: Tables) -> Image:
    """The image of these tables."""
    mesh = [_mesh(proto, port, targets) for (proto, port), targets in tables.mesh.items()]
    bound = [_bound(ip, proto, port, targets) for (ip, proto, port), targets in tables.bound.items()]
    virtual = [_virtual(bridge, ip, ips) for (bridge, ip), ips in tables.virtual.items()]
    chains = {one.chain: one.rules for one in (*mesh, *bound, *virtual)}
    networks = {f"n_{net.vni}": reply_rules(net) for net in tables.networks}
    local = tables.addresses() & tables.local
    elements = {
        "networks": frozenset(f'"{net.bridge}" : goto n_{net.vni}' for net in tables.networks),
        "virtual": frozenset(one.element for one in virtual),
        "mesh": frozenset(one.element for one in mesh),
        "bound": frozenset(one.element for one in bound),
        "own": frozenset(ip for net in tables.networks for ip in (net.gateway, net.host_ip) if ip),
        "local": local,
        "itself": frozenset(f"{ip} . {ip}" for ip in local),
        "several": tables.sharing(),
    }
    return Image({**BASE_RULES, **chains, **networks}, elements)


@lru_cache(maxsize=KEPT)
def _mesh(protocol: str, port: int, targets: tuple[Target, ...]) -> Balancer:
    chain = f"p_{protocol}_{port}"
    return Balancer(chain, (port_rule(protocol, targets),), f"{PROTOCOLS[protocol]} . {port} : goto {chain}")


@lru_cache(maxsize=KEPT)
def _bound(ip: str, protocol: str, port: int, targets: tuple[Target, ...]) -> Balancer:
    chain = f"p_{protocol}_{port}_{ip.replace('.', '_')}"
    return Balancer(chain, (port_rule(protocol, targets),), f"{ip} . {PROTOCOLS[protocol]} . {port} : goto {chain}")


@lru_cache(maxsize=KEPT)
def _virtual(bridge: str, ip: str, ips: tuple[str, ...]) -> Balancer:
    chain = f"v_{bridge}_{ip.replace('.', '_')}"
    return Balancer(chain, (address_rule(ips),), f'"{bridge}" . {ip} : goto {chain}')


def port_rule(protocol: str, targets: Sequence[Target]) -> str:
    """Each new connection to the next target in turn."""
    match = f"meta l4proto {PROTOCOLS[protocol]}"
    if len(targets) == 1:
        ip, port = targets[0]
        return f"{match} dnat to {ip}:{port}"
    turns = ", ".join(f"{number} : {ip} . {port}" for number, (ip, port) in enumerate(targets))
    return f"{match} dnat ip to numgen inc mod {len(targets)} map {{ {turns} }}"


def address_rule(ips: Sequence[str]) -> str:
    """Every protocol, pings too, to the next backend in turn."""
    if len(ips) == 1:
        return f"dnat to {ips[0]}"
    turns = ", ".join(f"{number} : {ip}" for number, ip in enumerate(ips))
    return f"dnat to numgen inc mod {len(ips)} map {{ {turns} }}"


def reply_rules(net: RealNetwork) -> tuple[str, ...]:
    """Whose address a backend on this network sees; without an address of the host, always the client's."""
    if not net.host_ip:
        return ("accept",)
    instead = f"snat to {net.host_ip}"
    own = f"ip saddr {net.subnet} accept"
    loopback = f"ip saddr 127.0.0.0/8 {instead}"
    local = "ip daddr @local_backends accept"
    return (f"ct original ip saddr . ip daddr @itself {instead}", loopback, local, own, instead)


def script(before: Image, after: Image) -> str:
    """The transaction from one image to another; empty if they are equal. From `NOTHING`, whatever there is goes."""
    if before == after:
        return ""
    lines = _foundation() if before == NOTHING else []
    gone = [name for name in before.chains if name not in after.chains]
    for name, rules in after.chains.items():
        if before.chains.get(name) != rules:
            new = name not in before.chains and name not in BASE_CHAINS
            lines += [f"add chain {TABLE} {name}"] if new else [f"flush chain {TABLE} {name}"]
            lines += [f"add rule {TABLE} {name} {rule}" for rule in rules]
    for name in SETS:
        old, new_elements = before.elements.get(name, frozenset()), after.elements.get(name, frozenset())
        lines += _elements("delete", name, (element.partition(" : ")[0] for element in old - new_elements))
        lines += _elements("add", name, new_elements - old)
    lines += [f"flush chain {TABLE} {name}" for name in gone] + [f"delete chain {TABLE} {name}" for name in gone]
    return "\n".join(lines) + "\n"


def _foundation() -> list[str]:
    """The table with its sets and base chains, in place of the one that may be there."""
    made = [
        f"table {TABLE} {{",
        *SETS.values(),
        _REFUSALS,
        *(f"chain {name} {{ {at} }}" for name, at in BASE_CHAINS.items()),
        "}",
    ]
    return [f"add table {TABLE}", f"delete table {TABLE}", *made]


def _elements(verb: str, name: str, elements: Iterable[str]) -> list[str]:
    listed = ", ".join(sorted(elements))
    return [f"{verb} element {TABLE} {_kernel_name(name)} {{ {listed} }}"] if listed else []


def _kernel_name(name: str) -> str:
    """`local` is a word of nft's."""
    return "local_backends" if name == "local" else name


def parse(listing: str) -> Image:
    """The image that `nft -s -n list table` shows."""
    blocks = dict(_BLOCK.findall(listing))
    blocks.pop(REFUSALS, None)
    elements = {name: _listed(blocks.pop(_kernel_name(name), "")) for name in SETS}
    chains = {name: _rules(body) for name, body in blocks.items()}
    return Image(chains, elements)


def _listed(body: str) -> frozenset[str]:
    found = _ELEMENTS.search(body)
    listed = _SPACES.sub(" ", found[1]).split(",") if found else []
    return frozenset(one.strip() for one in listed)


def _rules(body: str) -> tuple[str, ...]:
    lines = (line.strip() for line in body.splitlines())
    return tuple(line for line in lines if line and not line.startswith("type "))


def read() -> Image:
    """What this network namespace has now; `NOTHING` without the table."""
    done = packet_filter.run(["nft", "-s", "-n", "list", "table", *TABLE.split()])
    return parse(done.stdout) if done.returncode == 0 else NOTHING


def differences(wanted: Image, seen: Image) -> list[str]:
    """What the kernel has otherwise than wanted, one phrase each."""
    if seen == NOTHING:
        return [f"the table {TABLE} is missing"]
    found = [
        f"chain {name} is {'missing' if name not in seen.chains else 'different'}"
        for name, rules in wanted.chains.items()
        if seen.chains.get(name) != rules
    ]
    found += [f"chain {name} should not be there" for name in seen.chains if name not in wanted.chains]
    for name in SETS:
        has, needs = seen.elements.get(name, frozenset()), wanted.elements.get(name, frozenset())
        found += [f"{name} lacks {element}" for element in sorted(needs - has)]
        found += [f"{name} has {element}, which nobody asks for" for element in sorted(has - needs)]
    return found


def accept_redirected() -> None:
    """Have Docker's packet filter accept what is redirected here; nothing without Docker's chain."""
    for chain, *rule in ACCEPTED:
        if _iptables("-C", chain, *rule).returncode != 0:
            _iptables("-I", chain, *rule)


def accepts_redirected() -> bool:
    """Whether Docker's packet filter lets redirected packets pass; where there is none, nothing stops them."""
    if _iptables("-n", "-L", "DOCKER-USER").returncode != 0:
        return True
    return all(_iptables("-C", chain, *rule).returncode == 0 for chain, *rule in ACCEPTED)


def refuse_redirected() -> None:
    """Take our rules out of Docker's chain again."""
    for chain, *rule in ACCEPTED:
        while _iptables("-D", chain, *rule).returncode == 0:
            pass


def _iptables(*argv: str) -> subprocess.CompletedProcess[str]:
    return packet_filter.run(["iptables", "-w", "10", *argv])
