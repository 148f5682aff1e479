"""One conditional commit, decided again on a fresh picture when somebody else was faster.

outcome of the commit   what happens
written                 the mirror is awaited, so that the next look sees it (read your own writes)
CommitConflict          the picture is awaited that shows the other change, then `decide` is asked again
fourth conflict         `Conflict`: try again

Calls that choose from what is free (addresses, subnets, ports, hosts) all want the same next one. Within one gateway
they take turns (`Context.choosing`), so that a conflict is always with another gateway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from drover.errors import Conflict, DeadlineExceeded
from drover.gateway.context import Context
from drover.model.cluster import Change, Cluster
from drover.store.port import CommitConflict

TRIES = 4
"""The first, and three more."""
FRESH_DEADLINE_S = 5.0


class Draft(msgspec.Struct, frozen=True):
    """What to write, and the versions that the decision rests on (0: the key must not exist)."""

    changes: list[Change]
    expect: dict[str, int]


async def _at_once() -> None:
    return None


async def commit_decided(
    ctx: Context, decide: Callable[[Cluster], Draft], ready: Callable[[], Awaitable[None]] = _at_once
) -> Draft:
    """Commit what `decide` drafts; returns the draft that was written. `ready` is awaited before each look."""
    for _ in range(TRIES):
        await ready()
        draft = decide(ctx.cluster)
        try:
            revision = await ctx.store.commit(draft.changes, draft.expect)
        except CommitConflict:
            await _newer(ctx, draft.expect)
        else:
            await ctx.mirror.reached(revision, FRESH_DEADLINE_S)
            return draft
    raise Conflict("the records kept changing meanwhile, four times in a row", hint="try again")


async def _newer(ctx: Context, expect: Mapping[str, int]) -> None:
    """Wait for a picture in which an expectation fails. A change that was undone at once is never seen: then the
    picture is right again, and so is a new try."""
    try:
        await ctx.mirror.until(
            lambda now: any(now.version(key) != version for key, version in expect.items()),
            FRESH_DEADLINE_S,
            "the change that another call made",
            keys=expect,
        )
    except DeadlineExceeded:
        return
