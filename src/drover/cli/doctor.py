"""`drover doctor`: compare what is with what should be, and name each difference."""

from __future__ import annotations

import click

from drover.cli import output
from drover.cli.common import client, json_option


@click.group()
def doctor() -> None:
    """Compare what is with what should be.

    \b
    Example:
      drover doctor network
      drover doctor volumes
    """


@doctor.command()
@json_option
@click.pass_context
def network(ctx: click.Context, as_json: bool) -> int:
    """Compare every host's network with the records.

    Reads kernel tables and engines of all hosts that are alive. Says nothing and exits with 0 if all is right; else
    one line per difference, and 1.

    \b
    Example:
      drover doctor network
    """
    seen = client(ctx).get("/doctor/network")
    if as_json:
        output.show_json(seen)
    else:
        for host, sentences in seen["hosts"].items():
            for sentence in sentences:
                output.say(f"{host}: {sentence}")
    return 1 if any(seen["hosts"].values()) else 0


@doctor.command()
@json_option
@click.pass_context
def volumes(ctx: click.Context, as_json: bool) -> int:
    """Say what is wrong with volumes: full disks, copies that lag, sizes, backups.

    Says nothing and exits with 0 if all is well; else one line per fault, and 1.

    \b
    Example:
      drover doctor volumes
    """
    seen = client(ctx).get("/doctor/volumes")
    lines = [f"{host}: {sentence}" for host, sentences in seen["hosts"].items() for sentence in sentences]
    lines += [f"volume {name} {sentence}" for name, sentences in seen["volumes"].items() for sentence in sentences]
    if as_json:
        output.show_json(seen)
    for line in [] if as_json else lines:
        output.say(line)
    return 1 if lines else 0
