"""Join tokens: one printable line that lets a host in, for a while.

    DROVER1-<id: 8 hex>-<secret: 32 hex>-<SHA-256 of the CA's certificate: 64 hex>

The store keeps the id and the SHA-256 of the secret (`records.Token`). The fingerprint lets the joining host know the
cluster before it says the secret. Chance and time are arguments; see `mint`.

`judge` goes down this table, the first line that applies wins. The secret comes before the dates, so that only who has
a real token learns anything about it:

    the record            the secret   the sentence
    is missing            -            not one of this cluster's: removed, or forged
    there                 differs      forged or mistyped
    used, single-use      matches      already used by host X
    past its end          matches      expired N ago
    otherwise             matches      (none: it is good)
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

import msgspec

from drover.decide.sentences import count
from drover.errors import Invalid
from drover.model.records import Token

DEFAULT_TTL_S = 3600.0
MAX_TTL_S = 30 * 86_400.0

_FORM = re.compile(r"DROVER1-([0-9a-f]{8})-([0-9a-f]{32})-([0-9a-f]{64})")


class Parsed(msgspec.Struct, frozen=True):
    """The parts of a printed token."""

    id: str
    secret: str
    ca_fingerprint: str


def mint(
    chance: Callable[[int], str], ca_fingerprint: str, now: float, ttl_s: float = DEFAULT_TTL_S, reusable: bool = False
) -> tuple[str, Token]:
    """(the printable token, the record to keep). `chance(n)` gives n random bytes as 2n hex digits
    (`secrets.token_hex`)."""
    if not 0 < ttl_s <= MAX_TTL_S:
        raise Invalid(f"a token cannot live for {ttl_s:g} seconds", hint="give a duration from 1s to 720h")
    ident, secret = chance(4), chance(16)
    record = Token(id=ident, secret_sha256=_hash(secret), created_at=now, expires_at=now + ttl_s, reusable=reusable)
    return f"DROVER1-{ident}-{secret}-{ca_fingerprint}", record


def parse(text: str) -> Parsed:
    """The parts of a printed token; raises `Invalid` for anything else."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise Invalid(
            "this is not a join token, or a part of it is missing",
            hint="copy the whole line that `drover token create` printed; it begins with DROVER1-",
        )
    return Parsed(*match.groups())


def judge(record: Token | None, ident: str, secret: str, now: float, again: str = "") -> str:
    """Why the token is refused, as a sentence; empty if it is good.

    `again`: the name of a host that may repeat its own join, because its first answer may have been lost.
    """
    if record is None:
        return f"token {ident} is not one of this cluster's: it was removed, or it is forged"
    if not hmac.compare_digest(_hash(secret), record.secret_sha256):
        return f"token {ident} is forged or mistyped: its secret is not the one that was created"
    if record.used_by and not record.reusable and again not in record.used_by:
        return f"token {ident} was already used by host {record.used_by[-1]}, and it is good for one host only"
    if now >= record.expires_at:
        return f"token {ident} expired {duration(now - record.expires_at)} ago"
    return ""


def used(record: Token, host: str) -> Token:
    """The record once `host` has joined with it."""
    return msgspec.structs.replace(record, used_by=(*record.used_by, host))


def state(record: Token, now: float) -> str:
    """One word for listings: valid, used or expired."""
    if record.used_by and not record.reusable:
        return "used"
    return "expired" if now >= record.expires_at else "valid"


def duration(seconds: float) -> str:
    """A length of time for people, in its largest unit: `42 seconds`, `1 hour`, `3 days`."""
    for unit, unit_s in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= unit_s:
            return count(int(seconds // unit_s), unit)
    return count(max(0, int(seconds)), "second")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
