"""Moves: a container and its volumes go to another host in two phases, nothing acknowledged lost.

Theory of operation. A move is a record with a phase; every change of it is ONE conditional commit that expects the
record's version, so a cancellation and a hand-over can never both happen.

    phase      who acts   does                                                           commits
    copying    target     prepares image and networks; copies rounds of snapshots        stopping
                          until the rest is small; makes the engine container
    stopping   source     stops the container; sets each live set aside as its last      stopped
                          snapshot: from here on nobody can write
    stopped    target     copies the last snapshots, and passes volumes and placement    handed
                          to itself with the next epoch: `hand_over`
    handed     target     promotes, starts; lets its clients in; the source sends on     done
                          what still comes for it, and then removes what it has
    aborting   source     promotes its last snapshots again, in the same epoch; starts   aborted

    in which phase    what happens                                 then
    copying..stopped  cancelled, or a step fails for good          aborting
    copying..stopped  one of the two hosts loses its lease         aborting, by the other one
    handed            anything                                     the move completes: the target tries again and again

The guard is raised before its partner is relaxed: the source's paths are gone before the claim passes, and the target's
exist only after. Whatever is cut, the volume is live on at most one host, and its last state is a snapshot on one.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from drover.decide import steps as s
from drover.decide.health import NOTHING_NEW, host_state
from drover.decide.index import containers_on
from drover.decide.prepared import prepared_here
from drover.decide.volume_space import no_room
from drover.errors import Conflict, DroverError, Invalid, NotFound, Unavailable
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.spec import Spec, parse_spec
from drover.model.volume_options import options_of

BEFORE_HAND_OVER = ("copying", "stopping", "stopped")
STANDING_STILL = ("stopping", "stopped", "aborting")
"""Phases in which the container's own rows of `converge` wait."""
ENDED = ("done", "aborted")
VOLUME_KEY = "volume:"
HOST_PATHS_LABEL, EVERYWHERE = "drover.host_paths", "everywhere"
"""On a container: its host paths lead to the same files on every host, so they do not tie it to one."""
MOVED_LAYERS = "overlay2"
MOVED_LOGS = ("json-file", "local")


def volume_key(volume: str) -> str:
    """The key of a move of a volume without a container."""
    return VOLUME_KEY + volume


def active(cluster: Cluster) -> Iterable[tuple[str, r.Move]]:
    """The moves that have not ended, with their keys."""
    return [(key, move) for key, move in cluster.moves.items() if move.phase not in ENDED] if cluster.moves else ()


def move_of_volume(cluster: Cluster, volume: str) -> tuple[str, r.Move] | None:
    """The move under way that takes a volume along."""
    return next(((key, move) for key, move in active(cluster) if volume in move.volumes), None)


def stands_still(cluster: Cluster, container: str) -> str:
    """Why nothing is done about a container on its own host now, as a sentence; empty if nothing hinders."""
    move = cluster.moves.get(container)
    if move is None or move.phase not in STANDING_STILL:
        return ""
    return f"is on its way from {move.source} to {move.target}"


def expected_here(cluster: Cluster, host: str) -> Iterable[tuple[r.Container, int]]:
    """Containers that are about to come to `host`, by a move or from a host that may be dead, with the epoch they will
    have."""
    yield from prepared_here(cluster, host)
    for key, move in active(cluster):
        container, placement = cluster.containers.get(key), cluster.placements.get(key)
        if move.target == host and move.phase in BEFORE_HAND_OVER and container is not None and placement is not None:
            yield container, placement.epoch + 1


def just_left(cluster: Cluster, host: str) -> Iterable[r.Container]:
    """Containers that `host` has handed over, and that are not ready for their clients where they went."""
    for key, move in active(cluster):
        container = cluster.containers.get(key)
        if move.source == host and move.phase == "handed" and container is not None:
            yield container


# -- the next step ---------------------------------------------------------------------------------------------------


def next_step(cluster: Cluster, host: str, key: str, move: r.Move) -> s.Step | None:
    """What `host` does about a move now, by the module's tables; None: it is another's turn."""
    other = move.source if host == move.target else move.target
    if host not in (move.source, move.target):
        return None
    if move.phase in BEFORE_HAND_OVER and other in cluster.hosts and other not in cluster.alive:
        return s.AbortMove(key, f"host {other} is down")
    if why := _impossible(cluster, move):
        return s.AbortMove(key, why)
    if host == move.target:
        return {"copying": s.CopyRounds(key), "stopped": s.TakeOver(key)}.get(move.phase)
    return {"stopping": s.StopForMove(key), "aborting": s.Restore(key)}.get(move.phase)


