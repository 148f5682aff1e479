"""`drover address`: who has which address, and giving up one that nobody has."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import click

from drover.cli import output
from drover.cli.client import segment
from drover.cli.common import client, json_option
from drover.errors import DroverError


@click.group()
def address() -> None:
    """List addresses of containers, and release those that are kept.

    The address of a container that was removed is kept for its name for ten minutes, on each of its networks.

    \b
    Example:
      drover address ls --network app
      drover address release 10.128.0.9
    """


@address.command("ls")
@click.option("--network", default="", metavar="NAME", help="Only this network's.")
@json_option
@click.pass_context
def list_addresses(ctx: click.Context, network: str, as_json: bool) -> None:
    """List who has which address on which network.

    States: `held` by a container, `kept` for a container's name, `orphaned` (its container or network is gone),
    `service` (the virtual address of a service).

    \b
    Example:
      drover address ls
    """
    found = [one for one in client(ctx).get("/addresses") if network in ("", one["network_name"], one["network"])]
    if as_json:
        output.show_json(found)
        return
    heads = ("NETWORK", "ADDRESS", "MAC", "STATE", "HOLDER", "HOST", "EPOCH")
    output.show_table(heads, [_row(one, time.time()) for one in found])


def _row(one: dict[str, Any], now: float) -> tuple[str, ...]:
    left_s = max(0.0, one["until"] - now)
    state = f"kept ({left_s:.0f} s)" if one["state"] == "kept" else one["state"]
    cells = (one["network_name"], one["ip"], one["mac"], state, one["holder"], one["host"], str(one["epoch"] or ""))
    return tuple(cell or "-" for cell in cells)


def _kept(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """For the shell's completion: the addresses that can be released; none without a daemon to ask."""
    try:
        found = client(ctx).get("/addresses")
    except DroverError:
        return []
    return [one["ip"] for one in found if one["state"] in ("kept", "orphaned") and one["ip"].startswith(incomplete)]


@address.command()
@click.argument("ip", metavar="ADDRESS", shell_complete=_kept)
@click.option("--network", default="", metavar="NAME", help="The network, should several have the address.")
@json_option
@click.pass_context
def release(ctx: click.Context, ip: str, network: str, as_json: bool) -> None:
    """Give up an address that is kept or orphaned, so that anybody can have it.

    One that a container has is refused: remove the container, or disconnect it from the network.

    \b
    Example:
      drover address release 10.128.0.9
    """
    query = f"?network={quote(network, safe='')}" if network else ""
    output.result(client(ctx).delete(f"/addresses/{segment(ip)}{query}"), f"address {ip} is free", as_json)
