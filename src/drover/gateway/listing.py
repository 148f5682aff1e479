"""`GET /containers/json`: one list from all engines, each element as its engine wrote it.

Theory of operation. Every host is asked with the client's own query, changed as the table says; elements are cut out
of the answers without decoding them, put in order of creation, and joined.

    filter or parameter        who applies it
    label=drover.host[=H]      the gateway: it chooses the hosts to ask
    id, before, since, limit   the gateway: they are about cluster ids and the whole list
    network=<cluster id>       the engine, under the network's name
    all others                 the engine

A host that is down or silent has its containers shown from the records, as it last reported them, with a status that
says so; but only if the filters are simple enough to decide without the engine (`SIMPLE`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from drover.decide.default_network import PREDEFINED_IDS, SHOWN_AS, predefined_ids
from drover.decide.health import down_sentence
from drover.decide.overlay import DEFAULT_NETWORK, DEFAULT_NETWORK_NAME
from drover.decide.resolve import resolve_container
from drover.drivers.engine.port import ID_LABEL
from drover.errors import DroverError, EngineError, Invalid
from drover.gateway.call import Call, EngineResponse, Outcome, Reply
from drover.gateway.context import Context, query_of, succeeded, target_of
from drover.gateway.filters import Filters, filters_text, label_filters_match, parse_filters, text_matches
from drover.gateway.shown import listed, needs_showing
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import parse_spec

HOST_LABEL = "drover.host"
OWN_FILTERS = ("id", "before", "since")
SIMPLE = frozenset({"id", "name", "label", "status", "before", "since"})
_RUNNING = ("running", "paused", "restarting")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the client asked for. `limit` 0 or less: no limit. `hosts` None: all."""

    all: bool
    limit: int
    size: str
    filters: Filters
    hosts: frozenset[str] | None


class Element(msgspec.Struct, frozen=True):
    """One container in a list: its cluster id, when it was created (seconds), and its JSON."""

    id: str
    created_at: float
    raw: bytes


class _Head(msgspec.Struct, rename="pascal"):
    id: str
    created: float = 0
    labels: dict[str, str] | None = None


async def list_containers(ctx: Context, call: Call) -> Outcome:
    question = ("container.list", call.version, call.query_string)
    return await ctx.shared.read(question, lambda: _listed(ctx, call))


async def _listed(ctx: Context, call: Call) -> Outcome:
    elements = await elements_of(ctx, call, wanted_of(call))
    return Reply(body=b"[" + b",".join(one.raw for one in elements) + b"]\n")


def wanted_of(call: Call) -> Wanted:
    filters = parse_filters(call.query("filters"))
    labels = filters.get("label", [])
    ours = [label for label in labels if label.partition("=")[0] == HOST_LABEL]
    if ours:
        filters["label"] = [label for label in labels if label not in ours]
    named = [label.partition("=")[2] for label in ours if "=" in label]
    return Wanted(
        all=call.flag("all"),
        limit=_limit(call.query("limit")),
        size=call.query("size"),
        filters={name: values for name, values in filters.items() if values},
        hosts=_all_of(named),
    )


def _all_of(named: list[str]) -> frozenset[str] | None:
    """The hosts that satisfy every `drover.host=H`: one, or none if two differ; None (all) if nothing is said."""
    if not named:
        return None
    return frozenset(named) if len(set(named)) == 1 else frozenset()


def _limit(text: str) -> int:
    try:
        return int(text or "0")
    except ValueError:
        raise Invalid(f'strconv.Atoi: parsing "{text}": invalid syntax') from None


async def elements_of(ctx: Context, call: Call, wanted: Wanted) -> list[Element]:
    """The list's elements in Docker's order, newest first, with cluster ids."""
    window = _window(ctx.cluster, wanted.filters)
    hosts = [host for host in ctx.usable() if _asked(wanted, host)]
    answers = await ctx.ask_all("GET", engine_target(ctx.cluster, call, wanted), hosts) if hosts else {}
    good = succeeded(answers) if answers else {}
    found = [one for host, answer in good.items() for one in read_elements(ctx, host, answer)]
    silent = [host for host in ctx.cluster.hosts if host not in good and _asked(wanted, host)]
    found += [one for host in silent for one in remembered(ctx.cluster, host, wanted)]
    found = [one for one in found if _within(one, window) and text_matches(wanted.filters.get("id"), one.id)]
    found.sort(key=lambda one: one.created_at, reverse=True)
    return found[: wanted.limit] if wanted.limit > 0 else found


def _asked(wanted: Wanted, host: str) -> bool:
    return wanted.hosts is None or host in wanted.hosts


