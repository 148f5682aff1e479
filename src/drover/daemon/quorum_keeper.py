"""The leader's duty to keep the right hosts as members of the store: one look and at most one step per call.

    read        etcd's list of members
    align       the `members` records with that list (the hosts act on their own records)
    decide      `decide.quorum.next_step`
    confirm     the same step from a fresh snapshot: a mirror that lags must not make a host look removed
    act         one change of etcd's members, then align again

A pass may end anywhere: the next one begins by looking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from drover.daemon.etcd_process import CLIENT_PORT, PEER_PORT, url
from drover.decide.quorum import (
    NO_TROUBLE,
    AddLearner,
    EtcdMember,
    Nothing,
    Promote,
    Remove,
    Step,
    Trouble,
    endpoints,
    host_of,
    next_step,
    record_changes,
)
from drover.model.cluster import Cluster
from drover.store.etcd import EtcdStore
from drover.store.etcd_members import member_add, member_promote, member_remove, members
from drover.store.mirror import Mirror

REACH_S = 2.0
STUCK_S = 120.0
"""How long a new member may take to get its vote before another host is asked: a large store takes a while to copy."""

log = structlog.get_logger("drover.daemon.quorum")

__all__ = ["endpoints", "keep_quorum"]


class Learners:
    """Remembers how long members have been without a vote, and on which hosts that ended badly."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now()` is in seconds of any clock that only grows."""
        self._now = now
        self._since: dict[str, float] = {}
        self._hosts: set[str] = set()

    def trouble(self, cluster: Cluster, listed: Sequence[EtcdMember]) -> Trouble:
        """What is known now; `listed` are etcd's members."""
        learners = {member.id: member for member in listed if member.learner}
        self._since = {one: self._since.get(one, self._now()) for one in learners}
        stuck = {one for one, since in self._since.items() if self._now() - since > STUCK_S}
        owners = (host_of(cluster, learners[one]) for one in stuck)
        self._hosts |= {host.name for host in owners if host is not None}
        return Trouble(frozenset(stuck), frozenset(self._hosts))


async def keep_quorum(
    store: EtcdStore,
    mirror: Mirror,
    client_port: int = CLIENT_PORT,
    peer_port: int = PEER_PORT,
    learners: Learners | None = None,
) -> Step:
    """One pass; returns the step that was taken, or `Nothing` and why. Call it again and again while leading.

    Raises what the store raises (`Unavailable`, `CommitConflict`, ...): nothing is lost by calling again.
    """
    listed = await members(store.http)
    await _align(store, mirror, listed, client_port)
    trouble = learners.trouble(mirror.cluster, listed) if learners is not None else NO_TROUBLE
    step = next_step(mirror.cluster, listed, trouble)
    if isinstance(step, Nothing):
        return step
    if next_step(await store.snapshot(), listed, trouble) != step:
        return Nothing("this host's picture of the cluster is not the newest; looking again")
    done = await _act(store, mirror.cluster, step, peer_port)
    if not isinstance(done, Nothing):
        log.info("the store's members change", step=repr(step))
        await _align(store, mirror, await members(store.http), client_port)
    return done


async def _align(store: EtcdStore, mirror: Mirror, listed: Sequence[EtcdMember], client_port: int) -> None:
    changes = record_changes(mirror.cluster, listed, client_port)
    if changes:
        expect = {change.key: mirror.cluster.version(change.key) for change in changes}
        await mirror.reached(await store.commit(changes, expect), REACH_S)


async def _act(store: EtcdStore, cluster: Cluster, step: Step, peer_port: int) -> Step:
    match step:
        case AddLearner(host):
            await member_add(store.http, url(cluster.hosts[host].address, peer_port))
        case Promote(member):
            if not await member_promote(store.http, member.id):
                return Nothing(f"waiting for the new member of {member.name} to catch up")
        case Remove(member):
            await member_remove(store.http, member.id)
    return step
