"""Live sets that are made anew: a volume rolled back, cloned, imported, or restored from a backup.

Theory of operation. Each begins with ONE conditional commit that puts a `Fill` into the volume's record; from then on
nobody may use the volume. The host that holds the claim does what the record says, as often as it takes, and ends with
one commit that takes the `Fill` out again (`filled`). Whatever is cut in between is begun anew from the record:

    what is on disk                              what is done
    a live set, the snapshot `aside` is missing  the live set becomes that snapshot
    a live set, `aside` is there (or is empty)   it is half-made, or a copy of `aside`: it goes
    no live set                                  it is made

A container that may run on the volume is a refusal, and its record's version is expected by the commit: a `start` that
comes first makes the commit fail, one that comes later waits for the volume.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from drover.decide.moves import Commit, driver_of, move_of_volume, settled
from drover.errors import Conflict, NotFound
from drover.model import records as r
from drover.model.cluster import Cluster, put
from drover.model.snapshots import next_id
from drover.model.spec import parse_spec

RUNS = ("running", "paused", "restarting")


def rollback(cluster: Cluster, name: str, snapshot: str, now: float) -> Commit:
    """Make a volume what a snapshot on its host holds. Raises what forbids it."""
    volume = existing(cluster, name)
    known = _known(cluster, volume)
    if snapshot not in known:
        raise NotFound(f"volume {name} has no snapshot {snapshot} on {volume.host}", hint=see_snapshots(name))
    aside = next_id(known, volume.epoch, now, "before.rollback")
    return _in_place(cluster, volume, r.Fill(kind="rollback", snapshot=snapshot, aside=aside))


def restore(cluster: Cluster, name: str, fill: r.Fill, host: str, now: float) -> Commit:
    """Make a volume what a backup holds: a new volume on `host`, or one that is there, whose content is set aside."""
    if name not in cluster.volumes:
        return _new(cluster, r.Volume(name=name, body="", created_at=now, filling=fill), host)
    volume = existing(cluster, name)
    aside = next_id(_known(cluster, volume), volume.epoch, now, "before.restore")
    return _in_place(cluster, volume, msgspec.structs.replace(fill, aside=aside))


def clone(cluster: Cluster, name: str, new_name: str, snapshot: str, host: str, read_only: bool, now: float) -> Commit:
    """A new volume on `host` of a snapshot that is there. Raises `NotFound` if it is not."""
    volume = existing(cluster, name)
    facts = cluster.volume_facts.get(f"{host}/{name}")
    if facts is None or snapshot not in facts.snapshots:
        raise NotFound(f"host {host} has no snapshot {snapshot} of volume {name}", hint=see_snapshots(name))
    record = msgspec.structs.replace(
        volume,
        name=new_name,
        driver=facts.driver or volume.driver,
        host="",
        epoch=1,
        snapshot="",
        since="",
        note="",
        replicas=0 if read_only else volume.replicas,
        read_only=read_only,
        backup=None,
        created_at=now,
        filling=r.Fill(kind="clone", source=name, snapshot=snapshot),
    )
    return _new(cluster, record, host)


def imported(cluster: Cluster, name: str, host: str, now: float) -> Commit:
    """A new volume on `host` that waits for what a client sends; or again one whose import was cut."""
    volume = cluster.volumes.get(name)
    fill = r.Fill(kind="import")
    if volume is not None and volume.filling == fill and volume.host == host:
        return Commit((), {})
    return _new(cluster, r.Volume(name=name, body="", created_at=now, filling=fill), host)


def filled(cluster: Cluster, name: str, fill: r.Fill) -> Commit | None:
    """The volume is ready; None if it was not waiting for this (any more)."""
    volume = cluster.volumes.get(name)
    if volume is None or volume.filling != fill:
        return None
    base = fill.snapshot if fill.kind == "rollback" else volume.snapshot
    key = r.key("volumes", name)
    ready = msgspec.structs.replace(volume, filling=None, snapshot=base, since=fill.aside or volume.since)
    return Commit((put(key, ready),), {key: cluster.version(key)})


def existing(cluster: Cluster, name: str) -> r.Volume:
    """The volume, if it is ready and has a host. Raises why it is not."""
    volume = cluster.volumes.get(name)
    if volume is None or volume.removed:
        raise NotFound(f"get {name}: no such volume", hint="`drover volume ls` lists them")
    if not volume.host:
        raise Conflict(f"volume {name} has never been used: it has no data yet")
    if volume.filling is not None:
        raise Conflict(f"volume {name} is not ready: its {volume.filling.kind} is not done", hint="wait for it")
    return volume


def see_snapshots(name: str) -> str:
    return f"`drover volume snapshots {name}` lists them"


def _known(cluster: Cluster, volume: r.Volume) -> tuple[str, ...]:
    facts = cluster.volume_facts.get(f"{volume.host}/{volume.name}")
    return facts.snapshots if facts else ()


def _in_place(cluster: Cluster, volume: r.Volume, fill: r.Fill) -> Commit:
    _refuse_without_snapshots(cluster, volume)
    users = list(_users(cluster, volume.name))
    for user in users:
        _refuse_use(cluster, volume.name, user)
    if move_of_volume(cluster, volume.name) is not None:
        raise Conflict(f"volume {volume.name} is being moved", hint="wait until it is done")
    key = r.key("volumes", volume.name)
    keys = [key, *(r.key("containers", user.id) for user in users)]
    changed = msgspec.structs.replace(volume, filling=fill)
    return Commit((put(key, changed),), {one: cluster.version(one) for one in keys})


def _new(cluster: Cluster, volume: r.Volume, host: str) -> Commit:
    if volume.name in cluster.volumes:
        raise Conflict(f"a volume named {volume.name} already exists", hint="choose another name")
    key = r.key("volumes", volume.name)
    return Commit((put(key, settled(cluster, volume, host)),), {key: 0})


def _refuse_without_snapshots(cluster: Cluster, volume: r.Volume) -> None:
    """On storage that every host sees a snapshot has no content of its own: what is there now could not be kept."""
    facts, driver = cluster.host_facts.get(volume.host), driver_of(cluster, volume)
    if facts is not None and driver in facts.synchronous_drivers:
        raise Conflict(
            f"volume {volume.name} cannot be made anew: its driver {driver} could not keep what it holds now",
            hint="restore into a new volume, or use the snapshots of the storage itself",
        )


def _users(cluster: Cluster, name: str) -> Iterable[r.Container]:
    return (one for one in cluster.containers.values() if name in parse_spec(one.body).volume_names)


def _refuse_use(cluster: Cluster, name: str, container: r.Container) -> None:
    """A container that runs, or may start without anybody's asking now."""
    facts = cluster.facts_of(container.id)
    state, answered = (facts.state, facts.answer.number) if facts else ("", 0)
    may_start = container.desired == "running" and parse_spec(container.body).restart_policy not in ("", "no")
    if state in RUNS or container.order.number > answered or may_start:
        raise Conflict(
            f"volume {name} is in use by the running container {container.name}",
            hint=f"stop it first: docker stop {container.name}",
        )
