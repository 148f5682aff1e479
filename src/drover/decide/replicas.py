"""Copies of volumes on other hosts: who keeps them, which snapshots they need, and who takes over after a death.

Theory of operation. Every host works out for itself which volumes it keeps a copy of (`keepers`, the same answer
everywhere) and asks the holder of the claim for what changed, each `interval_s`. Nobody has to decide about it, so it
goes on while there is no leader.

    a host is a better keeper if    because
    it is up and offers the driver  (else it is none)
    it has a copy already           nothing has to be sent anew
    its label `zone` is another     a zone may fail as a whole
    its hash with the name is low   volumes spread

Snapshots that a host may forget: all that Drover took, except

    kept                                                    because
    the newest two, and the claim's own `snapshot`          the last may be damaged; a crash promotes the last again
    the newest two that each other host has too             they are what the next stream builds on
    those younger than `YOUNG_S`                            a stream of them may be under way
    everything while the volume moves                       the same

A person's snapshots are never forgotten. After a death the newest complete snapshot of all hosts that are up is
promoted with the next epoch; what the old holder had stays there as a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from zlib import crc32

import msgspec

from drover.decide.moves import driver_of, move_of_volume
from drover.decide.sentences import count, instant
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.snapshots import epoch_of, label_of, taken_at
from drover.model.volume_options import options_of

ZONE = "zone"
KEPT = 2
YOUNG_S = 30.0
RESTED = 2.0
"""A refresh that took T seconds is followed by RESTED times T of rest: at most a third of the time is copying."""


def keepers(cluster: Cluster, volume: r.Volume) -> list[str]:
    """The hosts that keep a copy of a volume, best first. The holder is none of them."""
    if not volume.host or volume.removed or options_of(volume.body).engines:
        return []
    holder = cluster.hosts.get(volume.host)
    zone = holder.labels.get(ZONE) if holder else None
    driver = driver_of(cluster, volume)
    if driver == "shared":
        return []
    fit = [host for host in cluster.hosts.values() if host.name != volume.host and _offers(cluster, host.name, driver)]
    fit.sort(key=lambda host: _rank(cluster, volume, host, zone))
    return [host.name for host in fit[: volume.replicas]]


def _offers(cluster: Cluster, host: str, driver: str) -> bool:
    facts = cluster.host_facts.get(host)
    return host in cluster.alive and facts is not None and bool(driver) and driver in facts.volume_drivers


def _rank(cluster: Cluster, volume: r.Volume, host: r.Host, zone: str | None) -> tuple[bool, bool, int, str]:
    facts = cluster.volume_facts.get(f"{host.name}/{volume.name}")
    has_none = facts is None or not facts.snapshots
    same_zone = zone is not None and host.labels.get(ZONE) == zone
    return same_zone, has_none, crc32(f"{volume.name}/{host.name}".encode()), host.name


def kept_here(cluster: Cluster, host: str) -> Iterable[r.Volume]:
    """The volumes that `host` should refresh its copy of now and then: not while they move."""
    for volume in cluster.volumes.values():
        reachable = volume.host != host and volume.host in cluster.alive
        if reachable and host in keepers(cluster, volume) and move_of_volume(cluster, volume.name) is None:
            yield volume


def has_copies(cluster: Cluster, volume: r.Volume) -> bool:
    """Whether a host that is up, other than the holder, has snapshots of a volume."""
    return any(facts.snapshots and facts.host in cluster.alive for facts in _others(cluster, volume.host, volume.name))


def next_refresh(volume: r.Volume, began_at: float, ended_at: float) -> float:
    """When a copy is due again: after its interval, and after a rest (in seconds of the caller's clock)."""
    return max(began_at + volume.interval_s, ended_at + RESTED * (ended_at - began_at))


def spare(cluster: Cluster, host: str, volume: r.Volume, here: tuple[str, ...], now: float) -> tuple[str, ...]:
    """The snapshots on `host` that nobody needs, by the module's table."""
    if move_of_volume(cluster, volume.name) is not None:
        return ()
    ours = [one for one in here if not label_of(one)]
    kept = {*ours[-KEPT:], volume.snapshot}
    for facts in _others(cluster, host, volume.name):
        kept.update([one for one in ours if one in facts.snapshots][-KEPT:])
    return tuple(one for one in ours if one not in kept and now - taken_at(one) > YOUNG_S)


def _others(cluster: Cluster, host: str, volume: str) -> list[r.VolumeFacts]:
    return [facts for facts in cluster.volume_facts.values() if facts.volume == volume and facts.host != host]


def first_base(cluster: Cluster, volume: str, source: str, target: str) -> str:
    """What to send first to a target that has nothing in common with the source: the newest snapshot that a third host
    has too, so that the way from there is short as well. Empty: nothing, begin with the live set."""
    sources = cluster.volume_facts.get(f"{source}/{volume}")
    targets = cluster.volume_facts.get(f"{target}/{volume}")
    if sources is None or (targets is not None and set(sources.snapshots) & set(targets.snapshots)):
        return ""
    thirds = [facts for facts in _others(cluster, source, volume) if facts.host != target]
    shared = {one for facts in thirds for one in facts.snapshots}
    return max((one for one in sources.snapshots if one in shared), default="")


def lag_s(facts: r.VolumeFacts, now: float) -> float:
    """How far a copy is behind, at most: what was written since then is not in it."""
    newest = taken_at(facts.snapshots[-1]) if facts.snapshots else 0.0
    return max(0.0, now - max(newest, facts.synced_at))


# -- after a death -----------------------------------------------------------------------------------------------------


def successor(cluster: Cluster, volume: r.Volume) -> r.Volume | str:
    """The record of a volume whose holder is lost as another host takes it over, or why nobody can."""
    if options_of(volume.body).engines:
        return f"volume {volume.name} is made of the engine's own options: Drover cannot tell what another host sees"
    copies = usable_copies(cluster, volume)
    if not copies:
        return f"volume {volume.name} has no complete replica on another host than {volume.host} that is up"
    host, snapshot = max(copies.items(), key=lambda item: (item[1], item[0]))
    note = _loss(cluster, volume, host, snapshot)
    return msgspec.structs.replace(volume, host=host, epoch=volume.epoch + 1, snapshot=snapshot, note=note)


def usable_copies(cluster: Cluster, volume: r.Volume) -> Mapping[str, str]:
    """The newest complete snapshot of each host that is up and is not the holder. One of a later epoch than the claim's
    cannot be: it would say that the claim had passed."""
    found = {}
    for facts in _others(cluster, volume.host, volume.name):
        usable = [one for one in facts.snapshots if epoch_of(one) <= volume.epoch]
        if facts.host in cluster.alive and facts.host in cluster.hosts and usable:
            found[facts.host] = usable[-1]
    return found


def _loss(cluster: Cluster, volume: r.Volume, host: str, snapshot: str) -> str:
    """What a promotion may lose: `at most 3 seconds of writes are lost: h2 has it as of 12:00:00 UTC`; it is longer ago
    where nobody noted when the holder was lost."""
    facts, lost = cluster.volume_facts.get(f"{host}/{volume.name}"), cluster.lost.get(volume.host)
    equal_at = max(taken_at(snapshot), facts.synced_at if facts else 0.0)
    known = f"{host} has it as of {instant(equal_at)}"
    if lost is None:
        return f"what was written after that is lost: {known}"
    return f"at most {count(max(1, ceil(lost.at - equal_at)), 'second')} of writes are lost: {known}"
