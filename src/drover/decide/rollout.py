"""The replacement of one service's containers by those of a new version, gated by how the new ones do.

Theory of operation. `advance` looks at a service's slots and answers with the rollout as it now stands and the actions
that follow. All is in the records, so any leader goes on where the last one stopped. A slot is

    empty      no container                      it is made (nothing else is begun meanwhile)
    outdated   only containers of other hashes   it waits for its turn
    doubled    new and old ones (start-first)    the old ones go when the new one is good
    fresh      a new one alone                   settled when it has been good for max(delay, monitor)

    state      means                                               next
    updating   slots are replaced, `parallelism` at a time         done; on too many failures what failure_action says
    paused     too many failed: nothing more is replaced           a new deployment
    reverting  slots are given back the version before             reverted; paused if that fails too
    reverted   the version before runs                             a new deployment
    done       every slot is settled                               a new deployment
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from drover.decide.app_actions import Action, Remove, make
from drover.decide.apps import Instance, Verdict, verdict
from drover.decide.sentences import count
from drover.model.apps import Rollout, Service, Trouble, UpdatePolicy
from drover.model.cluster import Cluster
from drover.model.records import App

ACTIVE = ("updating", "reverting")
TURNED_BACK = ("reverting", "reverted")


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """One service's replacement as it stands. `target`: what its containers shall be; `slots` are those wanted."""

    cluster: Cluster
    app: App
    key: str
    target: Service
    policy: UpdatePolicy
    slots: Sequence[str]
    have: Mapping[str, Sequence[Instance]]
    troubles: Mapping[str, Trouble]
    now: float

    def fresh(self, slot: str) -> Instance | None:
        return next((one for one in self.have.get(slot, ()) if one.hash == self.target.hash), None)

    def stale(self, slot: str) -> list[Instance]:
        return [one for one in self.have.get(slot, ()) if one.hash != self.target.hash]

    @property
    def outdated(self) -> list[str]:
        return [slot for slot in self.slots if self.stale(slot) and not self.fresh(slot)]

    @property
    def doubled(self) -> list[str]:
        return [slot for slot in self.slots if self.stale(slot) and self.fresh(slot)]


class Advance(msgspec.Struct, frozen=True):
    """The rollout as it now stands, what to do, and when to look again (0: when a record changes)."""

    rollout: Rollout
    actions: tuple[Action, ...] = ()
    again_at: float = 0.0


def target_of(app: App, key: str, rollout: Rollout | None) -> Service:
    """What the containers of a service shall be: the one deployed, or the one before if that was turned back."""
    service = app.services[key]
    if rollout is None or rollout.to != service.hash or rollout.state not in TURNED_BACK:
        return service
    before = app.previous.get(key)
    return service if before is None else msgspec.structs.replace(before, replicas=service.replicas)


def policy_of(app: App, key: str, rollout: Rollout | None) -> UpdatePolicy:
    service = app.services[key]
    return service.rollback if rollout is not None and rollout.state == "reverting" else service.update


def advance(scene: Scene, rollout: Rollout) -> Advance:
    """One look at a rollout that is under way."""
    seen = _observed(scene, rollout)
    if turned := _turned(scene, seen):
        return Advance(turned)
    if _is_over(scene, seen):
        ended = "reverted" if seen.state == "reverting" else "done"
        return Advance(msgspec.structs.replace(seen, state=ended, ended_at=scene.now))
    return Advance(seen, (*_tidied(scene), *_begun(scene, seen)), _again_at(scene, seen))


def _observed(scene: Scene, rollout: Rollout) -> Rollout:
    """With what is to be seen of the new containers now."""
    good_at, started, failed = dict(rollout.good_at), dict(rollout.started), dict(rollout.failed)
    for slot in scene.slots:
        one = scene.fresh(slot)
        why = _failure(scene, rollout, slot, one)
        if why:
            failed.setdefault(slot, why)
        elif one is not None and slot not in good_at and verdict(scene.cluster, one).outcome in ("good", "done"):
            good_at[slot] = scene.now
            started[slot] = one.facts.started_at if one.facts else ""
    return msgspec.structs.replace(rollout, good_at=good_at, started=started, failed=failed)


