"""`drover completion`: the shell's own script that asks drover for completions."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from drover.cli import output
from drover.errors import Invalid


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a shell's completion script.

    \b
    Example:
      drover completion bash > /etc/bash_completion.d/drover
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise Invalid(f"no completion for {shell}", hint="use bash, zsh or fish")
    output.say(kind(ctx.find_root().command, {}, "drover", "_DROVER_COMPLETE").source())
