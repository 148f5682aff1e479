"""`VolumeRounds`: copies of volumes kept up to date, those that one container uses together in one round.

Theory of operation. The host with the copies asks the holder for a round: one instant of all the volumes, as a snapshot
of each (a new one only of what has changed), and then fetches those it does not have. A driver that has no instants is
asked for one volume after the other. Who asks when, and what it may cost, is decided in `decide.replicas`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

from drover.agent.view import View
from drover.agent.volumes import Round, VolumeKeeper, VolumeSource, Wanted
from drover.decide.replicas import next_refresh
from drover.model import records as r
from drover.model.snapshots import label_of, next_id

AT_ONCE = 4
"""Streams of one round that come at a time."""


class VolumeRounds:
    def __init__(self, keeper: VolumeKeeper, view: View, now: Callable[[], float]) -> None:
        self._keeper = keeper
        self._view = view
        self._now = now
        self._refreshing = asyncio.Lock()

    async def refresh(self, source: VolumeSource, names: Sequence[str]) -> None:
        """Bring this host's copies of volumes that go together up to date. One round at a time, and each followed by a
        rest (`decide.replicas`)."""
        async with self._refreshing:
            volumes, began_at = [self._keeper.record(name) for name in names], self._now()
            try:
                if self._keeper.driver(volumes[0]).instant:
                    await self._round(source, volumes)
                else:
                    for volume in volumes:
                        wanted = Wanted(volume=volume.name, epoch=volume.epoch, if_changed=True)
                        await self._keeper.receive(source, volume.host, wanted, lambda _: None)
            finally:
                due_at = next_refresh(min(volume.interval_s for volume in volumes), began_at, self._now())
                self._view.refresh_at |= dict.fromkeys(names, due_at)

    async def _round(self, source: VolumeSource, volumes: Sequence[r.Volume]) -> None:
        """One instant of all of them: what this host does not have of it is fetched, a few at a time."""
        host = volumes[0].host
        taken = await source.round(host, {volume.name: volume.epoch for volume in volumes})
        at_once = asyncio.Semaphore(AT_ONCE)

        async def one(volume: r.Volume) -> None:
            async with at_once:
                snapshot = taken.snapshots[volume.name]
                if self._keeper.has(volume.name, snapshot):
                    self._keeper.tell(volume.name, synced_at=taken.at)
                    return
                wanted = Wanted(volume=volume.name, epoch=volume.epoch, snapshot=snapshot)
                await self._keeper.receive(source, host, wanted, lambda _: None, synced_at=taken.at)

        for error in await asyncio.gather(*map(one, volumes), return_exceptions=True):
            if error is not None:  # one that fails holds up none of the others
                raise error

    async def take_round(self, asked: Mapping[str, int]) -> Round:
        """The other side of it: of each volume (held in that epoch) the newest snapshot, if nothing has changed since,
        else a new one; new ones are taken one right after the other."""
        async with AsyncExitStack() as held:
            for name in sorted(asked):
                await held.enter_async_context(self._keeper.busy[name])
            volumes = [self._keeper.of_epoch(name, epoch) for name, epoch in asked.items()]
            found = {volume.name: await self._unchanged_since(volume) for volume in volumes}
            at = self._now()
            changed = {
                volume.name: next_id(await self._keeper.driver(volume).snapshots(volume.name), volume.epoch, at)
                for volume in volumes
                if not found[volume.name]
            }
            for name, snapshot in changed.items():
                await self._keeper.driver(self._keeper.record(name)).snapshot(name, snapshot)
        for name in changed:
            await self._keeper.look(name)
        return Round(at, found | changed)

    async def _unchanged_since(self, volume: r.Volume) -> str:
        """The newest snapshot, if the live set is equal to it; else nothing."""
        driver = self._keeper.driver(volume)
        ids = await driver.snapshots(volume.name)
        ours = await driver.have(volume.name) if ids and not label_of(ids[-1]) else b""
        return ids[-1] if ours and await driver.unchanged(volume.name, ours) else ""
