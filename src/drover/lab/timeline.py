"""A run as one picture: requests over time, which host held the data at which epoch, and how far its copies lagged.

Theory of operation. `draw` is a pure function from what was measured to an SVG image; nothing is smoothed, and nothing
left out. From top to bottom, over one axis of seconds:

    panel       shows
    latency     a dot for each request, by how long its answer took (logarithmic); failed ones are marked on top
    gaps        a band where nothing was answered for longer than GAP_S, with its length
    holder      a bar for each host and epoch that held the volume
    lag         how old the newest copy on another host was
    events      a line through all panels, with its words
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

import msgspec

from drover.lab.shopper import Order

GAP_S = 1.0
WIDTH, LEFT, RIGHT = 1000, 70, 20
LATENCY_TOP, LATENCY_HEIGHT = 90, 150
HOLDER_TOP, HOLDER_HEIGHT = 270, 22
LAG_TOP, LAG_HEIGHT = 325, 60
HEIGHT = 425
FASTEST_S, SLOWEST_S = 0.005, 10.0
COLOURS = {"h1": "#4477aa", "h2": "#228833", "h3": "#aa3377"}
OTHER_COLOUR = "#777777"
_STYLE = "text{font:12px sans-serif;fill:#222} .small{font-size:10px;fill:#555} .title{font-size:15px;font-weight:bold}"


class Sample(msgspec.Struct, frozen=True):
    """The volume at one moment (`at`: seconds since the Unix epoch). `lag_s`: None where no copy is elsewhere."""

    at: float
    host: str
    epoch: int
    lag_s: float | None = None


class Event(msgspec.Struct, frozen=True):
    at: float
    words: str


class Run(msgspec.Struct, frozen=True):
    """What was measured, in the order of time."""

    orders: Sequence[Order]
    samples: Sequence[Sample]
    events: Sequence[Event]

    @property
    def span(self) -> tuple[float, float]:
        """Seconds since the Unix epoch of the first request's start and the last one's end."""
        return self.orders[0].at, self.orders[-1].answered_at


class Gap(msgspec.Struct, frozen=True):
    """From one acknowledged answer to the next, in seconds since the Unix epoch."""

    begin: float
    end: float

    @property
    def length_s(self) -> float:
        return self.end - self.begin


def gaps(orders: Iterable[Order], longer_than_s: float = GAP_S) -> list[Gap]:
    """The silences between acknowledged answers that were longer than so many seconds."""
    times = sorted(order.answered_at for order in orders if order.ok)
    found = itertools.starmap(Gap, itertools.pairwise(times))
    return [gap for gap in found if gap.length_s > longer_than_s]


def longest_gap_s(orders: Iterable[Order], begin: float, end: float) -> float:
    """The longest silence that ended between two moments; 0 if there was none."""
    return max((gap.length_s for gap in gaps(orders, 0.0) if begin <= gap.end <= end), default=0.0)


def draw(run: Run, title: str) -> str:
    """The picture, as the text of an SVG image. The run has at least one request."""
    view = _View(run)
    parts = (view.frame(title), view.gaps(), view.requests(), view.holders(), view.lag(), view.events())
    body = "\n".join(itertools.chain.from_iterable(parts))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    return f'{head}\n<style>{_STYLE}</style>\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def _box(x: float, y: float, width: float, height: float, colour: str, opacity: float = 1.0) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" '
        f'fill="{colour}" opacity="{opacity}"/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = "#cccccc", dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'


def tick_s(span_s: float) -> int:
    """Seconds between two marks of the axis: at most a dozen of them."""
    return next(step for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 3600) if span_s / step <= 12 or step == 3600)


class _View:
    """One run's scales; each method yields the elements of one panel."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._begin, self._end = run.span
        self._span_s = max(self._end - self._begin, 1e-3)

    def x(self, at: float) -> float:
        return LEFT + (at - self._begin) / self._span_s * (WIDTH - LEFT - RIGHT)

    def y(self, took_s: float) -> float:
        bounded = min(max(took_s, FASTEST_S), SLOWEST_S)
        share = math.log(bounded / FASTEST_S) / math.log(SLOWEST_S / FASTEST_S)
        return LATENCY_TOP + LATENCY_HEIGHT * (1 - share)

    def frame(self, title: str) -> Iterator[str]:
        yield _text(LEFT, 22, title, "title")
        for took_s, words in ((0.01, "10 ms"), (0.1, "100 ms"), (1.0, "1 s"), (10.0, "10 s")):
            yield _line(LEFT, self.y(took_s), WIDTH - RIGHT, self.y(took_s))
            yield _text(LEFT - 6, self.y(took_s) + 4, words, "small", "end")
        yield _text(LEFT - 6, HOLDER_TOP + 15, "data on", "small", "end")
        step = tick_s(self._span_s)
        for second in range(0, int(self._span_s) + 1, step):
            yield _text(self.x(self._begin + second), HEIGHT - 10, f"{second} s", "small", "middle")

    def gaps(self) -> Iterator[str]:
        for gap in gaps(self._run.orders):
            x, end = self.x(gap.begin), self.x(gap.end)
            yield _box(x, LATENCY_TOP, end - x, LATENCY_HEIGHT, "#dd4444", 0.18)
            yield _text((x + end) / 2, LATENCY_TOP + LATENCY_HEIGHT + 13, f"{gap.length_s:.2f} s", "small", "middle")

    def requests(self) -> Iterator[str]:
        for order in self._run.orders:
            colour = "#4477aa" if order.ok else "#dd2222"
            y = self.y(order.took_s) if order.ok else LATENCY_TOP
            yield f'<circle cx="{self.x(order.at):.1f}" cy="{y:.1f}" r="1.6" fill="{colour}"/>'

    def holders(self) -> Iterator[str]:
        groups = [list(found) for _, found in itertools.groupby(self._run.samples, lambda one: (one.host, one.epoch))]
        ends = [*(group[0].at for group in groups[1:]), self._end]
        for group, end in zip(groups, ends, strict=False):
            first = group[0]
            x = max(self.x(first.at), LEFT)
            yield _box(x, HOLDER_TOP, self.x(end) - x, HOLDER_HEIGHT, COLOURS.get(first.host, OTHER_COLOUR), 0.85)
            yield _text(x + 4, HOLDER_TOP + 15, f"{first.host}, epoch {first.epoch}").replace(
                "<text", '<text style="fill:white"'
            )

    def lag(self) -> Iterator[str]:
        known = [(one.at, one.lag_s) for one in self._run.samples if one.lag_s is not None]
        top_s = max([lag_s for _, lag_s in known] + [1.0])
        for seconds in (0.0, top_s):
            y = LAG_TOP + LAG_HEIGHT * (1 - seconds / top_s)
            yield _line(LEFT, y, WIDTH - RIGHT, y)
            yield _text(LEFT - 6, y + 4, f"{seconds:.1f} s", "small", "end")
        yield _text(LEFT - 6, LAG_TOP + LAG_HEIGHT / 2 + 4, "copy's age", "small", "end")
        points = " ".join(f"{self.x(at):.1f},{LAG_TOP + LAG_HEIGHT * (1 - lag_s / top_s):.1f}" for at, lag_s in known)
        yield f'<polyline points="{points}" fill="none" stroke="#aa6600"/>'

    def events(self) -> Iterator[str]:
        for number, event in enumerate(self._run.events):
            x, y = self.x(event.at), 44 + 14 * (number % 3)
            yield _line(x, y + 4, x, LAG_TOP + LAG_HEIGHT, "#888888", "3,3")
            near_end = x > WIDTH - 220
            yield _text(x - 4 if near_end else x + 4, y + 4, event.words, "small", "end" if near_end else "start")
