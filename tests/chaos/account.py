"""The account of all rounds that were played: what docs/reliability.md says of chaos, from the report's lines."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from tests.chaos import drawing

TITLES = (
    "fault",
    "rounds",
    "with a move",
    "promises broken",
    "writes lost within the lag",
    "oldest of them",
    "whole again after (median, most)",
)
BEGIN, END = "<!-- chaos -->", "<!-- /chaos -->"


class Played(Protocol):
    """A round's outcome, as far as the account needs it."""

    round: drawing.Round
    broken: list[str]
    lost: dict[str, int]
    took_s: float
    whole_s: float
    seed: int
    oldest_lost_s: float
    looks: int


def text(rounds: Sequence[Played]) -> str:
    """A table with a row per fault, and what broke, if anything did."""
    if not rounds:
        return "No round was played."
    by_fault: defaultdict[str, list[Played]] = defaultdict(list)
    for one in rounds:
        by_fault[one.round.fault].append(one)
    rows = ["| " + " | ".join(TITLES) + " |", "|---" + "|--:" * (len(TITLES) - 1) + "|"]
    rows += [_row(fault, by_fault[fault]) for fault in sorted(by_fault)]
    rows.append(_row("all", rounds))
    seeds = ", ".join(str(seed) for seed in sorted({one.seed for one in rounds}))
    looks = sum(one.looks for one in rounds)
    broken = [f"- seed {one.seed}, {one.round}: {line}" for one in rounds for line in one.broken]
    said = f"{len(rounds)} rounds, of seeds {seeds}; {looks:,} looks at all hosts' processes."
    return "\n".join([said, "", *rows, *(["", "Broken:", *broken] if broken else [])])


def _row(fault: str, rounds: Sequence[Played]) -> str:
    lost = sum(sum(one.lost.values()) for one in rounds)
    oldest = f"{max(one.oldest_lost_s for one in rounds):.1f} s" if lost else "-"
    whole = [one.whole_s for one in rounds]
    moves = sum(bool(one.round.moved) for one in rounds)
    broken = sum(bool(one.broken) for one in rounds)
    times = f"{statistics.median(whole):.0f} s, {max(whole):.0f} s"
    return f"| {fault} | {len(rounds)} | {moves} | {broken} | {lost} | {oldest} | {times} |"


def written(page: str, rounds: Sequence[Played]) -> str:
    """The page with the account between its marks. Raises `ValueError` if it has none."""
    before, found, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text(rounds)}\n{END}{after}"
