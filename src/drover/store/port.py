"""The store port: what Drover needs of a consistent store, and no more.

Keys and records are those of `drover.model.records`. Revisions are integers that only grow; one commit gets one
revision, and all its changes become visible together. Two implementations pass one contract suite
(`tests/contract/store_contract.py`): `memory` (the reference, used by tests and the simulation) and `etcd`.

What a caller may see besides results:

    CommitConflict   an expectation did not hold           nothing was written: look again, decide again
    Compacted        the history asked for is gone         take a new snapshot
    Unavailable      no quorum answered within a deadline  nothing was written
    AnswerLost       a commit was sent, no answer came     it may have been written: look, then decide again
    NotFound         the lease is over                     nothing was written

A commit that changes nothing (no changes, or only removals of absent keys) still checks its expectations; it makes
no batch and returns the current revision. A key may occur once in a commit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import msgspec

from drover.errors import Conflict, Invalid, NotFound, Unavailable
from drover.model.cluster import Change, Cluster


class Batch(msgspec.Struct, frozen=True):
    """All changes of one revision, in key order."""

    revision: int
    changes: tuple[Change, ...]


class CommitConflict(Conflict):
    """An expectation did not hold; nothing was written. `keys` are those whose version differed (may be empty
    where the store cannot tell)."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        super().__init__("the records changed meanwhile: " + ", ".join(keys or ("unknown keys",)))
        self.keys = tuple(keys)


class Compacted(Conflict):
    """The history asked for is gone: take a new snapshot and watch from there."""


class AnswerLost(Unavailable):
    """A commit was sent and no answer came: it may or may not have been made. Never repeated by the store."""


def refuse_twice(changes: Sequence[Change]) -> None:
    """Raises `Invalid` if a key occurs twice: which of the two should win?"""
    if len({change.key for change in changes}) != len(changes):
        raise Invalid("a commit names the same key twice", hint="merge the two changes of the key into one")


def lease_over(lease: str) -> NotFound:
    return NotFound(f"lease {lease} is over", hint="grant a new one and write its keys again")


class Lease(Protocol):
    """A held lease. Renewed by `keep`; keys attached to it vanish when it expires or is revoked."""

    @property
    def ttl_s(self) -> float: ...

    @property
    def id(self) -> str: ...

    async def renew(self) -> float:
        """Renew once; returns the monotonic time at which the successful request was SENT (the fence counts
        from there, design D8). Raises `Unavailable` if the store did not answer, `NotFound` if it is over."""
        ...

    async def revoke(self) -> None:
        """End it now: attached keys vanish. Errors are swallowed: it would expire anyway."""
        ...


class Store(Protocol):
    """Every method raises `Unavailable` within a deadline when no quorum answers; none waits for ever (P5)."""

    async def snapshot(self) -> Cluster:
        """All records at one revision (linearizable)."""
        ...

    def watch(self, revision: int) -> AsyncIterator[Batch]:
        """Every batch with a revision greater than `revision`, in order, without gaps or repeats.

        Survives reconnects and the loss of a member by itself; raises `Compacted` when it cannot go on without
        a gap and `Unavailable` when the store has not answered for long.
        """
        ...

    async def commit(
        self, changes: Sequence[Change], expect: Mapping[str, int] | None = None, lease: Lease | None = None
    ) -> int:
        """Write all changes at once if each key in `expect` still has that version (0: must not exist).

        Returns the revision. Raises `CommitConflict` and writes nothing otherwise. With `lease`, all written keys
        are attached to it (`NotFound` if it is over); a key written without one is attached to none. After
        `AnswerLost` the caller looks at the records before it decides again.
        """
        ...

    async def grant(self, ttl_s: float) -> Lease:
        """A new lease of at least `ttl_s` (the store may round up: read `ttl_s` of what it returns)."""
        ...

    async def close(self) -> None: ...
