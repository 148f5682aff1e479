"""Scheduled jobs: which runs are due, how they ended, and which containers of theirs may go.

Theory of operation. `next_due` is written down, so that every leader means the same instant; a run is written down
before its container is made, so that it is made once whoever leads. Times that pass while nobody leads are made up for
by one run.

    a time is due, and the run before still goes    concurrency forbid: noted as skipped
                                                    replace: that one is removed, the new one begins
                                                    allow: the new one begins
    a run has no container yet                      it is made; after `TRIES` refusals the run is over, and says why
    its container has ended                         the exit code is kept; the container stays for its logs
    more than `keep` runs have ended                the oldest goes, with its container
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim

from drover.decide.app_actions import Action, Remove, make
from drover.decide.apps import Instance, verdict
from drover.model.apps import Run, Schedule, Service, Trouble
from drover.model.cluster import Cluster
from drover.model.records import App

TRIES = 3


class JobScene(msgspec.Struct, frozen=True, kw_only=True):
    """A scheduled service as it stands. `have`: slot (the due time) to its containers."""

    cluster: Cluster
    app: App
    key: str
    service: Service
    have: Mapping[str, Sequence[Instance]]
    troubles: Mapping[str, Trouble]
    now: float


class JobAdvance(msgspec.Struct, frozen=True):
    runs: tuple[Run, ...]
    next_due: float
    actions: tuple[Action, ...] = ()


def next_time(schedule: Schedule, after: float) -> float:
    """The first time of a schedule after an instant; both in seconds since the Unix epoch."""
    found: datetime = next(CronSim(schedule.cron, datetime.fromtimestamp(after, ZoneInfo(schedule.timezone))))
    return found.timestamp()


def slot_of(run: Run) -> str:
    return str(int(run.due_at))


def advance_job(scene: JobScene, runs: tuple[Run, ...], next_due: float) -> JobAdvance:
    """One look: what became of the runs, whether one is due, and what to do."""
    schedule = scene.service.schedule
    assert schedule is not None
    runs = tuple(_looked_at(scene, run) for run in runs)
    if not next_due or next_due > scene.now:
        next_due = next_time(schedule, scene.now)  # what it was, unless the schedule has changed
    else:
        runs, next_due = _due(schedule, runs, next_due), next_time(schedule, scene.now)
    kept = _kept(runs, schedule.keep)
    return JobAdvance(kept, next_due, (*_made(scene, kept), *_cleared(scene, kept)))


def _looked_at(scene: JobScene, run: Run) -> Run:
    """A run with what its container shows now."""
    if run.ended:
        return run
    one = next(iter(scene.have.get(slot_of(run), ())), None)
    if one is None:
        return _without_container(scene, run)
    run = msgspec.structs.replace(run, container=one.container.id)
    found = verdict(scene.cluster, one)
    if one.facts is None or found.outcome not in ("done", "bad") or not found.final:
        return run
    return msgspec.structs.replace(
        run,
        ended=True,
        exit_code=one.facts.exit_code,
        started_at=one.facts.started_at,
        finished_at=one.facts.finished_at,
    )


def _without_container(scene: JobScene, run: Run) -> Run:
    if run.container:
        return msgspec.structs.replace(run, ended=True, note="its container was removed before it ended")
    trouble = scene.troubles.get(slot_of(run))
    if trouble is not None and trouble.tries >= TRIES:
        return msgspec.structs.replace(run, ended=True, note=trouble.why)
    return run


def _due(schedule: Schedule, runs: tuple[Run, ...], due: float) -> tuple[Run, ...]:
    """The runs with the one that is due; containers of replaced ones are cleared away as those of old runs are."""
    going = {run.due_at for run in runs if not run.ended}
    if going and schedule.concurrency == "forbid":
        return (*runs, Run(due_at=due, ended=True, note="skipped: the run before had not ended"))
    if going and schedule.concurrency == "replace":
        runs = tuple(_replaced(run) if run.due_at in going else run for run in runs)
    return (*runs, Run(due_at=due))


def _replaced(run: Run) -> Run:
    return msgspec.structs.replace(run, ended=True, note="replaced by the next run")


def _remove(one: Instance, why: str) -> Remove:
    return Remove(name=one.container.name, container=one.container.id, why=why)


def _kept(runs: tuple[Run, ...], keep: int) -> tuple[Run, ...]:
    """All that go on, and the last `keep` that ended."""
    ended = [run for run in runs if run.ended]
    old = {run.due_at for run in ended[: max(0, len(ended) - keep)]}
    return tuple(run for run in runs if not (run.ended and run.due_at in old))


def _made(scene: JobScene, runs: tuple[Run, ...]) -> list[Action]:
    waiting = [run for run in runs if not run.ended and not scene.have.get(slot_of(run))]
    return [make(scene.app, scene.key, scene.service, slot_of(run)) for run in waiting]


def _cleared(scene: JobScene, runs: tuple[Run, ...]) -> list[Action]:
    """Containers of runs that are forgotten, or were replaced."""
    known = {slot_of(run) for run in runs if not run.note.startswith("replaced")}
    return [
        _remove(one, "its run is over, and newer ones are kept")
        for slot, many in scene.have.items()
        if slot not in known
        for one in many
    ]
