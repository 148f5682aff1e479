"""Containers that follow a dependency: restarted, or made anew, once a deployment has replaced those of it. Pure.

Theory of operation. `depends_on: {db: {restart: true}}`, which is also what Compose reads out of links and shared
namespaces, is about what a deployment does, as with Compose: not about containers that end and start by themselves, nor
about moves. All is in the deployment's record, written with the end of the rollout that it follows from:

    a rollout ends (done, reverted)           the containers that now run and follow it are noted, with their start
    a noted container                         then
    of a service that is being replaced       waits: a restart would count as a failure of the new version
    that shares namespaces or volumes         Remove; its slot is filled again (a restart would look for what is gone)
    any other                                 Restart, as many at a time as update_config.parallelism says
    was started anew, is gone or stopped      is noted no more: it has followed, or somebody wants otherwise

Only who depends directly follows. A leader that dies on the way is followed by one that goes on from the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from drover.decide.app_actions import Action, Remove, Restart
from drover.decide.apps import Instance
from drover.decide.rollout import ACTIVE
from drover.model.apps import Dependency, Follow, Rollout, Service
from drover.model.records import App

OVER = ("done", "reverted")
RUNS = ("running", "paused", "restarting")
Grouped = Mapping[str, Mapping[str, list[Instance]]]


def follows(
    app: App, grouped: Grouped, noted: Mapping[str, Follow], before: Mapping[str, Rollout], after: Mapping[str, Rollout]
) -> dict[str, Follow]:
    """The containers that are still to follow, after one look that turned the rollouts `before` into `after`."""
    found = {one.container.id: one for one in _all(grouped)}
    still = {key: follow for key, follow in noted.items() if key in found and _is_due(app, found[key], follow)}
    for dependency in after:
        if _has_ended(before.get(dependency), after[dependency]):
            still |= _noted(app, grouped, dependency)
    return still


def _all(grouped: Grouped) -> Iterable[Instance]:
    return (one for slots in grouped.values() for many in slots.values() for one in many)


def _has_ended(before: Rollout | None, after: Rollout) -> bool:
    return before is not None and before.state in ACTIVE and after.state in OVER


def _dependency(app: App, service: str, on: str) -> Dependency | None:
    """How a service follows another; None if it does not."""
    wanted = app.services[service].depends_on if service in app.services else ()
    return next((one for one in wanted if one.service == on and one.restart), None)


def _noted(app: App, grouped: Grouped, dependency: str) -> dict[str, Follow]:
    noted = {}
    for name, slots in grouped.items():
        how = _dependency(app, name, dependency)
        if how is None or app.services[name].is_job:
            continue
        for one in (one for many in slots.values() for one in many):
            if one.facts is not None and one.state in RUNS and one.container.desired == "running":
                noted[one.container.id] = Follow(
                    dependency, one.facts.started_at, one.container.order.number, how.shares
                )
    return noted


def _is_due(app: App, one: Instance, follow: Follow) -> bool:
    wanted = one.container.desired == "running" and _dependency(app, one.service, follow.after) is not None
    return wanted and (follow.anew or not _was_started(one, follow))


def _was_started(one: Instance, follow: Follow) -> bool:
    """Whether it was started since: by itself, or by an order that its engine has carried out."""
    if one.facts is None:
        return False
    order, answer = one.container.order, one.facts.answer
    carried_out = answer.number >= order.number > follow.order and answer.status < 400
    return one.facts.started_at != follow.started or (order.verb in ("start", "restart") and carried_out)


def follow_actions(
    app: App, grouped: Grouped, noted: Mapping[str, Follow], rollouts: Mapping[str, Rollout]
) -> list[Action]:
    """What to do about the noted containers now."""
    actions: list[Action] = []
    for name, slots in grouped.items():
        rollout = rollouts.get(name)
        if name not in app.services or (rollout is not None and rollout.state in ACTIVE):
            continue
        due = [one for slot in sorted(slots, key=_order) for one in slots[slot] if one.container.id in noted]
        actions += [_action(one, noted[one.container.id]) for one in due[: _at_once(app.services[name], len(due))]]
    return actions


def _order(slot: str) -> tuple[int, str]:
    return (int(slot) if slot.isdigit() else 0, slot)


def _at_once(service: Service, many: int) -> int:
    return service.update.parallelism or many


def _action(one: Instance, follow: Follow) -> Action:
    why = follow_sentence(follow)
    if follow.anew:
        return Remove(name=one.container.name, container=one.container.id, why=f"is made anew: {why}")
    return Restart(name=one.container.name, container=one.container.id, why=why)


def follow_sentence(follow: Follow) -> str:
    return f"the containers of {follow.after} were replaced"
