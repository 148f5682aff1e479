"""`drover status` and `drover why`: what the cluster is like, and the reasons for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from drover.cli import output
from drover.cli.client import segment
from drover.cli.common import client, json_option
from drover.trust.token import duration


@click.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show the cluster as this host sees it.

    \b
    Example:
      drover status
    """
    seen = client(ctx).get("/status")
    if as_json:
        output.show_json(seen)
    else:
        output.show_facts(_facts(seen))


@click.command()
@click.argument("name")
@json_option
@click.pass_context
def why(ctx: click.Context, name: str, as_json: bool) -> None:
    """Say why a container is where it is.

    \b
    Example:
      drover why web
    """
    answer = client(ctx).get(f"/why/{segment(name)}")
    if as_json:
        output.show_json(answer)
    else:
        output.show_facts(_reasons(answer))


def _facts(seen: dict[str, Any]) -> dict[str, str]:
    engine, store = seen["engine"], seen["store"]
    return {
        "Cluster": seen["cluster"],
        "Host": f"{seen['host']} (drover {seen['version']})",
        "Hosts": _counts(seen["hosts"]),
        "Leader": seen["leader"] or "none is known",
        "Cut off": seen.get("cut_off") or "no",
        "Encrypted": "between hosts, by WireGuard" if seen.get("encrypted") else "no",
        "Store": store["message"] or f"answers (revision {store['revision']})",
        "Members": ", ".join(f"{one['host']} ({one['state']})" for one in seen["members"]) or "-",
        "Engine": _engine(engine),
        "Containers": _counts(seen["containers"]),
        "Certificate": f"renewed by itself; {_left(seen['certificate_expires_at'])}",
    }


def _reasons(answer: dict[str, Any]) -> dict[str, str]:
    """The host it is on and why, then one line per host that was considered."""
    order = answer["order"]
    answered = "answered" if order["answered"] else "not answered yet"
    shown = {
        "Container": f"{answer['container']} ({answer['id'][:12] or 'not made yet'})",
        "Host": answer["host_says"] or "none",
        "Chosen": answer["chosen"] or "the reason was not written down",
        **{f"  {name}": reason for name, reason in sorted(answer["reasons"].items())},
        "Not moved": answer.get("obstacle", ""),
        "Placed": answer["placed_at"],
        "Desired": f"{answer['desired']}; last order: {order['verb']}, {answered}",
        "State": f"{answer['state']} since {answer['since']}" if answer["since"] else answer["state"],
        "Health": answer["health"],
        "Progress": answer["progress"],
        "Error": answer["error"],
    }
    return {name: value for name, value in shown.items() if value}


def _engine(engine: dict[str, Any]) -> str:
    if not engine:
        return "not reported yet"
    return f"{engine['version']} answers" if engine["ok"] else f"does not answer: {engine['message']}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) or "none"


def _left(expires_at: float) -> str:
    left_s = expires_at - time.time()
    return f"ends in {duration(left_s)}" if left_s > 0 else f"ended {duration(-left_s)} ago"
