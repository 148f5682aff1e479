"""A host whose daemon is not heard, while its lease still runs: what may be done before the lease is over.

Theory of operation. The leader keeps a connection to each daemon (`daemon.suspicion`). It ends when the daemon dies, at
once, or when nothing is heard of the machine for two seconds. A dead daemon does not prove its containers dead, so no
claim passes; but all that costs time is done at once:

    the containers of a suspect host       are
    hold no claim, and no address          replaced elsewhere now, if its daemon has ended (`replacements`)
    all others that recovery would move    made ready where they would go (`targets`, `decide.prepared`)

    the suspicion ends when                then
    the daemon is heard again              the record goes; what was made ready is removed as a stray
    a new daemon took a new lease          the same: the record names the session it is about
    the lease ends                         recovery prefers the hosts that are ready (`decide.recover`)

New containers do not go to a suspect host (`decide.health`). A daemon that ended in order (`Alive.resting`) is no
suspect: its successor is waited for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from drover.decide.claims import addresses_of
from drover.decide.fence import holds_claims
from drover.decide.recover import Relocation, Successor, no_replica, relocations
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put


class Suspicion(msgspec.Struct, frozen=True):
    """What to write, and the versions it rests on."""

    changes: tuple[Change, ...] = ()
    expect: dict[str, int] = {}


def suspected(cluster: Cluster, host: str, closed: bool, now: float, successor: Successor = no_replica) -> Suspicion:
    """The record that says so, with where each container would go. Nothing if the host is no member, has no lease, has
    ended in order, or is suspect already for as much."""
    alive, known = cluster.alive.get(host), cluster.suspects.get(host)
    if host not in cluster.hosts or alive is None or alive.resting:
        return Suspicion()
    if known is not None and known.session == alive.session and known.closed >= closed:
        return Suspicion()
    found = relocations(_without(cluster, {*_suspects(cluster), host}), now, successor).relocations
    targets = {one.container: one.target for one in found if one.source == host}
    record = r.Suspect(host=host, session=alive.session, closed=closed, at=now, targets=targets)
    key = r.key("suspects", host)
    keys = (key, r.key("alive", host))
    return Suspicion((put(key, record),), {one: cluster.version(one) for one in keys})


def cleared(cluster: Cluster, heard: Collection[str] = ()) -> Suspicion:
    """The end of suspicions: of hosts that are `heard` again, of those with a new lease, and of such as are gone.
    One whose lease has ended keeps its record, for recovery, until it is back or nothing of it is left to move."""
    found = cluster.suspects.items()
    over = [r.key("suspects", host) for host, one in found if host in heard or _is_over(cluster, one)]
    return Suspicion(tuple(map(delete, over)), {key: cluster.version(key) for key in over})


def _is_over(cluster: Cluster, suspect: r.Suspect) -> bool:
    alive = cluster.alive.get(suspect.host)
    if alive is None:
        left = any(cluster.host_of(container) == suspect.host for container in suspect.targets)
        return suspect.host not in cluster.hosts or not left
    return suspect.host not in cluster.hosts or alive.session != suspect.session


def replacements(cluster: Cluster, now: float, successor: Successor = no_replica) -> list[Relocation]:
    """The containers that hold nothing, of hosts whose daemon has ended: each is placed elsewhere, in a commit that
    expects the suspicion to be what it is."""
    closed = {host for host in _suspects(cluster) if cluster.suspects[host].closed}
    if not closed:
        return []
    found = relocations(_without(cluster, _suspects(cluster)), now, successor).relocations
    return [_expecting(cluster, one) for one in found if one.source in closed and _holds_nothing(cluster, one)]


def _holds_nothing(cluster: Cluster, one: Relocation) -> bool:
    record = cluster.containers[one.container]
    moved = [change for change in one.changes if change.record is not None and change.key.startswith("placements/")]
    return len(moved) == 1 and not holds_claims(cluster, record) and not addresses_of(cluster, one.container)


def _expecting(cluster: Cluster, one: Relocation) -> Relocation:
    keys = [*one.expect, r.key("suspects", one.source)]
    return msgspec.structs.replace(one, expect={key: cluster.version(key) for key in keys})


def _suspects(cluster: Cluster) -> list[str]:
    """The hosts that are suspect in the session that they are in: an older record says nothing of a new daemon."""
    alive = cluster.alive
    return [host for host, one in cluster.suspects.items() if host in alive and alive[host].session == one.session]


def _without(cluster: Cluster, hosts: Iterable[str]) -> Cluster:
    """The picture as it will be if they are dead."""
    gone = [delete(r.key("alive", host)) for host in sorted(hosts) if host in cluster.alive]
    return cluster.apply(cluster.revision, gone)
