"""How a budget is measured, judged and shown; knows nothing of Docker.

Theory of operation. A `Side` is one way of doing a thing (Drover's, or a peer's as the bare engine) and returns a
figure. `interleaved` runs all sides in every round, in an order drawn anew, so that what else the machine does falls
on all of them; the first rounds are warm-up and thrown away. A `Row` compares the side under test with its peer:

    how         value                                   unit shown
    added       median(tested) - median(peer)           that of the figures
    ratio       median(tested) / median(peer)           x
    alone       median(tested); no peer                 that of the figures

The spread beside a value is the quartiles of the same comparison made round by round. A `Budget` says what the value
must be at most or at least; a row without one is for information. `Report` notes the load average before and after
each group: a figure is worth as much as the quiet it was taken in.
"""

from __future__ import annotations

import math
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from bench.plot import bars

Side = Callable[[], float]
How = Literal["added", "ratio", "alone"]
Verdict = Literal["kept", "missed", "not measured", "-"]


class Summary(msgspec.Struct, frozen=True):
    """Median and quartiles of `n` figures."""

    n: int
    q1: float
    median: float
    q3: float


class Budget(msgspec.Struct, frozen=True):
    """What a value must be: at most `limit`, or at least."""

    limit: float
    at_most: bool = True

    def keeps(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


class Row(msgspec.Struct, frozen=True):
    """One comparison. `tested` and `peer` are in `unit`; the budget is about `value`; `spread` is its quartiles."""

    what: str
    how: How
    unit: str
    tested: Summary
    peer: Summary | None
    value: float
    spread: tuple[float, float]
    budget: Budget | None = None
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.tested.n == 0:
            return "not measured"
        if self.budget is None:
            return "-"
        return "kept" if self.budget.keeps(self.value) else "missed"


class Block(msgspec.Struct, frozen=True):
    """A group's rows, how long they took, and the load average (one minute) when it began and when it ended.

    `failure`: why the group ended early, if it did.
    """

    group: str
    rows: list[Row]
    took_s: float
    load_before: float
    load_after: float
    failure: str = ""


def summary(figures: Sequence[float]) -> Summary:
    """Median and quartiles; those of a single figure are the figure."""
    if len(figures) == 1:
        return Summary(1, figures[0], figures[0], figures[0])
    q1, median, q3 = statistics.quantiles(figures, n=4, method="inclusive")
    return Summary(len(figures), q1, median, q3)


def timed(action: Callable[[], object], scale: float = 1.0) -> Side:
    """A side whose figure is how long `action` takes, in seconds times `scale` (1000: milliseconds)."""

    def side() -> float:
        begin = time.perf_counter()
        action()
        return (time.perf_counter() - begin) * scale

    return side


def interleaved(
    sides: Mapping[str, Side], rounds: int, *, warm_up: int = 1, chance: random.Random | None = None
) -> dict[str, list[float]]:
    """Every side's figures, one a round; each round's order is drawn from `chance`."""
    chance = chance or random.Random()
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-warm_up, rounds):
        for name in chance.sample(list(sides), len(sides)):
            figure = sides[name]()
            if turn >= 0:
                figures[name].append(figure)
    return figures


def added(what: str, unit: str, tested: Sequence[float], peer: Sequence[float], budget: Budget | None = None) -> Row:
    """What the tested side costs on top of its peer."""
    return _compared(what, "added", unit, tested, peer, lambda ours, theirs: ours - theirs, budget)


def ratio(what: str, unit: str, tested: Sequence[float], peer: Sequence[float], budget: Budget | None = None) -> Row:
    """The tested side as a multiple of its peer."""
    return _compared(what, "ratio", unit, tested, peer, lambda ours, theirs: ours / theirs, budget)


def alone(what: str, unit: str, figures: Sequence[float], budget: Budget | None = None, note: str = "") -> Row:
    """A figure without a peer."""
    found = summary(figures)
    return Row(what, "alone", unit, found, None, found.median, (found.q1, found.q3), budget, note)


def unmeasured(what: str, budget: Budget, unit: str, why: str) -> Row:
    """A budget without a figure: it stands in the table, and is not kept."""
    nothing = Summary(0, math.nan, math.nan, math.nan)
    return Row(what, "alone", unit, nothing, None, math.nan, (math.nan, math.nan), budget, why)


def _compared(
    what: str,
    how: How,
    unit: str,
    tested: Sequence[float],
    peer: Sequence[float],
    compare: Callable[[float, float], float],
    budget: Budget | None,
) -> Row:
    ours, theirs = summary(tested), summary(peer)
    by_round = summary([compare(one, other) for one, other in zip(tested, peer, strict=True)])
    value = compare(ours.median, theirs.median)
    return Row(what, how, unit, ours, theirs, value, (by_round.q1, by_round.q3), budget)


