"""What the traces of one round prove. Pure: lines in, findings out.

Theory of operation. All hosts of a lab share the machine's clock, so traces of different hosts can be compared. Each
start of a container's process is an *instance* with a random name of its own.

    trace           written by                            a line
    writes          the process, after each write to      begun_s ended_s instance
                    the volume succeeded
    heard-WHAT-HOST a client on HOST, after each answer   asked_s answered_s instance

    finding              is
    a double writer      a write of one instance after the first write of a later one
    a duplicate holder   an answer by one instance to a question that was asked after a later one had answered
    recovery             from the fault until a client on another host heard the next instance
    silence              the longest time without an answer, which counts where the fault is announced
    the loss             from the last write that the next instance found to the last one before it began
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec


class Write(msgspec.Struct, frozen=True):
    """`at_s`: when it had succeeded; `begun_s` is what the journal has of it."""

    at_s: float
    instance: str
    begun_s: float = 0.0


class Heard(msgspec.Struct, frozen=True):
    asked_s: float
    answered_s: float
    instance: str


def writes(text: str, since_s: float) -> list[Write]:
    """The writes since then, in order of time. A line that was cut by a power cut counts for nothing."""
    rows = (line.split() for line in text.splitlines())
    whole = (row for row in rows if len(row) == 3 and _is_number(row[0]) and _is_number(row[1]))
    found = [Write(float(row[1]), row[2], float(row[0])) for row in whole]
    return sorted((one for one in found if one.at_s >= since_s), key=lambda one: one.at_s)


def heard(texts: Iterable[str], since_s: float) -> list[Heard]:
    """The answers to questions since then, of all clients given, in order of the answers."""
    rows = (line.split() for text in texts for line in text.splitlines())
    found = [Heard(float(row[0]), float(row[1]), row[2]) for row in rows if len(row) == 3 and _is_number(row[0])]
    return sorted((one for one in found if one.asked_s >= since_s), key=lambda one: one.answered_s)


def double_writes(found: Sequence[Write], shared: frozenset[float] = frozenset()) -> list[Write]:
    """The writes of instances that a later one had followed already. Times in `shared` are not looked at: two writes
    within one tick of the clock have no order."""
    begun: dict[str, float] = {}
    for one in found:
        begun.setdefault(one.instance, one.at_s)
    late = []
    for one in found:
        followed = any(first > begun[one.instance] and one.at_s > first for first in begun.values())
        if followed and one.at_s not in shared:
            late.append(one)
    return late


def duplicates(found: Sequence[Heard]) -> list[Heard]:
    """The answers by instances that a later one had followed already."""
    first: dict[str, float] = {}
    for one in found:
        first.setdefault(one.instance, one.answered_s)
    return [
        one
        for one in found
        if any(begun > first[one.instance] and one.asked_s > begun for other, begun in first.items() if other)
    ]


def recovery_s(found: Sequence[Heard], fault_s: float) -> float | None:
    """How long after the fault the next instance was heard; None if it was not."""
    before = {one.instance for one in found if one.answered_s < fault_s}
    after = (one.answered_s for one in found if one.answered_s > fault_s and one.instance not in before)
    return next((at_s - fault_s for at_s in after), None)


def silence_s(found: Sequence[Heard], fault_s: float) -> float:
    """The longest time between two answers that ended after the fault."""
    times = [one.answered_s for one in found]
    return max((late - early for early, late in pairwise(times) if late > fault_s), default=0.0)


def lost_s(found: Sequence[Write], journal: str, fault_s: float) -> float | None:
    """How much of what was written before the fault the journal lacks, in seconds of writing; infinite if it has none
    of it, None if nothing was written. `journal` has a line with the uptime of each write of any instance."""
    kept = [float(line) for line in journal.split() if _is_number(line) and float(line) <= fault_s]
    written = [one.begun_s for one in found if one.at_s <= fault_s]
    if not written:
        return None
    return max(0.0, written[-1] - kept[-1]) if kept else float("inf")


def percentile(figures: Sequence[float], share: float) -> float:
    """The smallest figure that at least `share` of them do not exceed."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 100) * len(ordered) // 100) - 1))]


def line(figures: Sequence[float]) -> str:
    """`2.1 / 2.4 / 3.0 / 3.1`: least, median, 95th percentile, most."""
    if not figures:
        return "-"
    marks = (min(figures), percentile(figures, 0.5), percentile(figures, 0.95), max(figures))
    return " / ".join(f"{mark:.1f}" for mark in marks)


def columns(rows: Sequence[Mapping[str, str]]) -> str:
    """A table, each column as wide as its widest cell."""
    heads = list(rows[0])
    widths = {head: max(len(head), *(len(row[head]) for row in rows)) for head in heads}
    lines = ["  ".join(head.ljust(widths[head]) for head in heads)]
    lines += ["  ".join(row[head].ljust(widths[head]) for head in heads) for row in rows]
    return "\n".join(one.rstrip() for one in lines)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
