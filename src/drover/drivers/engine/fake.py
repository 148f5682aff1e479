"""`FakeEngine`: the engine port in memory, for tests and the simulation.

Theory of operation. Time is the event loop's, so on a virtual loop a container that sleeps an hour takes no time. Ids
come from a seed and a counter, so that two runs are alike. Messages and status codes are Docker 20.10's own; the
contract suite runs the same calls on both. What the real engine has and this has not: resource limits, host ports,
pulling, addresses.

    switch                          effect
    `down = True`                   every call raises `Unavailable`, event streams end; processes run on
    `slow_s`                        each call takes that long first
    `log_s`                         the end of a process is told (`die`) that long after it, when its log is closed
    `teardown_s`                    a stop is answered that long after the process has ended
    `fail_next(method, error)`      the next call of that method raises `error`
    `reboot()`                      a power cut: running containers are exited (255) without an event, then restart
                                    policies apply
    `archive_layout`                which layout `save` writes
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from drover.drivers.engine.docker import split_ref
from drover.drivers.engine.fake_container import START_OF_TIME_S, FakeContainer, networks_asked, now_text, plan_of
from drover.drivers.engine.fake_images import FakeImage, FakeImages, Layout
from drover.drivers.engine.fake_networks import FakeNetworks
from drover.drivers.engine.port import ID_LABEL, OwnFiles, SeenContainer, SeenEvent
from drover.drivers.engine.read import chain_ids
from drover.errors import DroverError, EngineError, Unavailable
from drover.model.records import HostFacts

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
GRACE_S = 10.0
KILLED = {"KILL": 137, "9": 137, "TERM": 143, "15": 143}
IGNORED = ("HUP", "INT", "QUIT", "USR1", "USR2", "WINCH")
RESTART_DELAY_S = 0.1
MAX_RESTART_DELAY_S = 60.0
PIECE_BYTES = 32 * 1024
END = None


class FakeEngine:
    def __init__(self, seed: str = "engine", archive_layout: Layout = "docker") -> None:
        self.images = FakeImages()
        self.slow_s = 0.0
        self.log_s = 0.0
        self.teardown_s = 0.0
        self.archive_layout: Layout = archive_layout
        self.calls: list[str] = []
        self._seed = seed
        self._made = 0
        self._down = False
        self._failures: dict[str, list[DroverError]] = defaultdict(list)
        self._containers: dict[str, FakeContainer] = {}
        self._networks = FakeNetworks(self._new_id)
        self._volumes: dict[str, dict[str, str]] = {}
        self.ran: list[tuple[str, tuple[str, ...]]] = []
        """Each command run inside: the container's name, and the command."""
        self._listeners: list[asyncio.Queue[SeenEvent | None]] = []

    # -- switches and looks for tests ------------------------------------------------------------------------------

    @property
    def down(self) -> bool:
        return self._down

    @down.setter
    def down(self, value: bool) -> None:
        self._down = value
        if value:
            for listener in self._listeners:
                listener.put_nowait(END)
            self._listeners.clear()

    def fail_next(self, method: str, error: DroverError) -> None:
        self._failures[method].append(error)

    def reboot(self) -> None:
        """A power cut of the host, and its engine up again: no process is left when the first one begins."""
        ran = [one for one in self._containers.values() if one.running or one.state == "restarting"]
        for container in self._containers.values():
            container.cancel_timer()
        for container in ran:
            self._ended(container, 255)
        for container in ran:
            if container.policy[0] in ("always", "unless-stopped"):
                self._run(container)

    def peek(self, engine_ref: str) -> FakeContainer | None:
        """A container's inside, by engine id or name."""
        named = (container for container in self._containers.values() if container.name == engine_ref)
        return self._containers.get(engine_ref) or next(named, None)

    async def _enter(self, method: str) -> None:
        """What every call goes through first."""
        self.calls.append(method)
        await asyncio.sleep(self.slow_s)
        if self._down:
            raise Unavailable("the Docker engine does not answer", hint="check that dockerd runs on this host")
        if self._failures[method]:
            raise self._failures[method].pop(0)

    def _new_id(self) -> str:
        self._made += 1
        return hashlib.sha256(f"{self._seed}/{self._made}".encode()).hexdigest()

    def _emit(self, kind: str, action: str, actor: str, labels: Mapping[str, str]) -> None:
        time_ns = int((START_OF_TIME_S + asyncio.get_running_loop().time()) * 1e9)
        event = SeenEvent(kind=kind, action=action, actor=actor, labels=dict(labels), time_ns=time_ns)
        for listener in self._listeners:
            listener.put_nowait(event)

    def _emit_container(self, container: FakeContainer, action: str, **more: str) -> None:
        image = container.body.get("Image", "")
        labels = {**container.labels, "image": image, "name": container.name, **more}
        if action == "die" and self.log_s:
            loop = asyncio.get_running_loop()
            loop.call_later(self.log_s, self._emit, "container", action, container.engine_id, labels)
        else:
            self._emit("container", action, container.engine_id, labels)

    # -- reads -----------------------------------------------------------------------------------------------------

    async def facts(self, host: str) -> HostFacts:
        await self._enter("facts")
        return HostFacts(
            host=host,
            engine_version="20.10.24",
            api_version="1.41",
            min_api_version="1.12",
            os="linux",
            arch="amd64",
            kernel="6.1.0",
            storage_driver="overlay2",
            log_driver="json-file",
            cpus=4,
            memory_bytes=8 * 1024**3,
            predefined_networks=self._networks.predefined(),
        )

    async def containers(self) -> list[SeenContainer]:
        await self._enter("containers")
        return [container.seen() for container in self._containers.values() if ID_LABEL in container.labels]

    async def container(self, engine_ref: str) -> SeenContainer | None:
        await self._enter("container")
        container = self.peek(engine_ref)
        return None if container is None else container.seen()

    async def own_files(self, engine_ref: str) -> OwnFiles:
        await self._enter("own_files")
        return self._found(engine_ref).own_files()

    async def passes_its_check(self, engine_ref: str, within_s: int) -> bool:
        await self._enter("passes_its_check")
        return self._found(engine_ref).health in ("", "healthy")

    async def run(self, engine_ref: str, command: Sequence[str]) -> int:
        await self._enter("run")
        container = self._found(engine_ref)
        if container.state != "running":
            raise EngineError(409, f"Container {container.engine_id} is not running")
        self.ran.append((container.name, tuple(command)))
        return 0 if command[-1] != "false" else 1

    # -- making containers -----------------------------------------------------------------------------------------

    async def create_container(self, name: str, body: Mapping[str, Any], platform: str = "") -> tuple[str, str]:
        await self._enter("create_container")
        image = self._image(body.get("Image", ""))
        command = list(body.get("Cmd") or image.command)
        if not command:
            raise EngineError(400, "No command specified")
        engine_id = self._new_id()
        name = name or f"unnamed_{engine_id[:8]}"
        self._check_name(name, name)
        container = FakeContainer(engine_id, name, dict(body), image.id, plan_of(command))
        container.networks = {network: self._networks.id_of(network) for network in networks_asked(body)}
        for volume in container.volume_names:
            self._volumes.setdefault(volume, {})
        self._containers[engine_id] = container
        self._emit_container(container, "create")
        return engine_id, json.dumps({"Id": engine_id, "Warnings": []})

    def _image(self, ref: str) -> FakeImage:
        image = self.images.find(ref)
        if image is None:
            raise EngineError(404, f"No such image: {':'.join(split_ref(ref))}")
        return image

    def _check_name(self, name: str, shown: str) -> None:
        """Refuse a name that is not one (`shown` in the message as the engine does), or that is in use."""
        if not NAME.fullmatch(name):
            allowed = "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            raise EngineError(400, f"Invalid container name ({shown}), {allowed}")
        for other in self._containers.values():
            if other.name == name:
                raise EngineError(
                    409,
                    f'Conflict. The container name "/{name}" is already in use by container "{other.engine_id}". '
                    "You have to remove (or rename) that container to be able to reuse that name.",
                )

    # -- orders ----------------------------------------------------------------------------------------------------

    async def order(self, engine_ref: str, verb: str, query: str = "", body: str = "") -> tuple[int, str]:
        await self._enter("order")
        answer = self._obey(engine_ref, verb, query, body)
        if verb == "stop":
            await asyncio.sleep(self.teardown_s)
        return answer

    def _obey(self, engine_ref: str, verb: str, query: str, body: str) -> tuple[int, str]:
        asked = dict(parse_qsl(query, keep_blank_values=True))
        try:
            container = self._found(engine_ref, f"Cannot kill container: {engine_ref}: " if verb == "kill" else "")
            match verb:
                case "start":
                    return self._start(container), ""
                case "stop":
                    return self._stop(container, asked), ""
                case "restart":
                    return self._restart(container), ""
                case "kill":
                    return self._kill(container, engine_ref, asked), ""
                case "rename":
                    return self._rename(container, asked.get("name", "")), ""
                case "update":
                    return self._update(container, body)
                case "remove":
                    return self._remove(container, asked.get("force", "") in ("1", "true")), ""
            raise EngineError(404, "page not found")
        except EngineError as refusal:
            return refusal.status, json.dumps({"message": refusal.message})

    def _found(self, engine_ref: str, prefix: str = "") -> FakeContainer:
        container = self.peek(engine_ref)
        if container is None:
            raise EngineError(404, f"{prefix}No such container: {engine_ref}")
        return container

    def _start(self, container: FakeContainer) -> int:
        if container.running:
            return 304
        self._networks.settle(container)
        if not container.plan.startable:
            container.exit_code = container.plan.exit_code
            container.error = (
                "failed to create shim task: OCI runtime create failed: executable file not found in $PATH"
            )
            raise EngineError(400, container.error)
        container.restarts = 0
        self._run(container)
        return 204

    def _run(self, container: FakeContainer) -> None:
        """Start its process: the one place where containers begin to run."""
        container.cancel_timer()
        container.state, container.exit_code, container.error = "running", 0, ""
        container.pid = 1000 + len(self.calls)
        container.started_at = now_text()
        self._emit_container(container, "start")
        if container.plan.run_s is not None:
            loop = asyncio.get_running_loop()
            container.timer = loop.call_later(container.plan.run_s, self._ran_out, container)

    def _ran_out(self, container: FakeContainer) -> None:
        """Its process ended by itself: the restart policy applies."""
        self._ended(container, container.plan.exit_code)
        self._emit_container(container, "die", exitCode=str(container.exit_code))
        if container.wants_restart():
            delay_s = min(RESTART_DELAY_S * 2**container.restarts, MAX_RESTART_DELAY_S)
            container.restarts += 1
            container.state = "restarting"
            container.timer = asyncio.get_running_loop().call_later(delay_s, self._run, container)
        elif container.auto_remove:
            self._destroy(container)

    def _ended(self, container: FakeContainer, exit_code: int) -> None:
        container.cancel_timer()
        container.state, container.exit_code, container.pid = "exited", exit_code, 0
        container.finished_at = now_text()
        for waiting in container.ending:
            waiting.set()
        container.ending.clear()

    def _end(self, container: FakeContainer, exit_code: int) -> None:
        """End a process on demand: restart policies do not apply, removal by itself does."""
        self._ended(container, exit_code)
        self._emit_container(container, "die", exitCode=str(exit_code))
        if container.auto_remove:
            self._destroy(container)

    def _restart(self, container: FakeContainer) -> int:
        """Stop, without removal by itself, and start."""
        if container.running:
            self._ended(container, KILLED["TERM"])
            self._emit_container(container, "die", exitCode=str(container.exit_code))
        return self._start(container)

    def _stop(self, container: FakeContainer, asked: Mapping[str, str]) -> int:
        """TERM ends fake processes at once, unless no grace is given."""
        if container.state == "restarting":
            self._ended(container, container.exit_code)
            return 204
        if not container.running:
            return 304
        grace_s = float(asked.get("t") or container.body.get("StopTimeout") or GRACE_S)
        self._end(container, KILLED["KILL"] if grace_s == 0 else KILLED["TERM"])
        self._emit_container(container, "stop")
        return 204

    def _kill(self, container: FakeContainer, engine_ref: str, asked: Mapping[str, str]) -> int:
        signal = (asked.get("signal") or "KILL").upper().removeprefix("SIG")
        if signal not in KILLED and signal not in IGNORED:
            raise EngineError(400, f"Invalid signal: {asked['signal']}")
        if not container.running:
            raise EngineError(
                409, f"Cannot kill container: {engine_ref}: Container {container.engine_id} is not running"
            )
        self._emit_container(container, "kill", signal=signal)
        if signal in KILLED:
            self._end(container, KILLED[signal])
        return 204

    def _rename(self, container: FakeContainer, name: str) -> int:
        if not name:
            raise EngineError(400, "Neither old nor new names may be empty")
        if name == container.name:
            raise EngineError(400, "Renaming a container with the same name as its current name")
        try:
            self._check_name(name, f"/{name}")
        except EngineError as refusal:
            raise EngineError(refusal.status, f"Error when allocating new name: {refusal.message}") from refusal
        container.name, old_name = name, container.name
        self._emit_container(container, "rename", oldName=f"/{old_name}")
        return 204

    def _update(self, container: FakeContainer, body: str) -> tuple[int, str]:
        try:
            container.host_config.update(json.loads(body))
        except ValueError:
            raise EngineError(500, "unexpected EOF") from None
        self._emit_container(container, "update")
        return 200, json.dumps({"Warnings": None})

    def _remove(self, container: FakeContainer, force: bool) -> int:
        if container.running and not force:
            raise EngineError(
                409,
                f"You cannot remove a running container {container.engine_id}. "
                "Stop the container before attempting removal or force remove",
            )
        if container.running:
            self._end(container, KILLED["KILL"])
        if container.engine_id in self._containers:
            self._destroy(container)
        return 204

    def _destroy(self, container: FakeContainer) -> None:
        container.cancel_timer()
        del self._containers[container.engine_id]
        self._emit_container(container, "destroy")

    # -- networks --------------------------------------------------------------------------------------------------

    async def networks(self) -> dict[str, str]:
        await self._enter("networks")
        return self._networks.managed()

    async def create_network(self, body: Mapping[str, Any]) -> str:
        await self._enter("create_network")
        engine_id = self._networks.create(body)
        self._emit("network", "create", engine_id, {"name": body["Name"], "type": body.get("Driver") or "bridge"})
        return engine_id

    async def remove_network(self, engine_ref: str) -> None:
        await self._enter("remove_network")
        name = self._networks.name_of(engine_ref)
        if name is None:
            return
        engine_id = self._networks.id_of(name)
        self._networks.remove(name, self._containers.values())
        self._emit("network", "destroy", engine_id, {"name": name, "type": "bridge"})

    async def connect(self, network: str, engine_ref: str, endpoint: Mapping[str, Any]) -> None:
        await self._enter("connect")
        container = self._found(engine_ref)
        self._emit_endpoint("connect", self._networks.connect(network, container, endpoint), container)

    async def disconnect(self, network: str, engine_ref: str, force: bool) -> None:
        await self._enter("disconnect")
        container = self._found(engine_ref)
        self._emit_endpoint("disconnect", self._networks.disconnect(network, container), container)

    def _emit_endpoint(self, action: str, network: str, container: FakeContainer) -> None:
        labels = {"container": container.engine_id, "name": network, "type": "bridge"}
        self._emit("network", action, self._networks.id_of(network), labels)

    # -- volumes ---------------------------------------------------------------------------------------------------

    async def volumes(self) -> dict[str, Mapping[str, str]]:
        await self._enter("volumes")
        return dict(self._volumes)

    async def create_volume(self, body: Mapping[str, Any]) -> None:
        await self._enter("create_volume")
        self._volumes.setdefault(body["Name"], dict(body.get("Labels") or {}))
        self._emit("volume", "create", body["Name"], {"driver": body.get("Driver") or "local"})

    async def remove_volume(self, name: str, force: bool = False) -> None:
        await self._enter("remove_volume")
        users = [container.engine_id for container in self._containers.values() if name in container.volume_names]
        if users:
            raise EngineError(409, f"remove {name}: volume is in use - [{', '.join(users)}]")
        if self._volumes.pop(name, None) is not None:
            self._emit("volume", "destroy", name, {"driver": "local"})

    # -- images ----------------------------------------------------------------------------------------------------

    async def image_id(self, ref: str) -> str | None:
        await self._enter("image_id")
        image = self.images.find(ref)
        return None if image is None else image.id

    async def image_layers(self, ref: str) -> Sequence[str]:
        await self._enter("image_layers")
        return self._image(ref).diff_ids

    async def layer_sizes(self, ref: str) -> Sequence[int]:
        await self._enter("layer_sizes")
        return [len(layer) for layer in self._image(ref).layers]

    async def all_layers(self) -> frozenset[str]:
        await self._enter("all_layers")
        return frozenset(chain for image in self.images.by_id.values() for chain in chain_ids(image.diff_ids))

    async def tag(self, image: str, ref: str) -> None:
        await self._enter("tag")
        self.images.add(self._image(image), ref)
        self._emit("image", "tag", self._image(image).id, {"name": ref})

    async def save(self, refs: Sequence[str]) -> AsyncGenerator[bytes, None]:
        await self._enter("save")
        for ref in refs:
            if self.images.find(ref) is None:
                raise EngineError(404, f"No such image: {ref}")
        archive = self.images.archive(refs, self.archive_layout)
        for start in range(0, len(archive), PIECE_BYTES):
            if self._down:
                raise Unavailable("the Docker engine closed the connection", hint="check that dockerd runs")
            yield archive[start : start + PIECE_BYTES]

    async def load(self, archive: AsyncIterator[bytes]) -> str:
        await self._enter("load")
        said = self.images.load(b"".join([piece async for piece in archive]))
        self._emit("image", "load", "", {})
        return said

    # -- events ----------------------------------------------------------------------------------------------------

    def events(self) -> AsyncGenerator[SeenEvent, None]:
        listener: asyncio.Queue[SeenEvent | None] = asyncio.Queue()
        if self._down:
            listener.put_nowait(END)
        else:
            self._listeners.append(listener)
        return self._events(listener)

    async def _events(self, listener: asyncio.Queue[SeenEvent | None]) -> AsyncGenerator[SeenEvent, None]:
        while (event := await listener.get()) is not END:
            yield event
        raise Unavailable("the Docker engine closed its event stream", hint="it is stopping or restarting")

    async def close(self) -> None:
        for container in self._containers.values():
            container.cancel_timer()
