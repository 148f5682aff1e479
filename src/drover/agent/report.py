"""`Reporter`: writes this host's own facts to the store, newest value only, many in one commit.

A fact that is overtaken before it could be written is never written. While the store does not answer, facts are kept
and written when it is back; nothing else waits for them. Commits of other records go beside the writing of facts: only
one that has a key in common with facts on their way waits for those, and no fact of its keys is chosen meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import msgspec
import structlog

from drover.drivers.engine.port import SeenContainer
from drover.errors import DroverError
from drover.model import records as r
from drover.model.cluster import Change, put
from drover.store.port import Store

log = structlog.get_logger()

BATCH = 64
RETRY_S = 0.5


def container_facts(
    host: str,
    container: str,
    seen: SeenContainer | None,
    answer: r.Answer,
    progress: str = "",
    *,
    interrupted: bool = False,
    unhealthy_restarts: int = 0,
    restarts: int = 0,
) -> r.ContainerFacts:
    """The facts record of one container: what the engine shows (None: it does not have it) and the last answer."""
    if seen is None:
        return r.ContainerFacts(container=container, host=host, answer=answer, progress=progress)
    return r.ContainerFacts(
        container=container,
        host=host,
        engine_id=seen.engine_id,
        state=seen.state,
        exit_code=seen.exit_code,
        oom=seen.oom,
        health=seen.health,
        error=seen.error,
        pid=seen.pid,
        started_at=seen.started_at,
        finished_at=seen.finished_at,
        image=seen.image,
        epoch=seen.epoch,
        interrupted=interrupted,
        unhealthy_restarts=unhealthy_restarts,
        restarts=restarts,
        answer=answer,
        progress=progress,
    )


class Reporter:
    """Latest facts by store key, and the loop that writes those that changed."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._written: dict[str, r.Record] = {}
        self._dirty: dict[str, r.Record] = {}
        self._wake = asyncio.Event()
        self._writing: frozenset[str] = frozenset()
        self._written_now = asyncio.Event()
        self._reserved: Counter[str] = Counter()

    def adopt(self, key: str, record: r.Record) -> None:
        """What the store already holds: not written again if it has not changed."""
        self._written[key] = record

    def known(self, key: str) -> r.Record | None:
        """The newest fact under a key, written or not."""
        return self._dirty.get(key, self._written.get(key))

    def report(
        self,
        key: str,
        record: r.ContainerFacts | r.HostFacts | r.NetworkFacts | r.VolumeFacts | r.VolumeSpace | r.MoveFacts,
    ) -> None:
        """Have it written soon, if it differs from what was written last (its time aside)."""
        if self._same(self.known(key), record):
            return
        if not isinstance(record, r.NetworkFacts):
            record = msgspec.structs.replace(record, at=self._now())
        self._dirty[key] = record
        self._wake.set()

    def drop(self, key: str) -> None:
        """The record is being removed: do not write it any more."""
        self._dirty.pop(key, None)
        self._written.pop(key, None)

    @staticmethod
    def _same(old: r.Record | None, new: r.Record) -> bool:
        if old is None or not hasattr(old, "at"):
            return old == new
        return bool(msgspec.structs.replace(old, at=0.0) == msgspec.structs.replace(new, at=0.0))

    async def run(self) -> None:
        """Write what changed, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty:
                if not await self._flush():
                    await asyncio.sleep(RETRY_S)

    async def _flush(self) -> bool:
        free = [item for item in self._dirty.items() if item[0] not in self._reserved]
        batch = dict(free[:BATCH])
        if not batch:
            await self._wake.wait()  # for the end of the commits that they wait for, or another fact
            self._wake.clear()
            return True
        self._writing = frozenset(batch)
        try:
            await self._store.commit([put(k, v) for k, v in batch.items()])
        except DroverError as error:
            log.warning("facts not written yet", error=error.message, waiting=len(self._dirty))
            return False
        finally:
            self._writing = frozenset()
            self._written_now.set()
        for key, record in batch.items():
            self._written[key] = record
            if self._dirty.get(key) is record:
                del self._dirty[key]
        return True

    async def commit(self, changes: list[Change], expect: dict[str, int]) -> int:
        """Commit other records, never one between a fact of its key's choice and writing."""
        keys = frozenset(change.key for change in changes)
        self._reserved.update(keys)
        try:
            while keys & self._writing:
                self._written_now.clear()
                await self._written_now.wait()
            for change in changes:
                if change.record is None:
                    self.drop(change.key)
            return await self._store.commit(changes, expect)
        finally:
            self._reserved -= Counter(keys)
            self._wake.set()
