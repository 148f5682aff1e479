"""A history: a cluster, what people ask of it, and what befalls it: values that a seed draws and a file can hold.

Times are seconds of virtual time since the cluster stands. A fault has its end in it (`for_s`), so that leaving an
event out leaves out all of it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from drover.errors import Invalid


class Shape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`members`: how many hosts run the store (0: it is elsewhere). `scale`: how much longer than 4 s a lease is."""

    hosts: int = 3
    members: int = 0
    scale: float = 1.0


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that begins at `at`. `kind` is one of `faults.KINDS` or of `workload.KINDS`, `what` and `other` are
    what it is about; `body` is a create call's."""

    at: float
    kind: str
    host: str = ""
    what: str = ""
    other: str = ""
    for_s: float = 0.0
    body: dict[str, object] = {}


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`heal_at`: when all faults end. `found`: what went wrong when it was written down."""

    seed: int
    shape: Shape
    heal_at: float
    events: tuple[Event, ...]
    found: str = ""


def to_json(history: History) -> bytes:
    return msgspec.json.format(msgspec.json.encode(history, order="deterministic"), indent=1) + b"\n"


def from_file(path: Path) -> History:
    """Raises `Invalid` if the file holds no history."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=History)
    except (OSError, msgspec.MsgspecError) as error:
        raise Invalid(f"{path} holds no history: {error}", hint="`drover sim` writes them") from error
