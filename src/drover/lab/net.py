"""The lab's cables: a switch in a namespace of its own, and one cable per host.

Theory of operation. The bridge lives in the namespace `dl-LAB-sw`, not in the machine's: there, Docker's FORWARD
policy would drop frames between hosts as soon as any engine ran. Each cable is a veth pair whose switch end has
the host's name and whose other end is the host's eth0; neither end is ever seen by the machine itself.

    fault                 done by
    cut HOST              the switch end of the cable goes down: the host sees its carrier go
    cut HOST --from PEER  both orders of the pair enter the nftables set `cuts`, whose frames the bridge drops
    heal HOST             the switch end goes up; every pair with the host leaves the set

The switch answers for the default route, too: it routes nowhere and says "unreachable", so that a look-up
of the internet fails in milliseconds.
"""

from __future__ import annotations

import json
from pathlib import Path

from drover.lab import tools
from drover.lab.topology import HostSpec, Topology, mac

NETNS_DIRECTORY = Path("/run/netns")
_BRIDGE = "br0"
_CUTS = """table bridge drover {
  set cuts { type ifname . ifname; }
  chain forward { type filter hook forward priority 0; policy accept; iifname . oifname @cuts drop; }
}
"""
_SWITCH_SETTINGS = ("net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0")


def exists(netns: str) -> bool:
    return (NETNS_DIRECTORY / netns).exists()


def _ip(netns: str, *commands: str) -> None:
    """Run `ip` commands inside a namespace, as one batch: the first that fails stops it."""
    tools.run(["ip", "-n", netns, "-batch", "-"], stdin="\n".join(commands) + "\n")


def _nft(netns: str, *argv: str, stdin: str | None = None) -> str:
    return tools.run(["ip", "netns", "exec", netns, "nft", *argv], stdin=stdin).stdout


def make_switch(lab: Topology) -> None:
    """The namespace, the bridge, its address, and the empty set of cut pairs."""
    tools.run(["ip", "netns", "add", lab.switch])
    _ip(
        lab.switch,
        "link set lo up",
        f"link add {_BRIDGE} address {mac(lab.gateway)} type bridge",
        f"addr add {lab.gateway}/24 dev {_BRIDGE}",
        f"link set {_BRIDGE} up",
        "route add unreachable default",
    )
    tools.run(["ip", "netns", "exec", lab.switch, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])
    # Absent unless br_netfilter is loaded, and then frames are not filtered anyway.
    tools.run(["ip", "netns", "exec", lab.switch, "sysctl", "-q", "-w", *_SWITCH_SETTINGS], check=False)
    _nft(lab.switch, "-f", "-", stdin=_CUTS)


def plug(lab: Topology, host: HostSpec) -> None:
    """A fresh namespace for the host with a cable to the switch, as after power-on."""
    netns = lab.netns(host.name)
    tools.run(["ip", "netns", "add", netns])
    _ip(
        lab.switch,
        f"link add {host.name} type veth peer name eth0 address {mac(host.address)} netns {netns}",
        f"link set {host.name} master {_BRIDGE} up",
    )
    _ip(
        netns,
        "link set lo up",
        f"addr add {host.address}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {lab.gateway}",
    )


def unplug(lab: Topology, host: str) -> None:
    """Remove the host's cable and namespace, if there."""
    if exists(lab.switch):
        tools.run(["ip", "-n", lab.switch, "link", "del", host], check=False)
    remove(lab.netns(host))


def remove(netns: str) -> None:
    """Remove a namespace's name, if there; the kernel frees it with its last process."""
    if exists(netns):
        tools.run(["ip", "netns", "del", netns])


def set_link(lab: Topology, host: str, *, up: bool) -> None:
    """Connect or pull the host's cable at the switch."""
    _ip(lab.switch, f"link set {host} {'up' if up else 'down'}")


def link_is_up(lab: Topology, host: str) -> bool:
    shown = tools.run(["ip", "-n", lab.switch, "-j", "link", "show", host], check=False)
    return shown.returncode == 0 and "UP" in json.loads(shown.stdout)[0]["flags"]


def cut_pairs(lab: Topology) -> set[tuple[str, str]]:
    """The pairs (from, to) whose frames the switch drops."""
    listed = json.loads(_nft(lab.switch, "-j", "list", "set", "bridge", "drover", "cuts"))
    elements = [e for item in listed["nftables"] if "set" in item for e in item["set"].get("elem", [])]
    return {(one, other) for one, other in (element["concat"] for element in elements)}


def _change_pairs(lab: Topology, verb: str, pairs: set[tuple[str, str]]) -> None:
    if pairs:
        elements = ", ".join(f"{one} . {other}" for one, other in sorted(pairs))
        _nft(lab.switch, verb, "element", "bridge", "drover", "cuts", f"{{ {elements} }}")


def cut_pair(lab: Topology, one: str, other: str) -> None:
    """Drop every frame between two hosts, both ways."""
    _change_pairs(lab, "add", {(one, other), (other, one)})


def cut_one_way(lab: Topology, source: str, target: str) -> None:
    """Drop every frame from one host to another; the other way stays open."""
    _change_pairs(lab, "add", {(source, target)})


def heal(lab: Topology, host: str) -> None:
    """The host's cable is connected and nothing between it and another host is dropped."""
    set_link(lab, host, up=True)
    _change_pairs(lab, "delete", {pair for pair in cut_pairs(lab) if host in pair})
