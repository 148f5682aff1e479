"""`explain(cluster, ref)`: why a container is where it is, from values alone.

A container of an application that could not be made has no record: then the reasons are asked for now, host by host.

The answer is the JSON of `drover why`: what was written down when the host was chosen (`chosen`, `reasons`), what
is the matter with the host now, and what the container's own engine last showed.
"""

from __future__ import annotations

from typing import Any

from drover.decide.app_actions import Make, container_name, make
from drover.decide.apps import by_service, held_up, instances, wanted_slots
from drover.decide.health import host_state
from drover.decide.recover import obstacle
from drover.decide.replicas import successor
from drover.decide.resolve import resolve_container
from drover.decide.schedule import place
from drover.decide.sentences import instant
from drover.decide.wanted import wanted_of
from drover.errors import DroverError, NoPlacement, NotFound
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import parse_spec


def explain(cluster: Cluster, ref: str, now: float = 0.0) -> dict[str, Any]:
    """The explanation of one container. Raises as `resolve_container` does.

    Shape: `{container, id, image, desired, order: {number, verb, answered}, host, host_state, host_says, epoch,
    placed_at, chosen, reasons: {host: sentence}, obstacle, state, since, exit_code, health, error, progress}`; times
    are text, empty where unknown. `obstacle`: why it does not run elsewhere though its host is lost; `now` is in
    seconds since the Unix epoch.
    """
    try:
        container = resolve_container(cluster, ref)
    except NotFound:
        if (missing := _not_made(cluster, ref)) is None:
            raise
        return missing
    facts = cluster.facts_of(container.id)
    return {
        "container": container.name,
        "id": container.id,
        "desired": container.desired,
        "order": _order(container, facts),
        **_where(cluster, cluster.placements.get(container.id)),
        "obstacle": obstacle(cluster, container.id, now, successor),
        **_state(facts),
    }


def _not_made(cluster: Cluster, ref: str) -> dict[str, Any] | None:
    """The explanation of a container that an application wants and that is not there; None if none wants it."""
    for app in cluster.apps.values():
        have = by_service(instances(cluster, app.name))
        for name, service in app.services.items():
            if service.schedule is not None:
                continue
            slots = wanted_slots(cluster, service, have.get(name, {}))
            for slot in slots:
                if container_name(app.name, name, service, slot) == ref:
                    waits = "" if have.get(name) else held_up(cluster, app, service, have)
                    return _nowhere(cluster, app, make(app, name, service, slot), waits)
    return None


def _nowhere(cluster: Cluster, app: r.App, wanted: Make, waits: str) -> dict[str, Any]:
    trouble = cluster.app_troubles.get(app.name, r.AppTroubles(app=app.name)).troubles.get(wanted.object)
    reasons: dict[str, str] = {}
    try:
        spec = parse_spec(wanted.body)
        asked = wanted_of(cluster, wanted.name, wanted.name, spec, wanted.platform)
        chosen = place(cluster, asked, bring_volumes=True)
        says = waits or f"it could run on {chosen.host}: {chosen.why}"
        reasons = dict(chosen.reasons)
    except NoPlacement as error:
        says, reasons = f"no host can take {wanted.name}", error.reasons
    except DroverError as error:
        says = error.message
    if trouble is not None and not says.startswith("no host"):
        says = f"{says}; the last attempt failed: {trouble.why}"
    return {
        "container": wanted.name,
        "id": "",
        "desired": "running",
        "order": {"number": 0, "verb": "none", "answered": True},
        **_where(cluster, None),
        "chosen": f"{wanted.name} of {app.name} is not made: {says}",
        "reasons": reasons,
        "obstacle": "",
        **_state(r.ContainerFacts(container="", host="")),
    }


def _order(container: r.Container, facts: r.ContainerFacts | None) -> dict[str, Any]:
    answered = facts is not None and facts.answer.number >= container.order.number
    return {"number": container.order.number, "verb": container.order.verb, "answered": answered}


def _where(cluster: Cluster, placement: r.Placement | None) -> dict[str, Any]:
    if placement is None:
        return {"host": "", "host_state": "unknown", "host_says": "", "epoch": 0, "placed_at": "",
                "chosen": "it is not placed on any host yet", "reasons": {}}  # fmt: skip
    health = host_state(cluster, placement.host)
    return {
        "host": placement.host,
        "host_state": health.state,
        "host_says": f"host {placement.host} {health.says}",
        "epoch": placement.epoch,
        "placed_at": instant(placement.at) if placement.at else "",
        "chosen": placement.chosen,
        "reasons": dict(placement.reasons),
    }


def _state(facts: r.ContainerFacts | None) -> dict[str, Any]:
    """What the engine last showed; `unknown` where its host has not reported it."""
    facts = facts or r.ContainerFacts(container="", host="", state="unknown")
    return {
        "state": facts.state,
        "since": facts.finished_at if facts.state in ("exited", "dead") else facts.started_at,
        "exit_code": facts.exit_code,
        "health": facts.health,
        "error": facts.error,
        "progress": facts.progress,
    }
