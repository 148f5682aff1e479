"""`kept(cluster)`: the same as `HostViews.of(cluster)`, from the last answer and what changed since.

Theory of operation. On a large cluster, adding everything up again for each container that asks for a host would cost
more than the choice. A picture shares the records that did not change with the one before it, so what changed is found
by identity, table by table (`model.table`); the views of hosts that nothing happened on are used again as they are.

    table of the picture                      is
    containers, placements, container_facts   compared; what a changed container counts for is taken away and added anew
    hosts, alive, lost, suspects, host_facts  compared host by host
    ports                                     added up anew, if it is another table or one of its holders changed

Nothing that was given away is changed later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from drover.decide.claims import ports_of
from drover.decide.views import HostView, HostViews, PortKey, empty_view, holds_resources, port_claims
from drover.decide.wanted import Slot, slot_of
from drover.model.cluster import Cluster
from drover.model.spec import Spec, parse_spec
from drover.model.table import Table, changed

COUNTED = ("containers", "placements", "container_facts")
ABOUT_HOSTS = ("hosts", "alive", "lost", "suspects", "host_facts")
ALL = (*COUNTED, *ABOUT_HOSTS, "ports")


class _Share(msgspec.Struct, frozen=True):
    """What one container counts for, and where."""

    host: str
    name: str
    spec: Spec


class _Kept:
    def __init__(self) -> None:
        self._seen = Cluster()
        self._shares: dict[str, _Share] = {}
        self._slots: Mapping[Slot, str] = {}
        self._slot_of: dict[str, Slot] = {}
        self._holders: dict[Slot, dict[str, None]] = {}
        """The containers of a slot, the last one counts: the new one, while it replaces the old."""
        self._bare: dict[str, HostView] = {}
        """The views without the port claims."""
        self._claims: Mapping[str, Mapping[PortKey, str]] = {}
        self._answer = HostViews({})

    def of(self, cluster: Cluster) -> HostViews:
        if all(self._table(cluster, name) is self._table(self._seen, name) for name in ALL):
            return self._answer
        hosts = self._changed_hosts(cluster)
        containers = self._changed_containers(cluster)
        self._seen, before = cluster, self._seen
        touched = self._renewed_hosts(cluster, hosts) | self._counted_anew(cluster, containers)
        claims, shared = self._claims, self._answer.shared_ports
        if cluster.ports is not before.ports or any(ports_of(cluster, one) for one in containers):
            claims, shared = port_claims(cluster)
            touched |= {host for host in {*claims, *self._claims} if claims.get(host) != self._claims.get(host)}
            self._claims = claims
        touched = touched.union(hosts)
        views = Table(self._answer.hosts)
        views.update({name: self._with_claims(name) for name in sorted(touched & self._bare.keys())})
        for name in touched - self._bare.keys():
            views.pop(name, None)
        views.made_from(self._answer.hosts, touched)
        self._answer = HostViews(views, shared, self._slots)
        return self._answer

    @staticmethod
    def _table(cluster: Cluster, name: str) -> Mapping[str, Any]:
        return cluster.tables.get(name, _NOTHING)

    def _changed_containers(self, cluster: Cluster) -> set[str]:
        found: set[str] = set()
        for name in COUNTED:
            keys = changed(self._table(self._seen, name), self._table(cluster, name))
            found.update(key.rpartition("/")[2] for key in keys)
        return found

    def _changed_hosts(self, cluster: Cluster) -> set[str]:
        pairs = [(self._table(self._seen, name), self._table(cluster, name)) for name in ABOUT_HOSTS]
        return {host for old, new in pairs for host in changed(old, new)}

    def _renewed_hosts(self, cluster: Cluster, hosts: Iterable[str]) -> set[str]:
        """Take over what the records say of hosts; what counts on them stays."""
        renewed = set()
        for name in hosts:
            if name not in cluster.hosts:
                self._bare.pop(name, None)
                continue
            new, old = empty_view(cluster, cluster.hosts[name], {}), self._bare.get(name)
            if old is None:
                for identity, share in self._shares.items():
                    new = new.plus(identity, share.name, share.spec) if share.host == name else new
            else:
                new = msgspec.structs.replace(
                    old, labels=new.labels, taints=new.taints, health=new.health, facts=new.facts
                )
            self._bare[name] = new
            renewed.add(name)
        return renewed

    def _counted_anew(self, cluster: Cluster, containers: Iterable[str]) -> set[str]:
        """Returns the hosts on which something is different."""
        touched, slots = set(), set[Slot]()
        for identity in containers:
            old, new = self._shares.pop(identity, None), _share(cluster, identity)
            slots |= self._hold_slot(cluster, identity)
            if old is not None and old.host in self._bare:
                self._bare[old.host] = self._bare[old.host].minus(identity, old.name, old.spec)
                touched.add(old.host)
            if new is not None:
                self._shares[identity] = new
            if new is not None and new.host in self._bare:
                self._bare[new.host] = self._bare[new.host].plus(identity, new.name, new.spec)
                touched.add(new.host)
        if slots:
            self._slots = self._with_slots(slots)
        return touched

    def _hold_slot(self, cluster: Cluster, identity: str) -> set[Slot]:
        """Returns the slots that may have another container now."""
        record, old = cluster.containers.get(identity), self._slot_of.get(identity)
        new = slot_of(parse_spec(record.body).labels) if record and identity in cluster.placements else None
        if new == old:
            return set()
        if old is not None:
            del self._slot_of[identity]
            del self._holders[old][identity]
        if new is not None:
            self._slot_of[identity] = new
            self._holders.setdefault(new, {})[identity] = None
        return {slot for slot in (old, new) if slot is not None}

    def _with_slots(self, moved: Iterable[Slot]) -> Mapping[Slot, str]:
        slots = dict(self._slots)
        for slot in moved:
            last = next(reversed(self._holders[slot]), None)
            slots.pop(slot, None)
            slots |= {slot: last} if last is not None else {}
        return slots

    def _with_claims(self, name: str) -> HostView:
        bare, claims = self._bare[name], self._claims.get(name)
        return msgspec.structs.replace(bare, ports={**bare.ports, **claims}) if claims else bare


_NOTHING: Mapping[str, Any] = {}


def _share(cluster: Cluster, identity: str) -> _Share | None:
    record, host = cluster.containers.get(identity), cluster.host_of(identity)
    if record is None or host is None or not holds_resources(cluster, record):
        return None
    return _Share(host, record.name, parse_spec(record.body))


_kept = _Kept()


def kept(cluster: Cluster) -> HostViews:
    """All views of a picture. Fast if it is much like the one asked about last."""
    return _kept.of(cluster)
