"""`drover deploy`, `plan`, `scale`, `rollback` and `rm`: what changes applications, and following it to its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click

from drover.cli import output
from drover.cli.client import Client, segment
from drover.cli.common import client, json_option
from drover.errors import Conflict, DeadlineExceeded, Invalid, NotFound, Unavailable

POLL_S = 0.2
AWAY_S = 30.0
"""How long the daemon asked may not answer before following is given up (the deployment goes on)."""
TIMEOUT_S = 600.0

_MANIFEST_OPTIONS = (
    click.option("--file", "-f", "files", multiple=True, metavar="FILE", help="The manifest (repeat: later ones win)."),
    click.option("--name", default="", metavar="APP", help="The application's name (default: as Compose has it)."),
    click.option("--profile", "profiles", multiple=True, metavar="PROFILE", help="A profile to include (repeat)."),
    click.option("--env-file", "env_files", multiple=True, metavar="FILE", help="Variables for the manifest (repeat)."),
    click.option("--strict", is_flag=True, help="Fail if anything in the manifest is not honoured."),
)
_WAIT_OPTIONS = (
    click.option("--detach", "-d", is_flag=True, help="Do not wait for the end."),
    click.option(
        "--timeout", "timeout_s", type=float, default=TIMEOUT_S, show_default=True, metavar="SECONDS",
        help="How long to wait; the work goes on after it.",
    ),
)  # fmt: skip


def _with(options: tuple[Any, ...], command: Any) -> Any:
    for option in reversed(options):
        command = option(command)
    return json_option(command)


def manifest_options(command: Any) -> Any:
    return _with(_MANIFEST_OPTIONS, command)


def wait_options(command: Any) -> Any:
    return _with(_WAIT_OPTIONS, command)


@click.command()
@manifest_options
@click.option("--detach", "-d", is_flag=True, help="Do not wait for the end.")
@click.option(
    "--timeout", "timeout_s", type=float, default=TIMEOUT_S, show_default=True, metavar="SECONDS",
    help="How long to wait; the work goes on after it.",
)  # fmt: skip
@click.pass_context
def deploy(ctx: click.Context, /, strict: bool, detach: bool, timeout_s: float, as_json: bool, **asked: Any) -> None:
    """Run what a Compose file describes, and wait until it does.

    Run again, it changes what has changed, one container after the other; unchanged, it changes nothing. Ctrl-C stops
    the waiting, not the deployment.

    \b
    Example:
      drover deploy                          # compose.yaml, as application "directory's name"
      drover deploy -f shop.yaml --name shop --strict
    """
    name, body = _request(asked, strict)
    daemon = client(ctx)
    answer = daemon.post(f"/apps/{segment(name)}", body)
    _tell(answer)
    _finish(daemon, name, answer["changed"], detach=detach, timeout_s=timeout_s, as_json=as_json)


@click.command()
@manifest_options
@click.pass_context
def plan(ctx: click.Context, /, strict: bool, as_json: bool, **asked: Any) -> None:
    """Show what `drover deploy` would change, where, and why.

    \b
    Example:
      drover plan -f shop.yaml
    """
    name, body = _request(asked, strict)
    shown = client(ctx).post(f"/apps/{segment(name)}/plan", body)
    if as_json:
        output.show_json(shown)
        return
    _tell(shown)
    changes = [one for one in shown["entries"] if one["change"] != "keep" or one.get("why")]
    if shown["unchanged"]:
        output.say(f"{name}: nothing would change")
    if changes:
        output.show_table(("CHANGE", "WHAT", "NAME", "HOST", "WHY"), [_row(one) for one in changes])
    if any(one.get("impossible") for one in shown["entries"]):
        raise Conflict(f"not all of {name} can be deployed now", hint="see the lines with `cannot`")


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    change = f"cannot {entry['change']}" if entry.get("impossible") else entry["change"]
    return change, entry["kind"], entry["name"], entry.get("host", "") or "-", entry.get("why", "")


@click.command()
@click.argument("target", metavar="APP/SERVICE=N")
@wait_options
@click.pass_context
def scale(ctx: click.Context, /, target: str, detach: bool, timeout_s: float, as_json: bool) -> None:
    """Change how many containers a service has.

    The next `drover deploy` of the application sets it to what the manifest says.

    \b
    Example:
      drover scale shop/web=5
    """
    name, service, number = _scale_target(target)
    daemon = client(ctx)
    answer = daemon.post(f"/apps/{segment(name)}/scale", {"service": service, "replicas": number})
    _finish(daemon, name, answer["changed"], detach=detach, timeout_s=timeout_s, as_json=as_json)


def _scale_target(text: str) -> tuple[str, str, int]:
    path, equals, number = text.partition("=")
    name, slash, service = path.partition("/")
    if not (name and slash and service and equals and number.isdigit()):
        raise Invalid(f"{text!r} is not of the form APP/SERVICE=N", hint="for instance drover scale shop/web=5")
    return name, service, int(number)


@click.command()
@click.argument("app")
@wait_options
@click.pass_context
def rollback(ctx: click.Context, /, app: str, detach: bool, timeout_s: float, as_json: bool) -> None:
    """Bring back an application's services as they were before the last deployment.

    \b
    Example:
      drover rollback shop
    """
    daemon = client(ctx)
    answer = daemon.post(f"/apps/{segment(app)}/rollback")
    _finish(daemon, app, answer["changed"], detach=detach, timeout_s=timeout_s, as_json=as_json)


@click.command()
@click.argument("app")
@click.option("--volumes", is_flag=True, help="Remove its volumes too, with all data in them.")
@wait_options
@click.pass_context
def rm(ctx: click.Context, /, app: str, volumes: bool, detach: bool, timeout_s: float, as_json: bool) -> None:
    """Remove an application: its containers and networks.

    Volumes stay, unless --volumes is given.

    \b
    Example:
      drover rm shop
    """
    daemon = client(ctx)
    daemon.delete(f"/apps/{segment(app)}" + ("?volumes=1" if volumes else ""))
    if not detach:
        _await_gone(daemon, app, timeout_s, quiet=as_json)
    if as_json:
        output.show_json({"removed": app, "volumes": volumes})
    else:
        output.say(f"{app} is {'being ' if detach else ''}removed" + ("" if volumes else "; its volumes are kept"))


def _request(asked: dict[str, Any], strict: bool) -> tuple[str, dict[str, Any]]:
    from drover.cli.compose import Asked, request_of  # not at the top: `drover --help` must start fast

    name, body = request_of(Asked(**asked), strict)
    if not name:
        raise Invalid("the application has no name", hint="give one with --name")
    return name, body


def _tell(answer: dict[str, Any]) -> None:
    for text in answer["warnings"]:
        output.note(f"warning: {text}")
    for text in answer["notes"]:
        output.note(f"note: {text}")


def _finish(daemon: Client, name: str, changed: bool, *, detach: bool, timeout_s: float, as_json: bool) -> None:
    """Follow to the end unless told not to, and say what came of it. Raises what is missing."""
    shown = daemon.get(f"/apps/{segment(name)}") if detach else _followed(daemon, name, timeout_s, quiet=as_json)
    if as_json:
        output.show_json({**shown, "changed": changed})
    elif detach:
        output.say(f"{name} is being deployed" if changed else f"{name} is deployed like that already")
    else:
        total = sum(one["good"] for one in shown["services"])
        unchanged = "" if changed else "nothing has changed: "
        output.say(f"{unchanged}{name} is as the manifest says: {_counted(total, shown)}")


def _counted(total: int, shown: dict[str, Any]) -> str:
    from drover.decide.sentences import count

    return f"{count(total, 'container')} of {count(len(shown['services']), 'service')}"


def _followed(daemon: Client, name: str, timeout_s: float, quiet: bool) -> dict[str, Any]:
    """The application once it is as it shall be. Raises `Conflict` with what has failed, `DeadlineExceeded` with what
    is missing; Ctrl-C leaves the deployment going on, and says so."""
    said: set[str] = set()
    shown: dict[str, Any] = {}
    try:
        for shown in _looks(daemon, name, timeout_s):
            if not quiet:
                _progress(shown, said)
            if shown["state"] == "converged":
                return shown
            if shown["state"] == "failed":
                raise Conflict(
                    f"{name} is not as the manifest says: " + "; ".join(shown["failures"]),
                    hint=f"`drover app inspect {name}` shows every container, `docker logs` what one said",
                )
    except KeyboardInterrupt:
        output.note(f"the deployment goes on without you: `drover app inspect {name}` shows how far it is")
        raise click.Abort() from None
    raise DeadlineExceeded(
        f"after {timeout_s:g} s {name} is not as the manifest says: " + "; ".join(shown.get("missing", ())),
        hint=f"it goes on: `drover app inspect {name}`; or wait longer with --timeout",
    )


def _looks(daemon: Client, name: str, timeout_s: float) -> Iterator[dict[str, Any]]:
    """The application, again and again until the time is over; a daemon that is away for a moment is waited for."""
    start = seen_at = time.monotonic()
    while True:
        try:
            yield daemon.get(f"/apps/{segment(name)}")
            seen_at = time.monotonic()
        except Unavailable:
            if time.monotonic() - seen_at > AWAY_S:
                raise
        if time.monotonic() - start > timeout_s:
            return
        time.sleep(POLL_S)


def _progress(shown: dict[str, Any], said: set[str]) -> None:
    """A line for each thing that was not said before: what a container does, and what is waited for."""
    lines = [f"{one['name']} {one['says']}" for service in shown["services"] for one in service["containers"]]
    for line in [*lines, *shown["missing"]]:
        if line not in said:
            output.note(line)
            said.add(line)


def _await_gone(daemon: Client, name: str, timeout_s: float, quiet: bool) -> None:
    said: set[str] = set()
    try:
        for shown in _looks(daemon, name, timeout_s):
            if not quiet:
                _progress(shown, said)
    except NotFound:
        return
    except KeyboardInterrupt:
        output.note(f"{name} goes on being removed without you: `drover app ls` shows when it is gone")
        raise click.Abort() from None
    raise DeadlineExceeded(f"after {timeout_s:g} s {name} is not gone", hint=f"`drover app inspect {name}`")
