"""Applications as they are: which containers are of which slot, how each of them does, and what it waits for.

Theory of operation. A container belongs to a slot by its labels (`model.apps`). Its verdict is read from the records
alone, first match:

    it                                                      verdict
    was refused by its engine, at creation or at its start  bad
    is on a host that is down                               pending
    is not made, or not started yet                         pending
    runs, and its check says healthy, or it has none        good
    runs, and its check has not decided yet                 pending
    runs, and its check says unhealthy                      bad
    was stopped by somebody                                 pending
    ended, as a restart that was asked for begins           pending
    ended with 0, and its restart policy leaves it at that  done
    ended otherwise, or is about to be started again        bad
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from drover.decide.fit import fact
from drover.decide.health import down_sentence
from drover.decide.restarts import wants_restart
from drover.decide.views import HostView, host_view
from drover.model import records as r
from drover.model.apps import (
    HASH_LABEL,
    PROJECT_LABEL,
    SERVICE_LABEL,
    SLOT_LABEL,
    Dependency,
    Service,
)
from drover.model.cluster import Cluster
from drover.model.spec import Spec, parse_spec

Outcome = Literal["pending", "good", "done", "bad"]
NO_CHECK = ("", "none")


class Instance(msgspec.Struct, frozen=True):
    """A container of an application. `slot` is a number, a host's name, or when a job's run was due."""

    container: r.Container
    spec: Spec
    facts: r.ContainerFacts | None = None
    host: str = ""

    @property
    def service(self) -> str:
        return self.spec.labels.get(SERVICE_LABEL, "")

    @property
    def slot(self) -> str:
        return self.spec.labels.get(SLOT_LABEL, "")

    @property
    def hash(self) -> str:
        return self.spec.labels.get(HASH_LABEL, "")

    @property
    def state(self) -> str:
        return self.facts.state if self.facts is not None else "missing"


class Verdict(msgspec.Struct, frozen=True):
    """`why` says of a container what it does, without its name: `runs on h2`. `final`: nothing changes it by itself."""

    outcome: Outcome
    why: str
    final: bool = False


Instances = Mapping[str, tuple[Instance, ...]]
"""Application to its containers, in the order of their creation."""


class _Index:
    """The containers of all applications; the last answer is kept, and known by the identity of its table."""

    def __init__(self) -> None:
        self._last: tuple[Mapping[str, r.Container], Mapping[str, list[str]]] = ({}, {})

    def of(self, table: Mapping[str, r.Container]) -> Mapping[str, list[str]]:
        known, groups = self._last
        if known is table:
            return groups
        made: dict[str, list[str]] = {}
        for container in sorted(table.values(), key=lambda one: (one.created_at, one.id)):
            labels = parse_spec(container.body).labels
            if SLOT_LABEL in labels:
                made.setdefault(labels.get(PROJECT_LABEL, ""), []).append(container.id)
        self._last = (table, made)
        return made


_index = _Index()


def instances(cluster: Cluster, app: str) -> tuple[Instance, ...]:
    """The containers of an application that are not told to go."""
    records = [cluster.containers[one] for one in _index.of(cluster.containers).get(app, ())]
    return tuple(_instance(cluster, one) for one in records if one.desired != "removed")


def leaving(cluster: Cluster, app: str) -> tuple[str, ...]:
    """The names of containers that are told to go and are still there."""
    records = [cluster.containers[one] for one in _index.of(cluster.containers).get(app, ())]
    return tuple(one.name for one in records if one.desired == "removed")


def _instance(cluster: Cluster, record: r.Container) -> Instance:
    host = cluster.host_of(record.id) or ""
    return Instance(record, parse_spec(record.body), cluster.facts_of(record.id), host)


def by_service(found: Iterable[Instance]) -> dict[str, dict[str, list[Instance]]]:
    """Service to slot to containers."""
    grouped: dict[str, dict[str, list[Instance]]] = {}
    for one in found:
        grouped.setdefault(one.service, {}).setdefault(one.slot, []).append(one)
    return grouped


def verdict(cluster: Cluster, one: Instance) -> Verdict:
    """The module's table."""
    facts = one.facts
    if facts is not None and (refused := _refused(one, facts)):
        return refused
    if down := down_sentence(cluster, one.host):
        return Verdict("pending", f"cannot be asked: {down}")
    if facts is None or not facts.engine_id:
        progress = f": {facts.progress}" if facts is not None and facts.progress else ""
        return Verdict("pending", f"is being made on {one.host}{progress}")
    if facts.state in ("running", "paused"):
        return _running(one, facts)
    if facts.state in ("exited", "dead"):
        return _restarting(one, facts) or _ended(one, facts)
    if facts.state == "restarting":
        return Verdict("bad", f"keeps ending on {one.host}, last with exit code {facts.exit_code}")
    return Verdict("pending", f"is {facts.state} on {one.host}")


