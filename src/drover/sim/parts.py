"""What a simulated host is made of: fakes whose daemon may be stopped, and which tell the eye what really happens.

part          is                                               tells
`SimEngine`   a fake engine that mounts volumes as Docker's    a process began or ended, and why
              own `local` driver does: no path, no start
`SimNetwork`  a fake network                                   whether packets still pass
`SimWatchdog` file and process in one: a timer                 what it killed
`SimPeers`    other hosts' volumes, read over a network that   nothing
              may be cut
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from drover.agent.belongings import AskedPart, Belongings
from drover.agent.session import AT_ONCE, NEVER
from drover.agent.volume_rounds import VolumeRounds
from drover.agent.volumes import Given, Incoming, Round, VolumeKeeper, Wanted
from drover.decide.fence import Target
from drover.decide.overlay import VXLAN_PORT, RealNetwork, Remote
from drover.decide.wiring import Zone
from drover.drivers.engine.fake import FakeEngine
from drover.drivers.engine.fake_container import FakeContainer
from drover.drivers.engine.fake_images import make_image
from drover.drivers.engine.port import ID_LABEL, SeenEvent
from drover.drivers.network.fake import FakeNetwork
from drover.drivers.volumes.fake import FakeVolumes
from drover.errors import DroverError, EngineError, NotFound, Unavailable
from drover.sim.store import Running

WATCHDOG_GRACE_S = 0.25
STREAM_SILENCE_S = 10.0
"""How long a host waits for the next piece of another host's volume."""
IMAGE = make_image([b"base"])
TAG = "app:1"
Mount = tuple[str, int]
"""(volume, epoch of the live set that is mounted)."""


class Eye(Protocol):
    """Who is told what really happens on the hosts."""

    def began(self, host: str, container: FakeContainer) -> None: ...

    def ended(self, host: str, container: FakeContainer, cause: str) -> None: ...

    def changed(self) -> None:
        """Something by which a promise may be broken: packets, a power switch."""
        ...


