"""Which hosts run a member of the store: one next step at a time, each of which leaves a majority alive.

Theory of operation. `next_step` looks at the cluster and at etcd's own list of members and answers with at most one
step; whoever performs it looks again afterwards. So a sequence may be interrupted after every step, and no step
relies on one before. The rules, in order; the first that has something to say wins:

    rule             when                                                     step
    remove gone      a member's host was removed from the cluster             Remove, if a majority of the rest is alive
    settle learner   the learner is not needed, or its host is down           Remove (learners have no vote)
                     and another host could take its place
                     it has not come so far for long, and another host        Remove: that host is the last to be asked
                     could take its place
                     the learner runs                                         Promote
                     else                                                     Nothing: wait for it
    shrink           more voters than wanted, all of them alive               Remove the youngest host's
    grow             fewer voters than wanted, and hosts without a member     AddLearner on the oldest of them

A host that is merely down keeps its member: it returns with its data. Only `drover host rm` makes it gone. Voters
grow in pairs (1, 3, 5): two voters are worse than one, so the first of a pair is neither added nor promoted before
the second is in sight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import msgspec

from drover.model.cluster import Change, Cluster, delete, put
from drover.model.records import Host, Member, key


class EtcdMember(msgspec.Struct, frozen=True):
    """A member as etcd lists it. `name` is its host's, and empty until it has started for the first time."""

    id: str
    peer_url: str
    name: str = ""
    client_url: str = ""
    learner: bool = False

    @property
    def started(self) -> bool:
        return bool(self.name)


class AddLearner(msgspec.Struct, frozen=True):
    host: str


class Promote(msgspec.Struct, frozen=True):
    member: EtcdMember


class Remove(msgspec.Struct, frozen=True):
    member: EtcdMember
    why: str


class Nothing(msgspec.Struct, frozen=True):
    reason: str


Step = AddLearner | Promote | Remove | Nothing


def wanted_voters(hosts: int) -> int:
    """1 host: 1; 2: 1; 3 and 4: 3; 5 and more: 5."""
    return 1 if hosts < 3 else 3 if hosts < 5 else 5


def majority(voters: int) -> int:
    return voters // 2 + 1


class Trouble(msgspec.Struct, frozen=True):
    """What whoever looks again and again has learned: `stuck` are ids of learners that have not come so far as to vote
    for long; `hosts` had such a one."""

    stuck: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()


NO_TROUBLE = Trouble()


class _Look:
    """What the rules ask of the cluster and etcd's members."""

    def __init__(self, cluster: Cluster, members: Sequence[EtcdMember], trouble: Trouble) -> None:
        self.cluster = cluster
        self.trouble = trouble
        self.voters = [member for member in members if not member.learner]
        self.learners = [member for member in members if member.learner]
        self.wanted = wanted_voters(len(cluster.hosts))
        self.gone = [member for member in members if host_of(cluster, member) is None]
        taken = {host.name for member in members if (host := _host_at(cluster, member.peer_url))}
        alive = [host for host in cluster.hosts.values() if host.name in cluster.alive]
        free = (host for host in alive if host.name not in taken)
        self.candidates = sorted(free, key=lambda host: (host.name in trouble.hosts, host.index))

    def alive(self, member: EtcdMember) -> bool:
        host = host_of(self.cluster, member)
        return host is not None and host.name in self.cluster.alive

    def survives_without(self, member: EtcdMember) -> bool:
        """A majority of the other voters is alive."""
        rest = [voter for voter in self.voters if voter != member]
        return bool(rest) and sum(map(self.alive, rest)) >= majority(len(rest))

    def pair_in_sight(self, pending: int) -> bool:
        """Enough hosts, `pending` learners included, to come to an odd number of voters again."""
        needed = 2 if len(self.voters) % 2 else 1
        return pending + len(self.candidates) >= needed


def host_of(cluster: Cluster, member: EtcdMember) -> Host | None:
    """The host of the cluster that a member belongs to; None if it was removed.

    A host that was removed and joined again at the same address has a new id and none of the old member's data.
    """
    host = _host_at(cluster, member.peer_url)
    record = cluster.members.get(host.name) if host else None
    foreign = host and record and record.host_id and record.host_id != host.id
    return None if foreign else host


def _host_at(cluster: Cluster, peer_url: str) -> Host | None:
    address = urlsplit(peer_url).hostname
    return next((host for host in cluster.hosts.values() if host.address == address), None)


def next_step(cluster: Cluster, members: Sequence[EtcdMember], trouble: Trouble = NO_TROUBLE) -> Step:
    """The next step towards the wanted members, or why there is none."""
    look = _Look(cluster, members, trouble)
    for rule in RULES:
        step = rule(look)
        if step is not None:
            return step
    return Nothing(f"{len(look.voters)} of {look.wanted} wanted voters")


