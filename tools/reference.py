"""Writes docs/reference.md from the code: commands, exit codes, endpoints, converge's table. `make docs` runs it.

python tools/reference.py           write the file
python tools/reference.py --check   exit 1 if the file is not what would be written
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from drover import errors
from drover.cli.main import COMMANDS, LazyGroup
from drover.decide import converge, health, steps
from drover.gateway.routes import ROUTES

TARGET = Path(__file__).resolve().parents[1] / "docs/reference.md"


def reference() -> str:
    parts = ["# Reference", "Drawn from the code by `make docs`.", "## Commands", *_commands()]
    parts += ["## Errors", *_errors(), "## Docker endpoints", *_endpoints()]
    parts += ["## What a host does next", _table_of(converge), "## Steps", _table_of(steps)]
    parts += ["## When a host is usable", _table_of(health)]
    return "\n\n".join(parts) + "\n"


def _commands() -> Iterator[str]:
    group = LazyGroup("drover")
    top = click.Context(group, info_name="drover")
    for name in COMMANDS:
        command = group.get_command(top, name)
        if command is not None:
            yield from _command(command, click.Context(command, info_name=name, parent=top))


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"### `{context.command_path}`\n\n```\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _command(child, click.Context(child, info_name=name, parent=context))


def _errors() -> Iterator[str]:
    yield "Each kind of error has an exit code for shells and an HTTP status for clients."
    yield _table_of(errors)


def _endpoints() -> Iterator[str]:
    yield "All calls of the Docker Engine API that the cluster answers. The name is what logs and hooks call them."
    rows = [f"| {route.method} | `{route.template}` | {route.endpoint} |" for route in ROUTES]
    yield "\n".join(["| method | path | name |", "|---|---|---|", *rows])


def _table_of(module: object) -> str:
    """A module's theory of operation, as it stands there."""
    return f"```\n{inspect.getdoc(module) or ''}\n```"


def main() -> int:
    text = reference()
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.exists() and TARGET.read_text() == text else 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
