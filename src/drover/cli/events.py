"""`drover events`: what happened in the cluster, in plain words; and whom to tell of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import click

from drover.cli import output
from drover.cli.client import segment
from drover.cli.common import client, json_option, pairs
from drover.errors import Invalid


@click.group(invoke_without_command=True)
@click.option("--since", default="", metavar="WHEN", help="From then on: 10m (ago), 2026-01-31T12:00:00Z, 1700000000.")
@click.option("--until", default="", metavar="WHEN", help="Up to then.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="type=GLOB or subject=NAME; repeatable.")
@json_option
@click.pass_context
def events(ctx: click.Context, since: str, until: str, follow: bool, filters: tuple[str, ...], as_json: bool) -> None:
    """Show what happened in the cluster: hosts lost and back, moves, promotions, alarms.

    The last 1000 events are kept. What engines say of single containers is in `docker events`.

    \b
    Example:
      drover events --since 1h
      drover events --follow --filter type=host.* --filter type=volume.promoted
      drover events hook add https://example.net/drover --on host.lost
    """
    if ctx.invoked_subcommand is not None:
        return
    query = _query(since, until, filters)
    daemon = client(ctx)
    if not follow:
        found = daemon.get(f"/events?{urlencode(query)}")
        if as_json:
            output.show_json(found)
        for one in [] if as_json else found:
            output.say(_line(one))
        return
    try:
        for one in daemon.lines(f"/events?{urlencode([*query, ('follow', '1')])}"):
            output.show_json(one) if as_json else output.say(_line(one))
    except KeyboardInterrupt:
        return


def _query(since: str, until: str, filters: Sequence[str]) -> list[tuple[str, str]]:
    query = [(name, _when(text)) for name, text in (("since", since), ("until", until)) if text]
    for one in filters:
        ((name, value),) = pairs([one]).items()
        if name not in ("type", "subject"):
            raise Invalid(f"{name} is no filter of events", hint="type=GLOB and subject=NAME are")
        query.append((name, value))
    return query


def _when(text: str) -> str:
    """Docker's ways to say when, as seconds since the epoch."""
    from drover.gateway.filters import parse_when  # not at the top: `drover --help` must start fast

    return f"{parse_when(text, time.time()):.3f}"


def _line(one: dict[str, Any]) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["at"]))
    return f"{at}  {one['type']:<20} {one['says']}"


@events.group()
def hook() -> None:
    """Webhooks and commands that are told of events.

    \b
    Example:
      drover events hook ls
    """


@hook.command("add")
@click.argument("url", required=False, default="")
@click.option("--exec", "command", default="", metavar="CMD", help="Run CMD (by sh) on the leader's host instead.")
@click.option("--on", "types", multiple=True, metavar="TYPE", help="Only these types, * allowed; repeatable.")
@json_option
@click.pass_context
def add_hook(ctx: click.Context, url: str, command: str, types: tuple[str, ...], as_json: bool) -> None:
    """Tell URL (by POST), or a command (on its standard input), of each event from now on, as JSON.

    Each event is told at least once; what fails is tried again for half a minute.

    \b
    Example:
      drover events hook add https://example.net/drover --on host.lost --on 'container.*'
      drover events hook add --exec 'logger -t drover "$DROVER_EVENT_SAYS"'
    """
    made = client(ctx).post("/event-hooks", {"url": url, "command": command, "types": list(types)})
    if as_json:
        output.show_json(made)
    else:
        output.say(made["id"])


@hook.command("ls")
@json_option
@click.pass_context
def list_hooks(ctx: click.Context, as_json: bool) -> None:
    """List the hooks.

    \b
    Example:
      drover events hook ls
    """
    found = client(ctx).get("/event-hooks")
    if as_json:
        output.show_json(found)
        return
    rows = [
        (one["id"], one.get("url") or one.get("command", ""), ",".join(one.get("types", ())) or "*") for one in found
    ]
    output.show_table(("ID", "TELLS", "ON"), rows)


@hook.command("rm")
@click.argument("identity", metavar="ID")
@json_option
@click.pass_context
def remove_hook(ctx: click.Context, identity: str, as_json: bool) -> None:
    """Remove a hook.

    \b
    Example:
      drover events hook rm 1f2e3d4c
    """
    output.result(client(ctx).delete(f"/event-hooks/{segment(identity)}"), identity, as_json)
