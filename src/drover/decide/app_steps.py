"""`steps(cluster, app, now)`: what the leader does next about one application.

Theory of operation. Networks and volumes first; then each service by itself, in the manifest's order:

    a container whose service is gone, or whose slot        -> Remove
    a slot without a container, its dependencies met        -> Make
    a new container that was made and not started           -> Join what it has not joined, then Start
    the same, and its host is lost                          -> Bring
    a new container beside none, under another name         -> Rename
    a slot with a container of an older hash                -> `rollout.advance`; of a job: Remove at once
    a service with a schedule                               -> `jobs.advance_job`
    a container whose dependency was replaced by a rollout  -> `followers`: Restart, or Remove to be made anew

Dependencies hold up a service's first containers only: what ran before is replaced and brought back without asking. An
application that is to go loses its containers, then its networks and, if asked, its volumes, then its records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from drover.decide.app_actions import (
    Action,
    Bring,
    DropNetwork,
    DropVolume,
    Join,
    MakeNetwork,
    MakeVolume,
    Remove,
    Rename,
    Start,
    container_name,
    make,
)
from drover.decide.app_changes import forgotten
from drover.decide.apps import Instance, by_service, held_up, instances, leaving, wanted_slots
from drover.decide.followers import follow_actions, follows
from drover.decide.jobs import JobScene, advance_job, slot_of
from drover.decide.rollout import ACTIVE, Scene, advance, policy_of, target_of
from drover.model.apps import FILES_LABEL, FileUse, Rollout, Run, Service, Trouble
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.records import App, AppTroubles, Deployment, key
from drover.wire.nesting import MALFORMED

SlotMap = Mapping[str, list[Instance]]


class AppSteps(msgspec.Struct, frozen=True):
    """Actions, the records to write (expecting that application and deployment are as they were), and when to look
    again (0: when a record changes)."""

    actions: tuple[Action, ...] = ()
    changes: tuple[Change, ...] = ()
    again_at: float = 0.0


class _Scene(msgspec.Struct, frozen=True, kw_only=True):
    cluster: Cluster
    app: App
    grouped: Mapping[str, SlotMap]
    troubles: Mapping[str, Trouble]
    runs: Mapping[str, tuple[Run, ...]]
    now: float


class _ServiceSteps(msgspec.Struct, frozen=True):
    """What one service asks for, and its part of the deployment's record."""

    actions: tuple[Action, ...] = ()
    rollout: Rollout | None = None
    again_at: float = 0.0


def steps(cluster: Cluster, app: App, now: float) -> AppSteps:
    """Pure; `now` in seconds since the Unix epoch."""
    found = instances(cluster, app.name)
    if app.removed:
        return _removal(cluster, app, found)
    missing = [*_missing_networks(cluster, app), *_missing_volumes(cluster, app)]
    if missing:
        return AppSteps(tuple(missing))
    troubles = cluster.app_troubles.get(app.name, AppTroubles(app=app.name)).troubles
    before = cluster.deployments.get(app.name, Deployment(app=app.name))
    scene = _Scene(cluster=cluster, app=app, grouped=by_service(found), troubles=troubles, runs=before.runs, now=now)
    return _all_services(scene, before)


def _all_services(scene: _Scene, before: Deployment) -> AppSteps:
    actions: list[Action] = list(_orphans(scene))
    rollouts, runs, next_due, again = dict(before.rollouts), dict(before.runs), dict(before.next_due), []
    for name, service in scene.app.services.items():
        if service.schedule is not None:
            job = advance_job(_job_scene(scene, name, service), runs.get(name, ()), next_due.get(name, 0.0))
            runs[name], next_due[name] = job.runs, job.next_due
            actions += job.actions
            again.append(job.next_due)
        else:
            taken = _service(scene, name, rollouts.get(name))
            actions += taken.actions
            again.append(taken.again_at)
            if taken.rollout is not None:
                rollouts[name] = taken.rollout
    rollouts = {name: one for name, one in rollouts.items() if name in scene.app.services}
    noted = follows(scene.app, scene.grouped, before.follows, before.rollouts, rollouts)
    actions += follow_actions(scene.app, scene.grouped, noted, rollouts)
    after = Deployment(
        app=before.app,
        rollouts=rollouts,
        follows=noted,
        runs={name: many for name, many in runs.items() if name in next_due},
        next_due={name: at for name, at in next_due.items() if _is_scheduled(scene.app, name)},
    )
    changes = [put(key("deployments", scene.app.name), after)] if after != before else []
    changes += _unused_files(scene)
    return AppSteps(tuple(actions), tuple(changes), min((at for at in again if at > scene.now), default=0.0))


