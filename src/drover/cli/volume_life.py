"""`drover volume rollback|clone|export|import|backup|backups|restore|leftovers`: what has an end to wait for."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import IO, Any

import click

from drover.cli import output
from drover.cli.client import PIECE_BYTES, Client, segment
from drover.cli.common import client, json_option
from drover.errors import Conflict, DroverError, Invalid, NotFound

POLL_S = 0.3
PROGRESS_S = 2.0
_UNITS_S = {"m": 60.0, "h": 3600.0, "d": 86400.0}
_detach = click.option("--detach", "-d", is_flag=True, help="Do not wait for the end.")


def _path(name: str) -> str:
    return f"/volumes/{segment(name)}"


@click.command()
@click.argument("name")
@click.argument("snapshot_id", metavar="ID")
@json_option
@click.pass_context
def rollback(ctx: click.Context, name: str, snapshot_id: str, as_json: bool) -> None:
    """Make a volume what it was. Its containers must be stopped; what it is now is kept as a snapshot.

    \b
    Example:
      drover volume rollback data 0000000001-001790000000000-before_upgrade
    """
    daemon = client(ctx)
    daemon.post(f"{_path(name)}/rollback", {"snapshot": snapshot_id})
    shown = _until_ready(daemon, name)
    said = f"volume {name} is as in {snapshot_id}; what it was is a snapshot: drover volume snapshots {name}"
    output.result(shown, said, as_json)


@click.command()
@click.argument("name")
@click.argument("new_name")
@click.option("--snapshot", "snapshot_id", default="", metavar="ID", help="Of this snapshot (default: as it is now).")
@click.option("--on", "host", default="", metavar="HOST", help="On this host (default: the volume's).")
@click.option("--read-only", is_flag=True, help="Nobody can write the new volume; it is not copied elsewhere.")
@json_option
@click.pass_context
def clone(
    ctx: click.Context, name: str, new_name: str, snapshot_id: str, host: str, read_only: bool, as_json: bool
) -> None:
    """Make a new volume with the content of another.

    The writer of the volume goes on. A clone on a host that keeps a copy is made there, at once; so containers on
    several hosts can read what one writes, each its own clone.

    \b
    Example:
      drover volume clone data data-test
      drover volume clone data data-report --on h2 --read-only
    """
    daemon = client(ctx)
    asked = {"name": new_name, "snapshot": snapshot_id, "host": host, "read_only": read_only}
    daemon.post(f"{_path(name)}/clone", asked)
    output.result(_until_ready(daemon, new_name), new_name, as_json)


# -- archives ----------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("name")
@click.option(
    "--output", "-o", "file", type=click.File("wb", atomic=True), default="-", help="A file (default: stdout)."
)
@click.option("--snapshot", "snapshot_id", default="", metavar="ID", help="Of this snapshot (default: as it is now).")
@click.pass_context
def export(ctx: click.Context, name: str, file: IO[bytes], snapshot_id: str) -> None:
    """Write a volume as a tar archive, from whatever host has it.

    \b
    Example:
      drover volume export data -o data.tar
      drover volume export data | zstd > data.tar.zst
    """
    if file is sys.stdout.buffer and sys.stdout.isatty():
        raise Invalid("an archive is nothing for a terminal", hint="use -o FILE, or a pipe")
    path = f"{_path(name)}/export" + (f"?snapshot={segment(snapshot_id)}" if snapshot_id else "")
    for piece in _counted(client(ctx).download(path), f"{name} exported"):
        file.write(piece)


@click.command("import")
@click.argument("name")
@click.argument("file", type=click.File("rb"), default="-")
@json_option
@click.pass_context
def import_volume(ctx: click.Context, name: str, file: IO[bytes], as_json: bool) -> None:
    """Make a new volume of a tar archive, on this host.

    If it breaks off, nothing is left but what you sent: import it again.

    \b
    Example:
      drover volume import data data.tar
      zstd -dc data.tar.zst | drover volume import data
    """
    pieces = iter(lambda: file.read(PIECE_BYTES), b"")
    made = client(ctx).upload(f"{_path(name)}/import", _counted(pieces, f"{name} imported"))
    output.result(made, name, as_json)


def _counted(pieces: Iterator[bytes], what: str) -> Iterator[bytes]:
    """The pieces, with a word on standard error now and then."""
    from drover.decide.sentences import size  # not at the top: `drover --help` must start fast

    total_bytes, said_at = 0, time.monotonic()
    for piece in pieces:
        yield piece
        total_bytes += len(piece)
        if time.monotonic() - said_at > PROGRESS_S:
            output.note(f"{what}: {size(total_bytes)}")
            said_at = time.monotonic()


# -- backups -----------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("name")
@click.option("--to", "repository", default="", metavar="PLACE", help="A directory on its host, or a URL: s3:https://…")
@click.option("--every", default=None, metavar="TIME", help="And again every 6h, 1d, …; 0: no more by itself.")
@click.option("--keep", type=click.IntRange(0), default=None, metavar="N", help="Keep the newest N (0: all).")
@click.option("--off", is_flag=True, help="Forget about backups of this volume; those made stay.")
@_detach
@json_option
@click.pass_context
def backup(
    ctx: click.Context,
    name: str,
    repository: str,
    every: str | None,
    keep: int | None,
    off: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """Back a volume up with restic: now, and on a schedule if there is one.

    The host that holds the volume makes the backup, from a snapshot. Its password (RESTIC_PASSWORD=…) and the keys of
    an S3 store are lines of the file backup.env in each host's state directory, and never in the cluster's records.

    \b
    Example:
      drover volume backup data --to /mnt/backups --every 1d --keep 7
      drover volume backup data --to s3:https://s3.example.com/bucket/drover
      drover volume backup data
    """
    daemon = client(ctx)
    asked = {"repository": repository, "every_s": _seconds(every), "keep": keep, "off": off, "now": not off}
    shown = daemon.post(f"{_path(name)}/backup", asked)
    if off:
        output.result(shown, f"volume {name} is not backed up any more", as_json)
    elif detach:
        output.result(shown, f"volume {name} is being backed up to {shown['backup']['repository']}", as_json)
    else:
        shown = _backed_up(daemon, name)
        output.result(shown, shown["backup"]["id"], as_json)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    number, factor = (text[:-1], _UNITS_S[text[-1]]) if text[-1:] in _UNITS_S else (text.removesuffix("s"), 1.0)
    try:
        return float(number) * factor
    except ValueError:
        raise Invalid(f"{text!r} is no time", hint="for instance 6h, or 1d") from None


def _backed_up(daemon: Client, name: str) -> dict[str, Any]:
    """The volume, when its new backup is made. Ctrl-C leaves it going on."""
    said, shown = "", daemon.get(_path(name))
    while (seen := shown["backup"]) is not None and seen["due"]:
        if seen["progress"] != said:
            said = seen["progress"]
            output.note(f"backing up {name}: {said}")
        time.sleep(POLL_S)
        shown = daemon.get(_path(name))
    if seen is None:
        raise Conflict(f"the backups of volume {name} were switched off meanwhile")
    if seen["failure"]:
        raise DroverError(f"volume {name} could not be backed up: {seen['failure']}", hint="put that right, and repeat")
    return dict(shown)


@click.command()
@click.argument("name")
@click.option("--from", "repository", default="", metavar="PLACE", help="Where (default: where it is backed up to).")
@json_option
@click.pass_context
def backups(ctx: click.Context, name: str, repository: str, as_json: bool) -> None:
    """List the backups of a volume, also of one that is no more.

    \b
    Example:
      drover volume backups data --from /mnt/backups
    """
    query = f"?repository={segment(repository)}" if repository else ""
    found = client(ctx).get(f"{_path(name)}/backups{query}")
    if as_json:
        output.show_json(found)
    else:
        output.show_table(("ID", "MADE"), [(one["id"], output.ago(one["at"])) for one in found])


@click.command()
@click.argument("name")
@click.option("--from", "repository", default="", metavar="PLACE", help="Where (default: where it is backed up to).")
@click.option("--id", "identity", default="", metavar="ID", help="This backup (default: the newest).")
@click.option("--of", "source", default="", metavar="VOLUME", help="The volume that was backed up, if of another name.")
@_detach
@json_option
@click.pass_context
def restore(
    ctx: click.Context, name: str, repository: str, identity: str, source: str, detach: bool, as_json: bool
) -> None:
    """Make a volume what a backup holds: a new volume, or one whose containers are stopped.

    What a volume that is there holds now is kept as a snapshot.

    \b
    Example:
      drover volume restore data
      drover volume restore data-of-monday --of data --from /mnt/backups --id 4f1c2a
    """
    daemon = client(ctx)
    shown = daemon.post(f"{_path(name)}/restore", {"repository": repository, "backup": identity, "source": source})
    output.result(shown if detach else _until_ready(daemon, name), name, as_json)


def _until_ready(daemon: Client, name: str) -> dict[str, Any]:
    """The volume that is being made anew, when it is ready; say what hinders. Ctrl-C leaves it going on."""
    said = ""
    shown: dict[str, Any] = {}
    try:
        while (shown := daemon.get(_path(name)))["filling"]:
            if shown["message"] and shown["message"] != said:
                said = shown["message"]
                output.note(f"volume {name}: {said}")
            time.sleep(POLL_S)
    except NotFound:
        raise DroverError(f"volume {name} could not be made: {said or 'it is gone again'}") from None
    return dict(shown)


# -- what is left ------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("name", required=False, default="")
@click.option("--drop", is_flag=True, help="Remove them.")
@click.option("--older-than", default="0", metavar="TIME", help="Only those older than 12h, 7d, …")
@json_option
@click.pass_context
def leftovers(ctx: click.Context, name: str, drop: bool, older_than: str, as_json: bool) -> None:
    """List what volumes were before a failover, a rollback or a restore; it is kept until you drop it.

    \b
    Example:
      drover volume leftovers
      drover volume leftovers data --drop --older-than 7d
    """
    daemon = client(ctx)
    before = time.time() - (_seconds(older_than) or 0.0)
    volumes = [daemon.get(_path(name))] if name else daemon.get("/volumes")
    found = [one | {"volume": volume["name"]} for volume in volumes for one in volume["leftovers"]]
    found = [one for one in found if one["taken_at"] < before]
    for one in found if drop else []:
        daemon.delete(f"{_path(one['volume'])}/snapshots/{segment(one['snapshot'])}")
    if as_json:
        output.show_json(found)
        return
    rows = [(one["volume"], one["host"], one["snapshot"], output.ago(one["taken_at"])) for one in found]
    output.show_table(("VOLUME", "HOST", "SNAPSHOT", "DROPPED, TAKEN" if drop else "TAKEN"), rows)


COMMANDS: tuple[click.Command, ...] = (rollback, clone, export, import_volume, backup, backups, restore, leftovers)
