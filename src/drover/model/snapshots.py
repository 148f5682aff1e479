"""Snapshot ids: which claim, when, and what for.

    0000000003-001700000000123            taken by Drover (a move, a replica): kept as long as it is needed
    0000000003-001700000000123-nightly    taken by a person, who also removes it

The first number is the epoch of the claim under which the content was written, the second the time in milliseconds
since the Unix epoch. Ids of one volume therefore sort by age, whatever host took them: only the holder of the claim
takes snapshots, and its time never goes back (`next_id`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from drover.errors import Invalid

_ID = re.compile(r"(\d{10})-(\d{15})(?:-([a-zA-Z0-9][a-zA-Z0-9_.]{0,63}))?")
_LABEL = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.]{0,63}")


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def next_id(known: Iterable[str], epoch: int, now: float, label: str = "") -> str:
    """A new id, greater than all known ones of this epoch. `now`: seconds since the Unix epoch.

    Raises `Invalid` for a label that cannot be part of a file's name.
    """
    if label and not _LABEL.fullmatch(label):
        raise Invalid(f"{label!r} cannot be a snapshot's name", hint="use letters, digits, `_` and `.`, at most 64")
    newest_ms = max((_taken_ms(one) for one in known if epoch_of(one) == epoch), default=0)
    text = f"{epoch:010}-{max(int(now * 1000), newest_ms + 1):015}"
    return f"{text}-{label}" if label else text


def epoch_of(snapshot: str) -> int:
    return int(_parts(snapshot)[0])


def taken_at(snapshot: str) -> float:
    """When it was taken, in seconds since the Unix epoch, by the clock of the host that took it."""
    return _taken_ms(snapshot) / 1000


def label_of(snapshot: str) -> str:
    """The name a person gave it; empty for those that Drover takes for itself."""
    return _parts(snapshot)[2] or ""


def _taken_ms(snapshot: str) -> int:
    return int(_parts(snapshot)[1])


@lru_cache(maxsize=16_384)
def _parts(snapshot: str) -> tuple[str, str, str | None]:
    found = _ID.fullmatch(snapshot)
    if found is None:
        raise Invalid(f"{snapshot!r} is no snapshot id", hint="`drover volume snapshots VOLUME` lists them")
    return found[1], found[2], found[3]