class Report:
    """The blocks so far, and where they are written: `report.json` and `report.txt` in `directory`."""

    def __init__(self, directory: Path, quick: bool, say: Callable[[str], None]) -> None:
        self.blocks: list[Block] = []
        self._directory = directory
        self._quick = quick
        self._say = say

    def measure(self, group: str, rows: Iterable[Row]) -> None:
        """Take a group's rows as they come, show each, and keep them; a group that fails costs only its own rows."""
        begin, load = time.monotonic(), os.getloadavg()[0]
        taken: list[Row] = []
        failure = ""
        try:
            for row in rows:
                taken.append(row)
                self._say(f"  {sentence(row)}")
        except Exception as error:
            failure = str(error) or type(error).__name__
            self._say(f"  {group} ended early: {failure}")
        took_s = time.monotonic() - begin
        self.blocks.append(Block(group, taken, took_s, load, os.getloadavg()[0], failure))
        self._write()

    @property
    def all_kept(self) -> bool:
        bad = ("missed", "not measured")
        return not any(block.failure or any(row.verdict in bad for row in block.rows) for block in self.blocks)

    @property
    def judged(self) -> list[Row]:
        """The rows that have a budget."""
        return [row for block in self.blocks for row in block.rows if row.budget is not None]

    def text(self) -> str:
        lines = table(self.blocks)
        counts = [row.verdict for block in self.blocks for row in block.rows]
        failed = "".join(f"\n{block.group} ended early: {block.failure}" for block in self.blocks if block.failure)
        kind = "quick: fewer rounds than a full run" if self._quick else "full run"
        told = ", ".join(f"{counts.count(one)} {one}" for one in ("kept", "missed", "not measured"))
        took_s = sum(block.took_s for block in self.blocks)
        return "\n".join(lines) + failed + f"\n{told} ({kind}; {took_s / 60:.1f} minutes)"

    def _write(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "report.txt").write_text(self.text() + "\n")
        (self._directory / "report.svg").write_text(picture(self.judged))
        (self._directory / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(self._record())))

    def _record(self) -> dict[str, object]:
        blocks = [{**msgspec.to_builtins(block), "rows": [_record(row) for row in block.rows]} for block in self.blocks]
        taken_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {"taken_at": taken_at, "cores": os.cpu_count(), "quick": self._quick, "blocks": blocks}


def _record(row: Row) -> dict[str, object]:
    return {**msgspec.to_builtins(row), "verdict": row.verdict}


# -- as a picture ------------------------------------------------------------------------------------------------------


def picture(rows: Sequence[Row]) -> str:
    """A bar for each budget: how much of it was used; what is beyond the line missed it."""
    shown = [(row.what[:62], used(row), f"{_valued(row, row.value)}, budget {_budget_text(row)}") for row in rows]
    named = [(what, share, said if share is not None else "not measured") for what, share, said in shown]
    return bars("Budgets: the line is the limit; shorter is better", named)


def used(row: Row) -> float | None:
    """The share of a budget that a value uses: 1 at the limit, more if it is missed. None: not measured."""
    if row.budget is None or row.tested.n == 0:
        return None
    limit, value = row.budget.limit, row.value
    if not row.budget.at_most:
        return limit / value if value > 0 else math.inf
    return max(0.0, value / limit) if limit else (0.0 if value <= 0 else math.inf)


# -- as text -----------------------------------------------------------------------------------------------------------

_TITLES = ("what", "Drover", "peer", "compared (quartiles)", "budget", "")


def table(blocks: Iterable[Block]) -> list[str]:
    """All rows in columns, each group under a line with its load."""
    cells = [[_cells(row) for row in block.rows] for block in blocks]
    every = [_TITLES, *(line for lines in cells for line in lines)]
    widths = [max(len(line[column]) for line in every) for column in range(len(_TITLES))]
    shown = [_aligned(_TITLES, widths)]
    for block, lines in zip(blocks, cells, strict=True):
        loads = f"load {block.load_before:.1f} before, {block.load_after:.1f} after"
        shown.append(f"{block.group} ({block.took_s:.0f} s; {loads})")
        shown += [_aligned(line, widths) for line in lines]
    return shown


def sentence(row: Row) -> str:
    """One row on a line of its own."""
    what, tested, peer, compared, budget, verdict = _cells(row)
    beside = f" against {peer}, {compared}" if row.peer else ""
    judged = f"; budget {budget}: {verdict}" if row.budget else ""
    note = f" ({row.note})" if row.note else ""
    return f"{what}: {tested}{beside}{judged}{note}"


def _cells(row: Row) -> tuple[str, ...]:
    tested = f"{_number(row.tested.median)} {row.unit}" if row.tested.n else ""
    peer = f"{_number(row.peer.median)} {row.unit}" if row.peer else ""
    verdict = row.verdict if row.budget else row.note
    verdict += f": {row.note}" if row.tested.n == 0 else ""
    return (row.what, tested, peer, _compared_text(row), _budget_text(row), verdict)


def _compared_text(row: Row) -> str:
    if row.tested.n <= 1:
        return ""
    low, high = row.spread
    return f"{_valued(row, row.value)} ({_valued(row, low)} to {_valued(row, high)}, n={row.tested.n})"


def _budget_text(row: Row) -> str:
    if row.budget is None:
        return ""
    return f"{'<=' if row.budget.at_most else '>='} {_valued(row, row.budget.limit)}"


def _valued(row: Row, value: float) -> str:
    """A value in the comparison's own unit."""
    if row.how == "ratio":
        return f"{value:.2f}x"
    return f"{value:+.2f} {row.unit}" if row.how == "added" else f"{_number(value)} {row.unit}"


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