class SimEngine(FakeEngine):
    """A fake engine whose daemon may be stopped. What it was asked for goes on when who asked is gone."""

    def __init__(self, name: str, running: Running, eye: Eye, disk: SimVolumes) -> None:
        super().__init__(seed=name)
        self._host = name
        self._running = running
        self._eye = eye
        self._disk = disk
        self._devices: dict[str, str] = {}
        self._cause = "its command"
        self.mounts: dict[str, list[Mount]] = {}
        self.addresses: dict[str, dict[str, str]] = {}
        """Engine id to network name to address, of what runs or ran."""
        self.images.add(IMAGE, TAG)

    async def _enter(self, method: str) -> None:
        await self._running.passed()
        await super()._enter(method)
        await self._running.passed()

    async def order(self, engine_ref: str, verb: str, query: str = "", body: str = "") -> tuple[int, str]:
        """An order that was sent is carried out, whatever becomes of the daemon that sent it."""
        await self._running.passed()
        done: asyncio.Task[tuple[int, str]] = asyncio.ensure_future(self._ordered(engine_ref, verb, query, body))
        done.add_done_callback(lambda task: None if task.cancelled() else task.exception())
        answer = await asyncio.shield(done)
        await self._running.passed()
        return answer

    async def _ordered(self, engine_ref: str, verb: str, query: str, body: str) -> tuple[int, str]:
        await FakeEngine._enter(self, "order")
        self._cause = f"the order `{verb}`"
        try:
            return self._obey(engine_ref, verb, query, body)
        finally:
            self._cause = "its command"

    async def _events(self, listener: asyncio.Queue[SeenEvent | None]) -> AsyncGenerator[SeenEvent, None]:
        async for event in super()._events(listener):
            await self._running.passed()
            yield event

    # -- volumes -----------------------------------------------------------------------------------------------------

    async def create_volume(self, body: Mapping[str, Any]) -> None:
        await super().create_volume(body)
        device = (body.get("DriverOpts") or {}).get("device")
        if device:
            self._devices.setdefault(body["Name"], device)

    async def remove_volume(self, name: str, force: bool = False) -> None:
        await super().remove_volume(name, force)
        self._devices.pop(name, None)

    def _mountable(self, container: FakeContainer) -> list[Mount]:
        """Raises as the engine does when a path is not there."""
        mounts = []
        for name in sorted(container.volume_names & set(self._devices)):
            epoch = int(self._devices[name].rpartition("@")[2])
            if self._disk.live_epoch(name) != epoch:
                what = f"failed to mount local volume: mount {self._devices[name]}: no such file or directory"
                raise EngineError(500, f"error while mounting volume '{name}': {what}")
            mounts.append((name, epoch))
        return mounts

    # -- processes ---------------------------------------------------------------------------------------------------

    def _start(self, container: FakeContainer) -> int:
        if not container.running:
            self._mountable(container)
        return super()._start(container)

    def _run(self, container: FakeContainer) -> None:
        try:
            self.mounts[container.engine_id] = self._mountable(container)
        except EngineError as refusal:
            container.state, container.exit_code, container.error = "exited", 128, refusal.message
            return
        super()._run(container)
        self._eye.began(self._host, container)

    def _ended(self, container: FakeContainer, exit_code: int) -> None:
        ran = container.running
        if ran:
            self._eye.ended(self._host, container, self._cause)
        super()._ended(container, exit_code)
        if ran:
            self._eye.changed()

    def processes(self) -> Iterable[FakeContainer]:
        return [container for container in self._containers.values() if container.running]

    def managed(self) -> list[FakeContainer]:
        """All containers of ours, whether they run or not."""
        return [container for container in self._containers.values() if container.labels.get(ID_LABEL)]

    def writable(self, container: FakeContainer) -> list[Mount]:
        """The live sets that its process may write."""
        binds = container.host_config.get("Binds") or ()
        fixed = {bind.partition(":")[0] for bind in binds if "ro" in bind.split(":")[2:]}
        return [mount for mount in self.mounts.get(container.engine_id, []) if mount[0] not in fixed]

    def kill_process(self, engine_id: str, cause: str = "a crash") -> bool:
        """SIGKILL from outside: the engine sees an exit, and its restart policy applies."""
        container = self.peek(engine_id)
        if container is None or not container.running:
            return False
        container.plan = type(container.plan)(container.plan.run_s, 137)
        self._cause = cause
        self._ran_out(container)
        self._cause = "its command"
        return True

    def restart_by_itself(self, cause: str) -> None:
        """The engine's processes end and it begins anew, as after a crash or a power cut: policies apply."""
        self._cause = cause
        self.reboot()
        self._cause = "its command"

    # -- addresses ---------------------------------------------------------------------------------------------------

    async def create_container(self, name: str, body: Mapping[str, Any], platform: str = "") -> tuple[str, str]:
        engine_id, text = await super().create_container(name, body, platform)
        endpoints = (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
        self.addresses[engine_id] = {net: ip for net, one in endpoints.items() if (ip := _ip(one))}
        return engine_id, text

    async def connect(self, network: str, engine_ref: str, endpoint: Mapping[str, Any]) -> None:
        await super().connect(network, engine_ref, endpoint)
        if ip := _ip(endpoint):
            self.addresses[engine_ref][network] = ip
            self._eye.changed()

    async def disconnect(self, network: str, engine_ref: str, force: bool) -> None:
        await super().disconnect(network, engine_ref, force)
        self.addresses[engine_ref].pop(network, None)


def _ip(endpoint: Mapping[str, Any] | None) -> str:
    return str(((endpoint or {}).get("IPAMConfig") or {}).get("IPv4Address") or "")


class SimVolumes(FakeVolumes):
    """A host's disk. `away`: its filesystem is not mounted, and nothing of it is seen."""

    def __init__(self, running: Running) -> None:
        super().__init__()
        self._running = running
        self.away = False

    def live_epoch(self, volume: str) -> int:
        """What a bind of the path would find."""
        return 0 if self.away else self._live.get(volume, (0, {}))[0]

    async def _enter(self, method: str) -> None:
        await self._running.passed()
        await super()._enter(method)
        await self._running.passed()
        if self.away:
            raise Unavailable("the disk of this host's volumes is not mounted", hint="mount it")


class SimNetwork(FakeNetwork):
    """A fake network whose daemon may be stopped."""

    def __init__(self, running: Running, changed: Callable[[], None]) -> None:
        super().__init__()
        self.joined = False
        self._running = running
        self._changed = changed

    async def join_hosts(self, joined: bool) -> None:
        await self._running.passed()
        await super().join_hosts(joined)
        self._changed()

    async def realise(self, net: RealNetwork) -> None:
        await self._running.passed()
        await super().realise(net)

    async def set_remotes(self, net: RealNetwork, entries: Iterable[Remote], *, verify: bool = False) -> None:
        await self._running.passed()
        await super().set_remotes(net, entries, verify=verify)

    async def set_peers(self, addresses: Iterable[str], port: int = VXLAN_PORT, *, through: str = "") -> None:
        await self._running.passed()
        await super().set_peers(addresses, port, through=through)
        self._changed()


class Watched(Protocol):
    """The host that a watchdog belongs to."""

    engine: SimEngine
    network: SimNetwork

    @property
    def is_stopped(self) -> bool: ...


class SimWatchdog:
    """The watchdog's file and process in one: a timer that nobody but a power cut takes away."""

    REPEAT_S, PAUSE_S = 10.0, 0.5

    def __init__(self, host: Watched) -> None:
        self._host = host
        self._deadline = AT_ONCE
        self._kill: Sequence[Target] = ()
        self._stopped: frozenset[str] = frozenset()
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._waits_until = AT_ONCE
        """When it acts, and when its timer looks whether it should."""

    def prior_deadline(self) -> float:
        return self._deadline

    def tell(self, deadline: float, kill: Sequence[Target] | None, networks: Collection[int] | None) -> None:
        if self._host.is_stopped:
            return
        self._kill = self._kill if kill is None else kill
        self._deadline = AT_ONCE if deadline == NEVER else deadline
        at = max(asyncio.get_running_loop().time(), deadline + WATCHDOG_GRACE_S)
        if deadline == NEVER:
            self.cancel()
        elif self._timer is None or self._timer.cancelled() or self._waits_until > at:
            self._wait_until(at)
        else:
            self._due = at

    def _wait_until(self, at: float) -> None:
        """One timer serves many deadlines: each is later than the one before, as long as all is well."""
        self.cancel()
        self._due = self._waits_until = at
        self._timer = asyncio.get_running_loop().call_at(at, self._passed)

    def _passed(self) -> None:
        if self._due > asyncio.get_running_loop().time():
            self._wait_until(self._due)
        else:
            self._look(self._due + self.REPEAT_S)

    def stopped(self) -> frozenset[str]:
        return self._stopped

    def note_stopped(self, engine_ids: Collection[str]) -> None:
        if not self._host.is_stopped:
            self._stopped = frozenset(engine_ids)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, until: float) -> None:
        self._fence()
        again = asyncio.get_running_loop().time() + self.PAUSE_S
        self._waits_until = NEVER
        self._timer = asyncio.get_running_loop().call_at(again, self._look, until) if again < until else None

    def _fence(self) -> None:
        self._host.network.joined = False
        for target in self._kill:
            if self._host.engine.kill_process(target.engine_id, "its watchdog"):
                self._stopped |= {target.engine_id}


