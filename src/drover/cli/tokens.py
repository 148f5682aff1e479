"""`drover token`: create, list and remove join tokens."""

from __future__ import annotations

import re

import click

from drover.cli import output
from drover.cli.client import segment
from drover.cli.common import client, json_option
from drover.errors import Invalid

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d+)([smhd])")


def seconds(text: str) -> int:
    """`90s`, `30m`, `1h` or `7d` in seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise Invalid(f"{text!r} is no duration", hint="use a number and a unit: 90s, 30m, 1h, 7d")
    return int(match[1]) * _UNITS_S[match[2]]


@click.group()
def token() -> None:
    """Create, list and remove join tokens.

    \b
    Example:
      drover token create --ttl 30m
      drover token ls
    """


@token.command()
@click.option("--ttl", default="1h", show_default=True, help="How long it may be used: 90s, 30m, 1h, 7d.")
@click.option("--reusable", is_flag=True, help="Let any number of hosts join with it until it expires.")
@click.option("-q", "--quiet", is_flag=True, help="Print the token and nothing else.")
@json_option
@click.pass_context
def create(ctx: click.Context, ttl: str, reusable: bool, quiet: bool, as_json: bool) -> None:
    """Create a token that lets a host join.

    It is shown once: the cluster keeps only a hash of it. Whoever has it can become a host of the cluster,
    which is to be root on all of them: treat it like a root password until it is used or has expired.

    \b
    Example:
      drover token create
      drover join 192.0.2.1 --token "$(ssh web1 drover token create --quiet)"
    """
    made = client(ctx).post("/tokens", {"ttl_s": seconds(ttl), "reusable": reusable})
    if as_json:
        output.show_json(made)
    elif quiet:
        output.say(made["token"])
    else:
        uses = "any number of hosts" if reusable else "one host"
        output.say(f"For {uses}, within {ttl}. Run on the new host:\n")
        output.say(f"  drover join {made['join_address']} --token {made['token']}")


@token.command("ls")
@json_option
@click.pass_context
def list_tokens(ctx: click.Context, as_json: bool) -> None:
    """List tokens: whether they can still be used, and who used them.

    \b
    Example:
      drover token ls
    """
    found = client(ctx).get("/tokens")
    if as_json:
        output.show_json(found)
        return
    rows = [
        (
            one["id"],
            one["state"],
            "yes" if one["reusable"] else "no",
            output.ago(one["created_at"]),
            ",".join(one["used_by"]),
        )
        for one in found
    ]
    output.show_table(("TOKEN ID", "STATE", "REUSABLE", "CREATED", "USED BY"), rows)


@token.command("rm")
@click.argument("token_id")
@json_option
@click.pass_context
def remove(ctx: click.Context, token_id: str, as_json: bool) -> None:
    """Remove a token, so that it lets nobody in any more.

    \b
    Example:
      drover token rm 1f0c9a3b
    """
    answer = client(ctx).delete(f"/tokens/{segment(token_id)}")
    output.result(answer, answer["removed"], as_json)
