"""What every volume driver keeps to: the suite that each one passes, the fake included.

A test gets two hosts' drivers (`here`, `there`). `files` is how a container would write.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from drover.drivers.volumes.port import NoBase, VolumeDriver
from drover.errors import Conflict, DroverError, NotFound
from drover.model.snapshots import next_id

T0 = 4_000_000_000.0
"""Later than any file's time: a driver that goes by times may rely on them."""


class Files(Protocol):
    """Reads and writes files of a live set of one driver, as a container would below `path`."""

    def write(self, driver: VolumeDriver, path: str, name: str, text: str) -> None: ...

    def read(self, driver: VolumeDriver, path: str) -> dict[str, str]: ...


def ids(count: int, epoch: int = 1) -> list[str]:
    """Snapshot ids, oldest first."""
    return [next_id([], epoch, T0 + 100 * number) for number in range(count)]


async def copy(source: VolumeDriver, target: VolumeDriver, snapshot: str) -> int:
    """Send a snapshot of `data` from one to the other; the bytes that travelled."""
    total_bytes = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal total_bytes
        async for piece in source.send("data", snapshot, await target.have("data")):
            total_bytes += len(piece)
            yield piece

    await target.receive("data", snapshot, counted())
    return total_bytes


class VolumeContract:
    """Subclasses give the fixtures `here`, `there` (drivers) and `files`."""

    async def test_a_live_set_is_made_once_and_found(self, here: VolumeDriver, files: Files) -> None:
        assert await here.live("data") == 0
        path = await here.ensure("data", 3)
        files.write(here, path, "fish", "1")
        assert await here.ensure("data", 3) == path
        assert files.read(here, path) == {"fish": "1"}
        assert await here.live("data") == 3
        assert await here.live_sets() == {"data": 3}

    async def test_an_old_or_new_epoch_is_refused(self, here: VolumeDriver) -> None:
        await here.ensure("data", 3)
        for epoch in (2, 4):
            with pytest.raises(Conflict):
                await here.ensure("data", epoch)
        assert await here.live_sets() == {"data": 3}

    async def test_each_epoch_has_a_path_of_its_own(self, here: VolumeDriver) -> None:
        first, second = ids(2)
        before = await here.ensure("data", 3)
        await here.demote("data", first)
        assert await here.promote("data", first, 4) != before
        await here.demote("data", second)
        assert await here.live("data") == 0

    async def test_what_is_demoted_is_a_snapshot_and_comes_back(self, here: VolumeDriver, files: Files) -> None:
        (first,) = ids(1)
        path = await here.ensure("data", 1)
        files.write(here, path, "fish", "1")
        await here.demote("data", first)
        await here.demote("data", first)
        assert (await here.live("data"), await here.snapshots("data")) == (0, [first])
        assert files.read(here, await here.promote("data", first, 1)) == {"fish": "1"}

    async def test_a_promoted_set_is_not_promoted_over(self, here: VolumeDriver, files: Files) -> None:
        (first,) = ids(1)
        await here.ensure("data", 1)
        await here.demote("data", first)
        path = await here.promote("data", first, 2)
        files.write(here, path, "fish", "2")
        assert await here.promote("data", first, 2) == path
        assert files.read(here, path) == {"fish": "2"}

    async def test_a_snapshot_that_is_not_there_is_not_promoted(self, here: VolumeDriver) -> None:
        with pytest.raises(NotFound):
            await here.promote("data", ids(1)[0], 1)
        assert await here.live("data") == 0

    async def test_what_is_prepared_is_not_live_and_is_promoted_as_ever(self, here: VolumeDriver, files: Files) -> None:
        first, second = ids(2)
        path = await here.ensure("data", 1)
        files.write(here, path, "fish", "1")
        await here.demote("data", first)
        for _ in range(2):
            await here.prepare("data", first)
        assert (await here.live("data"), await here.live_sets()) == (0, {})
        assert await here.snapshots("data") == [first]
        path = await here.promote("data", first, 2)
        files.write(here, path, "fish", "2")
        await here.prepare("data", first)
        assert files.read(here, await here.promote("data", first, 2)) == {"fish": "2"}
        await here.demote("data", second)
        await here.prepare("data", second)
        assert files.read(here, await here.promote("data", second, 3)) == {"fish": "2"}

    async def test_data_moves_and_only_the_difference_moves_back(
        self, here: VolumeDriver, there: VolumeDriver, files: Files
    ) -> None:
        first, second, third = ids(3)
        path = await here.ensure("data", 1)
        files.write(here, path, "big", "x" * 200_000)
        files.write(here, path, "gone", "soon")
        await here.snapshot("data", first)
        whole_bytes = await copy(here, there, first)
        files.write(here, path, "fish", "1")
        await here.demote("data", second)
        await copy(here, there, second)
        path = await there.promote("data", second, 2)
        assert files.read(there, path)["fish"] == "1"
        files.write(there, path, "fish", "2")
        await there.demote("data", third)
        back_bytes = await copy(there, here, third)
        assert files.read(here, await here.promote("data", third, 3))["fish"] == "2"
        assert back_bytes * 5 < whole_bytes or whole_bytes < 1000

    async def test_a_cut_stream_leaves_nothing_and_the_next_one_works(
        self, here: VolumeDriver, there: VolumeDriver, files: Files
    ) -> None:
        (first,) = ids(1)
        path = await here.ensure("data", 1)
        files.write(here, path, "fish", "1" * 100_000)
        await here.demote("data", first)
        whole = b"".join([piece async for piece in here.send("data", first, b"")])
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            with pytest.raises(DroverError):
                await there.receive("data", first, _pieces(whole[:length]))
            assert await there.snapshots("data") == []
        await there.receive("data", first, _pieces(whole))
        await there.receive("data", first, _pieces(whole))
        assert await there.snapshots("data") == [first]

    async def test_a_failing_stream_passes_its_error_on(self, there: VolumeDriver) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"x"
            raise NotFound("the other host went")

        with pytest.raises(DroverError):
            await there.receive("data", ids(1)[0], broken())
        assert await there.snapshots("data") == []

    async def test_a_base_that_went_meanwhile_is_named(
        self, here: VolumeDriver, there: VolumeDriver, files: Files
    ) -> None:
        first, second = ids(2)
        path = await here.ensure("data", 1)
        files.write(here, path, "fish", "1")
        await here.snapshot("data", first)
        await copy(here, there, first)
        have = await there.have("data")
        await here.demote("data", second)
        stream = [piece async for piece in here.send("data", second, have)]
        if not have:
            return
        await there.forget("data", [first])
        with pytest.raises(NoBase):
            await there.receive("data", second, _pieces(b"".join(stream)))
        await copy(here, there, second)
        assert await there.snapshots("data") == [second]

    async def test_snapshots_are_forgotten_and_volumes_removed(
        self, here: VolumeDriver, there: VolumeDriver, files: Files
    ) -> None:
        first, second = ids(2)
        files.write(here, await here.ensure("data", 1), "fish", "1")
        await here.demote("data", first)
        await copy(here, there, first)
        await there.forget("data", [first, second])
        assert await there.snapshots("data") == []
        await here.promote("data", first, 2)
        await here.remove("data")
        await here.remove("data")
        assert (await here.live_sets(), await here.snapshots("data")) == ({}, [])

    async def test_a_clone_is_a_volume_of_its_own(self, here: VolumeDriver, files: Files) -> None:
        (first,) = ids(1)
        await here.ensure("data", 1)
        await here.demote("data", first)
        path = await here.clone("data", first, "other", 2)
        assert await here.clone("data", first, "other", 2) == path
        await here.remove("data")
        assert (await here.live_sets(), await here.snapshots("other")) == ({"other": 2}, [])
        with pytest.raises(NotFound):
            await here.clone("data", first, "third", 1)
        await here.remove("other")

    async def test_what_people_keep_outlives_a_promotion(self, here: VolumeDriver, files: Files) -> None:
        if here.synchronous:
            return  # one content, whatever it is called
        (first,), aside = ids(1), next_id([], 1, T0 - 100, "aside")
        path = await here.ensure("data", 1)
        files.write(here, path, "fish", "1")
        await here.demote("data", aside)
        files.write(here, await here.clone("data", aside, "data", 2), "fish", "2")
        await here.demote("data", first)
        assert aside in await here.snapshots("data")
        files.write(here, await here.promote("data", first, 3), "fish", "3")
        assert aside in await here.snapshots("data")
        await here.demote("data", next_id([], 3, T0 + 100))
        assert files.read(here, await here.clone("data", aside, "data", 4)) == {"fish": "1"}

    async def test_a_limit_is_kept_or_refused(self, here: VolumeDriver) -> None:
        await here.ensure("data", 1)
        kept = await here.limit("data", 1 << 30)
        assert await here.limit("data", 1 << 30) == kept
        assert await here.limit("data", 0)

    async def test_sizes_and_space(self, here: VolumeDriver, files: Files) -> None:
        path = await here.ensure("data", 1)
        files.write(here, path, "fish", "x" * 100_000)
        await asyncio.to_thread(_settle, Path(path))
        assert await here.size_bytes("data") >= 100_000
        space = await here.space()
        assert 0 < space.free_bytes <= space.total_bytes


def _settle(path: Path) -> None:
    """Have it on disk: some filesystems count nothing else."""
    if path.exists():
        subprocess.run(["sync", "--file-system", path], check=True)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65536):
        yield data[start : start + 65536]
