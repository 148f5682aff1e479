"""Phase two: after all faults have ended, what is not yet as the records ask, and in which words Drover says why.

    what                         should be
    a host with power            holds its lease, takes part, and knows its peers and entries
    a container                  runs once where it is placed, or not at all, as desired
    what ended by itself         stays so where its restart policy leaves it at that
    an engine's container        has a record and is placed there
    a move                       has ended
    a volume                     is live on no other host than its own
    a call                       has been answered

A container of whose volumes some were taken over and some not says so and waits. A host that is gone for good excuses
what is tied to it, if Drover says so (`decide.recover.obstacle`).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from drover.decide import overlay, tables
from drover.decide.moves import ENDED
from drover.decide.recover import obstacle
from drover.decide.replicas import successor
from drover.decide.restarts import wants_restart
from drover.drivers.engine.fake_container import FakeContainer
from drover.drivers.engine.port import ID_LABEL
from drover.model import records as r
from drover.model.spec import parse_spec
from drover.sim.eye import FENCES
from drover.sim.host import SimHost
from drover.sim.workload import Clients
from drover.sim.world import World


class Unsettled(msgspec.Struct, frozen=True):
    """`what` is not as it should be; `why` are Drover's own words, empty if it says nothing; `excused`: nobody can."""

    what: str
    why: str = ""
    excused: bool = False


def unsettled(world: World, clients: Clients) -> list[Unsettled]:
    return [
        *_hosts(world),
        *(one for record in world.cluster.containers.values() for one in _container(world, record)),
        *_strays(world),
        *_moves(world),
        *_volumes(world),
        *_networks(world),
        *(Unsettled(f"the call `{what}` since {since:.1f} s") for what, since in clients.pending.values()),
    ]


def _up(world: World) -> list[SimHost]:
    return [host for host in world.hosts.values() if host.powered]


def _hosts(world: World) -> Iterator[Unsettled]:
    for host in _up(world):
        if host.name not in world.cluster.alive:
            yield Unsettled(f"host {host.name} has no lease")
        elif host.fence is not None and host.fence.state != "open":
            yield Unsettled(f"host {host.name} is {host.fence.state}", host.fence.says)
        elif not host.mirror.healthy:
            yield Unsettled(f"the mirror of {host.name}", host.mirror.trouble)


def _container(world: World, record: r.Container) -> Iterator[Unsettled]:
    placement = world.cluster.placements[record.id]
    home = world.hosts[placement.host]
    running = world.where(record.id)
    if record.desired == "removed":
        yield _about(world, record, "is being removed")
    elif not home.powered:
        words = obstacle(world.cluster, record.id, _now(world), successor)
        yield Unsettled(
            f"{record.name} is on {home.name}, which is gone", words, bool(words) or record.desired != "running"
        )
    elif record.desired == "running" and running != [home.name] and not _rests(world, record, home):
        yield _about(world, record, f"should run on {home.name} and runs on {running}")
    elif record.desired != "running" and running:
        yield _about(world, record, f"should not run and runs on {running}")
    elif (facts := world.cluster.facts_of(record.id)) is None or (facts.state == "running") != bool(running):
        yield _about(world, record, f"is said to be {facts.state if facts else 'unknown'}")


def _rests(world: World, record: r.Container, home: SimHost) -> bool:
    """Whether it ended, and nobody should start it again."""
    here = _engine_container(home, record.id)
    if here is None or here.running or here.state == "created":
        return False
    facts = world.cluster.facts_of(record.id)
    if facts is not None and facts.answer.number == record.order.number and facts.answer.status >= 400:
        return True
    _, cause = world.eye.ends.get(record.id, ("", ""))
    if cause.startswith(FENCES):
        return False
    ours = here.policy[0] == "no"
    return not ours or not wants_restart(parse_spec(record.body), here.exit_code)


def _engine_container(host: SimHost, identity: str) -> FakeContainer | None:
    mine = (one for one in host.engine.managed() if one.labels[ID_LABEL] == identity)
    return next(mine, None)


def _about(world: World, record: r.Container, what: str) -> Unsettled:
    """With all that agents, engine and move say about a container."""
    objects = {f"container/{record.id}", *(f"volume/{name}" for name in uses(world, record))}
    waits = [w.sentence for host in _up(world) if host.serves for w in host.agent.waits if w.object in objects]
    holders = {world.cluster.volumes[v].host for v in uses(world, record) if v in world.cluster.volumes}
    facts, move = world.cluster.facts_of(record.id), world.cluster.moves.get(record.id)
    said = [facts.answer.message, facts.error] if facts is not None else []
    said += [f"it moves to {move.target}: {move.phase}"] if move is not None and move.phase not in ENDED else []
    why = "; ".join(dict.fromkeys(filter(None, [*waits, *said])))
    return Unsettled(f"{record.name} {what}", why, len(holders) > 1 and "has to come here" in why)


def uses(world: World, record: r.Container) -> tuple[str, ...]:
    """The named volumes of a container."""
    return parse_spec(record.body).volume_names


def _strays(world: World) -> Iterator[Unsettled]:
    for host in _up(world):
        for one in host.engine.managed():
            placement = world.cluster.placements.get(one.labels[ID_LABEL])
            if placement is None or placement.host != host.name:
                yield Unsettled(f"a stray of {one.name} is on {host.name}")


def _moves(world: World) -> Iterator[Unsettled]:
    for key, move in world.cluster.moves.items():
        if move.phase not in ENDED:
            gone = [h for h in (move.source, move.target) if not world.hosts[h].powered]
            yield Unsettled(f"the move {key[:12]} is {move.phase}", move.why, move.phase == "aborting" and bool(gone))


def _volumes(world: World) -> Iterator[Unsettled]:
    for volume in world.cluster.volumes.values():
        holder = world.hosts.get(volume.host)
        if volume.removed:
            yield Unsettled(f"volume {volume.name} is being removed", "", holder is not None and not holder.powered)
        for host in _up(world):
            if host.name != volume.host and host.disk.live_epoch(volume.name):
                yield Unsettled(f"volume {volume.name} is live on {host.name}, and {volume.host} holds it")


def _networks(world: World) -> Iterator[Unsettled]:
    for host in _up(world):
        if host.network.peers != overlay.peers(world.cluster, host.name):
            yield Unsettled(f"{host.name} hears {sorted(host.network.peers or ())}")
        for net in tables.host_networks(world.cluster, host.name, overlay.DEFAULT_MTU_BYTES).values():
            if host.network.remotes.get(net.vni) != net.remotes:
                yield Unsettled(f"{host.name} has other entries on network {net.id[:12]}")


def _now(world: World) -> float:
    return next(host.now() for host in _up(world))
