"""`app_view(cluster, name, now)`: how an application does, what is missing, and why; the JSON of `drover app inspect`.

state        means
converged    every service is as the manifest wants it
working      something is under way or waited for; `missing` says what
failed       something is missing that does not come by itself; `failures` says what
removing     the application is being taken away
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from drover.decide.app_actions import container_name
from drover.decide.apps import Instance, Verdict, by_service, held_up, instances, verdict, wanted_slots
from drover.decide.followers import follow_sentence
from drover.decide.rollout import ACTIVE, target_of
from drover.errors import NotFound
from drover.model.apps import PROJECT_LABEL, SLOT_LABEL, Rollout, Run, Service, Trouble
from drover.model.cluster import Cluster
from drover.model.records import App, AppTroubles, Container, Deployment
from drover.model.spec import parse_spec

STUBBORN = 4
"""How many refusals of the same thing in a row count as a failure."""


class _Scene(msgspec.Struct, frozen=True, kw_only=True):
    cluster: Cluster
    app: App
    deployment: Deployment
    grouped: Mapping[str, Mapping[str, list[Instance]]]
    troubles: Mapping[str, Trouble]


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """One service: `missing` and `failures` have one sentence for each thing that is not as it shall be."""

    name: str
    mode: str
    image: str
    wanted: int
    good: int
    containers: tuple[dict[str, Any], ...] = ()
    labels: dict[str, str] = {}
    rollout: dict[str, Any] = {}
    schedule: str = ""
    next_due: float = 0.0
    runs: tuple[dict[str, Any], ...] = ()
    missing: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


def named_app(cluster: Cluster, name: str) -> App:
    app = cluster.apps.get(name)
    if app is None:
        raise NotFound(f"no application is called {name}", hint="see `drover app ls`")
    return app


def app_view(cluster: Cluster, name: str) -> dict[str, Any]:
    """Raises `NotFound`. Contents of configs and secrets are not shown, nor are the bodies of containers."""
    app = named_app(cluster, name)
    scene = _Scene(
        cluster=cluster,
        app=app,
        deployment=cluster.deployments.get(name, Deployment(app=name)),
        grouped=by_service(instances(cluster, name)),
        troubles=cluster.app_troubles.get(name, AppTroubles(app=name)).troubles,
    )
    services = [_service(scene, key, service) for key, service in app.services.items()]
    missing = [*_resources_missing(scene), *(text for one in services for text in one.missing)]
    if app.removed:
        missing = [f"{one.name} is still there" for one in cluster.containers.values() if _belongs(one, name)]
    failures = [text for one in services for text in one.failures]
    return {
        "name": name,
        "number": app.number,
        "state": _state(app, missing, failures),
        "deployed_at": app.deployed_at,
        "services": [msgspec.to_builtins(one) for one in services],
        "networks": [one.name for one in app.networks],
        "volumes": [one.name for one in app.volumes],
        "warnings": list(app.warnings),
        "missing": missing,
        "failures": failures,
    }


def _belongs(container: Container, app: str) -> bool:
    labels = parse_spec(container.body).labels
    return SLOT_LABEL in labels and labels.get(PROJECT_LABEL) == app


def _state(app: App, missing: Sequence[str], failures: Sequence[str]) -> str:
    if app.removed:
        return "removing"
    if failures:
        return "failed"
    return "working" if missing else "converged"


def _resources_missing(scene: _Scene) -> list[str]:
    cluster = scene.cluster
    there = {"network": cluster.network_names, "volume": cluster.volumes}
    wanted = [("network", one) for one in scene.app.networks] + [("volume", one) for one in scene.app.volumes]
    return [_absent(scene, kind, one.name, bool(one.body)) for kind, one in wanted if one.name not in there[kind]]


def _absent(scene: _Scene, kind: str, name: str, ours: bool) -> str:
    trouble = scene.troubles.get(f"{kind}/{name}")
    if trouble is not None:
        return f"{kind} {name}: {trouble.why}"
    return f"{kind} {name} is not made yet" if ours else f"{kind} {name} is external, and is not there"


def _service(scene: _Scene, name: str, service: Service) -> ServiceView:
    if service.schedule is not None:
        return _scheduled(scene, name, service)
    rollout = scene.deployment.rollouts.get(name)
    target = target_of(scene.app, name, rollout)
    have = scene.grouped.get(name, {})
    slots = wanted_slots(scene.cluster, target, have)
    missing: list[str] = []
    failures = _rollout_failures(name, service, rollout)
    good = 0
    for slot in slots:
        found = _slot(scene, name, target, slot, have)
        good += found.outcome in ("good", "done")
        if found.outcome not in ("good", "done"):
            (failures if found.final else missing).append(found.why)
    going = _surplus(target, slots, have)
    missing += [f"{one.container.name} is still to be removed" for one in going]
    missing += _following(scene.deployment, have)
    if rollout is not None and rollout.to == service.hash and rollout.state in ACTIVE:
        missing.append(_rolling(name, rollout, len(slots)))
    return ServiceView(
        name=name,
        mode=service.mode,
        image=_image(service),
        wanted=len(slots),
        good=good,
        containers=tuple(_container(scene.cluster, one, one in going) for many in have.values() for one in many),
        labels=service.labels,
        rollout=msgspec.to_builtins(rollout) if rollout is not None else {},
        missing=tuple(missing),
        failures=tuple(failures),
    )


def _image(service: Service) -> str:
    return str(msgspec.json.decode(service.body).get("Image", ""))


def _slot(scene: _Scene, name: str, target: Service, slot: str, have: Mapping[str, list[Instance]]) -> Verdict:
    """How one slot does: a container of the right version that does well, or what is the matter."""
    own = container_name(scene.app.name, name, target, slot)
    many = have.get(slot, [])
    fresh = next((one for one in many if one.hash == target.hash), None)
    trouble = scene.troubles.get(f"container/{own}") or scene.troubles.get(f"container/{own}.{target.hash[:8]}")
    if fresh is None and trouble is not None:
        return Verdict("pending", f"{own} cannot be made: {trouble.why}", final=trouble.tries >= STUBBORN)
    if fresh is None and many:
        return Verdict("pending", f"{own} is of an older version")
    if fresh is None:
        waits = "" if have else held_up(scene.cluster, scene.app, target, scene.grouped)
        return Verdict("pending", f"{own} {waits or 'is not made yet'}")
    found = verdict(scene.cluster, fresh)
    return msgspec.structs.replace(found, why=f"{fresh.container.name} {found.why}")


def _surplus(target: Service, slots: Sequence[str], have: Mapping[str, list[Instance]]) -> list[Instance]:
    """Containers that are still to go."""
    wanted = set(slots)
    over = [one for slot, many in have.items() for one in many if slot not in wanted]
    fresh = {slot for slot, many in have.items() if any(one.hash == target.hash for one in many)}
    doubled = [one for slot in fresh & wanted for one in have[slot] if one.hash != target.hash]
    return [*over, *doubled]


def _following(deployment: Deployment, have: Mapping[str, list[Instance]]) -> list[str]:
    noted = deployment.follows
    due = [one.container for many in have.values() for one in many if one.container.id in noted]
    verb = {True: "made anew", False: "restarted"}
    return [f"{one.name} is {verb[noted[one.id].anew]}: {follow_sentence(noted[one.id])}" for one in due]


def _rolling(name: str, rollout: Rollout, slots: int) -> str:
    verb = "is updated" if rollout.state == "updating" else f"goes back to the version before, because {rollout.why}"
    return f"{name} {verb}: {len(rollout.good_at)} of {slots} replaced"


def _rollout_failures(name: str, service: Service, rollout: Rollout | None) -> list[str]:
    if rollout is None or rollout.to != service.hash:
        return []
    if rollout.state == "reverted":
        return [f"{name} runs the version before: {rollout.why}"]
    return [f"the update of {name} stands still: {rollout.why}"] if rollout.state == "paused" else []


def _container(cluster: Cluster, one: Instance, going: bool = False) -> dict[str, Any]:
    """`going`: another takes its place, or nobody needs it any more."""
    found = verdict(cluster, one)
    if going and one.container.desired == "stopped":
        found = Verdict("pending", f"is being removed from {one.host}")
    facts = one.facts
    return {
        "name": one.container.name,
        "id": one.container.id,
        "slot": one.slot,
        "host": one.host,
        "state": one.state,
        "health": facts.health if facts is not None else "",
        "exit_code": facts.exit_code if facts is not None else 0,
        "outcome": found.outcome,
        "says": found.why,
        "version": one.hash,
    }


def _scheduled(scene: _Scene, name: str, service: Service) -> ServiceView:
    """A scheduled job is converged when its next time is known: its runs are its history."""
    assert service.schedule is not None
    have = scene.grouped.get(name, {})
    due = scene.deployment.next_due.get(name, 0.0)
    runs = scene.deployment.runs.get(name, ())
    return ServiceView(
        name=name,
        mode=service.mode,
        image=_image(service),
        wanted=0,
        good=0,
        containers=tuple(_container(scene.cluster, one) for many in have.values() for one in many),
        labels=service.labels,
        schedule=f"{service.schedule.cron} {service.schedule.timezone}",
        next_due=due,
        runs=tuple(_run(run) for run in runs),
        missing=() if due else (f"{name} is not scheduled yet",),
    )


def _run(run: Run) -> dict[str, Any]:
    state = "running" if not run.ended else run.note or f"exit code {run.exit_code}"
    return {**msgspec.to_builtins(run), "says": state}


def apps_view(cluster: Cluster) -> list[dict[str, Any]]:
    """One row per application, for `drover app ls`."""
    return [_row(app_view(cluster, name)) for name in sorted(cluster.apps)]


def _row(view: dict[str, Any]) -> dict[str, Any]:
    services = view["services"]
    return {
        "name": view["name"],
        "state": view["state"],
        "services": len(services),
        "wanted": sum(one["wanted"] for one in services),
        "good": sum(one["good"] for one in services),
        "deployed_at": view["deployed_at"],
        "says": next(iter([*view["failures"], *view["missing"]]), ""),
    }
