"""`converge(cluster, host, seen, now)`: what this host should do next, and what waits and why.

Theory of operation. For each container placed on this host, the first row that matches decides. `order` is pending
while the host has not answered its number; `seen` is the container as this engine shows it.

    order pending   seen      condition                        -> step
    no              yes       desired is removed               -> Perform(remove) again (an answer was lost)
    no              missing   desired is removed               -> Forget
    no              missing   auto-remove, and it existed      -> Forget
    no              missing   the create was refused           -> nothing; Forget after REFUSED_KEPT_S
    any             any       it is being moved and stands still -> nothing; its move goes first (`decide.moves`)
    any             missing   a volume, network, image misses  -> ensure those, wait
    remove          missing                                    -> Forget
    any other       missing                                    -> CreateContainer (answers order `create`)
    create          yes                                        -> Perform(create): answer what the engine made
    any other       yes       a network or volume is missing   -> ensure it, wait
    any other       yes                                        -> Perform(order)
    any             stopped   bound to an earlier claim of a   -> Remake
                              volume that is here again
    no              created   desired is running               -> StartContainer
    no              exited    desired is running; the fence,   -> StartContainer
                              or a move, stopped it
    no              exited    desired is running; the agent    -> StartContainer, after Docker's own delay or the one
                              restarts it; its policy says so     of its rules (its engine does not: `decide.restarts`)
    no              running   unhealthy, and it is to be       -> RestartContainer, after a delay that grows
                              restarted then
    no              yes                                        -> nothing

Then: engine containers of ours that are not placed here (or carry an older epoch) are strays; what a move has stopped
here is one when the move is done: clients wait until then, and removing takes the machine's time. Networks and volumes
of ours that no record asks for are removed; images of which this host keeps a spare copy (`decide.spare_images`) are
fetched, one at a time. A container that is about to come here is made in advance, with the epoch it will have: by a
move, or because its host is suspect (of one that uses volumes only image and networks). Unknown is not empty: while the
engine has not been seen, nothing is decided.

A volume is ready when the engine's volume and the live set both carry the epoch of a claim that this host holds:

    the claim is   engine's volume     live set here                     -> step
    here           of another epoch, or missing, or no live set of it    -> EnsureVolume, when a container needs it
    elsewhere      there is one        any                               -> DropVolume
    elsewhere      none, or kept by a  there is one, and no container    -> SetAside
                   stopped container   runs that has it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from drover.decide import steps as s
from drover.decide.attached import networks_of, networks_used
from drover.decide.backups import backup_due
from drover.decide.index import held_by, placed_on, removed_volumes
from drover.decide.moves import active, expected_here, is_over, just_left, move_of_volume, next_step, stands_still
from drover.decide.overlay import DEFAULT_NETWORK
from drover.decide.prepared import prepared_here
from drover.decide.replicas import has_copies, kept_here, spare
from drover.decide.restarts import Restarts, by_agent, counted, due_at, wants_restart
from drover.decide.spare_images import spares
from drover.decide.unhealthy import policy
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import Spec, parse_spec
from drover.model.volume_options import options_of

REFUSED_KEPT_S = 60.0
"""How long the records of a refused create are kept for the gateway that asked; then the host removes them."""


class SeenHere(msgspec.Struct, frozen=True):
    """One managed container on this engine, as far as deciding needs it."""

    engine_id: str
    state: str
    epoch: int = 0
    exit_code: int = 0
    health: str = ""

    @property
    def runs(self) -> bool:
        return self.state in ("running", "paused", "restarting")


class Seen(msgspec.Struct, frozen=True):
    """What this host's engine shows. `containers` None: not known (yet), which proves nothing.

    `networks` maps ids of ours to engine ids, `volumes` names of ours to the epoch their path has, `live` names to the
    epoch of the live set on this host's disk, `snapshots` names to the complete snapshots there,
    `refresh_at` names of volumes with a copy here to the time at which it is due, `limits` names to the size a live set
    here was limited to; `images` are image ids known to be present;
    `answers` are this host's own last answers, which may be newer than those in the store; `held` maps an object to the
    time before which it must not be tried again. `fenced` are the engine ids of containers that this host's fence
    stopped; `restarts` says of a container how often the agent has started it again, `mended` how often it was
    restarted for its health.
    """

    containers: Mapping[str, SeenHere] | None = None
    strays: Mapping[str, SeenHere] = {}
    networks: Mapping[str, str] = {}
    volumes: Mapping[str, int] = {}
    live: Mapping[str, int] = {}
    snapshots: Mapping[str, tuple[str, ...]] = {}
    refresh_at: Mapping[str, float] = {}
    limits: Mapping[str, int] = {}
    images: frozenset[str] = frozenset()
    answers: Mapping[str, r.Answer] = {}
    held: Mapping[str, float] = {}
    fenced: frozenset[str] = frozenset()
    restarts: Mapping[str, Restarts] = {}
    mended: Mapping[str, Restarts] = {}


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
    for placement in placed_on(cluster, host):
        container = cluster.containers.get(placement.container)
        if container is not None:
            _container(context, container, placement, steps, waits)
    _moves(context, steps, waits)
    steps += _prepared(context)
    steps += _strays(context)
    steps += _default_network(context)
    steps += _spare_image(context)
    steps += _unused_networks(context)
    steps += _removed_volumes(context)
    steps += _volumes_elsewhere(context)
    steps += _copies(context)
    steps += _life(context)
    return _plan(context, steps, waits)


def _plan(context: _Context, steps: Iterable[s.Step], waits: list[s.Wait]) -> s.Plan:
    """One step per object, none that is held or not due yet; look again when the first of them is."""
    ready: dict[str, s.Step] = {}
    again_at = 0.0
    for step in steps:
        until = context.seen.held.get(step.object, 0.0)
        if isinstance(step, s.RefreshReplica | s.BackupVolume) and step.due_at > max(until, context.now):
            again_at = min(again_at, step.due_at) if again_at else step.due_at
        elif isinstance(step, s.StartContainer | s.RestartContainer) and step.due_at > max(until, context.now):
            again_at = min(again_at, step.due_at) if again_at else step.due_at
            why = "ended; started again" if isinstance(step, s.StartContainer) else "is unhealthy; restarted"
            waits.append(s.Wait(step.object, f"{why} in {step.due_at - context.now:.1f} s"))
        elif until > context.now:
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
    if still := stands_still(context.cluster, container.id):
        waits.append(s.Wait(f"container/{container.id}", still))
    elif here is not None and here.epoch < placement.epoch:
        waits.append(s.Wait(f"container/{container.id}", "an older copy of it is removed first"))
    elif here is not None and _is_outdated(context, container, here):
        steps.append(s.Remake(container.id, _has_finished(context, container, here)))
    elif here is None:
        _missing(context, container, steps, waits)
    else:
        _present(context, container, here, steps, waits)


def _is_outdated(context: _Context, container: r.Container, here: SeenHere) -> bool:
    """Whether it does not run, and a volume that it is bound to went away and came back meanwhile, or is coming: the
    engine's volume leads to a path that is gone, and cannot be replaced while a container has it."""
    if here.runs or container.desired == "removed":
        return False
    volumes = (context.cluster.volumes.get(name) for name in parse_spec(container.body).volume_names)
    bound = context.seen.volumes
    gone = [v for v in volumes if v is not None and bound.get(v.name, v.epoch) < v.epoch]
    return any(v.host == context.host or _is_coming(context, v) for v in gone)


