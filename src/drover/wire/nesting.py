"""JSON that is nested so deep that reading it, here or later, would exhaust Python's stack.

Theory of operation. Readers of JSON call themselves for each level, so what they can read depends on how deep the
caller is already: a text that a gateway reads well could be more than an agent can, hours later, from a record. So
texts from outside are measured first (`refuse_deep`), and whoever reads JSON counts all of `MALFORMED` as its faults.
"""

from __future__ import annotations

import re

import msgspec

from drover.errors import Invalid

MAX_LEVELS = 200
"""Docker's own bodies have about eight."""
MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What reading a text as JSON, or as a type, can raise."""
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


def levels_of(text: bytes) -> int:
    """How deep the arrays and objects of a JSON text are nested, as far as it is one."""
    if text.count(b"[") + text.count(b"{") <= MAX_LEVELS:
        return text.count(b"[") + text.count(b"{")  # no more than these: strings may hold some of them
    now = most = 0
    for token in _TOKEN.finditer(text):
        first = token[0][:1]
        now += 1 if first in b"[{" else -1 if first in b"]}" else 0
        most = max(most, now)
    return most


def refuse_deep(text: bytes | str) -> None:
    """Raises `Invalid` for JSON that is nested deeper than anything has to be."""
    if levels_of(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")) > MAX_LEVELS:
        raise Invalid(f"invalid JSON: it is nested deeper than {MAX_LEVELS} levels")
