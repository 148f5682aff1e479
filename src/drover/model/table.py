"""`Table`: the rows of one kind of record in a picture, and how it came from the tables before it.

Theory of operation. A picture copies each table that a commit changes, so who keeps something worked out from a table
has to find what is different in the next one. Comparing all rows would cost as much as working it out again. A table
remembers the last steps that led to it: which keys each step wrote, and the *mark* of the table that it was made from
(not that table itself, which would never be freed). `changed` goes back from the new table to the old one's mark; where
the way is longer than what is remembered, or leads elsewhere, it compares.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

STEPS = 64
KEYS = 1_000
"""Steps are forgotten, the oldest first, when they are more, or wrote more keys."""
Step = tuple[object, tuple[str, ...]]


class Table(dict[str, Any]):
    """Not changed once it is part of a picture."""

    __slots__ = ("mark", "steps")

    def __init__(self, rows: Mapping[str, Any]) -> None:
        super().__init__(rows)
        self.mark = object()
        self.steps: tuple[Step, ...] = ()

    def made_from(self, before: Mapping[str, Any], keys: Collection[str]) -> None:
        """It is `before` with other records under these keys."""
        if isinstance(before, Table):
            steps = (*before.steps[-STEPS + 1 :], (before.mark, tuple(keys)))
            while sum(len(written) for _, written in steps) > KEYS:
                steps = steps[1:]
            self.steps = steps


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys under which another record is now, or one or none where there was none or one; by identity."""
    if old is new:
        return []
    written = _written(old, new)
    if written is not None:
        return [key for key in written if old.get(key) is not new.get(key)]
    found = [key for key, record in new.items() if old.get(key) is not record]
    kept_or_gone = len(new) - sum(key not in old for key in found)
    return found if kept_or_gone == len(old) else found + [key for key in old if key not in new]


def _written(old: Mapping[str, Any], new: Mapping[str, Any]) -> Collection[str] | None:
    """The keys that were written on the way from one table to the other; None if it is not known."""
    if not isinstance(old, Table) or not isinstance(new, Table):
        return None
    written: dict[str, None] = {}
    for mark, keys in reversed(new.steps):
        written.update(dict.fromkeys(keys))
        if mark is old.mark:
            return written
    return None
