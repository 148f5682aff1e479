"""`relocations(cluster, now)`: what becomes of the containers of hosts that are lost.

Theory of operation. A host is lost when the store says that its lease is over: the key `alive/<host>` is gone. By then
it has fenced itself (`docs/adr/0004-fencing.md`), or is dead. Each container placed there gets the first verdict:

    the container                                         verdict
    should not run                                        stays, unless a volume of it passes: then it goes along
    had finished, and its restart policy is content       stays, says so
    removes itself when it ends (`--rm`)                  stays, says so
    has the label `drover.reschedule=off`                 stays, says so
    has patience left (`drover.reschedule_after=SECONDS`) waits, says until when
    uses a volume that nobody can take over               waits, says which
    is bound to a container that is itself about to move  waits for that one
    fits on no host                                       waits, one reason per host
    otherwise                                             is placed there: a `Relocation`

A relocation is a piece of ONE conditional commit: the placement, the addresses and the ports with the next epoch, the
volumes as others take them over, and the end of a move that was under way. It expects every record it was decided on,
that the lost host has no lease, and that the new one holds the lease it was seen with: whatever changed meanwhile makes
the commit fail, and all is decided again. Nothing here asks the dead host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import msgspec

from drover.decide.board import Board
from drover.decide.choice import Chosen
from drover.decide.claims import addresses_of, ports_of
from drover.decide.health import host_state
from drover.decide.index import containers_on
from drover.decide.kept_views import kept
from drover.decide.moves import ENDED
from drover.decide.prepared import prepared_at
from drover.decide.restarts import wants_restart
from drover.decide.sentences import instant
from drover.decide.spare_images import image_hosts
from drover.decide.steps import Wait
from drover.decide.views import HostViews
from drover.decide.wanted import Wanted, wanted_again
from drover.errors import DroverError, NoPlacement
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.spec import Spec, parse_spec

RESCHEDULE_LABEL = "drover.reschedule"
PATIENCE_LABEL = "drover.reschedule_after"
FROM_IMAGE = "it starts from its image: what it wrote outside its volumes is lost"
BATCH = 64
"""How many relocations go into one commit."""

Successor = Callable[[Cluster, r.Volume], "r.Volume | str"]
"""Who takes over a volume whose host is lost: its record with the new host and the next epoch, or why nobody can."""


class Relocation(msgspec.Struct, frozen=True, kw_only=True):
    """One container's move: the record writes and the versions that they rest on."""

    container: str
    name: str
    source: str
    target: str
    changes: tuple[Change, ...]
    expect: Mapping[str, int]


class Recovery(msgspec.Struct, frozen=True):
    """What to commit, what waits and why, and when to look again without being woken (0: never)."""

    relocations: tuple[Relocation, ...] = ()
    waits: tuple[Wait, ...] = ()
    again_at: float = 0.0


class _Later(msgspec.Struct, frozen=True):
    """Not now: the sentence, and the time from which it may be otherwise (0: when a record changes)."""

    why: str
    at: float = 0.0


def no_replica(cluster: Cluster, volume: r.Volume) -> r.Volume | str:
    """The successor of a volume of which there is one copy only: none."""
    return f"volume {volume.name} has no complete replica on another host than {volume.host}"


class _Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What every verdict reads, worked out once. `moving`: the containers of lost hosts that should run, by id;
    `images`: which hosts should have an image by now; `claims`: a container's address and port claims by their keys."""

    cluster: Cluster
    now: float
    successor: Successor
    lost: frozenset[str]
    moving: Mapping[str, r.Container]
    images: Mapping[str, frozenset[str]]
    claims: Mapping[str, Mapping[str, r.Address | r.Port]]
    left: Mapping[str, Sequence[r.Container]]
    """What is on each lost host, running or not."""


class _Boards:
    """Where containers are placed: all hosts, and for each image those that have it. What is placed counts on both."""

    def __init__(self, views: HostViews) -> None:
        self.all = Board(views)
        self._having: dict[frozenset[str], Board] = {}

    def having(self, hosts: frozenset[str]) -> Board:
        """Of the hosts that have an image."""
        if hosts not in self._having:
            self._having[hosts] = self.all.part(hosts)
        return self._having[hosts]

    def put(self, host: str, container: r.Container) -> None:
        spec = parse_spec(container.body)
        for board in (self.all, *self._having.values()):
            if host in board:
                board.put(host, container.id, container.name, spec)


