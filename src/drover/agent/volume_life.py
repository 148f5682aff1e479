"""`VolumeLife`: what people do with the volumes of one host: snapshots, rollbacks, clones, tar archives, backups.

Theory of operation. What makes a live set anew is a `Fill` in the volume's record (`decide.fills`) and is carried out
here, by `fill`, as often as it takes. What reads a volume (export, backup) takes a snapshot of its own, holds on to it
while it reads, and lets it be tidied away afterwards.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec

from drover.agent.report import Reporter
from drover.agent.volumes import READ_YOUR_WRITES_S, VolumeKeeper
from drover.decide import fills
from drover.decide.moves import Commit
from drover.drivers.backups.port import Backups
from drover.drivers.volumes import archive
from drover.drivers.volumes.port import VolumeDriver
from drover.errors import Conflict, DroverError, Invalid, MissingTool, NotFound, Unavailable
from drover.model import records as r
from drover.model.snapshots import label_of, next_id
from drover.store.mirror import Mirror


class VolumeLife:
    def __init__(
        self,
        host: str,
        mirror: Mirror,
        reporter: Reporter,
        keeper: VolumeKeeper,
        backups: Backups | None,
        now: Callable[[], float],
    ) -> None:
        self._host = host
        self._mirror = mirror
        self._reporter = reporter
        self._keeper = keeper
        self._given = backups
        self._now = now

    @property
    def _backups(self) -> Backups:
        if self._given is None:
            raise MissingTool(f"host {self._host} makes no backups", hint="install restic there")
        return self._given

    # -- snapshots -----------------------------------------------------------------------------------------------

    async def snapshot(self, name: str, label: str) -> str:
        """Take a snapshot; its id. With a label it is kept until it is removed. Raises `Invalid` where the driver
        cannot keep one."""
        volume = self._ready(name)
        driver = self._keeper.driver(volume)
        if not driver.instant or (label and driver.synchronous):
            raise Invalid(
                f"the driver {self._keeper.driver_name(volume)} of volume {name} has no snapshots of live files",
                hint=f"btrfs has; or name one of its copies: {fills.see_snapshots(name)}",
            )
        return await self._taken(volume, driver, label)

    async def _taken(self, volume: r.Volume, driver: VolumeDriver, label: str = "") -> str:
        name = volume.name
        async with self._keeper.busy[name]:
            snapshot = next_id(await driver.snapshots(name), volume.epoch, self._now(), label)
            await driver.snapshot(name, snapshot)
        await self._keeper.look(name)
        return snapshot

    def _ready(self, name: str) -> r.Volume:
        """The record of a volume that this host holds and that is no half-made one."""
        self._keeper.held(name)
        return fills.existing(self._mirror.cluster, name)

    async def forget(self, name: str, snapshot: str) -> None:
        """Remove a person's snapshot from this host."""
        volume = self._keeper.record(name)
        if not label_of(snapshot):
            raise Conflict("Drover needs this snapshot itself, and removes it", hint="those with a name are yours")
        if snapshot not in await self._keeper.driver(volume).snapshots(name):
            raise NotFound(f"volume {name} has no snapshot {snapshot} on {self._host}", hint=fills.see_snapshots(name))
        await self._keeper.tidy(name, (snapshot,))

    # -- live sets made anew -------------------------------------------------------------------------------------

    async def fill(self, name: str) -> None:
        """Make the live set what the record's `filling` says. Repeats what was cut; an import has to be sent again."""
        volume = self._keeper.held(name)
        if volume.filling is None:
            return
        if volume.filling.kind == "import":
            raise Unavailable(f"volume {name} waits for its import", hint=f"drover volume import {name} FILE")
        try:
            async with self._emptied(volume) as driver:
                await self._make(volume, volume.filling, driver)
        except DroverError as error:
            self._keeper.tell(name, message=f"cannot be made by {volume.filling.kind} yet: {error.message}")
            raise

    async def take_in(self, name: str, stream: AsyncIterator[bytes]) -> None:
        """Fill a volume that waits for an import from a tar archive. If that fails, the volume goes again."""
        volume = self._keeper.held(name)
        if volume.filling is None or volume.filling.kind != "import":
            raise Conflict(f"volume {name} waits for no import", hint="import makes a new volume: choose another name")
        try:
            async with self._emptied(volume) as driver:
                await archive.unpack(stream, Path(await driver.ensure(name, volume.epoch)))
        except DroverError:
            await self._keeper.remove(name)
            raise

    @asynccontextmanager
    async def _emptied(self, volume: r.Volume) -> AsyncIterator[VolumeDriver]:
        """No live set at the block's beginning, by the table of `decide.fills`; at its end the volume is ready."""
        name, driver, filling = volume.name, self._keeper.driver(volume), volume.filling
        assert filling is not None
        async with self._keeper.busy[name]:
            if epoch := await driver.live(name):
                known = await driver.snapshots(name)
                keep = bool(filling.aside) and filling.aside not in known
                aside = filling.aside if keep else next_id(known, epoch, self._now())
                await driver.demote(name, aside)
                if not keep:
                    await driver.forget(name, [aside])
            yield driver
        await self._keeper.look(name)
        await self._commit(fills.filled(self._mirror.cluster, name, filling))

    async def _make(self, volume: r.Volume, filling: r.Fill, driver: VolumeDriver) -> None:
        name, epoch = volume.name, volume.epoch
        if filling.kind == "restore":
            root = Path(await driver.ensure(name, epoch))
            await self._backups.restore(
                filling.repository, filling.source, filling.snapshot, root, lambda text: self._restoring(name, text)
            )
        else:
            await driver.clone(filling.source or name, filling.snapshot, name, epoch)

    def _restoring(self, name: str, text: str) -> None:
        self._keeper.tell(name, message=f"is being restored: {text}")

    async def _commit(self, commit: Commit | None) -> None:
        if commit is not None:
            revision = await self._reporter.commit(list(commit.changes), commit.expect)
            await self._mirror.reached(revision, READ_YOUR_WRITES_S)

    # -- reading -------------------------------------------------------------------------------------------------

    async def export(self, name: str, snapshot: str) -> AsyncGenerator[bytes, None]:
        """A tar archive of a snapshot on this host; of the volume as it is now for an empty one."""
        volume = self._ready(name) if not snapshot else self._keeper.record(name)
        async with self._reading(volume, snapshot) as (root, live), aclosing(archive.pack(root, live)) as pieces:
            async for piece in pieces:
                yield piece

    @asynccontextmanager
    async def _reading(self, volume: r.Volume, snapshot: str = "") -> AsyncIterator[tuple[Path, bool]]:
        """Where a snapshot's files are (empty: of now), and whether they are being written; it stays meanwhile."""
        driver = self._keeper.driver(volume)
        snapshot = snapshot or await self._taken(volume, driver)
        try:
            async with self._keeper.using(volume.name, snapshot):
                yield Path(await driver.files(volume.name, snapshot)), not driver.instant
        finally:
            if not driver.instant and snapshot not in await driver.snapshots(volume.name):
                await driver.forget(volume.name, [snapshot])  # a view of the live set

    async def back_up(self, name: str) -> None:
        """Make the backup that is due. What comes of it is in the volume's facts; a failure is one too."""
        volume = self._ready(name)
        plan = volume.backup
        if plan is None:
            return
        begun = r.BackupFacts(asked=plan.asked, tried_at=self._now())
        try:
            async with self._reading(volume) as (root, _live):
                told = msgspec.structs.replace(begun, asked=0)
                identity = await self._backups.save(
                    plan.repository, name, root, lambda text: self._tell(name, told, progress=text)
                )
            self._tell(name, begun, at=begun.tried_at, id=identity)
            if plan.keep:
                await self._backups.thin_out(plan.repository, name, plan.keep)
        except DroverError as error:
            self._tell(name, begun, failure=error.message)

    def _tell(self, name: str, facts: r.BackupFacts, **fields: object) -> None:
        """Report on a backup; what is known of the last good one stays."""
        seen = self._mirror.cluster.volume_facts.get(f"{self._host}/{name}")
        last = seen.backup if seen is not None else r.BackupFacts()
        known = {"at": last.at, "id": last.id} | ({"asked": last.asked} if "progress" in fields else {})
        self._keeper.tell(name, backup=msgspec.structs.replace(facts, **(known | fields)))