def _impossible(cluster: Cluster, move: r.Move) -> str:
    """Why a move that has not been handed over cannot go on: somebody changed what it rests on."""
    if move.phase not in BEFORE_HAND_OVER:
        return ""
    if move.container and cluster.host_of(move.container) != move.source:
        return f"the container is not on {move.source} any more"
    for name in move.volumes:
        volume = cluster.volumes.get(name)
        if volume is None or volume.removed or volume.host != move.source:
            return f"volume {name} is not on {move.source} any more"
    return ""


def is_over(cluster: Cluster, host: str, key: str, move: r.Move, state: str) -> bool:
    """Whether a move that was handed over is done: `state` is the container's on the target's engine (empty: none).
    Its volumes are seen to by the caller."""
    if move.phase != "handed" or host != move.target:
        return False
    container = cluster.containers.get(move.container)
    if not move.container or container is None:
        return True
    return state not in ("", "created") or (state == "created" and container.desired != "running")


# -- commits ---------------------------------------------------------------------------------------------------------


class Commit(msgspec.Struct, frozen=True):
    """What to write, and the versions it rests on."""

    changes: tuple[Change, ...]
    expect: dict[str, int]


def _one(cluster: Cluster, key: str, move: r.Move, **fields: object) -> Commit:
    """A change of the move's own record alone."""
    move_key = r.key("moves", key)
    changed = msgspec.structs.replace(move, **fields)
    return Commit((put(move_key, changed),), {move_key: cluster.version(move_key)})


def passed(cluster: Cluster, key: str, phase: r.Phase, **fields: object) -> Commit | None:
    """The move with its next phase; None if it is not in the phase before that (any more)."""
    move = cluster.moves.get(key)
    before: dict[str, tuple[str, ...]] = {
        "stopping": ("copying",),
        "stopped": ("stopping",),
        "done": ("handed",),
        "aborting": BEFORE_HAND_OVER,
        "aborted": ("aborting",),
    }
    if move is None or move.phase not in before[phase]:
        return None
    return _one(cluster, key, move, phase=phase, **fields)


def cancelled(cluster: Cluster, key: str, why: str) -> Commit:
    """Raises `NotFound` if nothing moves, `Conflict` after the hand-over."""
    move = cluster.moves.get(key)
    if move is None or move.phase in ENDED:
        raise NotFound("nothing is being moved", hint="`drover volume ls` and `drover why` show where things are")
    commit = passed(cluster, key, "aborting", why=why)
    if commit is None:
        if move.phase == "aborting":
            return Commit((), {})
        raise Conflict(f"the hand-over to {move.target} has been made: the move completes", hint="move it back then")
    return commit


def hand_over(cluster: Cluster, key: str, now: float) -> Commit | None:
    """The one commit that passes all claims from source to target; None if the move is not to be handed over."""
    move = cluster.moves.get(key)
    if move is None or move.phase != "stopped" or _impossible(cluster, move):
        return None
    own = _one(cluster, key, move, phase="handed", handed_at=now)
    changes = [*own.changes, *_volumes_passed(cluster, move), *_placement_passed(cluster, move, now)]
    expect = {change.key: cluster.version(change.key) for change in changes}
    for host in (move.source, move.target):
        expect[r.key("alive", host)] = cluster.version(r.key("alive", host))
    return Commit(tuple(changes), expect)


def _volumes_passed(cluster: Cluster, move: r.Move) -> Iterable[Change]:
    for name in move.volumes:
        volume = cluster.volumes[name]
        passed_on = msgspec.structs.replace(
            volume, host=move.target, epoch=volume.epoch + 1, snapshot=move.final.get(name, volume.snapshot)
        )
        yield put(r.key("volumes", name), passed_on)


def _placement_passed(cluster: Cluster, move: r.Move, now: float) -> Iterable[Change]:
    old = cluster.placements.get(move.container)
    if old is None:
        return
    why = f"it was moved here from {old.host}" + (f": {move.because}" if move.because else "")
    reasons = {old.host: "it was moved away"}
    moved = msgspec.structs.replace(old, host=move.target, epoch=old.epoch + 1, chosen=why, reasons=reasons, at=now)
    yield put(r.key("placements", move.container), moved)
    for rest, port in cluster.ports.items():
        if port.container == move.container and port.host == move.source:
            yield delete(r.key("ports", rest))
            there = msgspec.structs.replace(port, host=move.target, epoch=port.epoch + 1)
            yield put(r.key("ports", move.target, port.protocol, str(port.port)), there)


