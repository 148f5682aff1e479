"""Sizes as people write them."""

from __future__ import annotations

import re

from drover.errors import Invalid

_SIZE = re.compile(r"(\d+)([KMGT]?)")
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def parse_size(text: str) -> int:
    """`8G` in bytes (powers of 1024). Raises `Invalid`."""
    found = _SIZE.fullmatch(text.strip().upper().removesuffix("IB").removesuffix("B"))
    if found is None:
        raise Invalid(f"{text!r} is no size", hint="for instance 20G")
    return int(found[1]) << _UNITS[found[2]]
