"""Copies of volumes on other hosts: who keeps them, which snapshots they need, and who takes over after a death.

Theory of operation. Every host works out for itself which volumes it keeps a copy of (`keepers`, the same answer
everywhere) and asks the holder of the claim for what changed, each `interval_s`. Nobody has to decide about it, so it
goes on while there is no leader.

    a host is a better keeper if    because
    it is up and offers the driver  (else it is none)
    it has a copy already           nothing has to be sent anew
    its label `zone` is another     a zone may fail as a whole
    its hash with the name is low   volumes spread

Volumes that one container uses go together (`groups`): to the same hosts, in one round, in which the holder takes all
their snapshots one after the other, milliseconds apart. A promotion takes the same round of all of them.

What copying may cost: a host asks for one round at a time, after each it leaves those volumes alone for RESTED times as
long as it took, REST_MOST_S at most, and where a disk is nearly full nothing is copied (`decide.volume_space`). So a
busy host is asked less often, and copies lag more; how far they lag is shown, and is what a death may lose. What is
written while a copy rests is what the next round has to bring: without an end to the rest a volume that is being filled
would never be caught up with.

Snapshots that a host may forget: all that Drover took, except

    kept                                                    because
    the newest two, and the claim's own `snapshot`          the last may be damaged; a crash promotes the last again
    the newest two that each other host has too             they are what the next stream builds on
    what a clone or a rollback under way is made from       -
    those younger than `YOUNG_S`                            a stream of them may be under way
    everything while the volume moves                       the same

A person's snapshots are never forgotten. After a death the newest complete snapshot of all hosts that are up is
promoted with the next epoch; what the old holder had stays there as a snapshot. Snapshots of what the volume was before
a rollback or a restore (`Volume.since`), or before its claim last passed, count less than any of what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, inf
from zlib import crc32

import msgspec

from drover.decide.index import with_several
from drover.decide.moves import driver_of, move_of_volume
from drover.decide.remembered import remembered
from drover.decide.sentences import count, instant
from drover.decide.volume_space import is_full
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.snapshots import epoch_of, label_of, taken_at
from drover.model.spec import parse_spec
from drover.model.volume_options import options_of

ZONE = "zone"
KEPT = 2
YOUNG_S = 30.0
RESTED = 2.0
"""A refresh that took T seconds is followed by RESTED times T of rest: at most a third of the time is copying."""
REST_MOST_S = 10.0
"""But a rest is no longer than this: after a round of a minute, two more would only be lag."""


Groups = Mapping[str, tuple[str, ...]]


@remembered("containers", "volumes")
def groups(cluster: Cluster) -> Groups:
    """Each volume that some container uses together with others, with all of them: names, sorted."""
    found: dict[str, tuple[str, ...]] = {}
    for container in with_several(cluster):
        used = [name for name in parse_spec(container.body).volume_names if name in cluster.volumes]
        if len(used) > 1:
            together = tuple(sorted({one for name in used for one in found.get(name, (name,))}))
            found |= dict.fromkeys(together, together)
    return found


def keepers(cluster: Cluster, volume: r.Volume, known: Groups | None = None) -> list[str]:
    """The hosts that keep a copy of a volume, best first. The holder is none of them. `known`: the `groups`."""
    if not volume.host or volume.removed or options_of(volume.body).engines:
        return []
    holder = cluster.hosts.get(volume.host)
    zone = holder.labels.get(ZONE) if holder else None
    driver = driver_of(cluster, volume)
    if driver == "shared":
        return []
    fit = [host for host in cluster.hosts.values() if host.name != volume.host and _offers(cluster, host.name, driver)]
    group = (groups(cluster) if known is None else known).get(volume.name, (volume.name,))
    fit.sort(key=lambda host: _rank(cluster, group, host, zone))
    return [host.name for host in fit[: volume.replicas]]


def _offers(cluster: Cluster, host: str, driver: str) -> bool:
    facts = cluster.host_facts.get(host)
    return host in cluster.alive and facts is not None and bool(driver) and driver in facts.volume_drivers


def _rank(cluster: Cluster, group: tuple[str, ...], host: r.Host, zone: str | None) -> tuple[bool, int, bool, int, str]:
    """Better hosts first: another zone, more of the group already, space for more, then by the dice."""
    facts = [cluster.volume_facts.get(f"{host.name}/{name}") for name in group]
    missing = sum(one is None or not one.snapshots for one in facts)
    same_zone = zone is not None and host.labels.get(ZONE) == zone
    full = any(is_full(cluster, host.name, driver_of(cluster, cluster.volumes[name])) for name in group)
    return same_zone, missing, full, crc32(f"{group[0]}/{host.name}".encode()), host.name


@remembered("volumes", "containers", "hosts", "alive", "host_facts", "volume_facts", "volume_space")
def _keepers(cluster: Cluster) -> Mapping[str, list[str]]:
    """The keepers of every volume whose holder is up."""
    known = groups(cluster)
    reachable = (volume for volume in cluster.volumes.values() if volume.host in cluster.alive)
    return {volume.name: keepers(cluster, volume, known) for volume in reachable}


@remembered("volumes", "containers", "hosts", "alive", "host_facts", "volume_facts", "volume_space", "moves")
def kept_here(cluster: Cluster, host: str) -> tuple[tuple[r.Volume, ...], ...]:
    """The volumes that `host` should refresh its copy of now and then, those of a group together: not while they move,
    are made anew, or have no space."""
    known, keeping = groups(cluster), _keepers(cluster)
    rounds: dict[tuple[str, str, str], list[r.Volume]] = {}
    for volume in cluster.volumes.values():
        reachable = volume.host != host and volume.host in cluster.alive
        if reachable and host in keeping[volume.name] and not paused(cluster, volume, host):
            group = known.get(volume.name, (volume.name,))
            rounds.setdefault((group[0], volume.host, driver_of(cluster, volume)), []).append(volume)
    return tuple(tuple(sorted(one, key=lambda volume: volume.name)) for one in rounds.values())


def paused(cluster: Cluster, volume: r.Volume, host: str) -> str:
    """Why a copy on `host` is not refreshed now; empty if nothing hinders."""
    if move_of_volume(cluster, volume.name) is not None:
        return "it is being moved"
    if volume.filling is not None:
        return f"its {volume.filling.kind} is not done"
    full = [one for one in (volume.host, host) if is_full(cluster, one, driver_of(cluster, volume))]
    return f"the disk of {full[0]} is full" if full else ""


def has_copies(cluster: Cluster, volume: r.Volume) -> bool:
    """Whether a host that is up, other than the holder, has snapshots of a volume."""
    return any(facts.snapshots and facts.host in cluster.alive for facts in _others(cluster, volume.host, volume.name))


def next_refresh(interval_s: float, began_at: float, ended_at: float) -> float:
    """When a copy is due again: after its interval, and after a rest (in seconds of the caller's clock)."""
    return max(began_at + interval_s, ended_at + min(RESTED * (ended_at - began_at), REST_MOST_S))


def spare(cluster: Cluster, host: str, volume: r.Volume, here: tuple[str, ...], now: float) -> tuple[str, ...]:
    """The snapshots on `host` that nobody needs, by the module's table."""
    ours = [one for one in here if not label_of(one)]
    old = [one for one in ours[:-KEPT] if now - taken_at(one) > YOUNG_S]
    if not old or move_of_volume(cluster, volume.name) is not None:
        return ()
    kept = {*ours[-KEPT:], volume.snapshot, *_sources(cluster, volume)}
    for facts in _others(cluster, host, volume.name):
        kept.update([one for one in ours if one in facts.snapshots][-KEPT:])
    return tuple(one for one in old if one not in kept)


def _sources(cluster: Cluster, volume: r.Volume) -> Iterable[str]:
    """The snapshots of a volume that live sets are about to be made from."""
    for one in cluster.volumes.values():
        if one.filling is not None and (one.filling.source or one.name) == volume.name:
            yield one.filling.snapshot


def _others(cluster: Cluster, host: str, volume: str) -> list[r.VolumeFacts]:
    return [facts for facts in _by_volume(cluster).get(volume, ()) if facts.host != host]


@remembered("volume_facts")
def _by_volume(cluster: Cluster) -> Mapping[str, list[r.VolumeFacts]]:
    found: dict[str, list[r.VolumeFacts]] = {}
    for facts in cluster.volume_facts.values():
        found.setdefault(facts.volume, []).append(facts)
    return found


def first_base(cluster: Cluster, volume: str, source: str, target: str) -> tuple[str, str] | None:
    """What to have first where the way from the source's live set to what the target has is long: a snapshot, and the
    host to ask for it. None: nothing, begin with the live set.

    A third host has         the target then begins with
    more in common with      the newest snapshot of the source that the third has, from the third: two short ways, and
    each of both             what was written anew where it came by is not taken for a change once more
    something of the source  (where source and target have nothing in common) the newest such, from the source: the way
                             from there will be short as well
    """
    facts = {one.host: set(one.snapshots) for one in cluster.volume_facts.values() if one.volume == volume}
    sources, targets = facts.get(source, set()), facts.get(target, set())
    common = max(sources & targets, default="")
    thirds = {host: held for host, held in facts.items() if host not in (source, target)}
    ways = []
    for host, held in thirds.items():
        arriving, leaving = max(held & targets, default=""), max(held & sources, default="")
        if host in cluster.alive and min(arriving, leaving) > common:
            ways.append((arriving, leaving, host))
    if ways:
        _, snapshot, host = max(ways)
        return host, snapshot
    shared = sources & {one for held in thirds.values() for one in held}
    return (source, max(shared)) if shared and not common else None


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
    host, snapshot = max(copies.items(), key=lambda item: (_worth(volume, item[1]), item[0]))
    note = _loss(cluster, volume, host, snapshot)
    return msgspec.structs.replace(
        volume, host=host, epoch=volume.epoch + 1, snapshot=snapshot, note=note, filling=None
    )


def _worth(volume: r.Volume, snapshot: str) -> tuple[bool, str]:
    """Which snapshot to promote rather: of what the volume is now rather than of what it was, then the newer one."""
    current = epoch_of(snapshot) == volume.epoch and snapshot > volume.since
    return current or snapshot == volume.snapshot, snapshot


def usable_copies(cluster: Cluster, volume: r.Volume) -> Mapping[str, str]:
    """The best complete snapshot of each host that is up and is not the holder. One of a later epoch than the claim's
    cannot be: it would say that the claim had passed."""
    group = [cluster.volumes[name] for name in groups(cluster).get(volume.name, ()) if name in cluster.volumes]
    together = [one for one in group if one.host == volume.host] or [volume]
    found = {}
    for facts in _others(cluster, volume.host, volume.name):
        usable = [one for one in facts.snapshots if epoch_of(one) <= volume.epoch]
        if facts.host in cluster.alive and facts.host in cluster.hosts and usable:
            until = _round_of(cluster, together, facts.host)
            found[facts.host] = max(
                [one for one in usable if taken_at(one) <= until] or usable, key=lambda one: _worth(volume, one)
            )
    return found


def _round_of(cluster: Cluster, together: list[r.Volume], host: str) -> float:
    """When the last round was of which a host has all of these volumes, in seconds since the Unix epoch."""
    facts = [cluster.volume_facts.get(f"{host}/{volume.name}") for volume in together]
    times = [max(one.synced_at, taken_at(one.snapshots[-1])) for one in facts if one is not None and one.snapshots]
    return min(times, default=inf)


def _loss(cluster: Cluster, volume: r.Volume, host: str, snapshot: str) -> str:
    """What a promotion may lose: `at most 3 seconds of writes are lost: h2 has it as of 12:00:00 UTC`; it is longer ago
    where nobody noted when the holder was lost. That a copy was found equal later says something of its newest snapshot
    only: another is taken where volumes go together."""
    facts, lost = cluster.volume_facts.get(f"{host}/{volume.name}"), cluster.lost.get(volume.host)
    newest = facts is not None and facts.snapshots[-1:] == (snapshot,)
    equal_at = max(taken_at(snapshot), facts.synced_at if facts is not None and newest else 0.0)
    known = f"{host} has it as of {instant(equal_at)}"
    if lost is None:
        return f"what was written after that is lost: {known}"
    return f"at most {count(max(1, ceil(lost.at - equal_at)), 'second')} of writes are lost: {known}"
