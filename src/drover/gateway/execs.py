"""`exec`: a command in a running container. Only the engine knows it; the gateway remembers on which host it is.

call                          goes to
POST /containers/X/exec       X's host; the id in the answer is remembered
anything about an exec id     the remembered host; if forgotten (another gateway made it), the host that knows it
an id that nobody knows       404 in Docker's words
"""

from __future__ import annotations

from drover.errors import NotFound
from drover.gateway.call import Call, Outcome, Relay
from drover.gateway.containers import target_at_engine
from drover.gateway.context import Context


async def create(ctx: Context, call: Call) -> Outcome:
    host, target = target_at_engine(ctx, call)
    return Relay(
        host=host,
        target=target,
        edit=ctx.ids.to_cluster,
        seen=lambda status, body: ctx.execs.learn(host, status, body),
    )


async def relay(ctx: Context, call: Call) -> Outcome:
    """Start, inspect or resize: to the host that has the exec instance."""
    return Relay(host=await _host(ctx, call.params["id"]), edit=ctx.ids.to_cluster)


async def start(ctx: Context, call: Call) -> Outcome:
    """Becomes a tunnel: nothing is edited."""
    return Relay(host=await _host(ctx, call.params["id"]))


async def _host(ctx: Context, exec_id: str) -> str:
    known = ctx.execs.host(exec_id)
    if known is not None:
        return known
    answers = await ctx.ask_all("GET", f"/exec/{exec_id}/json")
    for host, answer in answers.items():
        if answer.status == 200:
            ctx.execs.remember(exec_id, host)
            return host
    raise NotFound(f"No such exec instance: {exec_id}")
