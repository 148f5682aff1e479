"""`drover rebalance`: make the load even again, with as few moves as it is worth."""

from __future__ import annotations

import time
from typing import Any

import click

from drover.cli import output
from drover.cli.client import Client
from drover.cli.common import client, json_option

POLL_S = 0.5


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would move, and why.")
@click.option("--limit", type=click.IntRange(1, 50), default=20, show_default=True, help="At most so many moves.")
@click.option("--auto", type=click.Choice(["on", "off"]), help="Have the leader do it by itself, a move at a time.")
@json_option
@click.pass_context
def rebalance(ctx: click.Context, dry_run: bool, limit: int, auto: str | None, as_json: bool) -> None:
    """Move containers so that the load is even again.

    Containers of one service are spread first, then all. Two move at a time, never two of one service; what has volumes
    moves only if the difference is worth it. Ctrl-C: no further move begins.

    \b
    Example:
      drover rebalance --dry-run
      drover rebalance
      drover rebalance --auto on
    """
    daemon = client(ctx)
    if auto is not None:
        shown = daemon.call("PUT", "/rebalance", {"automatic": auto == "on"})
        output.show_json(shown) if as_json else output.say(f"automatic rebalancing is {auto}")
    elif dry_run:
        _show(daemon.post("/rebalance", {"dry_run": True, "limit": limit})["proposals"], as_json)
    else:
        _show(_moved(daemon, limit, quiet=as_json), as_json)


def _moved(daemon: Client, limit: int, *, quiet: bool) -> list[dict[str, Any]]:
    """Begin move after move until none is worth it; those that were begun, by what the daemon proposed."""
    done: dict[tuple[str, str], dict[str, Any]] = {}
    while True:
        left = limit - len(done)
        shown = daemon.post("/rebalance", {"dry_run": left <= 0, "limit": max(1, left)})
        for one in shown["proposals"][: max(0, 2 - shown["moving"])] if left > 0 else []:
            if (one["name"], one["target"]) not in done and not quiet:
                output.note(_line(one))
            done[one["name"], one["target"]] = one
        if not shown["moving"] and (not shown["proposals"] or left <= 0):
            return list(done.values())
        time.sleep(POLL_S)


def _show(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        output.show_json(found)
    elif not found:
        output.say("the load is even: no move is worth it")
    else:
        output.show_table(
            ("CONTAINER", "FROM", "TO", "WHY"),
            [tuple(one[k] for k in ("name", "source", "target", "why")) for one in found],
        )


def _line(one: dict[str, Any]) -> str:
    return f"{one['name']}: {one['source']} -> {one['target']} ({one['why']})"
