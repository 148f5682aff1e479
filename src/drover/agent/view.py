"""`View`: what this host's engine shows, kept current by its events, and what the agent itself did.

The agent is the only one that changes a view; `seen()` gives the frozen `Seen` that `decide.converge` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from drover.agent.report import container_facts
from drover.decide.converge import Seen, SeenHere
from drover.decide.restarts import Restarts, counted, exited, started_again
from drover.decide.unhealthy import restarted
from drover.drivers.engine.port import SeenContainer
from drover.model import records as r
from drover.model.spec import Spec


class View:
    def __init__(self, now: Callable[[], float] = lambda: 0.0) -> None:
        """`now` is the clock of `held` and `restarts`, in seconds."""
        self._now = now
        self.known = False
        self.containers: dict[str, SeenContainer] = {}
        self.strays: dict[str, SeenContainer] = {}
        self.networks: dict[str, str] = {}
        self.volumes: dict[str, int] = {}
        """The engine's volumes of ours: name to the epoch of the path they bind."""
        self.live: dict[str, int] = {}
        self.snapshots: dict[str, tuple[str, ...]] = {}
        self.refresh_at: dict[str, float] = {}
        self.limits: dict[str, int] = {}
        """The sizes to which live sets here were limited, in bytes; 0: not any more."""
        self.images: set[str] = set()
        self.answers: dict[str, r.Answer] = {}
        self.held: dict[str, float] = {}
        self.fenced: set[str] = set()
        self.stopped_for_move: set[str] = set()
        """Engine ids of what ran until its move stopped it."""
        self.restarts: dict[str, Restarts] = {}
        self.mended: dict[str, Restarts] = {}
        """Restarts for the sake of health, by cluster id."""

    def was_interrupted(self, seen: SeenContainer) -> bool:
        """Whether its process ended because Drover stopped it."""
        return seen.state in ("exited", "dead") and seen.engine_id in self.fenced | self.stopped_for_move

    def facts(self, host: str, container: str, spec: Spec, answer: r.Answer, progress: str) -> r.ContainerFacts:
        """What `host`, this one, reports of a container: all that is known of it here, and the last answer about it."""
        seen = self.containers.get(container)
        return container_facts(
            host,
            container,
            seen,
            answer,
            progress,
            interrupted=seen is not None and self.was_interrupted(seen),
            unhealthy_restarts=self.mended.get(container, Restarts()).count,
            restarts=counted(spec, self.restarts.get(container, Restarts())),
        )

    def learn_all(
        self, containers: list[SeenContainer], networks: Mapping[str, str], volumes: Mapping[str, int]
    ) -> None:
        """Replace everything by a full listing. Two copies of one container: the higher epoch counts."""
        self.containers, self.strays = {}, {}
        for seen in containers:
            self.learn(seen)
        self.networks = dict(networks)
        self.volumes = dict(volumes)
        self.images = set()
        self.known = True

    def learn(self, seen: SeenContainer) -> None:
        """One container was looked at."""
        other = self.containers.get(seen.id)
        if seen.health == "healthy":
            self.mended.pop(seen.id, None)
        if other is not None and other.engine_id == seen.engine_id and _has_ended(other, seen):
            self.restarts[seen.id] = exited(self.restarts.get(seen.id, Restarts()), self._now())
        if other is None or other.engine_id == seen.engine_id or other.epoch < seen.epoch:
            if other is not None and other.engine_id != seen.engine_id:
                self.strays[other.engine_id] = other
            self.containers[seen.id] = seen
            self.strays.pop(seen.engine_id, None)
        else:
            self.strays[seen.engine_id] = seen

    def lose(self, engine_id: str) -> str | None:
        """An engine container is gone; returns the cluster id it was."""
        self.strays.pop(engine_id, None)
        for container, seen in self.containers.items():
            if seen.engine_id == engine_id:
                del self.containers[container]
                return container
        return None

    def started_again(self, container: str, keep: int = 0) -> None:
        """The agent started it without being asked to; `keep` starts are remembered one by one."""
        self.restarts[container] = started_again(self.restarts.get(container, Restarts()), self._now(), keep)

    def mended_again(self, container: str) -> None:
        """The agent restarted it because it was unhealthy."""
        self.mended[container] = restarted(self.mended.get(container, Restarts()), self._now())

    def forget(self) -> None:
        """The engine went away: what it shows is unknown, which is not empty."""
        self.known = False

    def seen(self) -> Seen:
        """The frozen picture for `converge`."""
        return Seen(
            containers={c: _here(v) for c, v in self.containers.items()} if self.known else None,
            strays={e: _here(v) for e, v in self.strays.items()},
            networks=dict(self.networks),
            volumes=dict(self.volumes),
            live=dict(self.live),
            snapshots=dict(self.snapshots),
            refresh_at=dict(self.refresh_at),
            limits=dict(self.limits),
            images=frozenset(self.images),
            answers=dict(self.answers),
            held=dict(self.held),
            fenced=frozenset(self.fenced),
            restarts=dict(self.restarts),
            mended=dict(self.mended),
        )


def _has_ended(before: SeenContainer, seen: SeenContainer) -> bool:
    """Whether its process ended between two looks; it may have run so briefly that neither of them saw it run."""
    stands = seen.state in ("exited", "dead")
    return stands and (before.state not in ("exited", "dead") or before.finished_at != seen.finished_at)


def _here(seen: SeenContainer) -> SeenHere:
    return SeenHere(
        engine_id=seen.engine_id, state=seen.state, epoch=seen.epoch, exit_code=seen.exit_code, health=seen.health
    )