def relocations(cluster: Cluster, now: float, successor: Successor = no_replica) -> Recovery:
    """The verdicts on all containers of lost hosts. Pure; `now` is in seconds since the Unix epoch, and decides about
    patience only."""
    scene = _scene(cluster, now, successor)
    views = kept(cluster)  # also while nothing is lost: to begin adding up all hosts then would take seconds
    if not scene.moving:
        return Recovery()
    boards = _Boards(views)
    found: list[Relocation] = []
    later: dict[str, _Later] = {}
    written: set[str] = set()
    for container in scene.moving.values():
        verdict = _verdict(scene, boards, container)
        if isinstance(verdict, _Later):
            later[container.id] = verdict
        elif written.isdisjoint(change.key for change in verdict.changes):
            found.append(verdict)
            written.update(change.key for change in verdict.changes)
            boards.put(verdict.target, container)
        else:
            later[container.id] = _Later("waits for another container that uses the same volume to be placed")
    waits = tuple(Wait(f"container/{one}", verdict.why) for one, verdict in later.items())
    return Recovery(tuple(found), waits, min((v.at for v in later.values() if v.at), default=0.0))


def obstacle(cluster: Cluster, container: str, now: float, successor: Successor = no_replica) -> str:
    """Why a container of a lost host does not run elsewhere yet, as a sentence; empty if nothing is the matter."""
    scene = _scene(cluster, now, successor)
    if container not in scene.moving:
        return ""
    verdict = _verdict(scene, _Boards(kept(cluster)), scene.moving[container])
    return verdict.why if isinstance(verdict, _Later) else f"is about to be placed on {verdict.target}"


def _scene(cluster: Cluster, now: float, successor: Successor) -> _Scene:
    lost = lost_hosts(cluster)
    left = _on(cluster, lost)
    moving = {container.id: container for container in _running(left)}
    claims: dict[str, dict[str, r.Address | r.Port]] = {one: {} for one in moving}
    tables: list[tuple[str, Mapping[str, r.Address] | Mapping[str, r.Port]]] = [
        ("addresses", cluster.addresses),
        ("ports", cluster.ports),
    ]
    for table, rows in tables if moving else []:
        for rest, claim in rows.items():
            if claim.container in moving:
                claims[claim.container][r.key(table, rest)] = claim
    return _Scene(
        cluster=cluster,
        now=now,
        successor=successor,
        lost=lost,
        moving=moving,
        images=image_hosts(cluster, {container.image_id for container in moving.values()}),
        claims=claims,
        left=left,
    )


def merged(group: Sequence[Relocation]) -> tuple[list[Change], dict[str, int]]:
    """Several relocations as one commit: the changes and what to expect."""
    expect: dict[str, int] = {}
    for one in group:
        expect.update(one.expect)
    return [change for one in group for change in one.changes], expect


def batches(found: Sequence[Relocation], size: int = BATCH) -> Iterator[Sequence[Relocation]]:
    return (found[start : start + size] for start in range(0, len(found), size))


def lost_hosts(cluster: Cluster) -> frozenset[str]:
    """The members without a lease. One that never came up has nothing to lose."""
    return frozenset(name for name in cluster.hosts if name not in cluster.alive)


def _on(cluster: Cluster, hosts: frozenset[str]) -> Mapping[str, Sequence[r.Container]]:
    """What is placed on each of some hosts."""
    return {host: containers_on(cluster, host) for host in hosts}


def _running(left: Mapping[str, Sequence[r.Container]]) -> list[r.Container]:
    running = [record for records in left.values() for record in records if record.desired == "running"]
    return sorted(running, key=lambda record: (record.created_at, record.id))


def _verdict(scene: _Scene, boards: _Boards, container: r.Container) -> Relocation | _Later:
    """The module's table, first match."""
    cluster, spec = scene.cluster, parse_spec(container.body)
    source = cluster.placements[container.id].host
    later = _left(cluster, container, spec) or _patience(cluster, source, spec, scene.now)
    if later is not None:
        return later
    passing = _passing(scene, spec)
    if isinstance(passing, str):
        return _Later(passing)
    try:
        wanted = wanted_again(cluster, container)
        return _moved_first(scene, wanted, source) or _relocation(
            scene, container, _placed(scene, boards, wanted, container, passing), passing
        )
    except DroverError as error:
        return _Later(error.message)


