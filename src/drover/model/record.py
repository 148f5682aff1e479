"""The base of all records, in a module of its own so that records may live in several."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all records. Unknown fields of newer versions are ignored when read."""