def engine_target(cluster: Cluster, call: Call, wanted: Wanted) -> str:
    """The question for each engine: managed containers only, no limit, no filter that is the gateway's."""
    filters = {name: list(values) for name, values in wanted.filters.items() if name not in OWN_FILTERS}
    filters["label"] = [*filters.get("label", []), ID_LABEL]
    if "network" in filters:
        filters["network"] = [name for ref in filters["network"] for name in _network_names(cluster, ref)]
    everything = wanted.all or wanted.limit > 0 or "before" in wanted.filters or "since" in wanted.filters
    query = query_of(all="1" if everything else "", size=wanted.size, filters=filters_text(filters))
    return target_of(call, "/containers/json", query)


def _network_names(cluster: Cluster, ref: str) -> list[str]:
    """What the engines call a network; `bridge` is also what the default network is shown as."""
    ref = predefined_ids(cluster).get(ref, ref)
    if ref == SHOWN_AS and DEFAULT_NETWORK in cluster.networks:
        return [ref, DEFAULT_NETWORK_NAME]
    network = cluster.networks.get(ref)
    return [ref if network is None else network.name]


def read_elements(ctx: Context, host: str, answer: EngineResponse) -> Iterator[Element]:
    """The elements of one host's list, except second copies of containers that are placed elsewhere."""
    for raw in msgspec.json.decode(answer.body, type=list[msgspec.Raw]):
        head = msgspec.json.decode(raw, type=_Head)
        cluster_id = (head.labels or {}).get(ID_LABEL, "")
        if ctx.cluster.host_of(cluster_id) in (None, host):
            ctx.ids.mention(head.id, cluster_id, host)
            created_at = _created_at(ctx.cluster, cluster_id, head.created)
            yield Element(cluster_id, created_at, _shown_by_engine(ctx, cluster_id, ctx.ids.to_cluster(bytes(raw))))


def _shown_by_engine(ctx: Context, container: str, element: bytes) -> bytes:
    """An engine's element, with what Drover carries in its place put back."""
    record = ctx.cluster.containers.get(container)
    if record is None or not needs_showing(ctx.cluster, record):
        return element
    return listed(ctx.cluster, record, PREDEFINED_IDS[SHOWN_AS], element)


def _created_at(cluster: Cluster, container: str, otherwise: float) -> float:
    record = cluster.containers.get(container)
    return record.created_at if record is not None and record.created_at else otherwise


def _window(cluster: Cluster, filters: Mapping[str, list[str]]) -> tuple[float, float]:
    """Created after the first (`since`) and before the second (`before`), in seconds."""
    since = [_created_of(cluster, ref) for ref in filters.get("since", [])]
    before = [_created_of(cluster, ref) for ref in filters.get("before", [])]
    return max(since, default=float("-inf")), min(before, default=float("inf"))


def _created_of(cluster: Cluster, ref: str) -> float:
    try:
        return resolve_container(cluster, ref).created_at
    except DroverError:
        raise EngineError(500, f"no such container {ref}") from None


def _within(one: Element, window: tuple[float, float]) -> bool:
    return window[0] < one.created_at < window[1]


def remembered(cluster: Cluster, host: str, wanted: Wanted) -> Iterator[Element]:
    """The containers of a host that does not answer, from the records, if the filters can be decided on them."""
    if wanted.filters.keys() - SIMPLE:
        return
    says = down_sentence(cluster, host) or f"host {host} does not answer"
    for record, facts in _reported(cluster, host):
        if _matches(record, facts, wanted):
            yield Element(record.id, record.created_at, msgspec.json.encode(_shown(record, facts, host, says)))


def _reported(cluster: Cluster, host: str) -> Iterator[tuple[r.Container, r.ContainerFacts]]:
    """The containers placed on a host that its engine was seen to have."""
    for facts in cluster.container_facts.values():
        record = cluster.containers.get(facts.container)
        if record is not None and facts.host == host == cluster.host_of(record.id) and facts.engine_id:
            yield record, facts


def _shown(record: r.Container, facts: r.ContainerFacts, host: str, says: str) -> dict[str, object]:
    spec = parse_spec(record.body)
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": spec.image,
        "ImageID": record.image_id,
        "Command": "",
        "Created": int(record.created_at),
        "Ports": [],
        "Labels": {**spec.labels, HOST_LABEL: host},
        "State": facts.state,
        "Status": says[:1].upper() + says[1:],
        "HostConfig": {"NetworkMode": spec.network_mode},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [],
    }


def _matches(record: r.Container, facts: r.ContainerFacts, wanted: Wanted) -> bool:
    filters = wanted.filters
    visible = wanted.all or wanted.limit > 0 or "status" in filters or facts.state in _RUNNING
    return (
        visible
        and text_matches(filters.get("name"), record.name)
        and facts.state in filters.get("status", [facts.state])
        and label_filters_match(filters, parse_spec(record.body).labels)
    )
