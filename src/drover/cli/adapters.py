"""`drover adapter`: the hooks on Docker calls: apply, roll back, watch, try."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

import click

from drover.cli import output
from drover.cli.client import segment
from drover.cli.common import client, json_option
from drover.errors import Invalid

_SHOWN_CHARACTERS = 100


@click.group()
def adapter() -> None:
    """Hook Docker calls: configure adapters, watch and test them.

    \b
    Example:
      drover adapter apply -f adapters.yml
      drover adapter ls
      drover adapter trace
    """


@adapter.command()
@click.option("-f", "--file", "source", type=click.File(), required=True, help="adapters.yml, or - for stdin.")
@json_option
@click.pass_context
def apply(ctx: click.Context, source: IO[str], as_json: bool) -> None:
    """Make a file the cluster's hooks, on every gateway at once.

    It is checked first; one with an error changes nothing. The configuration before it is kept.

    \b
    Example:
      drover adapter apply -f adapters.yml
    """
    applied = client(ctx).post("/adapters/config", {"text": source.read()})
    for warning in applied["warnings"]:
        output.note(f"warning: {warning}")
    output.result(applied, "applied; `drover adapter rollback` takes it back", as_json)


@adapter.command()
@json_option
@click.pass_context
def rollback(ctx: click.Context, as_json: bool) -> None:
    """Go back to the configuration before the last; once more comes back again.

    \b
    Example:
      drover adapter rollback
    """
    output.result(client(ctx).post("/adapters/rollback"), "rolled back; see `drover adapter show`", as_json)


@adapter.command()
@click.option("--previous", is_flag=True, help="Show the one that a rollback would make current.")
@json_option
@click.pass_context
def show(ctx: click.Context, previous: bool, as_json: bool) -> None:
    """Print the configuration, as it was applied.

    \b
    Example:
      drover adapter show > adapters.yml
    """
    found = client(ctx).get("/adapters/config?previous=1" if previous else "/adapters/config")
    output.result(found, found["text"].rstrip("\n"), as_json)


@adapter.command("ls")
@json_option
@click.pass_context
def list_adapters(ctx: click.Context, as_json: bool) -> None:
    """List adapters with what this host's gateway saw of them since its start.

    \b
    Example:
      drover adapter ls
    """
    found = client(ctx).get("/adapters")
    if as_json:
        output.show_json(found)
        return
    heads = ("NAME", "ADDRESS", "CALLS", "REFUSALS", "ERRORS", "P50", "P99", "LAST ERROR")
    output.show_table(heads, [_row(one) for one in found["adapters"]])


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    last = f"{output.ago(one['last_error_at'])}: {_short(one['last_error'])}" if one["last_error"] else "-"
    last = f"now: {_short(one['trouble'])}" if one["trouble"] else last
    numbers = [str(one[name]) for name in ("calls", "refusals", "errors")]
    times = [f"{one[name] * 1000:.1f} ms" for name in ("p50_s", "p99_s")]
    return (one["name"], one["url"] or one["image"], *numbers, *times, last)


@adapter.command()
@json_option
@click.pass_context
def trace(ctx: click.Context, as_json: bool) -> None:
    """Show hooks as they run on this host's gateway: which changed what; end with Ctrl-C.

    \b
    Example:
      drover adapter trace
    """
    for event in client(ctx).lines("/adapters/trace"):
        output.say(json.dumps(event, ensure_ascii=False) if as_json else trace_text(event))


def trace_text(event: Mapping[str, Any]) -> str:
    """One event as lines: what ran, then each field that changed."""
    if "lost" in event:
        return f"({event['lost']} events were lost: this reader is too slow)"
    first = (
        f"{event['trace_id']} {event['adapter']} {event['hook']} {event['method']} {event['target']}: "
        f"{event['outcome']} ({event['duration_s'] * 1000:.1f} ms)"
    )
    if event["error"]:
        first += f": {event['error']}"
    return "\n".join([first, *(change_text(change) for change in event["changes"])])


def change_text(change: Mapping[str, Any]) -> str:
    """`  Body.Env[0]: "A=1" -> "A=2"`; a field that came or went has one side only."""
    sides = [_short(json.dumps(change[side], ensure_ascii=False)) for side in ("before", "after") if side in change]
    sign = "" if len(sides) == 2 else "-" if "before" in change else "+"
    return f"  {sign}{change['field']}: {' -> '.join(sides)}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


@adapter.command()
@click.argument("name")
@click.option("-f", "--file", "source", type=click.File(), required=True, help="The call, as JSON; - for stdin.")
@json_option
@click.pass_context
def test(ctx: click.Context, name: str, source: IO[str], as_json: bool) -> None:
    """Ask one adapter about a made-up call: a dry run that reaches no engine.

    The file has Method, Request and Body, spelled as in the protocol; with ServerResponse it is a post-hook.

    \b
    Example:
      echo '{"Method": "POST", "Request": "/v1.41/containers/create", "Body": "{\\"Image\\": \\"nginx\\"}"}' |
        drover adapter test policy -f -
    """
    try:
        wish = json.load(source)
    except ValueError as error:
        raise Invalid(f"the file is not JSON: {error}", hint="see `drover adapter test --help`") from error
    shown = client(ctx).post(f"/adapters/{segment(name)}/test", wish)
    if as_json:
        output.show_json(shown)
        return
    output.say(f"{name}: {shown['outcome']}" + (f": {shown['error'].strip()}" if shown["error"] else ""))
    for change in shown["changes"]:
        output.say(change_text(change))
