"""Constraints and affinities: one scheduling expression as a value, parsed and matched.

Theory of operation. The syntax is classic Swarm's. An expression is `KEY OPERATOR VALUE`:

    operator   means
    ==         the value must match
    !=         the value must not match
    ==~        the value should match (soft: prefers, never refuses)
    !=~        the value should not match (soft)

    value      matches
    ssd        exactly `ssd`
    ssd*       a glob: `*` any run of characters, `?` any one, `[ab]` one of them
    /^h[12]$/  a regular expression, found anywhere in the text unless anchored
"""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache

import msgspec

from drover.errors import Invalid

_SHAPE = re.compile(
    r"\s*(?P<key>[A-Za-z_][A-Za-z0-9_.\-/]*)\s*(?P<operator>==~|!=~|==|!=)\s*(?P<value>.*\S)\s*", re.DOTALL
)
_HINT = "write KEY==VALUE or KEY!=VALUE, e.g. storage==ssd or host!=h2; a ~ after the operator (==~) makes it a wish"


class Expression(msgspec.Struct, frozen=True):
    """One parsed expression. `equal` false is `!=`; `soft` expressions prefer and never refuse."""

    key: str
    value: str
    equal: bool = True
    soft: bool = False

    def __str__(self) -> str:
        return f"{self.key}{'==' if self.equal else '!='}{'~' if self.soft else ''}{self.value}"

    @property
    def exact(self) -> bool:
        """Whether the value is a plain text: neither a glob nor a regular expression."""
        return not (_is_regex(self.value) or any(c in self.value for c in "*?["))

    def finds(self, text: str) -> bool:
        """Whether the text matches the value, whatever the operator."""
        return text == self.value or _pattern(self.value).search(text) is not None

    def holds(self, text: str | None) -> bool:
        """Whether the expression holds for a text; None (no such label) satisfies `!=` and never `==`."""
        return (text is not None and self.finds(text)) == self.equal


def parse_expression(text: str, kind: str) -> Expression:
    """Parse one expression; `kind` (constraint, affinity) is for the sentence. Raises `Invalid`."""
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise Invalid(f'the {kind} "{text}" is malformed: it must be KEY==VALUE or KEY!=VALUE', hint=_HINT)
    operator = found["operator"]
    expression = Expression(found["key"], found["value"], operator.startswith("="), operator.endswith("~"))
    _check_regex(expression, kind)
    return expression


def parse_list(text: str, kind: str) -> tuple[Expression, ...]:
    """Parse expressions separated by `;` or `,`, as a label's value holds them; empty pieces are skipped."""
    return tuple(parse_expression(piece, kind) for piece in re.split("[;,]", text) if piece.strip())


def _is_regex(value: str) -> bool:
    return len(value) > 2 and value.startswith("/") and value.endswith("/")


def _check_regex(expression: Expression, kind: str) -> None:
    try:
        _pattern(expression.value)
    except re.error as error:
        raise Invalid(f'the {kind} "{expression}" has a malformed regular expression: {error}', hint=_HINT) from error


@lru_cache(maxsize=4096)
def _pattern(value: str) -> re.Pattern[str]:
    return re.compile(value[1:-1]) if _is_regex(value) else re.compile(r"\A" + translate(value))
