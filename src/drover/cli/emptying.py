"""Following a host as it is emptied: one line for each thing whose state changes, until nothing will leave any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from drover.cli import output
from drover.errors import Conflict, Unavailable

POLL_S = 0.2
AWAY_S = 30.0
"""How long the daemon asked may not answer before following is given up (the work goes on)."""
BEGIN_S = 3.0
"""How long the leader may take to begin."""


def follow(
    look: Callable[[], dict[str, Any]], over: Callable[[dict[str, Any]], bool], *, quiet: bool
) -> dict[str, Any]:
    """Ask `look()` again and again until `over(answer)`; tells what changes, on stderr. Returns the last answer."""
    said: dict[str, str] = {}
    seen_at = time.monotonic()
    while True:
        try:
            shown, seen_at = look(), time.monotonic()
        except Unavailable:
            if time.monotonic() - seen_at > AWAY_S:
                raise
        else:
            if not quiet:
                _tell(shown["items"], said)
            if over(shown):
                return shown
        time.sleep(POLL_S)


def _tell(items: list[dict[str, Any]], said: dict[str, str]) -> None:
    now = {item["name"]: _line(item) for item in items}
    for name, line in now.items():
        if said.get(name) != line:
            output.note(f"{name}: {line}")
    for name in said.keys() - now.keys():
        output.note(f"{name}: has left")
    said.clear()
    said.update(now)


def _line(item: dict[str, Any]) -> str:
    return f"cannot leave: {item['says']}" if item["state"] == "stuck" else str(item["says"])


def settled() -> Callable[[dict[str, Any]], bool]:
    """True once nothing will leave any more; what nobody has begun with yet gets a moment."""
    begin_by = time.monotonic() + BEGIN_S

    def over(shown: dict[str, Any]) -> bool:
        return not shown["in_progress"] and (not shown["items"] or time.monotonic() > begin_by)

    return over


def refuse_left(host: str, items: list[dict[str, Any]], hint: str) -> None:
    """Raises `Conflict` with one reason for each thing that cannot leave."""
    if items:
        told = "; ".join(f"{item['name']}: {item['says']}" for item in items)
        raise Conflict(f"not everything has left {host}: {told}", hint=hint)
