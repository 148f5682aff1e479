"""`VolumeKeeper`: the volumes of one host: their live sets, the engine's volumes that bind them, their snapshots.

Theory of operation. A claim is the volume's record (`host`, `epoch`); the disk follows it:

    on disk                     the claim is here, epoch E              otherwise
    live set of E               bound                                   set aside as a snapshot
    live set of another epoch   set aside, then as below                set aside as a snapshot
    none, record has snapshot   promoted from that; missing: an error   -
    none, never had data here   made empty                              -
    none, had data here         an error: never an empty one instead    -

One call at a time per volume receives or promotes (`busy`). Every change on disk is followed by a look and a report.
What people ask for (snapshots, backups, …) is in `agent.volume_life`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Protocol

import msgspec
import structlog

from drover.agent.report import Reporter
from drover.agent.view import View
from drover.decide.moves import driver_of, volume_key
from drover.drivers.engine.port import EPOCH_LABEL, Engine
from drover.drivers.volumes.catalog import Catalog
from drover.drivers.volumes.port import NoBase, VolumeDriver
from drover.errors import Conflict, DroverError, NotFound, Unavailable
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete
from drover.model.snapshots import epoch_of, next_id
from drover.model.volume_options import options_of
from drover.store.mirror import Mirror

log = structlog.get_logger()

VOLUME_LABEL = "drover.volume"
READ_YOUR_WRITES_S = 5.0
LAST_S = 20.0
"""How long `Wanted.last` is waited for: less than a stream may be silent."""
ASIDE = "aside"
"""The name of a snapshot that was a live set when its claim had passed to another host: it may hold what was lost."""


class Incoming(msgspec.Struct, frozen=True):
    """A snapshot on its way: its id (empty: nothing has changed), its stream, and when it was asked for, by the giving
    host's clock."""

    snapshot: str
    pieces: AsyncIterator[bytes]
    at: float = 0.0


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of another host. `snapshot` empty: a new one of the live set of claim `epoch`, or with `if_changed`
    none where nothing has changed; with `last` the one that the live set becomes when it is set aside, which is waited
    for."""

    volume: str
    epoch: int
    snapshot: str = ""
    if_changed: bool = False
    last: bool = False
    limit_bytes_s: int = 0
    compress: bool = False


class Given(msgspec.Struct, frozen=True):
    """The other side of `Incoming`."""

    snapshot: str
    pieces: AsyncGenerator[bytes, None]
    at: float


class Round(msgspec.Struct, frozen=True):
    """One instant of several volumes: a snapshot of each, and when they were taken (seconds since the epoch)."""

    at: float
    snapshots: dict[str, str]


class VolumeSource(Protocol):
    """Other hosts' volumes."""

    async def round(self, host: str, volumes: Mapping[str, int]) -> Round:
        """Have a host take snapshots of volumes (name to epoch) that it holds. Raises as `open` does."""
        ...

    def open(self, host: str, wanted: Wanted, have: bytes) -> AbstractAsyncContextManager[Incoming]:
        """A stream from a host, less what this one has. Raises `Unavailable` if it does not come, and what the other
        host refuses it with."""
        ...


