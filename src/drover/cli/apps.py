"""`drover app`: what is deployed, and how it does."""

from __future__ import annotations

from typing import Any

import click

from drover.cli import output
from drover.cli.client import segment
from drover.cli.common import client, json_option


@click.group()
def app() -> None:
    """List and inspect applications.

    \b
    Example:
      drover app ls
      drover app inspect shop
    """


@app.command("ls")
@json_option
@click.pass_context
def ls(ctx: click.Context, /, as_json: bool) -> None:
    """List applications.

    \b
    Example:
      drover app ls
    """
    shown = client(ctx).get("/apps")
    if as_json:
        output.show_json(shown)
        return
    output.show_table(("NAME", "STATE", "SERVICES", "CONTAINERS", "DEPLOYED"), [_row(one) for one in shown])


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    containers = f"{one['good']}/{one['wanted']}"
    return one["name"], one["state"], str(one["services"]), containers, output.ago(one["deployed_at"])


@app.command()
@click.argument("name", metavar="APP")
@json_option
@click.pass_context
def inspect(ctx: click.Context, /, name: str, as_json: bool) -> None:
    """Show an application: every container, what is missing, and why.

    \b
    Example:
      drover app inspect shop
    """
    shown = client(ctx).get(f"/apps/{segment(name)}")
    if as_json:
        output.show_json(shown)
        return
    output.show_facts({"Application": name, "State": shown["state"], "Deployed": output.ago(shown["deployed_at"])})
    for text in [*shown["failures"], *shown["missing"]]:
        output.say(f"  {text}")
    for service in shown["services"]:
        _show_service(service)
    for text in shown["warnings"]:
        output.say(f"warning: {text}")


def _show_service(service: dict[str, Any]) -> None:
    output.say("")
    output.title(f"{service['name']} ({service['mode']}, {service['image']}): {service['good']}/{service['wanted']}")
    rollout = service.get("rollout") or {}
    if rollout:
        output.say(f"last update: {rollout.get('state', 'updating')} {rollout.get('why', '')}".rstrip())
    rows = [(one["name"], one["host"] or "-", one["state"], one["says"]) for one in service["containers"]]
    if rows:
        output.show_table(("NAME", "HOST", "STATE", "SAYS"), rows)
    if service["schedule"]:
        output.say(f"schedule: {service['schedule']}")
    if service["runs"]:
        output.show_table(("DUE", "STARTED", "ENDED", "RESULT"), [_run(one) for one in service["runs"]])


def _run(run: dict[str, Any]) -> tuple[str, ...]:
    from drover.decide.sentences import instant

    return instant(run["due_at"]), run.get("started_at") or "-", run.get("finished_at") or "-", run["says"]
