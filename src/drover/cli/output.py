"""The only place that prints: tables like Docker's, JSON, sentences; errors on stderr with their hint."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

GAP = "   "


def say(text: str) -> None:
    click.echo(text)


def title(text: str) -> None:
    """A line that stands out on a terminal; plain text elsewhere."""
    click.echo(click.style(text, bold=True))


def note(text: str) -> None:
    """Something to know that is no result: on stderr, so that results can be piped."""
    click.echo(text, err=True)


def show_json(data: Any) -> None:
    import json  # not at the top: `drover --help` imports this module

    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def result(answer: Any, sentence: str, as_json: bool) -> None:
    """What a command did: the daemon's answer, or a sentence."""
    if as_json:
        show_json(answer)
    else:
        say(sentence)


def show_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns padded to their widest cell, upper-case heads, no lines: as `docker ps` does."""
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        click.echo(GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_facts(facts: Mapping[str, str]) -> None:
    """One `Name:  value` per line, values aligned."""
    width = max(map(len, facts)) + 1
    for name, value in facts.items():
        click.echo(f"{name + ':':<{width}} {value}".rstrip())


def show_error(message: str, hint: str = "") -> None:
    """`drover: SENTENCE`, then the hint."""
    click.echo(f"drover: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)


def ago(at: float, now: float | None = None) -> str:
    """How long ago a moment (seconds since the epoch) was, in one unit; `-` for never."""
    from drover.trust.token import duration  # not at the top: `drover --help` imports this module

    return "-" if not at else f"{duration((time.time() if now is None else now) - at)} ago"


def labels(pairs: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(pairs.items()))
