"""`POST /containers/prune`: the stopped containers of the whole cluster, removed by one order each."""

from __future__ import annotations

import asyncio

import msgspec

from drover.errors import DroverError
from drover.gateway.call import Call, Outcome
from drover.gateway.context import Context, json_reply, log
from drover.gateway.filters import Filters, label_filters_match, parse_filters, parse_when, refuse_unknown
from drover.gateway.lifecycle import remove_container
from drover.gateway.listing import Element, Wanted, elements_of

KNOWN = frozenset({"label", "label!", "until"})
STOPPED = ["created", "exited", "dead"]


class _Sized(msgspec.Struct, rename="pascal"):
    size_rw: int = 0
    labels: dict[str, str] | None = None


async def prune_containers(ctx: Context, call: Call) -> Outcome:
    filters = parse_filters(call.query("filters"))
    refuse_unknown(filters, KNOWN)
    candidates = await _candidates(ctx, call, filters)
    freed = await asyncio.gather(*(_remove(ctx, one) for one in candidates))
    deleted = [one.id for one, size in zip(candidates, freed, strict=True) if size is not None]
    return json_reply({"ContainersDeleted": deleted or None, "SpaceReclaimed": sum(size or 0 for size in freed)})


async def _candidates(ctx: Context, call: Call, filters: Filters) -> list[Element]:
    """Stopped containers that match and that were created before `until`."""
    asked = {"status": STOPPED, **{name: filters[name] for name in ("label",) if name in filters}}
    wanted = Wanted(all=True, limit=0, size="1", filters=asked, hosts=None)
    limits = [parse_when(text, ctx.clock()) for text in filters.get("until", [])]
    found = await elements_of(ctx, call, wanted)
    return [one for one in found if all(one.created_at < limit for limit in limits) and not _spared(one, filters)]


def _spared(one: Element, filters: Filters) -> bool:
    """Whether a `label!` filter keeps it."""
    labels = msgspec.json.decode(one.raw, type=_Sized).labels or {}
    return not label_filters_match({"label!": filters.get("label!", [])}, labels)


async def _remove(ctx: Context, one: Element) -> int | None:
    """The bytes freed; None if it could not be removed (it runs again, its host is down)."""
    record = ctx.cluster.containers.get(one.id)
    try:
        answer = await remove_container(ctx, record, "", False) if record is not None else None
    except DroverError as error:
        log.info("a container was not pruned", container=one.id, why=error.message)
        return None
    if answer is None or answer.status >= 400:
        return None
    return msgspec.json.decode(one.raw, type=_Sized).size_rw
