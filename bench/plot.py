"""Small pictures of figures, as SVG text: panels of lines with both axes logarithmic, and bars against a limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import msgspec

COLOURS = ("#4477aa", "#ee6677", "#228833", "#997700", "#66ccee", "#aa3377", "#222222")
WIDTH, HEIGHT = 470, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 112, 30, 36
_FONT = 'font-family="sans-serif" font-size="11"'


class Panel(msgspec.Struct, frozen=True):
    """`lines`: name to (x, y) pairs, all above zero; `limit`: a value of y that is marked, with what it is."""

    title: str
    unit: str
    x_title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    limit: tuple[float, str] | None = None


def page(panels: Sequence[Panel], columns: int = 2) -> str:
    """The panels side by side."""
    rows = -(-len(panels) // columns)
    width, height = columns * WIDTH, rows * HEIGHT
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {_FONT}>']
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    for number, panel in enumerate(panels):
        at = (number % columns * WIDTH, number // columns * HEIGHT)
        parts += [f'<g transform="translate({at[0]},{at[1]})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    limits = [panel.limit[0]] if panel.limit else []
    left, right = (math.log10(edge(x for x, _ in points)) for edge in (min, max))
    low = math.floor(math.log10(min([y for _, y in points] + limits)))
    high = max(math.ceil(math.log10(max([y for _, y in points] + limits))), low + 1)

    def x(value: float) -> float:
        return _LEFT + (math.log10(value) - left) / max(right - left, 1e-9) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (math.log10(value) - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    parts = [f'<text x="{_LEFT}" y="16" font-weight="bold">{escape(panel.title)}</text>']
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<line x1="{_LEFT}" y1="{at:.0f}" x2="{WIDTH - _RIGHT}" y2="{at:.0f}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 5, at + 4, f"{10.0**power:g} {panel.unit}", "end"))
    for value in sorted({x for x, _ in points}):
        parts.append(_text(x(value), HEIGHT - 20, _short(value), "middle"))
    parts.append(_text((WIDTH - _RIGHT + _LEFT) / 2, HEIGHT - 5, panel.x_title, "middle"))
    if panel.limit:
        at = y(panel.limit[0])
        style = 'stroke="#cc3311" stroke-dasharray="5 3"'
        parts.append(f'<line x1="{_LEFT}" y1="{at:.0f}" x2="{WIDTH - _RIGHT}" y2="{at:.0f}" {style}/>')
        parts.append(_text(_LEFT + 4, at - 4, panel.limit[1], "start", "#cc3311"))
    return parts + _lines(panel, x, y)


def _lines(panel: Panel, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    """The lines, each with its name at its end, moved apart where they would lie on each other."""
    parts: list[str] = []
    taken: list[float] = []
    for (name, line), colour in zip(panel.lines.items(), COLOURS, strict=False):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        at = y(line[-1][1]) + 4
        while any(abs(at - other) < 12 for other in taken):
            at += 4
        taken.append(at)
        parts.append(_text(WIDTH - _RIGHT + 5, at, name, "start", colour))
    return parts


def bars(title: str, rows: Sequence[tuple[str, float | None, str]]) -> str:
    """One bar for each row: (name, value as a share of its limit, what is written beside it); 1 is the limit, and what
    is above it missed it. None: not measured."""
    top, line, left, full = 34, 18, 380, 300
    width, height = left + full + 260, top + line * len(rows) + 12
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {_FONT}>']
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    parts.append(f'<text x="10" y="18" font-weight="bold">{escape(title)}</text>')
    limit = left + full / 2
    for number, (name, share, said) in enumerate(rows):
        at = top + number * line
        parts.append(_text(left - 6, at + 11, name, "end"))
        if share is not None:
            colour = "#228833" if share <= 1 else "#cc3311"
            length = max(1.0, min(share, 2.0) * full / 2)
            parts.append(f'<rect x="{left}" y="{at}" width="{length:.0f}" height="13" fill="{colour}"/>')
        parts.append(_text(left + full + 8, at + 11, said, "start"))
    parts.append(f'<line x1="{limit}" y1="{top - 6}" x2="{limit}" y2="{height - 8}" stroke="#222"/>')
    return "\n".join([*parts, "</svg>\n"])


def _text(x: float, y: float, said: str, anchor: str, colour: str = "#222") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}">{escape(said)}</text>'


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
