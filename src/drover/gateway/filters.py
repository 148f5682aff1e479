"""Docker's `filters` parameter: read, changed, written again, and matched where the gateway itself must.

    form on the wire                          read as
    {"label": ["a=b", "c"]}  (old clients)    {"label": ["a=b", "c"]}
    {"label": {"a=b": true}}                  {"label": ["a=b"]}
    empty or absent                           {}

Values of one filter are alternatives, except those of `label`, which must all hold; filters must all hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from drover.errors import Invalid
from drover.wire.nesting import MALFORMED

Filters = dict[str, list[str]]

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")


def parse_filters(text: str) -> Filters:
    """Both forms of the table. Raises `Invalid` for anything else."""
    if not text:
        return {}
    try:
        found = msgspec.json.decode(text, type=dict[str, list[str] | dict[str, bool]])
    except MALFORMED as error:
        raise Invalid(f"invalid filter: {error}") from error
    return {name: [v for v in values if isinstance(values, list) or values[v]] for name, values in found.items()}


def filters_text(filters: Mapping[str, Iterable[str]]) -> str:
    """The form that every engine reads; empty for no filters."""
    if not filters:
        return ""
    return msgspec.json.encode({name: dict.fromkeys(values, True) for name, values in filters.items()}).decode()


def refuse_unknown(filters: Mapping[str, object], known: Iterable[str]) -> None:
    """Raise the engine's `Invalid` for a filter that the call does not have."""
    for name in filters:
        if name not in known:
            raise Invalid(f"Invalid filter '{name}'")


def labels_match(wanted: Iterable[str], labels: Mapping[str, str]) -> bool:
    """Whether every `key` or `key=value` holds."""
    return all(_label_holds(one, labels) for one in wanted)


def _label_holds(wanted: str, labels: Mapping[str, str]) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def label_filters_match(filters: Filters, labels: Mapping[str, str]) -> bool:
    """`label` (all must hold) and `label!` (none may hold)."""
    unwanted = filters.get("label!", [])
    return labels_match(filters.get("label", []), labels) and not (unwanted and labels_match(unwanted, labels))


def text_matches(values: Iterable[str] | None, text: str) -> bool:
    """The engine's `Match`: no values, an equal one, or one that is a regular expression found in the text."""
    if not values:
        return True
    return any(value == text or _found(value, text) for value in values)


def _found(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return False


def flag_value(filters: Filters, name: str, default: bool) -> bool:
    """A filter that is a boolean. Raises `Invalid` for other values, as the engine does."""
    values = filters.get(name)
    if not values:
        return default
    for value in values:
        if value.lower() not in ("1", "true", "0", "false"):
            raise Invalid(f"Invalid filter '{name}={value}'")
    return values[0].lower() in ("1", "true")


def parse_when(text: str, now: float) -> float:
    """A point of time as Docker reads it, in seconds since the epoch: `1700000000.5`, `10m` ago, or RFC 3339."""
    try:
        return float(text)
    except ValueError:
        pass
    if _DURATION.fullmatch(text):
        return now - sum(float(number) * _UNITS_S[unit] for number, unit in _DURATION_PART.findall(text))
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        raise Invalid(f'failed to parse value as time or duration: "{text}"') from None