class Silent:
    """A name server that nobody asks."""

    async def serve(self, network: str, gateway: str, zone: Zone) -> None:
        return

    async def stop(self, network: str) -> None:
        return


class Nowhere:
    """Images are on every host already."""

    async def fetch(self, image_id: str, ref: str, progress: Callable[[str], None]) -> None:
        raise NotFound(f"no host has {ref}")


class Serving(Protocol):
    """A host as its peers see it."""

    @property
    def serves(self) -> bool: ...

    @property
    def keeper(self) -> VolumeKeeper: ...

    @property
    def belongings(self) -> Belongings: ...

    @property
    def rounds(self) -> VolumeRounds: ...

    running: Running


class SimPeers:
    """Other hosts' volumes, and what is a moved container's own. `find(host)` is the host, or None while packets do
    not pass both ways."""

    def __init__(self, find: Callable[[str], Serving | None]) -> None:
        self._find = find

    async def round(self, host: str, volumes: Mapping[str, int]) -> Round:
        other = await self._reached(host)
        taken = await other.rounds.take_round(volumes)
        await self._reached(host)
        return taken

    async def checkpoint(self, host: str, container: str) -> int:
        other = await self._reached(host)
        code = await other.belongings.checkpoint(container)
        await self._reached(host)
        return code

    @asynccontextmanager
    async def open(self, host: str, wanted: Wanted, have: bytes) -> AsyncIterator[Incoming]:
        other = await self._reached(host)
        async with self._brought(host, other.keeper.give(wanted, have)) as incoming:
            yield incoming

    @asynccontextmanager
    async def open_part(self, host: str, asked: AskedPart, have: bytes) -> AsyncIterator[Incoming]:
        other = await self._reached(host)
        async with self._brought(host, other.belongings.give(asked, have)) as incoming:
            yield incoming

    @asynccontextmanager
    async def _brought(self, host: str, giving: Awaitable[Given]) -> AsyncIterator[Incoming]:
        try:
            given = await giving
        except DroverError:
            await self._reached(host)
            raise
        try:
            yield Incoming(given.snapshot, self._pieces(host, given.pieces), given.at)
        finally:
            await given.pieces.aclose()

    async def _pieces(self, host: str, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            await self._reached(host)
            yield piece

    async def _reached(self, host: str) -> Serving:
        """The other daemon, when it gets on. Raises `Unavailable` if it does not within STREAM_SILENCE_S."""
        other = self._find(host)
        if other is not None and not other.running.event.is_set():
            try:
                async with asyncio.timeout(STREAM_SILENCE_S):
                    await other.running.passed()
            except TimeoutError:
                other = None
        if other is None or not other.serves:
            raise Unavailable(f"volume data from host {host} does not come")
        return other
