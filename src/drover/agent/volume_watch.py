"""`VolumeWatch`: how much space volumes and their disks have, looked at beside everything else.

Theory of operation. Two loops, neither of which anybody waits for:

    loop      what                                     how often
    space     each driver's disk, told in hundredths   every SPACE_S: copies pause by it (`decide.volume_space`)
    sizes     one volume held here after the other     each SIZE_S at most, and REST times as long as looking took

A driver that does not answer is a word in the facts of its disk; when it answers again, what it has is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from drover.agent.report import Reporter
from drover.agent.volumes import VolumeKeeper
from drover.drivers.volumes.catalog import Catalog
from drover.errors import DroverError
from drover.model import records as r
from drover.model.volume_options import options_of
from drover.store.mirror import Mirror

log = structlog.get_logger()

SPACE_S = 5.0
SIZE_S = 60.0
REST = 50
STEPS = 200
"""A disk's space is told in so many steps: a smaller change is not worth a write to the store."""


class VolumeWatch:
    def __init__(
        self,
        host: str,
        mirror: Mirror,
        reporter: Reporter,
        keeper: VolumeKeeper,
        catalog: Catalog,
        now: Callable[[], float],
    ) -> None:
        self._host = host
        self._mirror = mirror
        self._reporter = reporter
        self._keeper = keeper
        self._catalog = catalog
        self._now = now
        self._silent: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._spaces())
            group.create_task(self._sizes())

    async def _spaces(self) -> None:
        while True:
            await asyncio.gather(*(self._space(name) for name in self._catalog.names))
            await asyncio.sleep(SPACE_S)

    async def _space(self, name: str) -> None:
        seen = r.VolumeSpace(host=self._host, driver=name)
        try:
            space = await self._catalog.driver(name).space()
            step = max(1, space.total_bytes // STEPS)
            seen = r.VolumeSpace(
                host=self._host, driver=name, total_bytes=space.total_bytes, free_bytes=space.free_bytes // step * step
            )
            if name in self._silent:
                self._silent.discard(name)
                await self._keeper.look_at_all()
        except DroverError as error:
            self._silent.add(name)
            seen = r.VolumeSpace(host=self._host, driver=name, message=error.message)
        self._reporter.report(r.key("volume_space", self._host, name), seen)

    async def _sizes(self) -> None:
        while True:
            began_at = self._now()
            for name in [volume.name for volume in self._mirror.cluster.volumes.values() if self._measured(volume)]:
                await self._size(name)
            await asyncio.sleep(max(1.0, SIZE_S - (self._now() - began_at)))

    def _measured(self, volume: r.Volume) -> bool:
        held = volume.host == self._host and not volume.removed and volume.filling is None
        return held and not options_of(volume.body).engines and self._keeper.is_live(volume)

    async def _size(self, name: str) -> None:
        began_at = self._now()
        try:
            await self._keeper.measure(name)
        except DroverError as error:
            log.warning("a volume cannot be measured", volume=name, error=error.message)
        await asyncio.sleep(min(SIZE_S, REST * (self._now() - began_at)))