# -- beginning -------------------------------------------------------------------------------------------------------


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """How a move is to be made."""

    target: str
    limit_bytes_s: int = 0
    compress: bool = False
    grace_s: int = -1
    because: str = ""
    """Why, as what follows `it was moved here from h1: `; empty: somebody asked for it."""
    leave: tuple[r.Part, ...] = ()
    """What of the container's own files stays behind."""


def begin_container(cluster: Cluster, container: r.Container, asked: Asked, now: float) -> Commit:
    """The record of a container's move. Raises why it cannot be moved, or not there."""
    source = cluster.host_of(container.id)
    if source is None:
        raise Unavailable(f"container {container.name} is not placed on any host")
    spec = parse_spec(container.body)
    _refuse_tied(container, spec, source)
    asked = _with_what_there_is(cluster, spec, source, asked)
    volumes = tuple(name for name in spec.volume_names if name in cluster.volumes and cluster.volumes[name].host)
    return _begin(cluster, container.id, container.id, volumes, source, asked, now)


def begin_volume(cluster: Cluster, name: str, asked: Asked, now: float) -> Commit:
    """The record of a volume's move. Raises why it cannot be moved, or not there."""
    volume = cluster.volumes.get(name)
    if volume is None or volume.removed:
        raise NotFound(f"get {name}: no such volume", hint="`drover volume ls` lists them")
    if not volume.host:
        raise Conflict(f"volume {name} has never been used: there is nothing to move", hint="use it there")
    return _begin(cluster, volume_key(name), "", (name,), volume.host, asked, now)


def _begin(
    cluster: Cluster, key: str, container: str, volumes: tuple[str, ...], source: str, asked: Asked, now: float
) -> Commit:
    _refuse_hosts(cluster, source, asked.target)
    for name in volumes:
        _refuse_volume(cluster, name, container, source, asked.target)
    before = cluster.moves.get(key)
    if before is not None and before.phase not in ENDED:
        raise Conflict(
            f"it is being moved from {before.source} to {before.target} already", hint="wait, or cancel that"
        )
    move = r.Move(
        container=container,
        volumes=volumes,
        source=source,
        target=asked.target,
        number=before.number + 1 if before else 1,
        limit_bytes_s=asked.limit_bytes_s,
        compress=asked.compress,
        grace_s=asked.grace_s,
        because=asked.because,
        leave=asked.leave,
        started_at=now,
    )
    move_key = r.key("moves", key)
    keys = [move_key, *(r.key("volumes", name) for name in volumes)]
    return Commit((put(move_key, move),), {one: cluster.version(one) for one in keys})


def _refuse_hosts(cluster: Cluster, source: str, target: str) -> None:
    if target not in cluster.hosts:
        raise NotFound(f"no host is called {target}", hint="`drover host ls` lists the hosts")
    if target == source:
        raise Invalid(f"it is on {target} already")
    for host in (source, target):
        if host not in cluster.alive:
            raise Unavailable(f"host {host} is down", hint="`drover host ls` says since when")
    if (why := host_state(cluster, target)).state in NOTHING_NEW:
        raise Conflict(f"host {target} {why.says}", hint=f"drover host undrain {target}")


def _refuse_tied(container: r.Container, spec: Spec, source: str) -> None:
    """What ties a container to its host."""
    if spec.auto_remove:
        raise Conflict(f"container {container.name} removes itself when it stops (--rm): it cannot be moved")
    if spec.binds and spec.labels.get(HOST_PATHS_LABEL) != EVERYWHERE:
        raise Conflict(
            f"container {container.name} is tied to {source} by the host path {spec.binds[0]}",
            hint="use a named volume, which moves with the container; or say that the path is the same on every host, "
            f"as storage they share is: --label {HOST_PATHS_LABEL}={EVERYWHERE}",
        )
    shared = [what for what in (spec.network_container, spec.pid, spec.ipc) if what] + list(spec.volumes_from)
    if shared:
        raise Conflict(f"container {container.name} must stay with container {shared[0]}, which it shares things with")


def _with_what_there_is(cluster: Cluster, spec: Spec, source: str, asked: Asked) -> Asked:
    """What is asked, less a log that is not kept at all. Raises `Conflict` for files that cannot be moved. What an
    engine has not said yet is found out on the way."""
    here, there = (cluster.host_facts.get(host, r.HostFacts(host=host)) for host in (source, asked.target))
    for facts in (here, there):
        if "layer" not in asked.leave and facts.storage_driver not in ("", MOVED_LAYERS):
            raise Conflict(
                f"what it wrote outside its volumes cannot be moved: {facts.host} has the storage driver"
                f" {facts.storage_driver}",
                hint=f"only {MOVED_LAYERS}'s can be: drover move --without-layer leaves it behind",
            )
    drivers = [spec.log_driver or facts.log_driver for facts in (here, there)]
    if drivers[0] == "none":
        return msgspec.structs.replace(asked, leave=(*asked.leave, "log"))
    if "log" not in asked.leave and all(drivers) and (drivers[0] not in MOVED_LOGS or drivers[0] != drivers[1]):
        raise Conflict(
            f"its log cannot be moved: it is kept by {drivers[0]} on {source}, and by {drivers[1]} on {asked.target}",
            hint="those of json-file and local can be moved: drover move --without-log leaves it behind",
        )
    return asked


