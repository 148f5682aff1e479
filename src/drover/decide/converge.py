"""`converge(cluster, host, seen, now)`: what this host should do next, and what waits and why.

Theory of operation. For each container placed on this host, the first row that matches decides. `order` is pending
while the host has not answered its number; `seen` is the container as this engine shows it.

    order pending   seen      condition                        -> step
    no              yes       desired is removed               -> Perform(remove) again (an answer was lost)
    no              missing   desired is removed               -> Forget
    no              missing   auto-remove, and it existed      -> Forget
    no              missing   the create was refused           -> nothing; Forget after REFUSED_KEPT_S
    any             missing   a volume, network, image misses  -> ensure those, wait
    remove          missing                                    -> Forget
    any other       missing                                    -> CreateContainer (answers order `create`)
    create          yes                                        -> Perform(create): answer what the engine made
    any other       yes       a network it joins is missing    -> ensure it, wait
    any other       yes                                        -> Perform(order)
    no              created   desired is running               -> StartContainer
    no              yes                                        -> nothing

Then: engine containers of ours that are not placed here (or carry an older epoch) are strays; networks and volumes of
ours that no record asks for are removed. Unknown is not empty: while the engine has not been seen, nothing is decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from drover.decide import steps as s
from drover.decide.overlay import DEFAULT_NETWORK
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import Spec, parse_spec

REFUSED_KEPT_S = 60.0
"""How long the records of a refused create are kept for the gateway that asked; then the host removes them."""


class SeenHere(msgspec.Struct, frozen=True):
    """One managed container on this engine, as far as deciding needs it."""

    engine_id: str
    state: str
    epoch: int = 0


class Seen(msgspec.Struct, frozen=True):
    """What this host's engine shows. `containers` None: not known (yet), which proves nothing.

    `networks` and `volumes` map ids and names of ours to engine ids; `images` are image ids known to be present;
    `answers` are this host's own last answers, which may be newer than those in the store; `held` maps an object to the
    time before which it must not be tried again.
    """

    containers: Mapping[str, SeenHere] | None = None
    strays: Mapping[str, SeenHere] = {}
    networks: Mapping[str, str] = {}
    volumes: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    answers: Mapping[str, r.Answer] = {}
    held: Mapping[str, float] = {}


class _Context(msgspec.Struct, frozen=True):
    cluster: Cluster
    host: str
    seen: Seen
    now: float


def converge(cluster: Cluster, host: str, seen: Seen, now: float) -> s.Plan:
    """The next steps of `host`, at most one per object. Pure; `now` in seconds of any clock used for `held`."""
    if seen.containers is None:
        return s.Plan(waits=(s.Wait(f"host/{host}", "the engine does not answer: nothing is changed"),))
    context = _Context(cluster, host, seen, now)
    steps: list[s.Step] = []
    waits: list[s.Wait] = []
    for placement in cluster.placements.values():
        if placement.host == host:
            container = cluster.containers.get(placement.container)
            if container is not None:
                _container(context, container, placement, steps, waits)
    steps += _strays(context)
    steps += _default_network(context)
    steps += _unused_networks(context)
    steps += _removed_volumes(context)
    return _plan(context, steps, waits)


def _plan(context: _Context, steps: Iterable[s.Step], waits: list[s.Wait]) -> s.Plan:
    """One step per object, none that is held; look again when the first hold ends."""
    ready: dict[str, s.Step] = {}
    again_at = 0.0
    for step in steps:
        until = context.seen.held.get(step.object, 0.0)
        if until > context.now:
            again_at = min(again_at, until) if again_at else until
            waits.append(s.Wait(step.object, f"tried and failed; again in {until - context.now:.1f} s"))
        else:
            ready.setdefault(step.object, step)
    return s.Plan(tuple(ready.values()), tuple(waits), again_at)


def _container(
    context: _Context,
    container: r.Container,
    placement: r.Placement,
    steps: list[s.Step],
    waits: list[s.Wait],
) -> None:
    here = (context.seen.containers or {}).get(container.id)
    if here is not None and here.epoch < placement.epoch:
        waits.append(s.Wait(f"container/{container.id}", "an older copy of it is removed first"))
    elif here is None:
        _missing(context, container, steps, waits)
    else:
        _present(context, container, here, steps, waits)


def answer_of(cluster: Cluster, host: str, answers: Mapping[str, r.Answer], container: str) -> r.Answer:
    """This host's last answer about a container: its own memory (`answers`) first, else what it had reported."""
    facts = cluster.container_facts.get(f"{host}/{container}")
    stored = facts.answer if facts else r.Answer()
    own = answers.get(container, r.Answer())
    return own if own.number >= stored.number else stored


def _pending(context: _Context, container: r.Container) -> bool:
    return container.order.number > answer_of(context.cluster, context.host, context.seen.answers, container.id).number


