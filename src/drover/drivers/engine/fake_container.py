"""The containers of a `FakeEngine`: what a command does, and what a container is at a moment.

Commands of tests are a small language, so that the same body runs on a real engine and here:

    command                                      runs                          ends with
    ["true"], ["false"]                          no time                       0, 1
    ["sleep", "5"]                               5 s                           0
    ["sh", "-c", "sleep 0.3; exit 7"]            0.3 s                         7
    ["sh", "-c", "exit 3"]                       no time                       3
    ["sleep", "infinity"], anything else         until stopped or killed
    a program named `nosuch…`                    does not start                127
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from drover.drivers.engine.port import EPOCH_LABEL, ID_LABEL, OwnFiles, SeenContainer
from drover.drivers.engine.read import fixed_addresses

START_OF_TIME_S = 1_700_000_000
SLEEP = re.compile(r"\bsleep (\d+(?:\.\d+)?)\b")
EXIT = re.compile(r"\bexit (\d+)\b")


class Plan(msgspec.Struct, frozen=True):
    """What a command does: it runs `run_s` (None: until it is stopped) and ends with `exit_code`."""

    run_s: float | None
    exit_code: int = 0
    startable: bool = True


def plan_of(command: Sequence[str]) -> Plan:
    """The plan of a command, see the module's table."""
    text = " ".join(command)
    if command[0].startswith("nosuch"):
        return Plan(None, 127, startable=False)
    if text in ("true", "false"):
        return Plan(0.0, int(text == "false"))
    sleep, end = SLEEP.search(text), EXIT.search(text)
    if sleep is None and end is None:
        return Plan(None)
    return Plan(float(sleep[1]) if sleep else 0.0, int(end[1]) if end else 0)


class FakeContainer:
    """One container. `timer` ends its process or starts it again; `networks` maps names to engine ids."""

    def __init__(self, engine_id: str, name: str, body: Mapping[str, Any], image_id: str, plan: Plan) -> None:
        self.engine_id = engine_id
        self.name = name
        self.body = body
        self.host_config: dict[str, Any] = dict(body.get("HostConfig") or {})
        self.image_id = image_id
        self.plan = plan
        self.networks: dict[str, str] = {}
        self.addresses = fixed_addresses((body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {})
        self.state = "created"
        self.exit_code = 0
        self.health = ""
        self.error = ""
        self.pid = 0
        self.started_at = ""
        self.finished_at = ""
        self.restarts = 0
        self.timer: asyncio.TimerHandle | None = None
        self.ending: list[asyncio.Event] = []
        """Set when its process ends."""

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.body.get("Labels") or {})

    @property
    def running(self) -> bool:
        return self.state in ("running", "paused")

    @property
    def auto_remove(self) -> bool:
        return bool(self.host_config.get("AutoRemove"))

    @property
    def policy(self) -> tuple[str, int]:
        """The restart policy's name and its maximum number of restarts (0: no limit)."""
        policy = self.host_config.get("RestartPolicy") or {}
        return policy.get("Name") or "no", policy.get("MaximumRetryCount") or 0

    @property
    def volume_names(self) -> set[str]:
        """The named volumes it mounts."""
        binds = self.host_config.get("Binds") or ()
        mounts = self.host_config.get("Mounts") or ()
        named = {bind.partition(":")[0] for bind in binds if not bind.startswith("/")}
        return named | {mount["Source"] for mount in mounts if mount.get("Type") == "volume" and mount.get("Source")}

    @property
    def anonymous_volumes(self) -> list[str]:
        """One per path in the body's `Volumes`, named as an engine would: by 64 hex digits."""
        return [
            hashlib.sha256(f"{self.engine_id}{path}".encode()).hexdigest() for path in self.body.get("Volumes") or {}
        ]

    def wants_restart(self) -> bool:
        """Whether its policy starts it again after its process ended by itself."""
        name, limit = self.policy
        if name == "on-failure":
            return self.exit_code != 0 and (limit == 0 or self.restarts < limit)
        return name in ("always", "unless-stopped")

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def own_files(self) -> OwnFiles:
        """Where its files would be: `layer` is a name for them."""
        return OwnFiles(
            storage_driver="overlay2",
            layer=f"/fake/{self.engine_id}/diff",
            log_driver="json-file",
            log_directory=f"/fake/{self.engine_id}",
            log_stem=f"{self.engine_id}-json.log",
        )

    def seen(self) -> SeenContainer:
        epoch = self.labels.get(EPOCH_LABEL, "")
        return SeenContainer(
            id=self.labels.get(ID_LABEL, ""),
            engine_id=self.engine_id,
            name=self.name,
            epoch=int(epoch) if epoch.isdigit() else 0,
            state=self.state,
            exit_code=self.exit_code,
            health=self.health,
            error=self.error,
            pid=self.pid,
            started_at=self.started_at,
            finished_at=self.finished_at,
            image=self.image_id,
            networks=dict(self.networks),
            addresses=dict(self.addresses),
            volumes=(*sorted(self.volume_names), *self.anonymous_volumes),
        )


def networks_asked(body: Mapping[str, Any]) -> list[str]:
    """The networks of a create body: those of `EndpointsConfig`, else the mode; none if a container's are shared."""
    mode = (body.get("HostConfig") or {}).get("NetworkMode") or "default"
    if mode.startswith("container:"):
        return []
    endpoints = (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
    return list(endpoints) or ["bridge" if mode == "default" else mode]


def now_text() -> str:
    """The loop's time as Docker writes times."""
    moment = datetime.fromtimestamp(START_OF_TIME_S + asyncio.get_running_loop().time(), UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
