"""`drover volume`: list, inspect, change and move volumes."""

from __future__ import annotations

import time
from typing import Any

import click

from drover.cli import output
from drover.cli.client import segment
from drover.cli.common import client, json_option, pairs
from drover.cli.move import move_options, start_and_follow


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
    heads = ("NAME", "HOST", "DRIVER", "COPIES", "LAG", "USED BY")
    output.show_table(heads, [_row(one, time.time()) for one in found])


def _row(one: dict[str, Any], now: float) -> tuple[str, ...]:
    copies = " ".join(copy["host"] for copy in one["copies"])
    lags = [now - max(copy["synced_at"], copy["taken_at"]) for copy in one["copies"]]
    lag = f"{max(0.0, min(lags)):.1f} s" if lags else "-"
    return one["name"], one["host"] or "-", one["driver"] or "-", copies or "-", lag, " ".join(one["used_by"]) or "-"


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
@click.option("--opt", "-o", "options", multiple=True, required=True, metavar="NAME=VALUE", help="replicas, interval.")
@click.pass_context
def update(ctx: click.Context, name: str, options: tuple[str, ...]) -> None:
    """Change how a volume is replicated.

    \b
    Example:
      drover volume update data --opt replicas=2 --opt interval=1s
    """
    changed = client(ctx).post(f"{_path(name)}/options", {"options": pairs(options)})
    output.say(f"volume {name}: replicas={changed['replicas_wanted']} interval={changed['interval_s']:g}s")


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
@click.pass_context
def snapshot(ctx: click.Context, name: str, label: str, removed: str) -> None:
    """Take a snapshot, which is kept until it is removed.

    \b
    Example:
      drover volume snapshot data --name before_upgrade
    """
    daemon = client(ctx)
    if removed:
        daemon.delete(f"{_path(name)}/snapshots/{segment(removed)}")
        output.say(f"snapshot {removed} is gone")
    else:
        output.say(daemon.post(f"{_path(name)}/snapshots", {"label": label})["snapshot"])


@volume.command()
@click.argument("name")
@click.argument("snapshot_id", metavar="ID")
@click.pass_context
def rollback(ctx: click.Context, name: str, snapshot_id: str) -> None:
    """Make a volume what it was. Its containers must be stopped; what it is now is kept as a snapshot.

    \b
    Example:
      drover volume rollback data 0000000001-001790000000000-before_upgrade
    """
    answer = client(ctx).post(f"{_path(name)}/rollback", {"snapshot": snapshot_id})
    output.say(f"volume {name} is as in {snapshot_id}; what it was is the snapshot {answer['aside']}")


@volume.command()
@click.argument("name")
@click.argument("new_name")
@click.option("--snapshot", "snapshot_id", default="", metavar="ID", help="Of this snapshot (default: as it is now).")
@click.pass_context
def clone(ctx: click.Context, name: str, new_name: str, snapshot_id: str) -> None:
    """Make a new volume with the content of another, on the same host.

    \b
    Example:
      drover volume clone data data-test
    """
    client(ctx).post(f"{_path(name)}/clone", {"name": new_name, "snapshot": snapshot_id})
    output.say(new_name)