def _remove_gone(look: _Look) -> Step | None:
    for member in look.gone:
        name = member.name or member.peer_url
        if member.learner or look.survives_without(member):
            return Remove(member, f"its host {name} was removed from the cluster")
        return Nothing(f"removing the member of {name} would leave too few alive; start the hosts that are down")
    return None


def _settle_learner(look: _Look) -> Step | None:
    for learner in look.learners:
        host = urlsplit(learner.peer_url).hostname
        if len(look.voters) >= look.wanted:
            return Remove(learner, "there are enough voters")
        if not look.alive(learner):
            if look.candidates:
                return Remove(learner, f"its host at {host} is down and another host can take its place")
            return Nothing(f"waiting for the host at {host}, which is down, with a member that has no vote yet")
        if learner.id in look.trouble.stuck and any(one.name not in look.trouble.hosts for one in look.candidates):
            return Remove(learner, f"its host at {host} does not bring it up, and another host can take its place")
        if not learner.started:
            return Nothing(f"waiting for the new member at {host} to start")
        if not look.pair_in_sight(pending=1):
            return Nothing("two voters are worse than one: waiting for one more host to be up")
        return Promote(learner)
    return None


def _shrink(look: _Look) -> Step | None:
    if len(look.voters) <= look.wanted or not all(map(look.alive, look.voters)):
        return None
    youngest = max(look.voters, key=lambda member: _index(look, member))
    return Remove(youngest, f"{look.wanted} voters are enough for {len(look.cluster.hosts)} hosts")


def _index(look: _Look, member: EtcdMember) -> int:
    host = host_of(look.cluster, member)
    return host.index if host else 0


def _grow(look: _Look) -> Step | None:
    if len(look.voters) >= look.wanted:
        return None
    if sum(map(look.alive, look.voters)) < majority(len(look.voters)):
        return Nothing("most of the store's members are down")
    if not look.pair_in_sight(pending=0):
        return Nothing(f"{look.wanted} voters are wanted; waiting for more hosts to be up")
    return AddLearner(look.candidates[0].name)


RULES: tuple[Callable[[_Look], Step | None], ...] = (_remove_gone, _settle_learner, _shrink, _grow)


def record_changes(cluster: Cluster, members: Sequence[EtcdMember], client_port: int) -> list[Change]:
    """What makes the `members` records say what etcd says; a host acts on its own record.

    They follow etcd's list and never lead it, so an interruption between the two is repaired by looking again. The
    record of a host that is gone stays until etcd has let its member go: it is what tells the old member from a host
    that joins again at the same address.
    """
    wanted = {
        host.name: _record(cluster, host, member, members, client_port)
        for member in members
        if (host := host_of(cluster, member)) is not None
    }
    written = [put(key("members", name), row) for name, row in wanted.items() if cluster.members.get(name) != row]
    listed = {member.peer_url for member in members}
    return written + [
        delete(key("members", name)) for name, row in cluster.members.items() if row.peer_url not in listed
    ]


def _record(
    cluster: Cluster, host: Host, member: EtcdMember, members: Sequence[EtcdMember], client_port: int
) -> Member:
    return Member(
        host=host.name,
        host_id=host.id,
        peer_url=member.peer_url,
        client_url=member.client_url or _client_url(member.peer_url, client_port),
        state="starting" if not member.started else "learner" if member.learner else "voter",
        # etcd reads it only when a member starts for the first time, and it must be its list of that moment.
        initial_cluster="" if member.started else initial_cluster(cluster, members),
        member_id=member.id,
    )


def initial_cluster(cluster: Cluster, members: Sequence[EtcdMember]) -> str:
    """`h1=https://10.0.0.1:4743,h2=…`: all members of this moment, as a new one must be told."""
    return ",".join(sorted(f"{_name(cluster, member)}={member.peer_url}" for member in members))


def _name(cluster: Cluster, member: EtcdMember) -> str:
    host = _host_at(cluster, member.peer_url)
    return member.name or (host.name if host else member.id)


def _client_url(peer_url: str, client_port: int) -> str:
    parts = urlsplit(peer_url)
    host = parts.netloc.rpartition(":")[0]
    return f"{parts.scheme}://{host}:{client_port}"


def endpoints(cluster: Cluster) -> list[str]:
    """The client URLs of the store's members, voters first (a learner refuses calls)."""
    rows = sorted(cluster.members.values(), key=lambda row: (row.state != "voter", row.host))
    return [row.client_url for row in rows]
