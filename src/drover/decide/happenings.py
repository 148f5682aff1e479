"""What a change of the records means to people: the cluster's own events. Pure.

Theory of operation. Whatever deserves a word is in the records already, so events are read off their changes: every
daemon comes to the same ones, under the same keys (the store's revision and a number), and whoever leads writes them
down. A key names one event for ever, so writing it twice is no harm.

    table             change                              event
    hosts             new, gone, for something else       host.joined, host.removed, host.scheduling
    lost              noted, taken away                   host.lost, host.back
    suspects          its daemon is not heard             host.suspect
    host_facts        its engine is silent, answers       engine.silent, engine.back
                      its disk is nearly full, is not     disk.low, disk.ok
    placements        on another host                     container.moved, container.recovered (its host was lost)
    container_facts   ended with an error, or for memory  container.crashed, container.oom
                      health is bad, is good again        container.unhealthy, container.healthy
                      restarted for that                  container.restarted
                      the engine refused an order         container.failed
                      somebody removed it by hand         container.vanished
    moves             given up                            move.failed
    volumes           promoted after a death              volume.promoted
    members           new, gone                           store.member
    app_troubles      a step failed (image, room, name)   app.trouble
    deployments       an update ended, halted, went back  update.done, update.halted, update.reverted
                      a scheduled run failed, or was not  job.failed
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

import msgspec

from drover.decide.health import host_state
from drover.decide.sentences import container_name, count, instant
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.spec import parse_spec

KEPT = 1000
"""How many events the store keeps."""
TABLE = "events"
TYPES = (
    "host.joined", "host.removed", "host.scheduling", "host.lost", "host.back", "host.suspect", "engine.silent",
    "engine.back", "disk.low", "disk.ok", "container.moved", "container.recovered", "container.crashed",
    "container.oom", "container.unhealthy", "container.healthy", "container.restarted", "container.failed",
    "container.vanished", "move.failed", "volume.promoted", "store.member", "app.trouble", "update.done",
    "update.halted", "update.reverted", "job.failed", "hook.failed",
)  # fmt: skip
Found = Iterator[tuple[str, str, str]]
"""Type, subject, sentence."""


class _Both(msgspec.Struct, frozen=True):
    """The pictures before and after, and the key that changed, without its table."""

    before: Cluster
    after: Cluster
    rest: str


def happenings(before: Cluster, after: Cluster, changes: Iterable[Change], now: float) -> dict[str, r.Event]:
    """The events of a batch by their keys, in the order of the batch; `now` in seconds since the Unix epoch."""
    found: dict[str, r.Event] = {}
    for change in changes:
        table, _, rest = change.key.partition("/")
        reader = READERS.get(table)
        for kind, subject, says in reader(_Both(before, after, rest)) if reader is not None else ():
            key = r.key(TABLE, f"{after.revision:012d}-{len(found):04d}")
            found[key] = r.Event(type=kind, subject=subject, says=says, at=now)
    return found


def written(cluster: Cluster, pending: Mapping[str, r.Event]) -> list[Change]:
    """What to write of `pending` (by key): those that are not there yet, and are not older than what is kept; and the
    removal of those that are too many then."""
    kept = cluster.rows(TABLE, r.Event)
    oldest = min(kept, default="")
    new = {key: one for key, one in pending.items() if key.partition("/")[2] not in kept}
    new = {key: one for key, one in new.items() if len(kept) < KEPT or key.partition("/")[2] > oldest}
    surplus = max(0, len(kept) + len(new) - KEPT)
    return [put(key, one) for key, one in new.items()] + [delete(r.key(TABLE, one)) for one in sorted(kept)[:surplus]]


def matches(event: r.Event, patterns: Iterable[str]) -> bool:
    """Whether an event's type is one of the patterns: `host.lost`, `container.*`; of none: any type."""
    asked = tuple(patterns)
    return not asked or any(fnmatchcase(event.type, pattern) for pattern in asked)


# -- one table each --------------------------------------------------------------------------------------------------