def _is_coming(context: _Context, volume: r.Volume) -> bool:
    found = move_of_volume(context.cluster, volume.name)
    return found is not None and found[1].target == context.host


def _has_finished(context: _Context, container: r.Container, here: SeenHere) -> bool:
    ended = container.desired == "running" and here.state in ("exited", "dead")
    return ended and not _pending(context, container) and not list(_again(context, container, here))


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
    elif away := _away(context, spec):
        waits.append(s.Wait(f"container/{container.id}", away))
    elif needs := list(_prerequisites(context, container, spec)):
        _need(container, needs, steps, waits)
    else:
        steps.append(s.CreateContainer(container.id))


def _need(container: r.Container, needs: list[s.Step], steps: list[s.Step], waits: list[s.Wait]) -> None:
    steps += needs
    waits += [s.Wait(f"container/{container.id}", f"waits for {need.object}") for need in needs]


def _away(context: _Context, spec: Spec) -> str:
    """Which of its volumes is still elsewhere, as a sentence; empty if none is."""
    for name in spec.volume_names:
        volume = context.cluster.volumes.get(name)
        if volume is not None and volume.host != context.host:
            return f"volume {name} is on {volume.host or 'no host yet'}: it has to come here first"
    return ""


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
    yield from _volumes_needed(context, spec)
    yield from _networks_needed(context, container, spec)
    yield from _image_needed(context, container, spec)


def _volumes_needed(context: _Context, spec: Spec) -> Iterable[s.Step]:
    for name in spec.volume_names:
        volume = context.cluster.volumes.get(name)
        if volume is not None and volume.filling is not None:
            yield s.FillVolume(name)
        elif volume is not None and not _volume_ready(context, volume):
            yield s.EnsureVolume(name)


def _volume_ready(context: _Context, volume: r.Volume) -> bool:
    bound = context.seen.volumes.get(volume.name) == volume.epoch and volume.filling is None
    return bound and (options_of(volume.body).engines or context.seen.live.get(volume.name) == volume.epoch)


