"""`drover host`: list, inspect, label, drain, shut down and remove hosts."""

from __future__ import annotations

import functools
from typing import Any

import click

from drover.cli import emptying, output
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
@json_option
@click.pass_context
def label(ctx: click.Context, name: str, labels: tuple[str, ...], as_json: bool) -> None:
    """Set labels of a host, or remove them (LABEL-).

    \b
    Example:
      drover host label web1 storage=ssd zone-
    """
    answer = client(ctx).post(f"{_path(name)}/labels", _set_and_removed(labels))
    output.result(answer, output.labels(answer["labels"]) or f"host {name} has no labels", as_json)


@host.command()
@click.argument("name")
@click.argument("taints", nargs=-1, metavar="TAINT=VALUE | TAINT- ...", required=True)
@json_option
@click.pass_context
def taint(ctx: click.Context, name: str, taints: tuple[str, ...], as_json: bool) -> None:
    """Keep containers off a host that do not tolerate its taints, or remove taints (TAINT-). What is there stays.

    \b
    Example:
      drover host taint gpu1 gpu=yes
      docker run --label drover.tolerate=gpu ...
    """
    answer = client(ctx).post(f"{_path(name)}/taints", _set_and_removed(taints))
    output.result(answer, output.labels(answer["taints"]) or f"host {name} has no taints", as_json)


def _set_and_removed(texts: tuple[str, ...]) -> dict[str, Any]:
    """`a=1 b-` as what the API takes. Raises `Invalid`."""
    removed = [text[:-1] for text in texts if text.endswith("-") and "=" not in text]
    changed = pairs([text for text in texts if "=" in text or not text.endswith("-")])
    if "" in removed or set(removed) & set(changed):
        raise Invalid("one is to be set and removed at once, or has no name", hint="name each once")
    return {"set": changed, "remove": removed}


@host.command()
@click.argument("name")
@click.option("--detach", "-d", is_flag=True, help="Do not wait until everything has left.")
@json_option
@click.pass_context
def drain(ctx: click.Context, name: str, detach: bool, as_json: bool) -> None:
    """Move everything off a host, and let it take nothing new.

    Containers move one at a time per service, with their volumes, addresses and names; never more of a service are down
    than its label drover.max_unavailable says (1). What cannot leave is named. Ctrl-C ends the waiting, not the work.

    \b
    Example:
      drover host drain web1
    """
    daemon = client(ctx)
    daemon.post(f"{_path(name)}/drain")
    output.note(f"host {name} takes no new containers; undo: drover host undrain {name}")
    look = functools.partial(daemon.get, f"{_path(name)}/evacuation")
    shown = look() if detach else emptying.follow(look, emptying.settled(), quiet=as_json)
    if as_json:
        output.show_json(shown)
    elif not detach:
        emptying.refuse_left(name, shown["items"], "remove them or move them by hand; `drover why NAME` says more")
        output.say(f"host {name} is empty")


@host.command()
@click.argument("name")
@json_option
@click.pass_context
def pause(ctx: click.Context, name: str, as_json: bool) -> None:
    """Let a host take nothing new; what is there stays.

    \b
    Example:
      drover host pause web1
    """
    answer = client(ctx).post(f"{_path(name)}/pause")
    output.result(answer, f"host {name} takes no new containers; undo: drover host undrain {name}", as_json)


@host.command()
@click.argument("name")
@json_option
@click.pass_context
def undrain(ctx: click.Context, name: str, as_json: bool) -> None:
    """Let a host take containers again.

    \b
    Example:
      drover host undrain web1
    """
    answer = client(ctx).post(f"{_path(name)}/undrain")
    output.result(answer, f"host {name} takes containers again", as_json)


@host.command()
@click.option("--deadline", "deadline_s", type=float, default=30.0, show_default=True, help="Seconds, at most.")
@json_option
@click.pass_context
def shutdown(ctx: click.Context, deadline_s: float, as_json: bool) -> None:
    """Hand this host's containers over: the machine is about to go down.

    Run it on the host itself, before it is switched off; systemd does it by itself (drover-shutdown.service). What runs
    here goes on elsewhere within seconds. When the daemon starts again, the host is used again.

    \b
    Example:
      drover host shutdown && poweroff
    """
    daemon = client(ctx)
    daemon.post(f"/shutdown?deadline_s={deadline_s:g}")
    shown = emptying.follow(
        functools.partial(daemon.get, "/shutdown"), lambda answer: answer["state"] == "gone", quiet=as_json
    )
    if as_json:
        output.show_json(shown)
    else:
        output.say("this host has handed over; it can be switched off")


@host.command("rm")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also if it is alive, or something is still on it: that is given up.")
@json_option
@click.pass_context
def remove(ctx: click.Context, name: str, force: bool, as_json: bool) -> None:
    """Forget a host that is lost. A host that lives leaves by itself: `drover leave`, run there.

    \b
    Example:
      drover host rm web1
    """
    answer = client(ctx).delete(_path(name) + ("?force=1" if force else ""))
    output.result(answer, f"host {name} is no longer a host of this cluster; its index is not used again", as_json)


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