def _left(cluster: Cluster, container: r.Container, spec: Spec) -> _Later | None:
    """The containers that are not recovered by choice."""
    if spec.labels.get(RESCHEDULE_LABEL, "").lower() == "off":
        return _Later(f"stays where it is: it has the label {RESCHEDULE_LABEL}=off")
    if spec.auto_remove:
        return _Later("is not started again: it was to be removed at its end (--rm)")
    if has_finished(cluster, container, spec):
        return _Later("had finished before its host was lost")
    return None


def has_finished(cluster: Cluster, container: r.Container, spec: Spec) -> bool:
    """Whether its last order was carried out, its process has ended since (and Drover did not stop it), and its restart
    policy leaves it at that."""
    facts = cluster.facts_of(container.id)
    if facts is None or facts.state not in ("exited", "dead") or facts.answer.number < container.order.number:
        return False
    if facts.interrupted:
        return False
    return not wants_restart(spec, facts.exit_code, facts.restarts)


def _patience(cluster: Cluster, source: str, spec: Spec, now: float) -> _Later | None:
    text = spec.labels.get(PATIENCE_LABEL, "0")
    try:
        patience_s = float(text)
    except ValueError:
        return _Later(f"is not placed elsewhere: its label {PATIENCE_LABEL}={text} is not a number of seconds")
    note = cluster.lost.get(source)
    due = (note.at if note is not None else now) + patience_s
    if patience_s <= 0 or now >= due:
        return None
    return _Later(f"is placed elsewhere if {source} is not back by {instant(due)} ({PATIENCE_LABEL}={text})", due)


def _passing(scene: _Scene, spec: Spec) -> list[Change] | str:
    """The records of its volumes as another host takes them over; or why one of them cannot pass."""
    changes = []
    for name in spec.volume_names:
        volume = scene.cluster.volumes.get(name)
        if volume is not None and volume.host in scene.lost:
            taken = scene.successor(scene.cluster, volume)
            if isinstance(taken, str):
                return taken
            changes.append(put(r.key("volumes", name), taken))
    return changes


def _moved_first(scene: _Scene, wanted: Wanted, source: str) -> _Later | None:
    """A container that must be with another one of the same host waits until that one has moved."""
    for near in wanted.near:
        first = scene.moving.get(near.container)
        if first is not None and scene.cluster.host_of(first.id) == source:
            return _Later(f"waits until {first.name} has moved: it {near.why}")
    return None


def _placed(scene: _Scene, boards: _Boards, wanted: Wanted, container: r.Container, passing: list[Change]) -> Chosen:
    """The host where it was made ready; else the best among those that have the image already; where none of them fits,
    among all."""
    cluster = _as_passed(scene.cluster, passing) if passing else scene.cluster
    have = scene.images.get(container.image_id, frozenset())
    ready = prepared_at(cluster, container.id, cluster.placements[container.id].host)
    for hosts, why in ((frozenset([ready]), f"{ready} was ready for it"), (have, "does not have the image yet")):
        with suppress(NoPlacement):
            chosen = boards.having(hosts).place(cluster, wanted, image_hosts=have)
            return msgspec.structs.replace(chosen, reasons=dict(_reasons(scene, boards, chosen, hosts, why)))
    return boards.all.place(cluster, wanted, image_hosts=have)


def _as_passed(cluster: Cluster, passing: list[Change]) -> Cluster:
    """The picture with the volumes as another host takes them over. Placing asks for no versions: they stay."""
    volumes = {
        **cluster.volumes,
        **{one.record.name: one.record for one in passing if isinstance(one.record, r.Volume)},
    }
    return Cluster(cluster.revision, {**cluster.tables, "volumes": volumes}, cluster.versions)


def _reasons(
    scene: _Scene, boards: _Boards, chosen: Chosen, asked: frozenset[str], why: str
) -> Iterator[tuple[str, str]]:
    """Why not each of the first hosts by name; `why`: of those that were not even asked."""
    for name in boards.all.first(chosen.host):
        if name in asked:
            yield name, chosen.reasons[name]
        elif name in scene.lost:
            yield name, host_state(scene.cluster, name).says
        else:
            yield name, why


