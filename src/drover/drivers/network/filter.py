"""Who may send VXLAN to this host: Drover's own nftables table.

Theory of operation. VXLAN has no notion of a sender's identity, so a packet from anywhere on UDP 4789 would be let into
a network. One chain drops those that are not from a peer. In a cluster that encrypts it drops every one that does not
come by the tunnel's device, too, and a second chain every one that would leave by another. Each script is one
transaction of `nft -f -`: it touches only the table `inet drover`, and in it only the set and chains named here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence

from drover.drivers.network.nftables import library
from drover.errors import DroverError, Forbidden, MissingTool

TABLE = "inet drover"
SERVICES_TABLE = "ip drover"
"""That of `services`."""
NFT_TIMEOUT_S = 20.0
SMALL = 64 * 1024
"""Characters of a script that the library runs within this process."""
PACKAGES = {"nft": "nftables", "iptables": "iptables", "conntrack": "conntrack", "wg": "wireguard-tools"}


def peers_script(addresses: Iterable[str], port: int, through: str = "") -> str:
    """The transaction after which exactly `addresses` may send VXLAN to UDP `port`, both ways by the device `through`
    alone if one is given."""
    peers = ", ".join(sorted(addresses))
    lines = [
        f"add table {TABLE}",
        f"add set {TABLE} peers {{ type ipv4_addr; }}",
        f"flush set {TABLE} peers",
        f"add element {TABLE} peers {{ {peers} }}" if peers else "",
        f"add chain {TABLE} overlay {{ type filter hook input priority filter; policy accept; }}",
        f"flush chain {TABLE} overlay",
        f"add rule {TABLE} overlay udp dport {port} meta nfproto ipv6 drop",
        f"add rule {TABLE} overlay udp dport {port} ip saddr != @peers drop",
        f"add chain {TABLE} sent {{ type filter hook output priority filter; policy accept; }}",
        f"flush chain {TABLE} sent",
    ]
    if through:
        lines.append(f'add rule {TABLE} overlay udp dport {port} iifname != "{through}" drop')
        lines.append(f'add rule {TABLE} sent udp dport {port} oifname != "{through}" drop')
    return "\n".join(filter(None, lines)) + "\n"


def purge_script() -> str:
    """Delete the tables; the line before makes that no error where there is none."""
    return "".join(f"add table {table}\ndelete table {table}\n" for table in (TABLE, SERVICES_TABLE))


def apply(script: str) -> None:
    """Run one transaction in the current network namespace; nothing for an empty one."""
    if not script:
        return
    found = library() if len(script) < SMALL else None
    if found is not None:
        refused = found.refusal(script)
    else:
        done = run(["nft", "-f", "-"], script)
        refused = done.stderr.strip() if done.returncode else ""
    if refused:
        raise _refusal(refused)


def run(argv: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever its exit status. Raises `MissingTool` or, after a time, `DroverError`."""
    try:
        return subprocess.run(argv, input=stdin, text=True, capture_output=True, timeout=NFT_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise MissingTool(
            f"The program {argv[0]} is not there to program the kernel.", hint=f"Install {PACKAGES[argv[0]]}."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DroverError(f"{argv[0]} did not answer within {NFT_TIMEOUT_S:.0f} s.") from error


def _refusal(words: str) -> DroverError:
    if "not permitted" in words:
        return Forbidden("This process may not change packet filters.", hint="Run drover daemon as root.")
    return DroverError(f"nft refused Drover's rules: {words}", hint="Check `nft list ruleset`.")
