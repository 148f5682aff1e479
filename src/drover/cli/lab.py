"""`drover lab`: many real Docker hosts on this one machine.

Everything is done by `drover.lab`, which is imported when a command runs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drover.cli import output

if TYPE_CHECKING:
    from drover.lab import HostStatus, Lab, LabHost


def _lab_options(command: Any) -> Any:
    """The options that say which lab."""
    base = click.option(
        "--dir",
        "base",
        type=click.Path(path_type=Path),
        envvar="DROVER_LAB_DIR",
        help="Where labs keep their disks (default: /var/tmp/drover-lab).",
    )
    name = click.option("--name", default="lab", show_default=True, metavar="N", help="Which lab.")
    return name(base(command))


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _open(name: str, base: Path | None) -> Lab:
    from drover.lab import DEFAULT_BASE, Lab

    return Lab.open(name, base=base or DEFAULT_BASE)


def _host(name: str, base: Path | None, host: str) -> LabHost:
    return _open(name, base).host(host)


def _done(name: str, base: Path | None, host: str, as_json: bool) -> None:
    """With --json, what the host shows now: a row of `drover lab status --json`."""
    import msgspec

    if as_json:
        output.show_json(msgspec.to_builtins(_open(name, base).status_of(host)))


@click.group()
def lab() -> None:
    """Run many real Docker hosts on this one machine.

    \b
    Example:
      drover lab up                   # three hosts, one cluster
      eval "$(drover lab env)"        # docker and drover now talk to it
      docker run -d --name web busybox httpd -f
      drover lab kill h2              # a power cut
      drover lab down                 # removes all that up made
    """


@lab.command()
@_lab_options
@click.option("--hosts", default=3, show_default=True, metavar="COUNT", help="How many hosts: h1, h2, ...")
@click.option("--no-cluster", is_flag=True, help="Start engines only, no Drover.")
@click.option(
    "--image", "images", multiple=True, metavar="NAME", help="Load an image (default: busybox; `none` for none)."
)
@click.option("--pool", default="8G", show_default=True, metavar="SIZE", help="Each host's volume pool, or `none`.")
@_json_option
def up(
    name: str, base: Path | None, hosts: int, no_cluster: bool, images: tuple[str, ...], pool: str, as_json: bool
) -> None:
    """Build a lab and wait until it is ready.

    \b
    Example:
      drover lab up
      drover lab up --name two --hosts 5 --image busybox --image nginx
    """
    import msgspec

    from drover.lab import DEFAULT_BASE, Lab

    begin = time.monotonic()
    wanted = tuple(image for image in images or ("busybox",) if image != "none")
    chosen = "" if pool == "none" else pool
    made = Lab.create(
        name, hosts, base=base or DEFAULT_BASE, cluster=not no_cluster, images=wanted, pool=chosen, say=output.note
    )
    output.note(f"lab {name} is ready after {time.monotonic() - begin:.1f} s")
    output.note(f'use it: eval "$(drover lab env --name {name})"; remove it: drover lab down --name {name}')
    if as_json:
        output.show_json(
            {"name": name, "directory": str(made.topology.directory), "hosts": msgspec.to_builtins(made.status())}
        )


@lab.command()
@_lab_options
@_json_option
def down(name: str, base: Path | None, as_json: bool) -> None:
    """Remove a lab: all that `up` made, and only that.

    \b
    Example:
      drover lab down --name two
    """
    _open(name, base).destroy()
    output.note(f"lab {name} is gone")
    if as_json:
        output.show_json({"removed": name})


@lab.command("ls")
@click.option(
    "--dir", "base", type=click.Path(path_type=Path), envvar="DROVER_LAB_DIR", help="Where labs keep their disks."
)
@_json_option
def list_labs(base: Path | None, as_json: bool) -> None:
    """List the labs on this machine.

    \b
    Example:
      drover lab ls
    """
    from drover.lab import DEFAULT_BASE
    from drover.lab.lab import labs

    rows = [
        (lab.name, str(len(lab.hosts)), f"{lab.gateway}/24", str(lab.directory)) for lab in labs(base or DEFAULT_BASE)
    ]
    if as_json:
        output.show_json([dict(zip(("name", "hosts", "switch", "directory"), row, strict=True)) for row in rows])
        return
    output.show_table(("LAB", "HOSTS", "SWITCH", "DIRECTORY"), rows)


@lab.command()
@_lab_options
@_json_option
def status(name: str, base: Path | None, as_json: bool) -> None:
    """Show each host's power, link, engine and gateway.

    \b
    Example:
      drover lab status
    """
    import msgspec

    rows = _open(name, base).status()
    if as_json:
        output.show_json(msgspec.to_builtins(rows))
        return
    heads = ("HOST", "ADDRESS", "POWER", "LINK", "ENGINE", "GATEWAY")
    output.show_table(heads, [_status_row(row) for row in rows])


def _status_row(row: HostStatus) -> tuple[str, ...]:
    link = row.link + (f", cut from {' '.join(row.cut_from)}" if row.cut_from else "")
    return row.name, row.address, row.power, link, row.engine or "-", "answers" if row.gateway else "-"


@lab.command()
@_lab_options
@click.option("--host", default="h1", show_default=True, metavar="hK", help="Whose gateway.")
@_json_option
def env(name: str, base: Path | None, host: str, as_json: bool) -> None:
    """Print the exports that point docker and drover at a host's gateway.

    In a lab made with --no-cluster they point docker at the host's bare engine.

    \b
    Example:
      eval "$(drover lab env --host h2)"
    """
    whole = _host(name, base, host).environment()
    chosen = {variable: whole[variable] for variable in ("DOCKER_HOST", "DROVER_HOST")}
    output.result(chosen, "\n".join(f"export {variable}={value}" for variable, value in chosen.items()), as_json)


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@_lab_options
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, base: Path | None, host: str, command: tuple[str, ...]) -> int:
    """Run a command on a host, with docker and drover pointed at it.

    \b
    Example:
      drover lab exec h2 -- ip addr
    """
    return _host(name, base, host).exec_attached(command)


@lab.command()
@_lab_options
@click.argument("host")
@_json_option
def kill(name: str, base: Path | None, host: str, as_json: bool) -> None:
    """Cut a host's power: its link falls silent, then everything on it is killed.

    \b
    Example:
      drover lab kill h2
    """
    _host(name, base, host).kill()
    _done(name, base, host, as_json)


@lab.command()
@_lab_options
@click.argument("host")
@_json_option
def revive(name: str, base: Path | None, host: str, as_json: bool) -> None:
    """Boot a host again with its disk.

    \b
    Example:
      drover lab revive h2
    """
    _host(name, base, host).revive()
    _done(name, base, host, as_json)


@lab.command()
@_lab_options
@click.argument("host")
@click.option("--from", "from_host", metavar="HOST", help="Cut only the connection with this host.")
@_json_option
def cut(name: str, base: Path | None, host: str, from_host: str | None, as_json: bool) -> None:
    """Pull a host's cable, or cut it from one other host.

    \b
    Example:
      drover lab cut h2
      drover lab cut h2 --from h1
    """
    _host(name, base, host).cut(from_host)
    _done(name, base, host, as_json)


@lab.command()
@_lab_options
@click.argument("host")
@_json_option
def heal(name: str, base: Path | None, host: str, as_json: bool) -> None:
    """Undo all cuts of a host.

    \b
    Example:
      drover lab heal h2
    """
    _host(name, base, host).heal()
    _done(name, base, host, as_json)


@lab.command()
@_lab_options
@click.argument("host")
@_json_option
def freeze(name: str, base: Path | None, host: str, as_json: bool) -> None:
    """Stop all processes of a host; its connections stay open.

    \b
    Example:
      drover lab freeze h2
    """
    _host(name, base, host).freeze()
    _done(name, base, host, as_json)


@lab.command()
@_lab_options
@click.argument("host")
@_json_option
def thaw(name: str, base: Path | None, host: str, as_json: bool) -> None:
    """Let a frozen host go on.

    \b
    Example:
      drover lab thaw h2
    """
    _host(name, base, host).thaw()
    _done(name, base, host, as_json)


@lab.command()
@_lab_options
@click.option("--into", multiple=True, metavar="HOST", help="Load into this host's engine (repeatable).")
@click.option("--all", "everywhere", is_flag=True, help="Load into every host's engine.")
@click.argument("images", nargs=-1)
@_json_option
def images(
    name: str, base: Path | None, into: tuple[str, ...], everywhere: bool, images: tuple[str, ...], as_json: bool
) -> None:
    """Build images without a registry: busybox, postgres, redis, nginx (default: all).

    They are kept in a cache. Without --into or --all nothing is loaded, only built.

    \b
    Example:
      drover lab images --all postgres
    """
    from drover.lab.images import RECIPES, archive, load

    chosen = _open(name, base) if into or everywhere else None
    hosts = [] if chosen is None else chosen.hosts if everywhere else [chosen.host(host) for host in into]
    made = {}
    for image in images or tuple(RECIPES):
        made[image] = str(archive(image, output.note))
        if not as_json:
            output.say(made[image])
        if hosts:
            load(Path(made[image]), hosts)
    if as_json:
        output.show_json({"archives": made, "loaded_into": [host.name for host in hosts]})


@lab.command()
@click.option("--name", default="demo", show_default=True, metavar="N", help="The lab it makes.")
@click.option(
    "--dir", "base", type=click.Path(path_type=Path), envvar="DROVER_LAB_DIR", help="Where labs keep their disks."
)
@click.option("--keep", is_flag=True, help="Do not remove the lab at the end.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the shop's run in this file (SVG).")
def demo(name: str, base: Path | None, keep: bool, picture: Path | None) -> int:
    """Show what a cluster of three hosts does, as it happens; about a minute and a half.

    Ends with an account of what was promised and measured, and with status 1 if a promise did not hold.

    \b
    Example:
      drover lab demo --keep
    """
    from drover.lab import DEFAULT_BASE
    from drover.lab.demo import play
    from drover.lab.story import Voice

    begin = time.monotonic()
    rows = play(Voice(output.say, output.title), name=name, base=base or DEFAULT_BASE, keep=keep, picture=picture)
    output.title("\nWhat was promised")
    output.show_table(
        ("", "PROMISE", "MEASURED"), [("PASS" if row.held else "FAIL", row.promise, row.figure) for row in rows]
    )
    broken = sum(not row.held for row in rows)
    output.say(f"\n{len(rows) - broken} of {len(rows)} promises held, {time.monotonic() - begin:.0f} s")
    return 1 if broken else 0
