"""Single values of the canonical form: durations, sizes, switches, and texts with `$$`."""

from __future__ import annotations

import re
from typing import Any

from drover.errors import Invalid

_PIECE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def duration_s(value: Any, where: str) -> float:
    """Seconds of `1m30s`, `10s`, `500ms`, or of a number of seconds. `where` names the key. Raises `Invalid`."""
    text = str(value).strip()
    try:
        return float(text)
    except ValueError:
        pass
    pieces = list(_PIECE.finditer(text))
    if not pieces or "".join(piece[0] for piece in pieces) != text:
        raise Invalid(f"{where}: {text!r} is no duration", hint="for instance 10s, 1m30s or 500ms")
    return sum(float(piece[1]) * _SECONDS[piece[2]] for piece in pieces)


def nanoseconds(value: Any, where: str) -> int:
    return round(duration_s(value, where) * 1_000_000_000)


def size_bytes(value: Any, where: str) -> int:
    """Bytes of `67108864`, `64m`, `1gb`; -1 stays -1 (no limit). Raises `Invalid`."""
    text = str(value).strip()
    if text == "-1":
        return -1
    found = _SIZE.fullmatch(text)
    if found is None:
        raise Invalid(f"{where}: {text!r} is no size", hint="for instance 64m or 1g")
    return round(float(found[1]) * _FACTORS[found[2].lower()])


def number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise Invalid(f"{where}: {value!r} is no number") from error


def whole(value: Any, where: str) -> int:
    found = number(value, where)
    if found != int(found):
        raise Invalid(f"{where}: {value!r} is no whole number")
    return int(found)


def one_of(value: Any, allowed: tuple[str, ...], where: str) -> Any:
    if value not in allowed:
        raise Invalid(f"{where}: {value!r} is none of {', '.join(allowed)}")
    return value


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A mapping; nothing is an empty one. Raises `Invalid` for anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid(f"{where} must be a mapping, and is {type(value).__name__}")
    return {str(name): inner for name, inner in value.items()}


def unescaped(value: Any) -> Any:
    """The value with `$$` as `$` in every text: Compose writes its canonical form so that it can be read again."""
    if isinstance(value, str):
        return value.replace("$$", "$")
    if isinstance(value, dict):
        return {unescaped(name): unescaped(inner) for name, inner in value.items()}
    return [unescaped(inner) for inner in value] if isinstance(value, list) else value