def _hosts(both: _Both) -> Found:
    host = both.rest
    old, new = both.before.hosts.get(host), both.after.hosts.get(host)
    if old is None and new is not None:
        yield "host.joined", host, f"host {host} joined at {new.address}"
    elif new is None:
        yield "host.removed", host, f"host {host} was removed"
    elif old is not None and old.scheduling != new.scheduling:
        yield "host.scheduling", host, f"host {host} {_USE[new.scheduling]}"


_USE: Mapping[r.Scheduling, str] = {
    "active": "takes containers again",
    "pause": "takes no new containers",
    "drain": "is drained: everything on it moves elsewhere",
    "shutdown": "shuts down: what runs on it moves elsewhere",
}


def _lost(both: _Both) -> Found:
    host = both.rest
    old, new = both.before.lost.get(host), both.after.lost.get(host)
    if new is not None and old is None:
        number = sum(placement.host == host for placement in both.after.placements.values())
        yield "host.lost", host, f"host {host} {host_state(both.after, host).says}, with {count(number, 'container')}"
    elif old is not None and new is None and host in both.after.hosts:
        yield "host.back", host, f"host {host} is back"


def _suspects(both: _Both) -> Found:
    host = both.rest
    old, new = both.before.suspects.get(host), both.after.suspects.get(host)
    if new is not None and (old is None or old.session != new.session):
        ready = f"{count(len(new.targets), 'container')} made ready elsewhere"
        yield "host.suspect", host, f"host {host} {host_state(both.after, host).says}; {ready}"


def _host_facts(both: _Both) -> Found:
    host = both.rest
    old, new = both.before.host_facts.get(host), both.after.host_facts.get(host)
    if old is None or new is None:
        return
    if old.engine_ok != new.engine_ok:
        says = "answers again" if new.engine_ok else f"does not answer: {new.message}"
        yield ("engine.back" if new.engine_ok else "engine.silent"), host, f"the engine of host {host} {says}"
    if bool(old.disk_low) != bool(new.disk_low):
        says = new.disk_low or "there is room again"
        yield ("disk.low" if new.disk_low else "disk.ok"), host, f"disk of host {host}: {says}"


def _placements(both: _Both) -> Found:
    old, new = both.before.placements.get(both.rest), both.after.placements.get(both.rest)
    if old is None or new is None or old.host == new.host:
        return
    kind = "container.recovered" if old.host not in both.after.alive else "container.moved"
    name = container_name(both.after, both.rest)
    yield kind, name, f"{name} went from {old.host} to {new.host}: {new.chosen}"


def _container_facts(both: _Both) -> Found:
    host, _, container = both.rest.partition("/")
    old, new = both.before.container_facts.get(both.rest), both.after.container_facts.get(both.rest)
    record = both.after.containers.get(container)
    if new is None or record is None:
        return
    old = old or r.ContainerFacts(container=container, host=host)
    where = f"{record.name} on {host}"
    yield from _ended(record, where, old, new)
    yield from _health(record, where, old, new)
    if old.engine_id and new.state == "missing" and _should_be(both.after, record, host, old):
        yield "container.vanished", record.name, f"{where} was removed from the engine by hand: it is made anew"
    if new.answer.status >= 500 and new.answer.number > old.answer.number:
        yield "container.failed", record.name, f"{where}: the engine refused {record.order.verb}: {new.answer.message}"


def _should_be(cluster: Cluster, record: r.Container, host: str, seen: r.ContainerFacts) -> bool:
    """Whether what the host's engine had was the container itself, and nothing asks for its end."""
    placement = cluster.placements.get(record.id)
    here = placement is not None and (placement.host, placement.epoch) == (host, seen.epoch or placement.epoch)
    ends = record.desired == "removed" or record.order.verb == "remove" or parse_spec(record.body).auto_remove
    return here and not ends


