"""`drover move`, and what it shares with `drover volume move`: following a move to its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from drover.cli import output
from drover.cli.client import Client, segment
from drover.cli.common import client, json_option
from drover.errors import Conflict, DroverError, Unavailable

POLL_S = 0.2
AWAY_S = 30.0
"""How long the daemon asked may not answer before following is given up (the move goes on)."""

_OPTIONS = (
    click.option("--to", "target", required=True, metavar="HOST", help="Where to."),
    click.option(
        "--limit", "limit_mib_s", type=float, default=0.0, metavar="MIB", help="At most so many MiB per second."
    ),
    click.option("--compress", is_flag=True, help="Compress on the wire: for slow links."),
    click.option("--detach", "-d", is_flag=True, help="Do not wait for the end."),
)


def move_options(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return json_option(command)


@click.command()
@click.argument("container")
@move_options
@click.option("--without-layer", is_flag=True, help="Leave behind what it wrote outside its volumes.")
@click.option("--without-log", is_flag=True, help="Leave its log behind.")
@click.pass_context
def move(ctx: click.Context, /, container: str, without_layer: bool, without_log: bool, **options: Any) -> None:
    """Move a container, with its volumes, to another host.

    Data is copied while the container runs; then it stops, the rest is copied, and it starts on the other host under
    its address. What it wrote outside its volumes and its log go along. New connections to it wait meanwhile. Ctrl-C
    before the hand-over leaves it running where it was.

    \b
    Example:
      drover move db --to h2
    """
    leave = [part for part, left in (("layer", without_layer), ("log", without_log)) if left]
    start_and_follow(client(ctx), f"/containers/{segment(container)}/move", leave=leave, **options)


def start_and_follow(
    daemon: Client,
    path: str,
    *,
    target: str,
    limit_mib_s: float,
    compress: bool,
    detach: bool,
    as_json: bool,
    leave: Sequence[str] = (),
) -> None:
    """Begin a move and follow it. Raises what refused it, or why it was aborted."""
    body = {"target": target, "limit_bytes_s": int(limit_mib_s * 2**20), "compress": compress, "leave": list(leave)}
    shown = daemon.post(path, body)
    if not detach:
        shown = _followed(daemon, shown, quiet=as_json)
    if as_json:
        output.show_json(shown)
    elif detach:
        output.say(f"{shown['name']} is on its way from {shown['source']} to {shown['target']}")
    else:
        output.say(_summary(shown))


def _followed(daemon: Client, shown: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """The move at its end. Ctrl-C cancels it, if that is still possible, and is passed on."""
    try:
        shown = _wait(daemon, shown, quiet)
    except KeyboardInterrupt:
        _cancel(daemon, shown, quiet)
        raise click.Abort() from None
    if shown["phase"] == "aborted":
        raise Conflict(
            f"{shown['name']} was not moved: {shown['why']}", hint=f"it is on {shown['source']}, as it was before"
        )
    return shown


def _wait(daemon: Client, shown: dict[str, Any], quiet: bool) -> dict[str, Any]:
    said, seen_at = "", time.monotonic()
    while shown["phase"] not in ("done", "aborted"):
        time.sleep(POLL_S)
        try:
            shown, seen_at = daemon.get(f"/moves/{segment(shown['key'])}"), time.monotonic()
        except Unavailable:
            if time.monotonic() - seen_at > AWAY_S:
                raise
        line = progress_line(shown)
        if line != said and not quiet:
            output.note(line)
        said = line
    return shown


def _cancel(daemon: Client, shown: dict[str, Any], quiet: bool) -> None:
    try:
        daemon.delete(f"/moves/{segment(shown['key'])}")
        ended = _wait(daemon, shown, quiet=True)
        output.note(f"cancelled: {ended['name']} is on {ended['source']}, as it was before")
    except DroverError as error:
        output.note(f"not cancelled: {error.message}")


def progress_line(shown: dict[str, Any]) -> str:
    """`copying to h2, round 1: 312 MiB, 98 MiB/s, 7 s left`; what happens, in the other phases."""
    from drover.decide.sentences import size  # not at the top: `drover --help` must start fast

    if shown["phase"] != "copying":
        sentences = {
            "stopping": f"stopping on {shown['source']}",
            "stopped": "copying what came last",
            "handed": f"starting on {shown['target']}",
            "aborting": f"going back to how it was: {shown['why']}",
        }
        return sentences.get(shown["phase"], str(shown["phase"]))
    if not shown["rounds"]:
        return f"preparing {shown['target']}"
    parts = [size(shown["moved_bytes"])]
    if shown["rate_bytes_s"] > 0:
        parts.append(f"{size(int(shown['rate_bytes_s']))}/s")
    if shown["left_s"] > 0:
        parts.append(f"{shown['left_s']:.0f} s left")
    return f"copying to {shown['target']}, round {shown['rounds']}: {', '.join(parts)}"


def _summary(shown: dict[str, Any]) -> str:
    from drover.decide.sentences import count, size

    took_s = shown["ended_at"] - shown["started_at"]
    text = f"{shown['name']} is on {shown['target']} now: {size(shown['moved_bytes'])} in {took_s:.1f} s"
    text += f", {count(shown['rounds'], 'round')}"
    if shown["container"] and shown["stopped_at"]:
        down_s = shown["ended_at"] - shown["stopped_at"]
        text += f"; {size(shown['last_bytes'])} of it while it stood still, {down_s:.2f} s from stop to start"
    return text
