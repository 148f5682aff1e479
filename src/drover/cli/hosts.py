"""`drover host`: list, inspect, label, drain and remove hosts."""

from __future__ import annotations

from typing import Any

import click

from drover.cli import output
from drover.cli.client import segment
from drover.cli.common import client, json_option, pairs
from drover.decide.sentences import size
from drover.errors import Invalid


@click.group()
def host() -> None:
    """List, inspect, label, drain and remove hosts.

    \b
    Example:
      drover host ls
      drover host label web1 storage=ssd
    """


@host.command("ls")
@json_option
@click.pass_context
def list_hosts(ctx: click.Context, as_json: bool) -> None:
    """List the hosts of the cluster.

    \b
    Example:
      drover host ls
    """
    found = client(ctx).get("/hosts")
    if as_json:
        output.show_json(found)
        return
    heads = ("NAME", "ADDRESS", "STATE", "ENGINE", "CPUS", "MEMORY", "CONTAINERS", "VOLUMES", "STORE", "LABELS")
    output.show_table(heads, [_row(one) for one in found])


@host.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="The same: inspect prints JSON.")
@click.pass_context
def inspect(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show all that is known of a host, as JSON.

    \b
    Example:
      drover host inspect web1
    """
    output.show_json(client(ctx).get(_path(name)))


@host.command()
@click.argument("name")
@click.argument("labels", nargs=-1, metavar="LABEL=VALUE | LABEL- ...", required=True)
@click.pass_context
def label(ctx: click.Context, name: str, labels: tuple[str, ...]) -> None:
    """Set labels of a host, or remove them (LABEL-).

    \b
    Example:
      drover host label web1 storage=ssd zone-
    """
    removed = [text[:-1] for text in labels if text.endswith("-") and "=" not in text]
    changed = pairs([text for text in labels if "=" in text or not text.endswith("-")])
    if "" in removed or set(removed) & set(changed):
        raise Invalid("a label is to be set and removed at once, or has no name", hint="name each label once")
    answer = client(ctx).post(f"{_path(name)}/labels", {"set": changed, "remove": removed})
    output.say(output.labels(answer["labels"]) or f"host {name} has no labels")


@host.command()
@click.argument("name")
@click.pass_context
def drain(ctx: click.Context, name: str) -> None:
    """Let a host take no new containers.

    \b
    Example:
      drover host drain web1
    """
    client(ctx).post(f"{_path(name)}/drain")
    output.say(f"host {name} takes no new containers; undo: drover host undrain {name}")


@host.command()
@click.argument("name")
@click.pass_context
def undrain(ctx: click.Context, name: str) -> None:
    """Let a host take containers again.

    \b
    Example:
      drover host undrain web1
    """
    client(ctx).post(f"{_path(name)}/undrain")
    output.say(f"host {name} takes containers again")


@host.command("rm")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also if it is alive, or something is still on it: that is given up.")
@click.pass_context
def remove(ctx: click.Context, name: str, force: bool) -> None:
    """Forget a host that is lost. A host that lives leaves by itself: `drover leave`, run there.

    \b
    Example:
      drover host rm web1
    """
    client(ctx).delete(_path(name) + ("?force=1" if force else ""))
    output.say(f"host {name} is no longer a host of this cluster; its index is not used again")


def _path(name: str) -> str:
    return f"/hosts/{segment(name)}"


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    engine = one["engine"]
    return (
        one["name"],
        one["address"],
        one["state"],
        engine.get("version") or "-",
        str(engine.get("cpus") or "-"),
        size(engine["memory_bytes"]) if engine.get("memory_bytes") else "-",
        str(one["containers"]),
        str(one["volumes"]),
        one["store_member"] or "-",
        output.labels(one["labels"]) or "-",
    )