def _is_scheduled(app: App, name: str) -> bool:
    return name in app.services and app.services[name].schedule is not None


def _missing_networks(cluster: Cluster, app: App) -> list[Action]:
    return [MakeNetwork(network=one) for one in app.networks if one.body and one.name not in cluster.network_names]


def _missing_volumes(cluster: Cluster, app: App) -> list[Action]:
    return [MakeVolume(volume=one) for one in app.volumes if one.body and one.name not in cluster.volumes]


def _orphans(scene: _Scene) -> Iterable[Action]:
    for name, slots in scene.grouped.items():
        if name not in scene.app.services:
            for one in _flat(slots):
                yield _remove(one, f"the manifest has no service {name} any more")


def _flat(slots: SlotMap) -> list[Instance]:
    return [one for many in slots.values() for one in many]


def _remove(one: Instance, why: str) -> Remove:
    return Remove(name=one.container.name, container=one.container.id, why=why)


def _slot_troubles(scene: _Scene, name: str, service: Service, slots: Iterable[str]) -> dict[str, Trouble]:
    """Slot to the trouble with its container, under its own name or beside the old one."""
    found = {}
    for slot in slots:
        own = f"container/{container_name(scene.app.name, name, service, slot)}"
        trouble = scene.troubles.get(own) or scene.troubles.get(f"{own}.{service.hash[:8]}")
        if trouble is not None:
            found[slot] = trouble
    return found


def _job_scene(scene: _Scene, name: str, service: Service) -> JobScene:
    have = scene.grouped.get(name, {})
    due = [slot_of(run) for run in scene.runs.get(name, ())]
    return JobScene(
        cluster=scene.cluster,
        app=scene.app,
        key=name,
        service=service,
        have=have,
        troubles=_slot_troubles(scene, name, service, due),
        now=scene.now,
    )


def _service(scene: _Scene, name: str, rollout: Rollout | None) -> _ServiceSteps:
    target = target_of(scene.app, name, rollout)
    have = scene.grouped.get(name, {})
    slots = wanted_slots(scene.cluster, target, have)
    extra = [
        _remove(one, f"{name} has fewer containers now") for slot in have if slot not in slots for one in have[slot]
    ]
    moving = Scene(
        cluster=scene.cluster,
        app=scene.app,
        key=name,
        target=target,
        policy=policy_of(scene.app, name, rollout),
        slots=slots,
        have=have,
        troubles=_slot_troubles(scene, name, target, slots),
        now=scene.now,
    )
    kept = [*extra, *_filled(scene, moving, rollout), *_brought_up(scene, moving)]
    if target.is_job:
        old = [_remove(one, f"{name} is run again") for slot in moving.outdated for one in moving.stale(slot)]
        return _ServiceSteps((*kept, *old))
    return _rolled(moving, rollout, kept)


def _rolled(moving: Scene, rollout: Rollout | None, kept: list[Action]) -> _ServiceSteps:
    """With the rollout that is under way, or that must begin."""
    asked = moving.app.services[moving.key].hash
    if rollout is None or rollout.to != asked:
        if not moving.outdated and not moving.doubled:
            return _ServiceSteps(tuple(kept))
        return _ServiceSteps(tuple(kept), Rollout(to=asked, started_at=moving.now), 0.0)
    if rollout.state not in ACTIVE:
        return _ServiceSteps(tuple(kept), rollout)
    found = advance(moving, rollout)
    return _ServiceSteps((*kept, *found.actions), found.rollout, found.again_at)