def _image_needed(context: _Context, container: r.Container, spec: Spec) -> Iterable[s.Step]:
    if container.image_id and container.image_id not in context.seen.images:
        yield s.EnsureImage(container.id, spec.image, container.image_id)


def _networks_needed(context: _Context, container: r.Container, spec: Spec) -> Iterable[s.Step]:
    for network in networks_of(context.cluster, container, spec):
        if network not in context.seen.networks:
            yield s.EnsureNetwork(network)


def _present(
    context: _Context, container: r.Container, here: SeenHere, steps: list[s.Step], waits: list[s.Wait]
) -> None:
    if _pending(context, container):
        needs = _start_needs(context, container)
        if needs and container.order.verb in ("start", "restart", "connect"):
            _need(container, needs, steps, waits)
        else:
            steps.append(s.Perform(container.id, container.order))
    elif away := _starts_and_lacks(context, container, here):
        waits.append(s.Wait(f"container/{container.id}", away))
    elif container.desired == "running" and here.state == "created":
        needs = _start_needs(context, container)
        _need(container, needs, steps, waits)
        steps += [] if needs else [s.StartContainer(container.id)]
    elif container.desired == "running" and here.state in ("exited", "dead"):
        again = list(_again(context, container, here))
        needs = _start_needs(context, container) if again else []
        _need(container, needs, steps, waits)
        steps += [] if needs else again
    elif here.state == "running" and here.health == "unhealthy" and policy(parse_spec(container.body)) != "leave":
        done = context.seen.mended.get(container.id, Restarts())
        steps.append(s.RestartContainer(container.id, due_at=done.due_at))


def _starts_and_lacks(context: _Context, container: r.Container, here: SeenHere) -> str:
    """Why a container that should be started without an order cannot be: a volume of it is elsewhere; else empty."""
    starts = container.desired == "running" and not here.runs and not _has_finished(context, container, here)
    return _away(context, parse_spec(container.body)) if starts else ""


def _again(context: _Context, container: r.Container, here: SeenHere) -> Iterable[s.Step]:
    """The start of a container that ended: because this host was cut off, or by its own restart policy where the
    engine must not apply it."""
    done = context.seen.restarts.get(container.id, Restarts())
    facts = context.cluster.container_facts.get(f"{context.host}/{container.id}")
    interrupted = facts is not None and facts.interrupted and facts.engine_id == here.engine_id
    if interrupted or here.engine_id in context.seen.fenced:
        yield s.StartContainer(container.id)
    elif by_agent(context.cluster, container):
        spec = parse_spec(container.body)
        if wants_restart(spec, here.exit_code, counted(spec, done)):
            yield s.StartContainer(container.id, due_at=due_at(spec, done))


def _start_needs(context: _Context, container: r.Container) -> list[s.Step]:
    spec = parse_spec(container.body)
    return [*_volumes_needed(context, spec), *_networks_needed(context, container, spec)]


def _moves(context: _Context, steps: list[s.Step], waits: list[s.Wait]) -> None:
    """Moves from and to this host; the target has image and networks first."""
    for key, move in active(context.cluster):
        here = (context.seen.containers or {}).get(key)
        step = next_step(context.cluster, context.host, key, move)
        container = context.cluster.containers.get(move.container)
        if isinstance(step, s.CopyRounds) and container is not None:
            spec = parse_spec(container.body)
            needs = [*_networks_needed(context, container, spec), *_image_needed(context, container, spec)]
            steps += needs or [step]
            waits += [s.Wait(step.object, f"waits for {need.object}") for need in needs]
        elif step is not None:
            steps.append(step)
        elif is_over(context.cluster, context.host, key, move, here.state if here else ""):
            ready = [_volume_ready(context, context.cluster.volumes[v]) for v in move.volumes]
            steps += [s.FinishMove(key)] if all(ready) else [s.EnsureVolume(volume) for volume in move.volumes]


def _prepared(context: _Context) -> Iterable[s.Step]:
    """What containers of suspect hosts will need here, and the containers themselves."""
    for container, epoch in prepared_here(context.cluster, context.host):
        if container.id in (context.seen.containers or {}):
            continue
        spec = parse_spec(container.body)
        needs = [*_networks_needed(context, container, spec), *_image_needed(context, container, spec)]
        yield from needs
        if not needs and not spec.volume_names:
            yield s.PrepareContainer(container.id, epoch)


def _strays(context: _Context) -> Iterable[s.RemoveStray]:
    for engine_id in context.seen.strays:
        yield s.RemoveStray(engine_id, "a second copy")
    coming = {container.id: epoch for container, epoch in expected_here(context.cluster, context.host)}
    left = {container.id for container in just_left(context.cluster, context.host)}
    for container, here in (context.seen.containers or {}).items():
        placement = context.cluster.placements.get(container)
        if placement is None or container not in context.cluster.containers:
            yield s.RemoveStray(here.engine_id, "no record asks for it")
        elif placement.host != context.host:
            if coming.get(container) != here.epoch and (here.runs or container not in left):
                yield s.RemoveStray(here.engine_id, f"it runs on {placement.host} now")
        elif here.epoch < placement.epoch:
            yield s.RemoveStray(here.engine_id, f"epoch {here.epoch} is over, {placement.epoch} holds")