class VolumeKeeper:
    def __init__(
        self,
        host: str,
        mirror: Mirror,
        view: View,
        reporter: Reporter,
        engine: Engine,
        catalog: Catalog,
        now: Callable[[], float],
    ) -> None:
        self._host = host
        self._mirror = mirror
        self._view = view
        self._reporter = reporter
        self._engine = engine
        self._catalog = catalog
        self._now = now
        self.busy: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.in_use: Counter[tuple[str, str]] = Counter()
        self._set_aside: dict[str, asyncio.Future[str]] = {}
        self._sizes: dict[str, int] = {}
        self._limits: dict[str, int] = {}

    @property
    def _cluster(self) -> Cluster:
        return self._mirror.cluster

    def driver(self, volume: r.Volume) -> VolumeDriver:
        return self._catalog.driver(self.driver_name(volume))

    def driver_name(self, volume: r.Volume) -> str:
        return driver_of(self._cluster, volume) or self._catalog.names[0]

    def record(self, name: str) -> r.Volume:
        """Raises `NotFound` if the volume is gone."""
        volume = self._cluster.volumes.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    def held(self, name: str) -> r.Volume:
        """The volume's record. Raises `Conflict` if this host does not hold the claim."""
        volume = self.record(name)
        if volume.host != self._host:
            raise Conflict(f"volume {name} belongs to {volume.host or 'no host yet'}, not to {self._host}")
        return volume

    def path_at(self, volume: r.Volume, epoch: int) -> str:
        """Where the live set of an epoch will be on this host."""
        return self.driver(volume).path(volume.name, epoch)

    # -- looking -------------------------------------------------------------------------------------------------

    async def look_at_all(self) -> None:
        """Learn what the disk has of every volume that the records or the disk know."""
        answering = [name for name in self._catalog.names if await self._live_sets_of(name)]
        for name, volume in self._cluster.volumes.items():
            if not options_of(volume.body).engines and self.driver_name(volume) in answering:
                await self._look_safely(name)

    async def _live_sets_of(self, driver_name: str) -> bool:
        """Learn what live sets a driver has; False if it does not say."""
        try:
            self._view.live |= await self._catalog.driver(driver_name).live_sets()
        except DroverError as error:
            log.warning("a volume driver cannot say what it has", driver=driver_name, error=error.message)
            return False
        return True

    async def _look_safely(self, name: str) -> None:
        try:
            await self.look(name)
        except DroverError as error:
            log.warning("a volume cannot be looked at", volume=name, error=error.message)

    async def look(self, name: str, synced_at: float = 0.0) -> None:
        """Learn and report what the disk has of one volume. `synced_at`: as of when a copy here is up to date."""
        volume = self.record(name)
        driver = self.driver(volume)
        epoch, snapshots = await driver.live(name), tuple(await driver.snapshots(name))
        self._view.live.pop(name, None)
        if epoch:
            self._view.live[name] = epoch
        else:
            self._view.limits.pop(name, None)
        self._view.snapshots[name] = snapshots
        if epoch or snapshots or f"{self._host}/{name}" in self._cluster.volume_facts:
            key = r.key("volume_facts", self._host, name)
            before = self._facts(name) or r.VolumeFacts(volume=name, host=self._host)
            facts = r.VolumeFacts(
                volume=name,
                host=self._host,
                driver=self.driver_name(volume),
                epoch=epoch,
                had=max(before.had, before.epoch, epoch),
                snapshots=snapshots,
                size_bytes=self._sizes.get(name, before.size_bytes),
                limit_bytes=self._limits.get(name, before.limit_bytes) if epoch else 0,
                synced_at=max(before.synced_at, synced_at),
                backup=before.backup,
            )
            self._reporter.report(key, facts)

    def has(self, name: str, snapshot: str) -> bool:
        """Whether a snapshot was here when this host last looked."""
        return snapshot in self._view.snapshots.get(name, ())

    def is_live(self, volume: r.Volume) -> bool:
        """Whether this host has the live set of the claim."""
        return self._view.live.get(volume.name) == volume.epoch

    async def told(self, name: str) -> None:
        """Wait until what this host last said of a volume is what everybody reads."""
        said = self._facts(name)
        key = f"{self._host}/{name}"
        await self._mirror.until(
            lambda now: said is None or getattr(now.volume_facts.get(key), "snapshots", ()) == said.snapshots,
            READ_YOUR_WRITES_S,
            f"the store to take what is known of volume {name}",
        )

    def tell(self, name: str, **fields: object) -> None:
        """Report a change of what this host says of a volume."""
        key = r.key("volume_facts", self._host, name)
        before = self._facts(name) or r.VolumeFacts(volume=name, host=self._host)
        self._reporter.report(key, msgspec.structs.replace(before, **fields))

    def _facts(self, name: str) -> r.VolumeFacts | None:
        """What this host last said of a volume, written already or not."""
        known = self._reporter.known(r.key("volume_facts", self._host, name))
        if isinstance(known, r.VolumeFacts):
            return known
        return self._cluster.volume_facts.get(f"{self._host}/{name}")

    async def measure(self, name: str) -> None:
        """Learn the size of the live set."""
        volume = self.held(name)
        self._sizes[name] = await self.driver(volume).size_bytes(name)
        self.tell(name, size_bytes=self._sizes[name])

    # -- the claim -----------------------------------------------------------------------------------------------

    async def ensure(self, name: str) -> None:
        """Have the live set of the claim that this host holds, and the engine's volume bound to it."""
        volume = self.held(name)
        if volume.filling is not None:
            raise Unavailable(f"volume {name} is not ready: its {volume.filling.kind} is not done")
        body = dict(json.loads(volume.body)) if volume.body else {}
        if not options_of(volume.body).engines:
            async with self.busy[name]:
                path = await self._live_path(volume)
                if volume.size_bytes:
                    await self._limit(volume)
            await self.look(name)
            body["DriverOpts"] = bind_options(path, volume.read_only)
        await self.bind(volume, volume.epoch, body)

    async def limit(self, name: str) -> None:
        """Have the live set here limited as the record says."""
        async with self.busy[name]:
            await self._limit(self.held(name))
        await self.look(name)

    async def _limit(self, volume: r.Volume) -> None:
        kept = await self.driver(volume).limit(volume.name, volume.size_bytes)
        self._view.limits[volume.name] = volume.size_bytes
        self._limits[volume.name] = volume.size_bytes if kept else 0

    async def _live_path(self, volume: r.Volume) -> str:
        """The path of the live set, made by the module's table."""
        driver, name, epoch = self.driver(volume), volume.name, volume.epoch
        found = await driver.live(name)
        if found == epoch:
            return await driver.ensure(name, epoch)
        if found:
            await driver.demote(name, next_id(await driver.snapshots(name), found, self._now(), ASIDE))
        if volume.snapshot:
            return await driver.promote(name, volume.snapshot, epoch)
        facts = self._facts(name)
        if facts is not None and epoch in (facts.epoch, facts.had):
            raise Unavailable(
                f"the data of volume {name} is not where host {self._host} had it",
                hint="is its disk or pool mounted? It is never replaced by an empty one",
            )
        return await driver.ensure(name, epoch)

    async def bind(self, volume: r.Volume, epoch: int, body: dict[str, object]) -> None:
        """Have the engine's volume, with the path of this epoch. An older one of the same name is replaced."""
        if self._view.volumes.get(volume.name) == epoch:
            return
        if volume.name in self._view.volumes:
            await self.drop(volume.name)
        asked = body.get("Labels")
        labels = {**(asked if isinstance(asked, dict) else {}), VOLUME_LABEL: volume.name, EPOCH_LABEL: str(epoch)}
        await self._engine.create_volume(
            {**body, "Name": volume.name, "Driver": body.get("Driver") or "local", "Labels": labels}
        )
        self._view.volumes[volume.name] = epoch

    async def drop(self, name: str) -> None:
        """Remove the engine's volume; the data is not touched."""
        await self._engine.remove_volume(name)
        self._view.volumes.pop(name, None)

    async def set_aside(self, name: str, label: str = "") -> str:
        """Make the live set a snapshot and return its id; the newest one where that has happened already. With a
        `label` it is kept until a person removes it."""
        volume = self.record(name)
        driver = self.driver(volume)
        async with self.busy[name]:
            known = await driver.snapshots(name)
            epoch = await driver.live(name)
            if epoch:
                known = [*known, next_id(known, epoch, self._now(), label)]
                await driver.demote(name, known[-1])
        if known and (asked := self._set_aside.pop(name, None)) is not None and not asked.done():
            asked.set_result(known[-1])
        await self.look(name)
        if not known:
            raise NotFound(f"volume {name} has no data on {self._host}")
        return known[-1]

    async def put_back(self, name: str) -> None:
        """After a move that was aborted: the live set again, from the newest snapshot of the claim's own epoch."""
        volume = self.held(name)
        driver = self.driver(volume)
        async with self.busy[name]:
            own = [one for one in await driver.snapshots(name) if epoch_of(one) == volume.epoch]
            if not await driver.live(name) and own:
                await driver.promote(name, own[-1], volume.epoch)
        await self.look(name)

    async def remove(self, name: str) -> None:
        """The engine's volume, the data, and the record, in this order."""
        volume = self.record(name)
        await self.drop(name)
        if not options_of(volume.body).engines:
            async with self.busy[name]:
                await self.driver(volume).remove(name)
        self._view.live.pop(name, None)
        self._view.snapshots.pop(name, None)
        self._view.limits.pop(name, None)
        self._reporter.drop(r.key("volume_facts", self._host, name))
        key = r.key("volumes", name)
        changes = [delete(key), *self._leftovers(name)]
        revision = await self._reporter.commit(changes, {key: self._cluster.version(key)})
        await self._mirror.reached(revision, READ_YOUR_WRITES_S)

    def _leftovers(self, name: str) -> list[Change]:
        """The removals of what is said about a volume elsewhere."""
        key = volume_key(name)
        facts = [r.key("volume_facts", one) for one, f in self._cluster.volume_facts.items() if f.volume == name]
        told = [r.key("move_facts", one) for one in self._cluster.move_facts if one.endswith(f"/{key}")]
        moved = [r.key("moves", key)] if key in self._cluster.moves else []
        return [delete(one) for one in (*facts, *told, *moved)]

    def is_gone(self, name: str) -> None:
        """The record is no more: what was true of that volume is not true of the next one of its name."""
        self._reporter.drop(r.key("volume_facts", self._host, name))
        self._sizes.pop(name, None)
        self._limits.pop(name, None)

    async def remove_copy(self, name: str) -> None:
        """Delete what this host has of a volume whose claim is another's."""
        async with self.busy[name]:
            await self.driver(self.record(name)).remove(name)
        await self.look(name)

    async def tidy(self, name: str, snapshots: tuple[str, ...]) -> None:
        """Delete snapshots that nobody needs."""
        unused = [one for one in snapshots if (name, one) not in self.in_use]
        async with self.busy[name]:
            await self.driver(self.record(name)).forget(name, unused)
        await self.look(name)

    @asynccontextmanager
    async def using(self, name: str, snapshot: str) -> AsyncIterator[None]:
        """For this block a snapshot is not tidied away: somebody reads it."""
        self.in_use[name, snapshot] += 1
        try:
            yield
        finally:
            self.in_use[name, snapshot] -= 1
            if not self.in_use[name, snapshot]:
                del self.in_use[name, snapshot]

    # -- between hosts -------------------------------------------------------------------------------------------

    async def receive(
        self,
        source: VolumeSource,
        host: str,
        wanted: Wanted,
        counted: Callable[[int], None],
        synced_at: float | None = None,
    ) -> None:
        """Have a snapshot of another host's volume here. `counted` is told the bytes of each piece; `synced_at`: as of
        when that makes the copy equal to the live set (default: as of the asking)."""
        driver = self.driver(self.record(wanted.volume))
        if wanted.snapshot and wanted.snapshot in await driver.snapshots(wanted.volume):
            await self.look(wanted.volume, synced_at=synced_at or 0.0)
            return
        async with self.busy[wanted.volume]:
            try:
                at = await _received(driver, source, host, wanted, await driver.have(wanted.volume), counted)
            except NoBase:
                at = await _received(driver, source, host, wanted, b"", counted)
        await self.look(wanted.volume, synced_at=at if synced_at is None else synced_at)

    async def prepare(self, name: str, snapshot: str) -> None:
        """Have done ahead what making the live set of a snapshot takes time for."""
        async with self.busy[name]:
            await self.driver(self.record(name)).prepare(name, snapshot)

    def of_epoch(self, name: str, epoch: int) -> r.Volume:
        """The record of a volume that this host holds in that epoch and that is ready."""
        volume = self.record(name)
        if (volume.host, volume.epoch) != (self._host, epoch):
            raise Conflict(f"{self._host} does not hold epoch {epoch} of volume {name}")
        if volume.filling is not None:
            raise Conflict(f"volume {name} is not ready: its {volume.filling.kind} is not done")
        return volume

    async def give(self, wanted: Wanted, have: bytes) -> Given:
        """The other side of `receive`. A new snapshot only while this host holds the claim of that epoch."""
        volume, at = self.record(wanted.volume), self._now()
        driver = self.driver(volume)
        if wanted.snapshot:
            return Given(wanted.snapshot, self._sent(driver, volume.name, wanted.snapshot, have), at)
        self.of_epoch(volume.name, wanted.epoch)
        if wanted.last:
            snapshot = await self._becomes(volume.name, driver)
            return Given(snapshot, self._sent(driver, volume.name, snapshot, have), at)
        if wanted.if_changed and await driver.unchanged(volume.name, have):
            return Given("", _nothing(), at)
        async with self.busy[volume.name]:
            snapshot = next_id(await driver.snapshots(volume.name), volume.epoch, self._now())
            await driver.snapshot(volume.name, snapshot)
        if not have:  # all of it goes: worth knowing how much that is, for who waits
            self._sizes[volume.name] = await driver.size_bytes(volume.name)
        await self.look(volume.name)
        return Given(snapshot, self._sent(driver, volume.name, snapshot, have), at)

    async def _becomes(self, name: str, driver: VolumeDriver) -> str:
        """The snapshot that the live set here becomes, or has become. Raises `Unavailable` if that takes long."""
        asked = self._set_aside.setdefault(name, asyncio.get_running_loop().create_future())
        try:
            if not await driver.live(name) and not asked.done():
                return (await driver.snapshots(name))[-1]
            async with asyncio.timeout(LAST_S):
                return await asyncio.shield(asked)
        except (TimeoutError, IndexError):
            raise Unavailable(f"volume {name} has no last snapshot on {self._host}", hint="ask again") from None

    async def _sent(self, driver: VolumeDriver, name: str, snapshot: str, have: bytes) -> AsyncGenerator[bytes, None]:
        async with self.using(name, snapshot), aclosing(driver.send(name, snapshot, have)) as pieces:
            async for piece in pieces:
                yield piece


async def _received(
    driver: VolumeDriver,
    source: VolumeSource,
    host: str,
    wanted: Wanted,
    have: bytes,
    counted: Callable[[int], None],
) -> float:
    """Receive one snapshot; as of when the copy is equal to the live set, by the giving host's clock."""
    async with source.open(host, wanted, have) as incoming, aclosing(told(incoming.pieces, counted)) as pieces:
        if incoming.snapshot:
            await driver.receive(wanted.volume, incoming.snapshot, pieces)
        return incoming.at


async def told(pieces: AsyncIterator[bytes], counted: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    """The pieces; `counted` is told the bytes of each."""
    async for piece in pieces:
        counted(len(piece))
        yield piece


async def _nothing() -> AsyncGenerator[bytes, None]:
    for piece in tuple[bytes, ...]():
        yield piece


def bind_options(path: str, read_only: bool = False) -> dict[str, str]:
    """The driver options of an engine's volume that is a path."""
    return {"type": "none", "o": "bind,ro" if read_only else "bind", "device": path}
