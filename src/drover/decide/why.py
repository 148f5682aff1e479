"""`explain(cluster, ref)`: why a container is where it is, from values alone.

The answer is the JSON of `drover why`: what was written down when the host was chosen (`chosen`, `reasons`), what
is the matter with the host now, and what the container's own engine last showed.
"""

from __future__ import annotations

from typing import Any

from drover.decide.health import host_state
from drover.decide.recover import obstacle
from drover.decide.replicas import successor
from drover.decide.resolve import resolve_container
from drover.decide.sentences import instant
from drover.model import records as r
from drover.model.cluster import Cluster


def explain(cluster: Cluster, ref: str, now: float = 0.0) -> dict[str, Any]:
    """The explanation of one container. Raises as `resolve_container` does.

    Shape: `{container, id, image, desired, order: {number, verb, answered}, host, host_state, host_says, epoch,
    placed_at, chosen, reasons: {host: sentence}, obstacle, state, since, exit_code, health, error, progress}`; times
    are text, empty where unknown. `obstacle`: why it does not run elsewhere though its host is lost; `now` is in
    seconds since the Unix epoch.
    """
    container = resolve_container(cluster, ref)
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