def _refused(one: Instance, facts: r.ContainerFacts) -> Verdict | None:
    verb, answer = one.container.order.verb, facts.answer
    if answer.status < 400 or answer.number < one.container.order.number or verb not in ("create", "start"):
        return None
    return Verdict("bad", f"could not be {'made' if verb == 'create' else 'started'} on {one.host}: {answer.message}")


def _running(one: Instance, facts: r.ContainerFacts) -> Verdict:
    if facts.health in NO_CHECK:
        return Verdict("good", f"runs on {one.host}")
    if facts.health == "healthy":
        return Verdict("good", f"runs on {one.host}, healthy")
    if facts.health == "unhealthy":
        return Verdict("bad", f"runs on {one.host}, and its check says unhealthy")
    return Verdict("pending", f"runs on {one.host}, its check has not decided yet")


def _restarting(one: Instance, facts: r.ContainerFacts) -> Verdict | None:
    order = one.container.order
    if order.verb != "restart" or facts.answer.number >= order.number:
        return None
    return Verdict("pending", f"is being restarted on {one.host}")


def _ended(one: Instance, facts: r.ContainerFacts) -> Verdict:
    if one.container.desired == "stopped":
        return Verdict("pending", f"was stopped on {one.host} by somebody: `docker start` starts it", final=True)
    if wants_restart(one.spec, facts.exit_code, facts.restarts):
        return Verdict("bad", f"ended on {one.host} with exit code {facts.exit_code}, and is started again")
    if facts.exit_code == 0:
        return Verdict("done", f"ran to its end on {one.host}", final=True)
    return Verdict("bad", f"ended on {one.host} with exit code {facts.exit_code}", final=True)


def wanted_slots(cluster: Cluster, service: Service, have: Iterable[str] = ()) -> list[str]:
    """The slots that a service shall have now. A global one has each host that its constraints allow; a host that is
    down keeps its slot, a new one gets it when it is ready."""
    if not service.mode.startswith("global"):
        return [str(number) for number in range(1, service.replicas + 1)]
    spec, kept = parse_spec(service.body), frozenset(have)
    views = [host_view(cluster, host) for _, host in sorted(cluster.hosts.items())]
    return [view.name for view in views if _allows(view, spec) and (view.health.state == "ready" or view.name in kept)]


def _allows(view: HostView, spec: Spec) -> bool:
    return all(one.soft or one.holds(fact(view, one.key)) for one in spec.constraints)


def held_up(cluster: Cluster, app: r.App, service: Service, grouped: Mapping[str, Mapping[str, list[Instance]]]) -> str:
    """Which dependency a service's first containers wait for, as a sentence; empty if for none."""
    for dependency in service.depends_on:
        target = app.services.get(dependency.service)
        if target is not None:
            why = _unmet(cluster, target, dependency, grouped.get(dependency.service, {}))
            if why:
                return why
    return ""


def _unmet(cluster: Cluster, target: Service, dependency: Dependency, slots: Mapping[str, list[Instance]]) -> str:
    name = dependency.service
    for slot in wanted_slots(cluster, target, slots):
        if not slots.get(slot):
            return f"waits for {name}: {name} {slot} is not there yet"
        found = verdict(cluster, slots[slot][-1])
        if not _meets(slots[slot][-1], found, dependency):
            return f"waits for {name} ({dependency.condition}): {slots[slot][-1].container.name} {found.why}"
    return ""


def _meets(one: Instance, found: Verdict, dependency: Dependency) -> bool:
    if dependency.condition == "service_completed_successfully":
        return found.outcome == "done"
    if dependency.condition == "service_healthy":
        return found.outcome == "good" and one.facts is not None and one.facts.health == "healthy"
    return one.state in ("running", "paused", "restarting", "exited")
