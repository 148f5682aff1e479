"""What is done about a container whose health check fails: nothing, a restart, then a move. Pure.

Docker does nothing about an unhealthy container, so nothing is done about one of `docker run` that does not ask for it:

    drover.on-unhealthy        then
    leave                      nothing; the event `container.unhealthy` tells
    restart                    its host restarts it, after a delay that doubles from FIRST_DELAY_S to MAX_DELAY_S
    move                       the same, RESTARTS times; then the leader moves it to another host, with its volumes, at
                               most once in MOVE_PAUSE_S
    no such label              move for a container of a manifest, leave for any other

The count of restarts begins anew when the container is healthy, or is told to start by somebody.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from drover.decide.evacuate import with_moves
from drover.decide.kept_views import kept
from drover.decide.moves import ENDED, Asked, Commit, begin_container
from drover.decide.restarts import Restarts
from drover.decide.schedule import place
from drover.decide.sentences import count
from drover.decide.views import HostViews
from drover.decide.wanted import wanted_again
from drover.errors import DroverError
from drover.model import records as r
from drover.model.apps import SLOT_LABEL
from drover.model.cluster import Cluster
from drover.model.spec import Spec, parse_spec

LABEL = "drover.on-unhealthy"
RESTARTS = 3
FIRST_DELAY_S, MAX_DELAY_S = 1.0, 60.0
MOVE_PAUSE_S = 300.0
Policy = Literal["leave", "restart", "move"]


def policy(spec: Spec) -> Policy:
    """By the module's table; a label that says anything else counts as `leave`."""
    asked = spec.labels.get(LABEL, "move" if SLOT_LABEL in spec.labels else "leave")
    return "move" if asked == "move" else "restart" if asked == "restart" else "leave"


def restarted(done: Restarts, now: float) -> Restarts:
    """After a restart at `now`: how many there were, and when the next one is due at the earliest."""
    delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2**done.count)
    return msgspec.structs.replace(done, count=done.count + 1, started_at=now, due_at=now + delay_s)


def moves_of_unhealthy(cluster: Cluster, now: float) -> Iterator[tuple[str, Commit]]:
    """The names of containers that a restart did not help, with the moves to begin; `now` in seconds since the Unix
    epoch. One that fits nowhere else stays, and goes on being restarted."""
    views: HostViews | None = None
    for facts in cluster.container_facts.values():
        container = cluster.containers.get(facts.container)
        if container is None or not _is_hopeless(cluster, container, facts, now):
            continue
        views = views or with_moves(cluster, kept(cluster))
        try:
            yield container.name, _moved(cluster, views, container, facts, now)
        except DroverError:
            continue


def _is_hopeless(cluster: Cluster, container: r.Container, facts: r.ContainerFacts, now: float) -> bool:
    if facts.health != "unhealthy" or facts.unhealthy_restarts < RESTARTS or container.desired != "running":
        return False
    move = cluster.moves.get(container.id)
    lately = move is not None and (move.phase not in ENDED or now - move.ended_at < MOVE_PAUSE_S)
    here = cluster.host_of(container.id) == facts.host
    return here and not lately and policy(parse_spec(container.body)) == "move"


def _moved(cluster: Cluster, views: HostViews, container: r.Container, facts: r.ContainerFacts, now: float) -> Commit:
    others = {name: view for name, view in views.hosts.items() if name != facts.host}
    elsewhere = msgspec.structs.replace(views, hosts=others)
    chosen = place(cluster, wanted_again(cluster, container), views=elsewhere, bring_volumes=True)
    because = f"it was unhealthy on {facts.host} after {count(facts.unhealthy_restarts, 'restart')}"
    return begin_container(cluster, container, Asked(target=chosen.host, because=because), now)
