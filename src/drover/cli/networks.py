"""`drover network`: the cluster's networks, and who is where on them. Docker's own commands make and remove them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from drover.cli import output
from drover.cli.client import segment
from drover.cli.common import client, json_option


@click.group()
def network() -> None:
    """List networks, and show who is where on them.

    Networks are made and removed with `docker network`, through the cluster's Docker API.

    \b
    Example:
      drover network ls
      drover network inspect app --map
    """


@network.command("ls")
@json_option
@click.pass_context
def list_networks(ctx: click.Context, as_json: bool) -> None:
    """List the networks of the cluster.

    \b
    Example:
      drover network ls
    """
    found = client(ctx).get("/networks")
    if as_json:
        output.show_json(found)
        return
    heads = ("NAME", "ID", "VNI", "SUBNET", "ADDRESSES", "HOSTS")
    output.show_table(heads, [_row(one) for one in found])


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    held = [address for address in one["addresses"] if address["state"] == "held"]
    hosts = " ".join(sorted({address["host"] for address in held if address["host"]}))
    return one["name"], one["id"][:12], str(one["vni"] or "-"), one["subnet"] or "-", str(len(held)), hosts or "-"


@network.command()
@click.argument("name", metavar="NETWORK")
@click.option("--map", "as_map", is_flag=True, help="Who is where, and what each host has of it, as tables.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as without --map.")
@click.pass_context
def inspect(ctx: click.Context, name: str, as_map: bool, as_json: bool) -> None:
    """Show all that is known of a network, as JSON or as a map.

    Every host that is alive looks at its kernel: bridge, MTU, how many addresses elsewhere it forwards to, and the
    counters of its VXLAN device. `drover doctor network` says whether that is right.

    \b
    Example:
      drover network inspect app --map
    """
    seen = client(ctx).get(f"/networks/{segment(name)}")
    if as_json or not as_map:
        output.show_json(seen)
        return
    output.show_facts(_facts(seen))
    output.say("")
    on_host = Counter(one["host"] for one in seen["addresses"] if one["state"] == "held")
    host_heads = ("HOST", "STATE", "BRIDGE", "MTU", "CONTAINERS", "ENTRIES", "RECEIVED", "SENT", "DROPPED")
    output.show_table(host_heads, [_host_row(part, on_host[part["host"]]) for part in seen["hosts"]])
    if seen["addresses"]:
        output.say("")
        heads = ("ADDRESS", "MAC", "STATE", "HOLDER", "HOST", "EPOCH")
        output.show_table(heads, [_address_row(one) for one in seen["addresses"]])


def _facts(seen: dict[str, Any]) -> dict[str, str]:
    return {
        "Network": f"{seen['name']} ({seen['id'][:12]})",
        "VNI": str(seen["vni"] or "none: the engines carry it themselves"),
        "Subnet": seen["subnet"] or "-",
        "Gateway": seen["gateway"] or "-",
        "Internal": "yes" if seen["internal"] else "no",
        "Broadcast": "reaches all hosts" if seen["broadcast"] else "stays on its host",
    }


def _host_row(part: dict[str, Any], containers: int) -> tuple[str, ...]:
    if part["state"] in ("none", "unknown"):
        return part["host"], part["message"] or part["state"], *("-",) * 7
    return (
        part["host"],
        part["state"],
        part["bridge"],
        str(part["mtu_bytes"]),
        str(containers),
        str(part["entries"]),
        _bytes(part["received_bytes"]),
        _bytes(part["sent_bytes"]),
        str(part["dropped_packets"]),
    )


def _address_row(one: dict[str, Any]) -> tuple[str, ...]:
    cells = (one["ip"], one["mac"], one["state"], one["holder"], one["host"], str(one["epoch"] or ""))
    return tuple(cell or "-" for cell in cells)


def _bytes(number: int) -> str:
    """`1.2 MB`: powers of 1000, as counters of networks are read."""
    size, units = float(number), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
