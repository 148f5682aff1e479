"""Request targets: from what the client wrote to the one path that routes, rules and engines agree on.

| step | example | refused |
|---|---|---|
| split at `?` | `/v1.41//images/a%2Fb/json?x=1` → path and query | a target that does not begin with `/` |
| percent-decode the path, UTF-8 | `/v1.41//images/a/b/json` | broken escapes, control characters |
| collapse repeated slashes | `/v1.41/images/a/b/json` | segments `.` and `..`, encoded or not |
| split off the version | `1.41` and `/images/a/b/json` | |
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import msgspec

from drover.errors import Invalid

_VERSION = re.compile(r"/v([0-9.]+)(/.*)", re.DOTALL)
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SLASHES = re.compile(r"/{2,}")


class Target(msgspec.Struct, frozen=True):
    """`path` decoded and without version, `version` like `1.41` or empty, `canonical` what an engine is sent."""

    path: str
    version: str
    query_string: str
    canonical: str


def read_target(target: str) -> Target:
    """Normalise a request target. Raises `Invalid` for one that two programs could read in two ways."""
    raw_path, mark, query = target.partition("?")
    path = _SLASHES.sub("/", _decode(raw_path))
    if not path.startswith("/") or not {".", ".."}.isdisjoint(path.split("/")):
        raise Invalid(f"The request target {target[:200]!r} is not a plain absolute path.")
    found = _VERSION.fullmatch(path)
    version, rest = (found[1], found[2]) if found else ("", path)
    return Target(rest, version, query, _SLASHES.sub("/", raw_path) + mark + query)


def _decode(raw_path: str) -> str:
    if "%" not in raw_path:
        return raw_path
    try:
        path = unquote_to_bytes(raw_path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid("The request path is not UTF-8 after percent-decoding.") from error
    if _BROKEN_ESCAPE.search(raw_path) or _CONTROL.search(path):
        raise Invalid("The request path has a broken percent escape or a control character.")
    return path
