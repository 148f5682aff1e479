"""`drover volume`: list, inspect, change and move volumes."""

from __future__ import annotations

import time
from typing import Any

import click

from drover.cli import output
from drover.cli.client import segment
from drover.cli.common import client, json_option, pairs
from drover.cli.move import move_options, start_and_follow
from drover.cli.volume_life import COMMANDS

_OPTIONS = "replicas, interval, size, sync."


@click.group()
def volume() -> None:
    """List, inspect, change and move volumes.

    \b
    Example:
      drover volume ls
      drover volume move data --to h2
    """


def _path(name: str) -> str:
    return f"/volumes/{segment(name)}"


@volume.command("ls")
@json_option
@click.pass_context
def list_volumes(ctx: click.Context, as_json: bool) -> None:
    """List the volumes of the cluster.

    \b
    Example:
      drover volume ls
    """
    found = client(ctx).get("/volumes")
    if as_json:
        output.show_json(found)
        return
    heads = ("NAME", "HOST", "DRIVER", "SIZE", "COPIES", "LAG", "USED BY", "STATUS")
    output.show_table(heads, [_row(one, time.time()) for one in found])


def _row(one: dict[str, Any], now: float) -> tuple[str, ...]:
    from drover.decide.sentences import size  # not at the top: `drover --help` must start fast

    copies = " ".join(copy["host"] for copy in one["copies"])
    lags = [now - max(copy["synced_at"], copy["taken_at"]) for copy in one["copies"]]
    lag = f"{max(0.0, min(lags)):.1f} s" if lags else "-"
    used = size(one["size_bytes"]) + (f" of {size(one['size_wanted_bytes'])}" if one["size_wanted_bytes"] else "")
    return (
        one["name"],
        one["host"] or "-",
        one["driver"] or "-",
        used if one["size_bytes"] or one["size_wanted_bytes"] else "-",
        copies or "-",
        lag,
        " ".join(one["used_by"]) or "-",
        "; ".join(one["doubts"]) or "ok",
    )


@volume.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="The same: inspect prints JSON.")
@click.pass_context
def inspect(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show all that is known of a volume, as JSON.

    \b
    Example:
      drover volume inspect data
    """
    output.show_json(client(ctx).get(_path(name)))


@volume.command()
@click.argument("name")
@click.option("--opt", "-o", "options", multiple=True, required=True, metavar="NAME=VALUE", help=_OPTIONS)
@json_option
@click.pass_context
def update(ctx: click.Context, name: str, options: tuple[str, ...], as_json: bool) -> None:
    """Change how a volume is replicated, and how large it may grow.

    \b
    Example:
      drover volume update data --opt replicas=2 --opt interval=1s
      drover volume update data --opt size=20G
    """
    from drover.decide.sentences import size  # not at the top: `drover --help` must start fast

    changed = client(ctx).post(f"{_path(name)}/options", {"options": pairs(options)})
    limit = size(changed["size_wanted_bytes"]) if changed["size_wanted_bytes"] else "0"
    said = (
        f"volume {name}: replicas={changed['replicas_wanted']} interval={changed['interval_s']:g}s size={limit} "
        f"sync={'yes' if changed['sync'] else 'no'}"
    )
    output.result(changed, said, as_json)


@volume.command()
@click.argument("name")
@move_options
@click.pass_context
def move(ctx: click.Context, /, name: str, **options: Any) -> None:
    """Move a volume that no container uses. One that is in use moves with its container: `drover move`.

    \b
    Example:
      drover volume move data --to h2
    """
    start_and_follow(client(ctx), f"{_path(name)}/move", **options)


@volume.command()
@click.argument("name")
@json_option
@click.pass_context
def snapshots(ctx: click.Context, name: str, as_json: bool) -> None:
    """List a volume's snapshots: those taken by people, and those that Drover copies from.

    \b
    Example:
      drover volume snapshots data
    """
    found = client(ctx).get(f"{_path(name)}/snapshots")
    if as_json:
        output.show_json(found)
        return
    rows = [(one["id"], one["name"] or "-", output.ago(one["taken_at"]), " ".join(one["hosts"])) for one in found]
    output.show_table(("ID", "NAME", "TAKEN", "HOSTS"), rows)


@volume.command()
@click.argument("name")
@click.option("--name", "label", default="snapshot", show_default=True, help="What to call it.")
@click.option("--rm", "removed", default="", metavar="ID", help="Remove this one instead of taking one.")
@json_option
@click.pass_context
def snapshot(ctx: click.Context, name: str, label: str, removed: str, as_json: bool) -> None:
    """Take a snapshot, which is kept until it is removed.

    \b
    Example:
      drover volume snapshot data --name before_upgrade
    """
    daemon = client(ctx)
    if removed:
        daemon.delete(f"{_path(name)}/snapshots/{segment(removed)}")
        output.result({"removed": removed}, f"snapshot {removed} is gone", as_json)
    else:
        taken = daemon.post(f"{_path(name)}/snapshots", {"label": label})
        output.result(taken, taken["snapshot"], as_json)


for command in COMMANDS:
    volume.add_command(command)
