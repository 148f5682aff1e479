"""Swarm mode: a Drover host takes no part in it. Reading calls are answered by an engine, which says that it is not in
a swarm; calls that would put it into one are refused."""

from __future__ import annotations

from drover.errors import Unavailable
from drover.gateway.call import Call, Outcome
from drover.gateway.context import Context


async def refuse(ctx: Context, call: Call) -> Outcome:
    raise Unavailable(
        "Drover hosts do not take part in Swarm mode: they are one Docker already, so `docker swarm` has nothing to do",
        hint="drover host ls",
    )
