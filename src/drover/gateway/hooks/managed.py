"""Adapters as containers: the cluster runs them, and this gateway knows where they answer.

Theory of operation. Each gateway looks every `ROUND_S`, and at once when the configuration changes or a call has found
an adapter dead. The container's name is its lock: whoever creates it first has created it for all. All calls go past
the hooks, so that adapters do not wait for themselves.

| what is there | what is done |
|---|---|
| no container | created, its image pulled if no host has it; restarted by its engine whenever it ends |
| a container of another image, port or environment | removed; created in the next round |
| a container that does not run | started |
| it runs, its image's health check says otherwise | not healthy |
| it runs and its port accepts a connection | healthy: its address is that of its host and the published port |
| it runs and does not | not healthy: calls wait for it, up to the adapter's deadline |
| a container of an adapter that is configured no more | removed |

The port is published on its host under a number that the engine chooses: gateways of other hosts reach it there, and so
does whoever else reaches the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import Any
from urllib.parse import quote

import msgspec
import structlog

from drover.errors import Unavailable
from drover.gateway.call import EngineResponse, Handler, Links
from drover.gateway.context import message_of
from drover.gateway.hooks.config import Adapter
from drover.gateway.hooks.inner import PULL_DEADLINE_S, inner_call, pull_target
from drover.store.mirror import Mirror

PREFIX = "drover-adapter-"
ADAPTER_LABEL = "drover.adapter"
CONFIG_LABEL = "drover.adapter.config"
HOST_LABEL = "drover.host"
ROUND_S = 5.0
PROBE_DEADLINE_S = 1.0

log = structlog.get_logger("drover.gateway.hooks")


class _Binding(msgspec.Struct, frozen=True, rename="pascal"):
    host_port: str = ""


class _Health(msgspec.Struct, frozen=True, rename="pascal"):
    status: str = ""


class _State(msgspec.Struct, frozen=True, rename="pascal"):
    """`health`: what the image's own check says, where it has one."""

    running: bool = False
    health: _Health | None = None

    @property
    def unhealthy(self) -> str:
        status = self.health.status if self.health is not None else ""
        return status if status in ("starting", "unhealthy") else ""


class _Config(msgspec.Struct, frozen=True, rename="pascal"):
    labels: dict[str, str] | None = None


class _Settings(msgspec.Struct, frozen=True, rename="pascal"):
    ports: dict[str, list[_Binding] | None] | None = None


class _Container(msgspec.Struct, frozen=True, rename="pascal"):
    """What is read of an inspect's answer."""

    id: str
    state: _State = _State()
    config: _Config = _Config()
    network_settings: _Settings = _Settings()


class _Listed(msgspec.Struct, frozen=True, rename="pascal"):
    id: str
    labels: dict[str, str] | None = None


