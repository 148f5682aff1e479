"""What the fuzz tests draw from, and how much.

Theory of operation. `fuzzed(share)` is hypothesis with a budget: EXAMPLES times the test's share. Without `DROVER_FUZZ`
the budget is small and the examples are the same in every run, so that `make check` is no lottery; with it (`make
fuzz`) they are new each time, and hypothesis keeps what failed below `.hypothesis`, to try it first next time.

    strategy     draws
    names        what is put where a name belongs: dots, slashes, encodings, controls, thousands of characters
    values       JSON of any shape, small
    deep         JSON nested hundreds of levels
    bodies       bytes for a call's body: JSON, JSON with a piece cut out or put in, bytes
    damaged      a text with pieces cut out, doubled, or replaced
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

EXAMPLES = int(os.environ.get("DROVER_FUZZ", "0"))
SMALL = 20
_QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


def fuzzed(share: float = 1.0) -> Callable[[Any], Any]:
    """Settings for a test that takes `share` of the usual number of examples."""
    count = max(5, int((EXAMPLES or SMALL) * share))
    fixed = settings(deadline=None, max_examples=count, suppress_health_check=_QUIET)
    return settings(fixed, derandomize=not EXAMPLES, database=None) if not EXAMPLES else fixed


CLIMBING = (
    "../../etc",
    "../../../../../../etc/passwd",
    "..%2f..%2fetc",
    "%2e%2e/%2e%2e/etc",
    "/etc/passwd",
    "//etc",
    "a/../../../etc",
    "..",
    ".",
    "./.",
    "a/./b",
    "...",
    "a\\..\\..\\etc",
    "etc\x00.txt",
    "~root",
    "-rf",
    "--help",
    "$(id)",
    "`id`",
    "a;id",
    "a\nb",
    "a b",
    "a?x=1#y",
    "%",
    "%zz",
    "%00",
    "\u202e\u0000",
    "\ud7ff",
    "n" * 300,
    "x" * 5000,
    "",
)
names: SearchStrategy[str] = st.sampled_from(CLIMBING) | st.text(min_size=0, max_size=30)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | names
)
values: SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=8
)


@st.composite
def deep(draw: DrawFn) -> bytes:
    """JSON nested so deep that a reader which calls itself for each level would fall over."""
    levels = draw(st.integers(100, 20_000))
    opening, closing = draw(st.sampled_from((("[", "]"), ('{"a":', "}"))))
    return (opening * levels + "1" + (closing * levels if draw(st.booleans()) else "")).encode()


@st.composite
def damaged(draw: DrawFn, texts: SearchStrategy[bytes]) -> bytes:
    """A text with a few pieces cut out, doubled, or replaced by other bytes."""
    text = draw(texts)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 20)))
        piece = draw(st.sampled_from((b"", text[start:end] * 2)) | st.binary(max_size=8))
        text = text[:start] + piece + text[end:]
    return text


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def bodies(sensible: SearchStrategy[Any]) -> SearchStrategy[bytes]:
    """Bodies around a sensible one: it, it with fields of any value, it damaged, and what has nothing to do with it."""
    return (
        sensible.map(encoded) | damaged(sensible.map(encoded)) | values.map(encoded) | deep() | st.binary(max_size=64)
    )


@st.composite
def with_strange_fields(draw: DrawFn, sensible: Any) -> Any:
    """A JSON value with one of its fields, at any depth, replaced, removed, or added."""
    value = json.loads(json.dumps(sensible))
    place, inside = value, []
    while True:
        inside.append(place)
        below = [one for one in (place.values() if isinstance(place, dict) else place) if isinstance(one, dict | list)]
        if not below or draw(st.booleans()):
            break
        place = draw(st.sampled_from(below))
    if isinstance(place, dict):
        key = draw(st.sampled_from(sorted(place))) if place and draw(st.booleans()) else draw(names)
        if draw(st.integers(0, 5)) == 0:
            place.pop(key, None)
        else:
            place[key] = draw(values)
    elif place and draw(st.booleans()):
        place[draw(st.integers(0, len(place) - 1))] = draw(values)
    else:
        place.append(draw(values))
    return value
