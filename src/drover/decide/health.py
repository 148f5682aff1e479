"""Is a host usable, and if not, since when: one state with one sentence for the gateway, the scheduler and people.

Theory of operation. The first row that matches decides. A lease that is not held makes a host `down`; that alone
passes no claims on (see design, fencing). *Since when* is known from `HostLost`, which the leader notes (`loss_notes`)
when it sees the `Alive` key gone; until then the sentence says no instant.

    member   lease   facts               -> state      says
    no                                      down       is not a member of this cluster
    yes      lost    none, never noted      unknown    has not joined completely: its daemon never reported
    yes      lost    any                    down       is down since …
    yes      held    none                   unknown    has not reported its engine yet
    yes      held    engine silent          down       is up, but its engine does not answer since …
    yes      held    the leader hears no    suspect    is suspect since …: …; it takes no new containers
                     daemon there
    yes      held    draining               draining   is draining: it takes no new containers
    yes      held    paused                 paused     is paused: it takes no new containers
    yes      held    shutting down          leaving    is shutting down: it takes no new containers
    yes      held    engine answers         ready      is ready
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from drover.decide.sentences import instant
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put

HostState = Literal["ready", "down", "suspect", "draining", "paused", "leaving", "unknown"]
NOTHING_NEW: tuple[HostState, ...] = ("suspect", "draining", "paused", "leaving")
"""States of hosts that work and take no new containers."""
_SCHEDULING: Mapping[r.Scheduling, tuple[HostState, str]] = {
    "pause": ("paused", "is paused: it takes no new containers"),
    "drain": ("draining", "is draining: it takes no new containers"),
    "shutdown": ("leaving", "is shutting down: it takes no new containers"),
}


class Health(msgspec.Struct, frozen=True):
    """`says` continues the host's name: `h3` + ` ` + `is down since …`. `since` is 0 where nobody knows."""

    state: HostState
    says: str
    since: float = 0.0


def host_state(cluster: Cluster, host: str) -> Health:
    """The first matching row of the module's table."""
    record = cluster.hosts.get(host)
    if record is None:
        return Health("down", "is not a member of this cluster")
    facts = cluster.host_facts.get(host)
    if host not in cluster.alive:
        return _without_lease(cluster.lost.get(host), facts)
    if facts is None:
        return Health("unknown", "has not reported its engine yet", cluster.alive[host].since)
    if not facts.engine_ok:
        return Health("down", f"is up, but its engine does not answer{_since(facts.at)}", facts.at)
    suspect = cluster.suspects.get(host)
    if suspect is not None and suspect.session == cluster.alive[host].session:
        why = "its daemon has ended" if suspect.closed else "nothing is heard of it"
        return Health("suspect", f"is suspect{_since(suspect.at)}: {why}; it takes no new containers", suspect.at)
    if record.scheduling in _SCHEDULING:
        return Health(*_SCHEDULING[record.scheduling])
    return Health("ready", "is ready", cluster.alive[host].since)


def down_sentence(cluster: Cluster, host: str) -> str | None:
    """`host h3 is down since …` when a call to the host's engine cannot succeed now, else None (worth trying)."""
    health = host_state(cluster, host)
    callable_now = health.state != "down" and host in cluster.alive
    return None if callable_now else f"host {host} {health.says}"


def loss_notes(cluster: Cluster, now: float) -> list[Change]:
    """What the leader writes so that "since when" is known: a note per host whose lease is gone, and the removal
    of notes about hosts that are back or no longer members."""
    gone = [host for host in cluster.host_facts if host in cluster.hosts and host not in cluster.alive]
    noted = [put(r.key("lost", host), r.HostLost(host=host, at=now)) for host in gone if host not in cluster.lost]
    over = [delete(r.key("lost", host)) for host in cluster.lost if host in cluster.alive or host not in cluster.hosts]
    return noted + over


def _without_lease(note: r.HostLost | None, facts: r.HostFacts | None) -> Health:
    if note is not None:
        return Health("down", f"is down{_since(note.at)}", note.at)
    if facts is None:
        return Health("unknown", "has not joined completely: its daemon never reported")
    return Health("down", "is down")


def _since(at_s: float) -> str:
    return f" since {instant(at_s)}" if at_s else ""