class ManagedAdapters:
    """Keeps the containers of the wanted adapters, while there are any."""

    def __init__(self, handler: Handler, links: Links, mirror: Mirror) -> None:
        self._handler = handler
        self._links = links
        self._mirror = mirror
        self._wanted: dict[str, Adapter] = {}
        self._urls: dict[str, str] = {}
        self._trouble: dict[str, str] = {}
        self._changed = asyncio.Condition()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def want(self, adapters: list[Adapter]) -> None:
        """The managed adapters of the configuration, from now on."""
        self._wanted = {adapter.name: adapter for adapter in adapters}
        self._urls.clear()
        self._wake.set()
        if self._wanted and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep())

    async def url(self, adapter: Adapter) -> str:
        """Where it answers, once it is healthy; the caller sets the deadline."""
        async with self._changed:
            await self._changed.wait_for(lambda: adapter.name in self._urls)
        return self._urls[adapter.name]

    def trouble(self, adapter: Adapter) -> str:
        """Why it is not healthy; empty if it is, or if nothing is known."""
        return "" if adapter.name in self._urls else self._trouble.get(adapter.name, "")

    def suspect(self, adapter: Adapter) -> None:
        """A call could not reach it: look at once."""
        if adapter.image:
            self._wake.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # The rounds.

    async def _keep(self) -> None:
        """Until nothing is wanted any more and nothing is left."""
        while True:
            self._wake.clear()
            for adapter in list(self._wanted.values()):
                await self._look(adapter)
            try:
                await self._remove_unwanted()
                if not self._wanted:
                    break
            except Exception as error:
                log.warning("containers of former adapters could not be removed", why=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await self._wake.wait()
        self._task = None

    async def _look(self, adapter: Adapter) -> None:
        """One round for one adapter: its address, or why it has none."""
        try:
            url = await self._ensure(adapter)
        except Exception as error:  # whatever it is, the other adapters and the next round must not suffer
            self._urls.pop(adapter.name, None)
            if self._trouble.get(adapter.name) != str(error):
                log.warning("an adapter's container is not healthy", adapter=adapter.name, why=str(error))
            self._trouble[adapter.name] = str(error)
            return
        self._trouble.pop(adapter.name, None)
        async with self._changed:
            self._urls[adapter.name] = url
            self._changed.notify_all()

    async def _ensure(self, adapter: Adapter) -> str:
        found = await self._ask("GET", f"/containers/{PREFIX}{adapter.name}/json", missing_ok=True)
        if found is None:
            await self._create(adapter)
            found = await self._ask("GET", f"/containers/{PREFIX}{adapter.name}/json")
        container = msgspec.json.decode(found.body if found else b"", type=_Container)
        labels = container.config.labels or {}
        if labels.get(CONFIG_LABEL) != digest(adapter):
            await self._ask("DELETE", f"/containers/{container.id}?force=1&v=1", missing_ok=True)
            self._wake.set()
            raise Unavailable(f"its container is replaced, because the configuration of {adapter.name} has changed")
        if not container.state.running:
            await self._ask("POST", f"/containers/{container.id}/start")
            self._wake.set()
            raise Unavailable("its container is being started")
        if container.state.unhealthy:
            raise Unavailable(f"its container's own health check says: {container.state.unhealthy}")
        return await self._probed(adapter, container, labels.get(HOST_LABEL, ""))

    async def _probed(self, adapter: Adapter, container: _Container, host: str) -> str:
        record = self._mirror.cluster.hosts.get(host)
        bindings = (container.network_settings.ports or {}).get(f"{adapter.port}/tcp") or []
        if record is None or not bindings:
            raise Unavailable(f"its container has no published port {adapter.port} on a known host")
        port = int(bindings[0].host_port)
        try:
            async with asyncio.timeout(PROBE_DEADLINE_S):
                _, writer = await asyncio.open_connection(record.address, port)
        except TimeoutError as error:
            raise Unavailable(f"its container on host {host} does not accept connections") from error
        writer.close()
        return f"http://{record.address}:{port}/"

    async def _create(self, adapter: Adapter) -> None:
        body = msgspec.json.encode(container_body(adapter))
        target = f"/containers/create?name={PREFIX}{adapter.name}"
        answer = await inner_call(self._handler, self._links, "POST", target, body)
        if answer.status == 404:
            await inner_call(self._handler, self._links, "POST", pull_target(adapter.image), deadline_s=PULL_DEADLINE_S)
            answer = await inner_call(self._handler, self._links, "POST", target, body)
        if answer.status >= 400 and answer.status != 409:
            raise Unavailable(f"its container cannot be created: {message_of(answer.body)}")
        await self._ask("POST", f"/containers/{PREFIX}{adapter.name}/start")

    async def _remove_unwanted(self) -> None:
        filters = quote(msgspec.json.encode({"label": [ADAPTER_LABEL]}).decode())
        listed = await self._ask("GET", f"/containers/json?all=1&filters={filters}")
        for one in msgspec.json.decode(listed.body if listed else b"[]", type=list[_Listed]):
            if (one.labels or {}).get(ADAPTER_LABEL) not in self._wanted:
                await self._ask("DELETE", f"/containers/{one.id}?force=1&v=1", missing_ok=True)

    async def _ask(self, method: str, target: str, missing_ok: bool = False) -> EngineResponse | None:
        """A call past the hooks. None for 404 if that is fine; raises `Unavailable` for other errors."""
        answer = await inner_call(self._handler, self._links, method, target)
        if answer.status == 404 and missing_ok:
            return None
        if answer.status >= 400:
            raise Unavailable(message_of(answer.body))
        return answer


def container_body(adapter: Adapter) -> dict[str, Any]:
    """The create call's body for an adapter."""
    port = f"{adapter.port}/tcp"
    return {
        "Image": adapter.image,
        "Env": [f"{name}={value}" for name, value in adapter.env.items()],
        "Labels": {ADAPTER_LABEL: adapter.name, CONFIG_LABEL: digest(adapter)},
        "ExposedPorts": {port: {}},
        "HostConfig": {"PortBindings": {port: [{"HostPort": ""}]}, "RestartPolicy": {"Name": "always"}},
    }


def digest(adapter: Adapter) -> str:
    """What of an adapter its container was made from, in short."""
    made_from = msgspec.json.encode([adapter.image, adapter.port, sorted(adapter.env.items())])
    return hashlib.sha256(made_from).hexdigest()[:16]
