"""What commands share: the option `--json`, the client of the daemon that `--host` names, lists of `name=value`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from drover.cli.client import DEADLINE_S, Client
from drover.errors import Invalid

json_option = click.option("--json", "as_json", is_flag=True, help="Print the daemon's JSON.")


def client(ctx: click.Context, deadline_s: float = DEADLINE_S) -> Client:
    return Client(ctx.obj or "", deadline_s)


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """`("a=1", "b=")` as a dictionary."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise Invalid(f"{text!r} is not of the form NAME=VALUE", hint="for instance --label storage=ssd")
        found[name] = value
    return found