def _missing(context: _Context, container: r.Container, steps: list[s.Step], waits: list[s.Wait]) -> None:
    spec = parse_spec(container.body)
    if _is_over(context, container, spec):
        steps.append(s.Forget(container.id))
    elif _was_refused(context, container):
        waits.append(s.Wait(f"container/{container.id}", "the engine refused to create it"))
    elif needs := list(_prerequisites(context, container, spec)):
        steps += needs
        waits += [s.Wait(f"container/{container.id}", f"waits for {need.object}") for need in needs]
    else:
        steps.append(s.CreateContainer(container.id))


def _is_over(context: _Context, container: r.Container, spec: Spec) -> bool:
    if container.desired == "removed" or (_pending(context, container) and container.order.verb == "remove"):
        return True
    facts = context.cluster.container_facts.get(f"{context.host}/{container.id}")
    existed = facts is not None and facts.engine_id != ""
    if spec.auto_remove and existed:
        return True
    return facts is not None and _was_refused(context, container) and context.now - facts.at > REFUSED_KEPT_S


def _was_refused(context: _Context, container: r.Container) -> bool:
    answer = answer_of(context.cluster, context.host, context.seen.answers, container.id)
    created = container.order.verb == "create" and answer.number >= container.order.number
    return created and answer.status >= 400


def _prerequisites(context: _Context, container: r.Container, spec: Spec) -> Iterable[s.Step]:
    for volume in spec.volumes:
        if volume.name in context.cluster.volumes and volume.name not in context.seen.volumes:
            yield s.EnsureVolume(volume.name)
    yield from _networks_needed(context, container, spec)
    if container.image_id and container.image_id not in context.seen.images:
        yield s.EnsureImage(container.id, spec.image, container.image_id)


def _networks_needed(context: _Context, container: r.Container, spec: Spec) -> Iterable[s.Step]:
    for network in networks_of(context.cluster, container, spec):
        if network not in context.seen.networks:
            yield s.EnsureNetwork(network)


def networks_of(cluster: Cluster, container: r.Container, spec: Spec) -> list[str]:
    """Ids of the cluster networks a container is on: those of its create call, and those joined later."""
    asked = [network_id(cluster, ref) for ref in spec.network_refs]
    joined = [network for network in container.attachments if network in cluster.networks]
    return list(dict.fromkeys([n for n in asked if n is not None] + joined))


def network_id(cluster: Cluster, ref: str) -> str | None:
    """The cluster id of a network given by name or full id (`default` is the cluster's own); None for an engine's own
    (bridge, host, none)."""
    if ref == "default":
        return DEFAULT_NETWORK if DEFAULT_NETWORK in cluster.networks else None
    named = cluster.network_names.get(ref)
    if named is not None:
        return named.id
    return ref if ref in cluster.networks else None


def _present(
    context: _Context, container: r.Container, here: SeenHere, steps: list[s.Step], waits: list[s.Wait]
) -> None:
    if _pending(context, container):
        needs = list(_networks_needed(context, container, parse_spec(container.body)))
        if needs and container.order.verb in ("start", "restart", "connect"):
            steps += needs
            waits += [s.Wait(f"container/{container.id}", f"waits for {need.object}") for need in needs]
        else:
            steps.append(s.Perform(container.id, container.order))
    elif container.desired == "running" and here.state == "created":
        steps.append(s.StartContainer(container.id))


def _strays(context: _Context) -> Iterable[s.Step]:
    for engine_id in context.seen.strays:
        yield s.RemoveStray(engine_id, "a second copy")
    for container, here in (context.seen.containers or {}).items():
        placement = context.cluster.placements.get(container)
        if placement is None or container not in context.cluster.containers:
            yield s.RemoveStray(here.engine_id, "no record asks for it")
        elif placement.host != context.host:
            yield s.RemoveStray(here.engine_id, f"it runs on {placement.host} now")
        elif here.epoch < placement.epoch:
            yield s.RemoveStray(here.engine_id, f"epoch {here.epoch} is over, {placement.epoch} holds")


def _default_network(context: _Context) -> Iterable[s.Step]:
    """Made before anybody needs it: every `docker run` that names no network would wait for it."""
    if DEFAULT_NETWORK in context.cluster.networks and DEFAULT_NETWORK not in context.seen.networks:
        yield s.EnsureNetwork(DEFAULT_NETWORK)


def _unused_networks(context: _Context) -> Iterable[s.Step]:
    used = networks_used(context.cluster, context.host)
    for network, engine_id in context.seen.networks.items():
        if network not in used:
            yield s.RemoveNetwork(network, engine_id)


def networks_used(cluster: Cluster, host: str) -> set[str]:
    """Ids of the cluster networks that containers placed on `host` are on, and the default one, kept for the next."""
    used: set[str] = {DEFAULT_NETWORK} if DEFAULT_NETWORK in cluster.networks else set()
    for placement in cluster.placements.values():
        container = cluster.containers.get(placement.container)
        if placement.host == host and container is not None:
            used.update(networks_of(cluster, container, parse_spec(container.body)))
    return used


def _removed_volumes(context: _Context) -> Iterable[s.Step]:
    for volume in context.cluster.volumes.values():
        if volume.host == context.host and volume.removed:
            yield s.RemoveVolume(volume.name)
