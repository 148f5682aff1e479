"""Lifecycle calls: an order in the record, and the wait for the host's answer.

Theory of operation. `submit` writes `Order(number + 1)` and the desired state in ONE conditional commit, and waits on
the mirror until the host's facts carry an answer with that number. The engine's own status and text are the reply.

    while waiting, the mirror shows            the caller gets
    answer.number == ours                      the engine's status and text
    answer.number > ours (overtaken)           204: a later order has decided what becomes of it
    the container's record is gone             204 (it was removed, which ends every order)
    the host is lost or its engine is silent   `Unavailable`, with which host and since when
    nothing before the deadline                `DeadlineExceeded`, which says what is missing

A new order first waits for the answer to the previous one, unless it may overtake: `kill` and `stop` anything but a
`create` or a `remove`, a forced `remove` anything. A refused order leaves what is desired as it was: nobody starts or
removes later what the client was told cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from drover.decide.health import down_sentence
from drover.errors import NotFound, Unavailable
from drover.gateway.call import Reply
from drover.gateway.commits import Draft, commit_decided
from drover.gateway.context import Context
from drover.model import records as r
from drover.model.cluster import Cluster, put

ORDER_DEADLINE_S = 60.0

DESIRED: Mapping[str, r.Desired] = {
    "start": "running",
    "restart": "running",
    "stop": "stopped",
    "kill": "stopped",
    "remove": "removed",
}
ENDED = r.Answer(status=204)

Amendment = Callable[[Cluster, r.Container], tuple[r.Container, Draft]]
"""What an order changes beside itself: the record as it shall be, and further changes with what they expect."""


class HostLost(Unavailable):
    """The host that should have answered was lost, or its engine fell silent."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One order to give. `force` is that of `remove`."""

    verb: r.Verb
    query: str = ""
    body: str = ""
    force: bool = False
    deadline_s: float = ORDER_DEADLINE_S

    def overtakes(self, previous: r.Order) -> bool:
        if self.verb == "remove":
            return self.force
        return self.verb in ("stop", "kill") and previous.verb not in ("create", "remove")


def no_more(cluster: Cluster, record: r.Container) -> tuple[r.Container, Draft]:
    """The amendment of most orders: none."""
    return record, Draft([], {})


async def submit(ctx: Context, container: str, ask: Ask, amend: Amendment = no_more) -> r.Answer:
    """Give the order to a container (an id) and wait for its answer, as the module's table says."""
    before: list[r.Container] = []

    def decide(cluster: Cluster) -> Draft:
        before[:] = [_record(cluster, container)]
        record, more = amend(cluster, before[0])
        order = r.Order(number=record.order.number + 1, verb=ask.verb, query=ask.query, body=ask.body)
        changed = msgspec.structs.replace(record, order=order, desired=DESIRED.get(ask.verb, record.desired))
        key = r.key("containers", container)
        return Draft([put(key, changed), *more.changes], {**more.expect, key: cluster.version(key)})

    await commit_decided(ctx, decide, lambda: _previous_answered(ctx, container, ask))
    answer = await answered(ctx, container, before[0].order.number + 1, ask.verb, ask.deadline_s)
    if answer.status >= 400 and ask.verb in DESIRED:
        await _take_back(ctx, container, answer.number, before[0].desired)
    return answer


def reply_to(ctx: Context, answer: r.Answer) -> Reply:
    """The engine's answer as a client gets it: 204 and 304 have no body."""
    if answer.status in (204, 304):
        return Reply(status=answer.status)
    return Reply(status=answer.status, body=ctx.ids.to_cluster(answer.body.encode()))


async def answered(ctx: Context, container: str, number: int, verb: str, deadline_s: float) -> r.Answer:
    """Wait for the answer to order `number`. Raises `Unavailable` if the host is lost meanwhile."""

    def look(cluster: Cluster) -> r.Answer | None:
        if container not in cluster.containers:
            return ENDED
        answer = answer_in(cluster, container)
        if answer.number == number:
            return answer
        if answer.number > number:
            return ENDED
        raise_if_lost(cluster, container, verb)
        return None

    missing = f"host {ctx.cluster.host_of(container)} to answer `{verb}` of container {container[:12]}"
    found = await ctx.mirror.until(look, deadline_s, missing, keys=watched(ctx.cluster, container))
    assert found is not None
    return found


def answer_in(cluster: Cluster, container: str) -> r.Answer:
    """The host's last answer about a container; number 0 if it gave none."""
    facts = cluster.facts_of(container)
    return facts.answer if facts is not None else r.Answer()


def raise_if_lost(cluster: Cluster, container: str, verb: str) -> None:
    host = cluster.host_of(container)
    down = down_sentence(cluster, host) if host is not None else None
    if down:
        raise HostLost(f"`{verb}` of container {container[:12]} got no answer: {down}")


def watched(cluster: Cluster, container: str) -> list[str]:
    """The records that a wait for a container's answer reads."""
    host = cluster.host_of(container) or ""
    own = [r.key("containers", container), r.key("placements", container), r.key("container_facts", host, container)]
    return [*own, r.key("alive", host), r.key("host_facts", host), r.key("hosts", host)]


async def _take_back(ctx: Context, container: str, number: int, desired: r.Desired) -> None:
    """After the engine refused an order, what is desired is what it was before: unless there is a newer order."""
    key = r.key("containers", container)

    def decide(cluster: Cluster) -> Draft:
        record = cluster.containers.get(container)
        if record is None or record.order.number != number:
            return Draft([], {})
        return Draft([put(key, msgspec.structs.replace(record, desired=desired))], {key: cluster.version(key)})

    await commit_decided(ctx, decide)


def is_pending(cluster: Cluster, record: r.Container) -> bool:
    return record.order.number > answer_in(cluster, record.id).number


def _record(cluster: Cluster, container: str) -> r.Container:
    record = cluster.containers.get(container)
    if record is None:
        raise NotFound(f"No such container: {container}")
    return record


async def _previous_answered(ctx: Context, container: str, ask: Ask) -> None:
    """Return once nothing stands in the way of the order; the picture must still say so when the caller looks."""

    def look(cluster: Cluster) -> bool:
        record = _record(cluster, container)
        raise_if_lost(cluster, container, ask.verb)
        return ask.overtakes(record.order) or not is_pending(cluster, record)

    while not look(ctx.cluster):
        missing = f"host {ctx.cluster.host_of(container)} to answer the call before `{ask.verb}`"
        await ctx.mirror.until(look, ask.deadline_s, missing, keys=watched(ctx.cluster, container))
