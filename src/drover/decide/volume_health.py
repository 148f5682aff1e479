"""What is wrong with volumes, as sentences: for `drover doctor volumes`, `drover volume ls` and `inspect`.

Theory of operation. All from the records, so that any host can say it. Nothing here changes anything; replication
pauses by the same `paused` that is shown.

    a pool is full when      less than its headroom is free: HEADROOM_SHARE of it, MIN_HEADROOM_BYTES at least.
    and then                 nothing is copied to or from it. The rest is for what must go on: the containers' last
                             writes, set-asides, promotions and removals, all of which need some space themselves
    it is over when          there is space again: the next look (seconds) lets copies go on

A copy lags when it is more than LATE_INTERVALS intervals behind, and LATE_S at least.
"""

from __future__ import annotations

from collections.abc import Iterable

from drover.decide.backups import last_backup
from drover.decide.moves import driver_of, move_of_volume
from drover.decide.replicas import keepers, lag_s
from drover.decide.sentences import count, instant, size
from drover.decide.volume_space import is_full
from drover.errors import Invalid
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.snapshots import label_of, taken_at
from drover.model.volume_options import options_of

LATE_INTERVALS = 10
LATE_S = 60.0
LEFT_LABELS = ("aside", "before.rollback", "before.restore")


def volume_doubts(cluster: Cluster, volume: r.Volume, now: float) -> list[str]:
    """What is wrong with a volume, in sentences that begin after its name; nothing is an empty list."""
    if volume.removed or options_of(volume.body).engines:
        return []
    if volume.filling is not None:
        said = _facts(cluster, volume, volume.host)
        return [said.message or f"is not ready: its {volume.filling.kind} is not done"]
    if not volume.host:
        return []
    return [*_space(cluster, volume), *_copies(cluster, volume, now), *_backups(cluster, volume, now)]


def _facts(cluster: Cluster, volume: r.Volume, host: str) -> r.VolumeFacts:
    return cluster.volume_facts.get(f"{host}/{volume.name}", r.VolumeFacts(volume=volume.name, host=host))


def _space(cluster: Cluster, volume: r.Volume) -> Iterable[str]:
    facts = _facts(cluster, volume, volume.host)
    if facts.message:
        yield facts.message
    if volume.size_bytes and facts.size_bytes > volume.size_bytes:
        yield f"has {size(facts.size_bytes)}, more than its size of {size(volume.size_bytes)}"
    if volume.size_bytes and facts.epoch and facts.limit_bytes != volume.size_bytes:
        yield f"is watched, not limited, by the driver {facts.driver}: its size is {size(volume.size_bytes)}"
    if is_full(cluster, volume.host, driver_of(cluster, volume)):
        yield f"is on a full disk: that of driver {driver_of(cluster, volume)} on {volume.host}"


def _copies(cluster: Cluster, volume: r.Volume, now: float) -> Iterable[str]:
    if driver_of(cluster, volume) == "shared" or move_of_volume(cluster, volume.name) is not None:
        return
    hosts = keepers(cluster, volume)
    if len(hosts) < min(volume.replicas, max(0, len(cluster.hosts) - 1)):
        yield f"has {count(len(hosts), 'host')} for copies, and {volume.replicas} are wanted"
    for host in hosts:
        facts = _facts(cluster, volume, host)
        behind_s = lag_s(facts, now)
        if facts.snapshots and behind_s > max(LATE_S, LATE_INTERVALS * volume.interval_s):
            yield f"has a copy on {host} that is {behind_s:.0f} s behind"
        elif not facts.snapshots and now - volume.created_at > LATE_S:
            yield f"has no copy on {host} yet"


def _backups(cluster: Cluster, volume: r.Volume, now: float) -> Iterable[str]:
    plan, last = volume.backup, last_backup(cluster, volume)
    if plan is None:
        return
    if last.failure:
        yield f"could not be backed up to {plan.repository}: {last.failure}"
    elif plan.every_s and now - max(last.at, volume.created_at) > 2 * plan.every_s:
        yield f"was last backed up {'at ' + instant(last.at) if last.at else 'never'}"


def left_behind(cluster: Cluster, volume: r.Volume) -> list[tuple[str, str]]:
    """(host, snapshot) of what was a volume's content once and is kept until somebody drops it, oldest first."""
    facts = sorted((one for one in cluster.volume_facts.values() if one.volume == volume.name), key=lambda f: f.host)
    found = [(one.host, snapshot) for one in facts for snapshot in one.snapshots if label_of(snapshot) in LEFT_LABELS]
    return sorted(found, key=lambda pair: taken_at(pair[1]))


def pool_doubts(cluster: Cluster) -> dict[str, list[str]]:
    """Of each host, what is wrong with its volume drivers' disks."""
    found: dict[str, list[str]] = {host: [] for host in sorted(cluster.hosts)}
    for space in cluster.volume_space.values():
        if space.host not in found:
            continue
        if space.message:
            found[space.host].append(f"driver {space.driver}: {space.message}")
        elif is_full(cluster, space.host, space.driver):
            free, total = size(space.free_bytes), size(space.total_bytes)
            found[space.host].append(f"the disk of driver {space.driver} is full: {free} of {total} are free")
    return found


def refuse_sync(cluster: Cluster, wanted: bool, driver: str) -> None:
    """Raises `Invalid` where `sync=yes` cannot be kept."""
    offered = {name for facts in cluster.host_facts.values() for name in facts.synchronous_drivers}
    if not wanted or driver in offered:
        return
    have = (
        f"of what this cluster offers, {', '.join(sorted(offered))} can" if offered else "no host offers one that can"
    )
    raise Invalid(
        f"sync=yes cannot be kept by the driver {driver or 'that a host chooses'}: its copies follow at an interval",
        hint=f"ask for a driver on storage that all hosts share: {have}",
    )
