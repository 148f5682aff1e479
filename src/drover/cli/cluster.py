"""`drover cluster`: what concerns the cluster as a whole: recovering its store."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import click

from drover.cli import output
from drover.cli.common import client, json_option
from drover.errors import Conflict

DEADLINE_S = 120.0


@click.group()
def cluster() -> None:
    """Recover the cluster's store.

    \b
    Example:
      drover cluster recover --dry-run
    """


@cluster.command()
@click.option("--lost", multiple=True, metavar="HOST", help="It is switched off and will not come back as it was.")
@click.option("--dry-run", is_flag=True, help="Only say whether it can be done, and what was seen.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def recover(ctx: click.Context, lost: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Found the store anew from this host's copy, when most of its members are gone for good.

    If they can be brought back, bring them back: nothing else is needed then. Otherwise run this on the host with the
    newest copy. Running containers go on. Members that cannot be reached might go on without this host: say with --lost
    that they are off. What was acknowledged a moment before the loss may be missing.

    \b
    Example:
      drover cluster recover --dry-run
      drover cluster recover --lost h2 --lost h3
    """
    daemon = client(ctx, DEADLINE_S)
    path = f"/store/recovery?{urlencode([('lost', one) for one in lost])}"
    seen = daemon.get(path)
    if not as_json:
        output.show_table(("MEMBER", "REACHED", "RECORDS"), [_row(one) for one in seen["members"]])
    if seen["refusal"] and not dry_run:
        raise Conflict(seen["refusal"], hint=seen["hint"])
    if not dry_run:
        if not yes:
            click.confirm("Found the store anew from this host's copy?", abort=True, err=True)
        seen = daemon.post(path)
    if as_json:
        output.show_json(seen)
    elif dry_run:
        output.say(seen["refusal"] or "it can be done: repeat without --dry-run")
        output.note(seen["hint"]) if seen["hint"] else None
    else:
        output.say("the store has one member, this host's; others are added as hosts come back")


def _row(one: dict[str, Any]) -> tuple[str, str, str]:
    return one["host"], "yes" if one.get("reached") else "no", str(one.get("index", 0) or "-")