def _filled(scene: _Scene, moving: Scene, rollout: Rollout | None) -> list[Action]:
    """Containers for the slots that have none."""
    empty = [slot for slot in moving.slots if not moving.have.get(slot)]
    first = not moving.have and (rollout is None or rollout.to != moving.target.hash)
    if not empty or (first and held_up(scene.cluster, scene.app, moving.target, scene.grouped)):
        return []
    return [make(scene.app, moving.key, moving.target, slot, number=_number(scene, slot)) for slot in empty]


def _number(scene: _Scene, slot: str) -> int:
    """Compose's number of a container: the slot's, or the index of the host whose slot it is."""
    return scene.cluster.hosts[slot].index if slot in scene.cluster.hosts else 0


def _brought_up(scene: _Scene, moving: Scene) -> Iterable[Action]:
    """What new containers lack: networks, their start, their name."""
    for slot in moving.slots:
        one = moving.fresh(slot)
        if one is None:
            continue
        yield from _run(scene, moving, one, slot)
        own = container_name(scene.app.name, moving.key, moving.target, slot)
        if one.container.name != own and own not in scene.cluster.names and not moving.stale(slot):
            yield Rename(name=one.container.name, container=one.container.id, to=own)


def _run(scene: _Scene, moving: Scene, one: Instance, slot: str) -> list[Action]:
    """What brings a container of the right version to run, and onto its networks. One that a leader made and had not
    started when their hosts were lost must be told to run first: recovery leaves alone what should not run."""
    name, container = one.container.name, one.container.id
    waits = one.container.desired == "created"
    if one.host not in scene.cluster.alive:
        return [Bring(name=name, container=container)] if waits else []
    if one.facts is None or not one.facts.engine_id:
        return []
    joins = _unjoined(scene.cluster, scene, moving, one, slot)
    return joins or ([Start(name=name, container=container)] if waits else [])


def _unjoined(cluster: Cluster, scene: _Scene, moving: Scene, one: Instance, slot: str) -> list[Action]:
    wanted = make(scene.app, moving.key, moving.target, slot).joins if moving.target.joins else {}
    ids = {name: cluster.network_names[name].id for name in wanted if name in cluster.network_names}
    return [
        Join(name=one.container.name, container=one.container.id, network=name, endpoint=wanted[name])
        for name, network in ids.items()
        if network not in one.container.attachments
    ]


def _unused_files(scene: _Scene) -> list[Change]:
    """Contents that neither the services, nor those before them, nor any container uses."""
    prefix = f"{scene.app.name}/"
    have = [rest for rest in scene.cluster.files if rest.startswith(prefix)]
    if not have:
        return []
    services = [*scene.app.services.values(), *scene.app.previous.values()]
    used = {use.file for service in services for use in service.files}
    for slots in scene.grouped.values():
        used |= {use.file for one in _flat(slots) for use in files_of(one.spec.labels)}
    return [delete(key("files", rest)) for rest in have if rest.removeprefix(prefix) not in used]


def files_of(labels: Mapping[str, str]) -> list[FileUse]:
    """The configs and secrets of a container, by its labels; none where the label is not ours."""
    try:
        return msgspec.json.decode(labels.get(FILES_LABEL, "[]"), type=list[FileUse])
    except MALFORMED:
        return []


def _removal(cluster: Cluster, app: App, found: tuple[Instance, ...]) -> AppSteps:
    if found:
        why, volumes = f"{app.name} is removed", app.remove_volumes
        return AppSteps(tuple(msgspec.structs.replace(_remove(one, why), volumes=volumes) for one in found))
    if leaving(cluster, app.name):
        return AppSteps()
    drops: list[Action] = [
        DropNetwork(name=one.name) for one in app.networks if one.body and one.name in cluster.network_names
    ]
    if app.remove_volumes:
        drops += [DropVolume(name=one.name) for one in app.volumes if one.body and one.name in cluster.volumes]
    if drops:
        return AppSteps(tuple(drops))
    return AppSteps(changes=tuple(forgotten(cluster, app.name)))