def _default_network(context: _Context) -> Iterable[s.Step]:
    """Made before anybody needs it: every `docker run` that names no network would wait for it."""
    if DEFAULT_NETWORK in context.cluster.networks and DEFAULT_NETWORK not in context.seen.networks:
        yield s.EnsureNetwork(DEFAULT_NETWORK)


def running_strays(cluster: Cluster, host: str, seen: Seen) -> list[str]:
    """The engine ids of containers that run here and have no business here: until they are gone, this host's part of
    the cluster's networks stays shut."""
    everything = {here.engine_id: here for here in (*(seen.containers or {}).values(), *seen.strays.values())}
    wrong = (step.engine_id for step in _strays(_Context(cluster, host, seen, 0.0)))
    return [engine_id for engine_id in wrong if everything[engine_id].runs]


def _spare_image(context: _Context) -> Iterable[s.Step]:
    """The first spare that is missing and may be tried now: one at a time, beside whatever else goes on."""
    for image in spares(context.cluster, context.host):
        step = s.KeepImage(image.container, image.ref, image.image_id)
        held = context.seen.held.get(step.object, 0.0) > context.now
        if image.image_id not in context.seen.images and not held:
            yield step
            return


def _unused_networks(context: _Context) -> Iterable[s.Step]:
    used = networks_used(context.cluster, context.host)
    for network, engine_id in context.seen.networks.items():
        if network not in used:
            yield s.RemoveNetwork(network, engine_id)


def _removed_volumes(context: _Context) -> Iterable[s.Step]:
    """Copies on hosts that are up go first: without the record nobody would know what they are."""
    for volume in removed_volumes(context.cluster):
        if volume.host != context.host and context.seen.snapshots.get(volume.name):
            yield s.RemoveCopy(volume.name)
        elif volume.host == context.host and not has_copies(context.cluster, volume):
            yield s.RemoveVolume(volume.name)


def _volumes_elsewhere(context: _Context) -> Iterable[s.Step]:
    """What is left here of claims that are over: the engine's volume, then the live set, never the snapshots. A live
    set goes last: by then no container can write it."""
    if not context.seen.volumes and not context.seen.live:
        return
    held = {volume.name for volume in held_by(context.cluster, context.host)}
    coming = {volume for _, move in active(context.cluster) if move.target == context.host for volume in move.volumes}
    in_use = {volume for one in context.seen.containers or () for volume in _volume_names(context.cluster, one)}
    for name in context.seen.volumes:
        if name in context.cluster.volumes and name not in held | coming | in_use:
            yield s.DropVolume(name)
    running = {
        volume
        for one, here in (context.seen.containers or {}).items()
        for volume in _volume_names(context.cluster, one)
        if here.runs
    }
    for name in context.seen.live:
        stays = name in running or (name in context.seen.volumes and name not in in_use)
        if name in context.cluster.volumes and name not in held and not stays:
            yield s.SetAside(name)


def _copies(context: _Context) -> Iterable[s.Step]:
    """Copies of volumes that are due, and snapshots that nobody needs any more."""
    for volumes in kept_here(context.cluster, context.host):
        names = tuple(volume.name for volume in volumes)
        yield s.RefreshReplica(names, min(context.seen.refresh_at.get(name, 0.0) for name in names))
    for name, snapshots in context.seen.snapshots.items():
        record = context.cluster.volumes.get(name)
        if record is not None and (gone := spare(context.cluster, context.host, record, snapshots, context.now)):
            yield s.TidyVolume(name, gone)


def _life(context: _Context) -> Iterable[s.Step]:
    """What is to be done with the volumes this host holds: made anew, limited, backed up."""
    for volume in held_by(context.cluster, context.host):
        if volume.removed:
            continue
        if volume.filling is not None and volume.filling.kind != "import":
            yield s.FillVolume(volume.name)
        live = context.seen.live.get(volume.name) == volume.epoch and volume.filling is None
        if live and context.seen.limits.get(volume.name, 0) != volume.size_bytes:
            yield s.LimitVolume(volume.name)
        if live and volume.backup is not None and (due_at := backup_due(context.cluster, volume)) is not None:
            yield s.BackupVolume(volume.name, due_at)


def _volume_names(cluster: Cluster, container: str) -> tuple[str, ...]:
    record = cluster.containers.get(container)
    return () if record is None else parse_spec(record.body).volume_names
