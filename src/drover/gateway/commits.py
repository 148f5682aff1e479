"""One conditional commit, decided again on a fresh picture when somebody else was faster.

outcome of the commit   what happens
written                 the mirror is awaited, so that the next look sees it (read your own writes)
CommitConflict          the picture is awaited that shows the other change, then `decide` is asked again
Unavailable, AnswerLost a snapshot tells whether it was written (a member of the store died): if not, once more
fourth attempt in vain  `Conflict`: try again

Calls that choose from what is free (addresses, subnets, ports, hosts) all want the same next one. Within one gateway
they take turns (`Context.choosing`), so that a conflict is always with another gateway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from drover.errors import Conflict, Unavailable
from drover.gateway.context import Context, log
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
            revision = await _written_at(ctx, draft)
        except CommitConflict:
            await ctx.mirror.overtaken(draft.expect, FRESH_DEADLINE_S)
            continue
        if revision:
            await ctx.mirror.reached(revision, FRESH_DEADLINE_S)
            return draft
    raise Conflict("the records kept changing meanwhile, four times in a row", hint="try again")


async def _written_at(ctx: Context, draft: Draft) -> int:
    """The revision that shows the draft written; 0 if the store was away and it is not written. Raises
    `CommitConflict`, and `Unavailable` if the store is still away."""
    try:
        return await ctx.store.commit(draft.changes, draft.expect)
    except Unavailable as error:
        log.info("the store did not answer to a commit; looking whether it was made", why=error.message)
    now = await ctx.store.snapshot()
    return now.revision if all(_shows(now, change) for change in draft.changes) else 0


def _shows(cluster: Cluster, change: Change) -> bool:
    table, _, rest = change.key.partition("/")
    return cluster.tables.get(table, {}).get(rest) == change.record