def _refuse_volume(cluster: Cluster, name: str, container: str, source: str, target: str) -> None:
    volume = cluster.volumes[name]
    if options_of(volume.body).engines:
        raise Conflict(
            f"volume {name} is made of the engine's own options: Drover does not know what {target} would see there",
            hint="use --opt driver=shared for storage that every host sees",
        )
    if volume.host != source:
        raise Conflict(f"volume {name} is on {volume.host}, not on {source}")
    for user in users_at(cluster, name, source):
        if user.id != container:
            raise Conflict(
                f"volume {name} is in use by container {user.name} on {source}",
                hint="a volume has one host: remove that container first"
                if container
                else f"move the container, its volumes come along: drover move {user.name} --to {target}",
            )
    if volume.filling is not None:
        raise Conflict(f"volume {name} is not ready: its {volume.filling.kind} is not done", hint="wait for it")
    other = move_of_volume(cluster, name)
    if other is not None:
        raise Conflict(f"volume {name} is being moved to {other[1].target} already", hint="wait, or cancel that")
    facts = cluster.host_facts.get(target)
    driver = driver_of(cluster, volume)
    if facts is None or (driver and driver not in facts.volume_drivers):
        offered = ", ".join(facts.volume_drivers) if facts else "nothing known"
        raise Conflict(
            f"host {target} does not offer the volume driver {driver} that volume {name} has: it offers {offered}",
            hint="give it a pool with `drover init --volume-pool`, or move it to another host",
        )
    _refuse_space(cluster, volume, target)


def _refuse_space(cluster: Cluster, volume: r.Volume, target: str) -> None:
    """A target without a copy needs space for all of it."""
    held = cluster.volume_facts.get(f"{volume.host}/{volume.name}")
    there = cluster.volume_facts.get(f"{target}/{volume.name}")
    needed_bytes = 0 if held is None or (there is not None and there.snapshots) else held.size_bytes
    if needed_bytes and (lacking := no_room(cluster, target, driver_of(cluster, volume), needed_bytes)):
        raise Conflict(
            f"host {target} {lacking} by volume {volume.name}", hint="make space there, or take another host"
        )


def volume_record(name: str, body: str, now: float) -> r.Volume:
    """The record of a new volume that nobody holds yet, as its create body asks. Raises `Invalid` for bad options."""
    asked = options_of(body)
    return r.Volume(
        name=name,
        body=body,
        driver=asked.driver,
        replicas=asked.replicas,
        interval_s=asked.interval_s,
        size_bytes=asked.size_bytes,
        sync=asked.sync,
        created_at=now,
    )


def settled(cluster: Cluster, volume: r.Volume, host: str) -> r.Volume:
    """The record of a volume that `host` uses: the claim, if nobody has it, and with it the driver."""
    if volume.host:
        return volume
    facts = cluster.host_facts.get(host)
    offered = facts.volume_drivers if facts else ()
    return msgspec.structs.replace(volume, host=host, driver=volume.driver or (offered[0] if offered else ""))


def unmovable(cluster: Cluster, volume: r.Volume, target: str, container: str = "") -> str:
    """Why a volume that is elsewhere cannot come to `target` for a container (an id, if it has one already), as the
    rest of a sentence that begins with the volume; empty if it can."""
    try:
        _begin(cluster, volume_key(volume.name), container, (volume.name,), volume.host, Asked(target=target), 0.0)
    except DroverError as error:
        return error.message
    return ""


def users_at(cluster: Cluster, volume: str, host: str) -> list[r.Container]:
    """The containers placed on `host` that name a volume."""
    return [one for one in containers_on(cluster, host) if volume in parse_spec(one.body).volume_names]


def driver_of(cluster: Cluster, volume: r.Volume) -> str:
    """The driver a volume has: the one asked for, else the one that its host said it uses; empty if not settled."""
    facts = cluster.volume_facts.get(f"{volume.host}/{volume.name}")
    return volume.driver or (facts.driver if facts else "")
