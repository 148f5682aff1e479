"""What the records of applications are made of: what a manifest asks for, how far it is, and why not further.

Theory of operation. `drover deploy` writes ONE record, `apps/NAME`: every service as the create body of its containers
plus what Docker's own call has no word for. The leader makes the containers agree with it, and writes down where it
stands in `deployments/NAME`. The containers themselves are ordinary ones: their labels say what they belong to.

    label of a container            says
    com.docker.compose.project      the application
    com.docker.compose.service      the service
    drover.app.slot                 which of the service's containers: a number, a host's name, or when a job was due
    drover.app.hash                 what it was made of: `Service.hash`
    drover.app.files                what is put into it: a JSON list of `FileUse`, without content
"""

from __future__ import annotations

from typing import Literal

import msgspec

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
NUMBER_LABEL = "com.docker.compose.container-number"
NETWORK_LABEL = "com.docker.compose.network"
VOLUME_LABEL = "com.docker.compose.volume"
SLOT_LABEL = "drover.app.slot"
HASH_LABEL = "drover.app.hash"
FILES_LABEL = "drover.app.files"
MAX_PER_HOST_LABEL = "drover.max_per_host"
SPREAD_LABEL = "drover.spread"

Mode = Literal["replicated", "global", "replicated-job", "global-job"]
Order = Literal["stop-first", "start-first"]
FailureAction = Literal["pause", "continue", "rollback"]
Condition = Literal["service_started", "service_healthy", "service_completed_successfully"]
RolloutState = Literal["updating", "paused", "reverting", "done", "reverted"]
Concurrency = Literal["allow", "forbid", "replace"]


class UpdatePolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How containers are replaced. `parallelism` 0: all at once. One replaced container counts as good when it has run,
    and been healthy where it has a check, for `monitor_s`."""

    parallelism: int = 1
    delay_s: float = 0.0
    order: Order = "stop-first"
    failure_action: FailureAction = "pause"
    monitor_s: float = 5.0
    max_failure_ratio: float = 0.0


class Dependency(msgspec.Struct, frozen=True):
    """`required` false: a service that does not exist holds up nothing. `restart`: its containers follow when those of
    the dependency were replaced; `shares`: they use namespaces or volumes of the dependency's first container, and must
    be made anew then."""

    service: str
    condition: Condition = "service_started"
    required: bool = True
    restart: bool = False
    shares: bool = False


class Schedule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job that runs at the times of a cron expression. `keep`: how many ended runs are remembered."""

    cron: str
    timezone: str = "UTC"
    concurrency: Concurrency = "forbid"
    keep: int = 5


class FileUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A config or secret in a container. `file`: the id of its content, at `files/APP/ID`; `mode` is octal text."""

    file: str
    target: str
    mode: str = "0444"
    uid: str = "0"
    gid: str = "0"


class Service(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One service. `body` is the JSON text of its containers' create call but for what differs between them: labels
    of the slot, fixed addresses. `hash` names all that a container is made of.

    `addresses`: per network (its full name) the fixed addresses, the first slot's first. `joins`: networks that a
    container joins after it is made, with the JSON text of its endpoint there. `name`: `container_name`; `labels` are
    those of the service.
    """

    body: str
    hash: str
    mode: Mode = "replicated"
    replicas: int = 1
    name: str = ""
    platform: str = ""
    pull: str = "missing"
    depends_on: tuple[Dependency, ...] = ()
    update: UpdatePolicy = UpdatePolicy()
    rollback: UpdatePolicy = UpdatePolicy()
    addresses: dict[str, tuple[str, ...]] = {}
    joins: dict[str, str] = {}
    labels: dict[str, str] = {}
    schedule: Schedule | None = None
    files: tuple[FileUse, ...] = ()

    @property
    def is_job(self) -> bool:
        """Whether its containers are to end: it runs to completion."""
        return self.mode.endswith("-job") or self.schedule is not None


class Resource(msgspec.Struct, frozen=True, omit_defaults=True):
    """A network or volume. `body`: its create call's JSON text; empty for an external one, which must be there."""

    name: str
    body: str = ""


class Rollout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The replacement of one service's containers by those of hash `to`. `good_at`: since when a slot's new container
    has been seen to run and be healthy, `started`: its start then, in its engine's words; `failed`: which did not, and
    why; `why`: what ended or halted it."""

    to: str
    state: RolloutState = "updating"
    good_at: dict[str, float] = {}
    started: dict[str, str] = {}
    failed: dict[str, str] = {}
    why: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0


class Follow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A container that is to be restarted, or made `anew`, because those of `after` were replaced. `started`: its start
    before that, in its engine's words; `order`: the number of its last order. When one of them is new, it has followed.
    """

    after: str
    started: str
    order: int = 0
    anew: bool = False


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run of a scheduled job. `exit_code` -1: not known; `note`: why it did not run, if it did not."""

    due_at: float
    container: str = ""
    started_at: str = ""
    finished_at: str = ""
    exit_code: int = -1
    note: str = ""
    ended: bool = False


class Trouble(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why the last `tries` attempts at something failed. `version`: the hash of the container that was to be made."""

    why: str
    tries: int = 1
    at: float = 0.0
    version: str = ""