def _ended(record: r.Container, where: str, old: r.ContainerFacts, new: r.ContainerFacts) -> Found:
    ended = new.state in ("exited", "dead", "restarting") and old.state == "running"
    if not ended or new.interrupted or record.desired != "running":
        return
    if new.oom:
        yield "container.oom", record.name, f"{where} was killed because it used more memory than it may"
    elif new.exit_code:
        yield "container.crashed", record.name, f"{where} ended with exit code {new.exit_code}"


def _health(record: r.Container, where: str, old: r.ContainerFacts, new: r.ContainerFacts) -> Found:
    if new.health == "unhealthy" and old.health != "unhealthy":
        yield "container.unhealthy", record.name, f"{where} is unhealthy: its health check fails"
    elif new.unhealthy_restarts > old.unhealthy_restarts:
        yield "container.restarted", record.name, f"{where} was restarted: its health check fails"
    elif new.health == "healthy" and old.health == "unhealthy":
        yield "container.healthy", record.name, f"{where} is healthy again"


def _moves(both: _Both) -> Found:
    old, new = both.before.moves.get(both.rest), both.after.moves.get(both.rest)
    if new is not None and new.phase == "aborted" and (old is None or old.phase != "aborted"):
        name = container_name(both.after, both.rest) if new.container else ", ".join(new.volumes)
        yield "move.failed", name, f"{name} was not moved from {new.source} to {new.target}: {new.why}"


def _volumes(both: _Both) -> Found:
    old, new = both.before.volumes.get(both.rest), both.after.volumes.get(both.rest)
    if old is not None and new is not None and new.note and new.note != old.note and new.epoch > old.epoch:
        yield "volume.promoted", new.name, f"volume {new.name} goes on on {new.host}: {new.note}"


def _members(both: _Both) -> Found:
    old, new = both.before.members.get(both.rest), both.after.members.get(both.rest)
    if new is None:
        yield "store.member", both.rest, f"host {both.rest} runs no member of the store any more"
    elif new.state == "voter" and (old is None or old.state != "voter"):
        yield "store.member", both.rest, f"host {both.rest} runs a voting member of the store"


def _app_troubles(both: _Both) -> Found:
    app = both.rest
    old, new = both.before.app_troubles.get(app), both.after.app_troubles.get(app)
    before = old.troubles if old is not None else {}
    for thing, trouble in (new.troubles if new is not None else {}).items():
        if thing not in before or before[thing].why != trouble.why:
            yield "app.trouble", app, f"{app}: {thing.replace('/', ' ', 1)}: {trouble.why}"


_UPDATE: Mapping[str, tuple[str, str]] = {
    "done": ("update.done", "is updated"),
    "paused": ("update.halted", "stands still in its update: {why}"),
    "reverting": ("update.reverted", "goes back to the version before: {why}"),
}


def _deployments(both: _Both) -> Found:
    app = both.rest
    new = both.after.deployments.get(app)
    if new is None:
        return
    old = both.before.deployments.get(app) or r.Deployment(app=app)
    for service, rollout in new.rollouts.items():
        before = old.rollouts.get(service)
        if rollout.state in _UPDATE and (before is None or (before.to, before.state) != (rollout.to, rollout.state)):
            kind, says = _UPDATE[rollout.state]
            yield kind, app, f"{app}: {service} {says.format(why=rollout.why)}"
    for service, runs in new.runs.items():
        ended = {run.due_at for run in old.runs.get(service, ()) if run.ended}
        for run in runs:
            if run.ended and run.due_at not in ended and (run.note or run.exit_code != 0):
                outcome = run.note or f"ended with exit code {run.exit_code}"
                yield "job.failed", app, f"{app}: the run of {service} that was due {instant(run.due_at)}: {outcome}"


READERS: Mapping[str, Callable[[_Both], Found]] = {
    "hosts": _hosts,
    "lost": _lost,
    "suspects": _suspects,
    "host_facts": _host_facts,
    "placements": _placements,
    "container_facts": _container_facts,
    "moves": _moves,
    "volumes": _volumes,
    "members": _members,
    "app_troubles": _app_troubles,
    "deployments": _deployments,
}