def _relocation(scene: _Scene, container: r.Container, chosen: Chosen, passing: list[Change]) -> Relocation:
    cluster, old = scene.cluster, scene.cluster.placements[container.id]
    placement = r.Placement(
        container=container.id,
        host=chosen.host,
        epoch=old.epoch + 1,
        chosen=f"it ran on {old.host}, which {host_state(cluster, old.host).says}; {chosen.why}; {FROM_IMAGE}",
        reasons=dict(chosen.reasons),
        at=scene.now,
    )
    changes = [put(r.key("placements", container.id), placement), *passing, *_move_ended(scene, container, chosen.host)]
    for key, claim in scene.claims[container.id].items():
        changes += _claimed_anew(key, claim, old.host, chosen.host)
    along = [one for one in _users(scene, old.host, passing) if one.id != container.id]
    for one in along:
        changes += _brought_along(scene, one, placement, container.name)
    rests_on = [r.key("containers", one.id) for one in (container, *along)]
    rests_on += [r.key("alive", old.host), r.key("alive", chosen.host)]
    keys = [change.key for change in changes] + rests_on
    return Relocation(
        container=container.id,
        name=container.name,
        source=old.host,
        target=chosen.host,
        changes=tuple(changes),
        expect={key: cluster.version(key) for key in keys},
    )


def _users(scene: _Scene, source: str, passing: list[Change]) -> list[r.Container]:
    """The containers of a lost host that are not to be started elsewhere, and use a volume that passes."""
    names = {change.record.name for change in passing if isinstance(change.record, r.Volume)}
    cluster = scene.cluster
    found = scene.left.get(source, ()) if names else ()
    records = [(record, parse_spec(record.body)) for record in found]
    return [
        record
        for record, spec in records
        if names & set(spec.volume_names)
        and (record.desired in ("created", "stopped") or has_finished(cluster, record, spec))
        and not spec.auto_remove
    ]


def _brought_along(scene: _Scene, container: r.Container, other: r.Placement, name: str) -> list[Change]:
    """Its placement where its volume goes, with the next epoch: elsewhere it could never be started again. One that had
    finished is not run a second time."""
    cluster, old = scene.cluster, scene.cluster.placements[container.id]
    why = f"it uses a volume that went to {other.host} with {name}"
    placed = msgspec.structs.replace(old, host=other.host, epoch=old.epoch + 1, chosen=why, reasons={}, at=scene.now)
    changes: list[Change] = [put(r.key("placements", container.id), placed), *_move_ended(scene, container, other.host)]
    if container.desired == "running":
        changes.append(put(r.key("containers", container.id), msgspec.structs.replace(container, desired="stopped")))
    for address in addresses_of(cluster, container.id):
        changes += _claimed_anew(r.key("addresses", address.network, address.ip), address, old.host, other.host)
    for port in ports_of(cluster, container.id):
        key = r.key("ports", port.host, port.protocol, str(port.port))
        changes += _claimed_anew(key, port, old.host, other.host)
    return changes


def _move_ended(scene: _Scene, container: r.Container, target: str) -> list[Change]:
    """A move of the container that was under way: one of its hosts is lost, and the other must not wait for it."""
    move = scene.cluster.moves.get(container.id)
    if move is None or move.phase in ENDED:
        return []
    why = f"a host of the move was lost; {container.name} goes on {target}"
    return [
        put(r.key("moves", container.id), msgspec.structs.replace(move, phase="aborted", why=why, ended_at=scene.now))
    ]


def _claimed_anew(key: str, claim: r.Address | r.Port, source: str, target: str) -> list[Change]:
    """A claim with its next epoch. An address stays what it is; a port of the old host becomes one of the new."""
    if isinstance(claim, r.Address) or claim.host != source:
        return [put(key, msgspec.structs.replace(claim, epoch=claim.epoch + 1))]
    moved = msgspec.structs.replace(claim, host=target, epoch=claim.epoch + 1)
    return [delete(key), put(r.key("ports", target, claim.protocol, str(claim.port)), moved)]
