"""The few phrases that every explanation shares: sizes, instants, names."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from drover.model.cluster import Cluster

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(number_bytes: int) -> str:
    """`536870912` as `512 MiB`: at most one decimal, in the largest unit that gives 1 or more."""
    value, unit = float(number_bytes), 0
    while abs(value) >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{_short(value, 1)} {_UNITS[unit]}"


def cores(nano_cpus: int) -> str:
    """`1500000000` as `1.5 CPUs`."""
    text = _short(nano_cpus / 1e9, 3)
    return f"{text} CPU" if text == "1" else f"{text} CPUs"


def count(number: int, noun: str) -> str:
    """`1 container`, `3 containers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def instant(at_s: float) -> str:
    """Seconds since the Unix epoch as `2026-01-31 12:03:04 UTC`."""
    return datetime.fromtimestamp(at_s, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def container_name(cluster: Cluster, container: str) -> str:
    """The container's name, or its short id if its record is gone."""
    record = cluster.containers.get(container)
    return record.name if record is not None else container[:12]


def listed(pairs: Iterable[tuple[str, str]], limit: int) -> str:
    """`h1: reason; h2: reason; and 3 more`: at most `limit` pairs are written out."""
    texts = [f"{name}: {text}" for name, text in pairs]
    more = [f"and {len(texts) - limit} more"] if len(texts) > limit else []
    return "; ".join(texts[:limit] + more)


def _short(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")
