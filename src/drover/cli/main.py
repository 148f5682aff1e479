"""`drover`: the table of its commands, and the one place where errors become exit codes.

Commands are imported when they are run: `drover --help` imports click and nothing else. So the table repeats each
command's first line of help; a test compares them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from drover import __version__
from drover.cli import output
from drover.errors import DroverError

INTERRUPTED = 130

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("drover.cli.init:init", "Make this machine the first host of a new cluster."),
    "join": ("drover.cli.join:join", "Make this machine a host of an existing cluster."),
    "leave": ("drover.cli.leave:leave", "Take this machine out of its cluster."),
    "status": ("drover.cli.status:status", "Show the cluster as this host sees it."),
    "host": ("drover.cli.hosts:host", "List, inspect, label, drain and remove hosts."),
    "cluster": ("drover.cli.cluster:cluster", "Recover the cluster's store."),
    "token": ("drover.cli.tokens:token", "Create, list and remove join tokens."),
    "deploy": ("drover.cli.deploy:deploy", "Run what a Compose file describes, and wait until it does."),
    "plan": ("drover.cli.deploy:plan", "Show what `drover deploy` would change, where, and why."),
    "app": ("drover.cli.apps:app", "List and inspect applications."),
    "scale": ("drover.cli.deploy:scale", "Change how many containers a service has."),
    "rollback": (
        "drover.cli.deploy:rollback",
        "Bring back an application's services as they were before the last deployment.",
    ),
    "rm": ("drover.cli.deploy:rm", "Remove an application: its containers and networks."),
    "adapter": ("drover.cli.adapters:adapter", "Hook Docker calls: configure adapters, watch and test them."),
    "move": ("drover.cli.move:move", "Move a container, with its volumes, to another host."),
    "volume": ("drover.cli.volumes:volume", "List, inspect, change and move volumes."),
    "network": ("drover.cli.networks:network", "List networks, and show who is where on them."),
    "address": ("drover.cli.addresses:address", "List addresses of containers, and release those that are kept."),
    "why": ("drover.cli.status:why", "Say why a container is where it is."),
    "rebalance": ("drover.cli.rebalance:rebalance", "Move containers so that the load is even again."),
    "events": (
        "drover.cli.events:events",
        "Show what happened in the cluster: hosts lost and back, moves, promotions, alarms.",
    ),
    "doctor": ("drover.cli.doctor:doctor", "Compare what is with what should be."),
    "daemon": ("drover.cli.daemon:daemon", "Run this host's daemon in the foreground."),
    "sim": ("drover.cli.sim:sim", "Play a cluster's life in a simulated world, every promise checked."),
    "lab": ("drover.cli.lab:lab", "Run many real Docker hosts on this one machine."),
    "completion": ("drover.cli.completion:completion", "Print a shell's completion script."),
}


class LazyGroup(click.Group):
    """A group whose commands are named in a table and imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run, and leave with the error's own exit code; Ctrl-C leaves with 130."""
        extra.pop("standalone_mode", None)
        raise SystemExit(_run(super().main, args, prog_name or "drover", extra))


def _run(run: Any, args: Sequence[str] | None, prog_name: str, extra: dict[str, Any]) -> int:
    try:
        done = run(args=args, prog_name=prog_name, standalone_mode=False, **extra)
        return done if isinstance(done, int) else 0
    except click.Abort:
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        output.note(error.format_message())
        return error.exit_code
    except click.ClickException as error:
        output.show_error(error.format_message(), _usage_hint(error))
        return error.exit_code
    except DroverError as error:
        output.show_error(error.message, error.hint)
        return error.exit_code


def _usage_hint(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"see `{context.command_path} --help`" if context else ""


@click.group(
    "drover", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "-H",
    "--host",
    default="",
    metavar="URL",
    help="The daemon to talk to (default: $DROVER_HOST, or unix:///run/drover/drover.sock).",
)
@click.version_option(__version__, prog_name="drover", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, host: str) -> None:
    """Several Docker hosts behave as one Docker.

    \b
    Example:
      drover init                          # this machine is a cluster of one host
      drover token create                  # prints what the next host needs
      drover join 192.0.2.1 --token TOKEN  # on the next host
      docker -H unix:///run/drover/docker.sock run -d nginx
    """
    ctx.obj = host