def _failure(scene: Scene, rollout: Rollout, slot: str, one: Instance | None) -> str:
    """Why a slot's new container counts as failed; empty if it does not."""
    if one is None:
        trouble = scene.troubles.get(slot)
        ours = trouble is not None and trouble.version == scene.target.hash and trouble.at >= rollout.started_at
        return trouble.why if trouble is not None and ours else ""
    if _is_settled(scene, rollout, slot):
        return ""
    found = verdict(scene.cluster, one)
    if found.outcome == "bad":
        return f"{one.container.name} {found.why}"
    if slot in rollout.started and one.facts is not None and one.facts.started_at != rollout.started[slot]:
        return f"{one.container.name} ended and was started again on {one.host}"
    return ""


def _turned(scene: Scene, rollout: Rollout) -> Rollout | None:
    """The rollout in another state, if too many containers failed."""
    if not rollout.failed or len(rollout.failed) / max(1, len(scene.slots)) <= scene.policy.max_failure_ratio:
        return None
    why = f"{count(len(rollout.failed), 'container')} of {scene.key} failed: {next(iter(rollout.failed.values()))}"
    action = scene.policy.failure_action
    if action == "continue":
        return None
    if action == "rollback" and rollout.state == "updating" and scene.key in scene.app.previous:
        return Rollout(to=rollout.to, state="reverting", why=why, started_at=scene.now)
    return msgspec.structs.replace(rollout, state="paused", why=why, ended_at=scene.now)


def _settle_s(scene: Scene) -> float:
    return max(scene.policy.delay_s, scene.policy.monitor_s)


def _is_settled(scene: Scene, rollout: Rollout, slot: str) -> bool:
    return slot in rollout.good_at and scene.now >= rollout.good_at[slot] + _settle_s(scene)


def _is_over(scene: Scene, rollout: Rollout) -> bool:
    through = (_is_settled(scene, rollout, slot) or slot in rollout.failed for slot in scene.slots)
    return not scene.outdated and not scene.doubled and all(through)


def _tidied(scene: Scene) -> list[Action]:
    """The old ones go where a new one stands in their place."""
    return [
        Remove(name=one.container.name, container=one.container.id, why=f"{scene.key} {slot} has a new one")
        for slot in scene.doubled
        if _stands(scene, slot).outcome in ("good", "done")
        for one in scene.stale(slot)
    ]


def _stands(scene: Scene, slot: str) -> Verdict:
    one = scene.fresh(slot)
    return verdict(scene.cluster, one) if one is not None else Verdict("pending", "")


def _begun(scene: Scene, rollout: Rollout) -> list[Action]:
    """The next slots' turn, as many as `parallelism` leaves."""
    at_once = scene.policy.parallelism or len(scene.slots)
    waiting = set(scene.outdated)
    busy = [
        slot
        for slot in scene.slots
        if slot not in waiting and not _is_settled(scene, rollout, slot) and slot not in rollout.failed
    ]
    return [action for slot in scene.outdated[: max(0, at_once - len(busy))] for action in _replaced(scene, slot)]


def _replaced(scene: Scene, slot: str) -> list[Action]:
    if scene.policy.order == "start-first" and is_movable(scene.target):
        return [make(scene.app, scene.key, scene.target, slot, beside=True)]
    return [
        Remove(name=one.container.name, container=one.container.id, why=f"{scene.key} {slot} is replaced")
        for one in scene.stale(slot)
    ]


def is_movable(service: Service) -> bool:
    """Whether a new container can stand beside the old one: not with fixed addresses or its host's own ports."""
    return not service.addresses and '"drover.publish":"host"' not in service.body


def _again_at(scene: Scene, rollout: Rollout) -> float:
    due = [at + _settle_s(scene) for at in rollout.good_at.values()]
    return min((at for at in due if at > scene.now), default=0.0)
