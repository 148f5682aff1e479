"""Who starts a container again when its process ended, when, and how often: pure.

Theory of operation. Docker's policy says whether; who carries it out:

    a container                                        is started again by
    that holds claims (`decide.fence`)                 its host's agent: nothing may start where the claims are lost
    with rules of its own (`model.restart_rules`)      its host's agent: the engine knows neither delay nor window
    any other                                          its engine

The agent's delays are Docker's own, or the rules' one. Its counts are of this daemon's life: after a new start of the
daemon, as after a `docker start`, they begin anew. Whether a restart still counts (`window_s`) is asked once, when the
process ends: a container that has been left alone stays so when its window has passed.
"""

from __future__ import annotations

import msgspec

from drover.decide.fence import holds_claims
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import Spec, parse_spec

FIRST_DELAY_S, MAX_DELAY_S, STEADY_S = 0.1, 60.0, 10.0
"""Docker's own: a restart waits 0.1 s, doubling up to a minute, and begins anew after 10 s of running."""


class Restarts(msgspec.Struct, frozen=True):
    """How often a container was started again since its last order, and when the next time is due. `starts`: when, as
    many of the last ones as its rules ask for; `ended_at`: when its process ended last (0: not seen)."""

    count: int = 0
    step: int = 0
    started_at: float = 0.0
    due_at: float = 0.0
    starts: tuple[float, ...] = ()
    ended_at: float = 0.0


def by_agent(cluster: Cluster, container: r.Container) -> bool:
    """Whether its host's agent starts it again, by the module's table, and its engine is told `no`."""
    return bool(parse_spec(container.body).restart_rules) or holds_claims(cluster, container)


def exited(restarts: Restarts, now: float) -> Restarts:
    """After its process ended at `now`: the next start is due after a delay that doubles while it keeps ending."""
    step = 0 if now - restarts.started_at >= STEADY_S else restarts.step
    delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2**step)
    return msgspec.structs.replace(restarts, step=step + 1, due_at=now + delay_s, ended_at=now)


def started_again(restarts: Restarts, now: float, keep: int = 0) -> Restarts:
    """`keep`: how many starts to remember one by one."""
    starts = (*restarts.starts, now)[-keep:] if keep else ()
    return msgspec.structs.replace(restarts, count=restarts.count + 1, started_at=now, starts=starts)


def due_at(spec: Spec, restarts: Restarts) -> float:
    """When its next start is due; the past if its end was not seen."""
    delay_s = spec.restart_rules.delay_s
    return restarts.ended_at + delay_s if delay_s else restarts.due_at


def remembered(spec: Spec) -> int:
    """How many starts its rules need one by one."""
    return limit_of(spec) if spec.restart_rules.window_s else 0


def counted(spec: Spec, restarts: Restarts) -> int:
    """How many of its restarts count against its limit."""
    window_s = spec.restart_rules.window_s
    if not window_s:
        return restarts.count
    return sum(at > restarts.ended_at - window_s for at in restarts.starts)


def limit_of(spec: Spec) -> int:
    """How many restarts it may have; 0: as many as it takes."""
    return spec.restart_rules.attempts or (spec.restart_max if spec.restart_policy == "on-failure" else 0)


def wants_restart(spec: Spec, exit_code: int, count: int = 0) -> bool:
    """Whether a container's own restart policy starts it again after an exit, having done so `count` times."""
    wanted = spec.restart_policy in ("always", "unless-stopped") or (
        spec.restart_policy == "on-failure" and exit_code != 0
    )
    return wanted and not 0 < limit_of(spec) <= count
