"""The volume contract on every driver; what a filesystem holds beside names and contents."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from volume_contract import T0, Files, VolumeContract, copy, ids

from drover.drivers.volumes.btrfs import BtrfsVolumes
from drover.drivers.volumes.directory import DirectoryVolumes
from drover.drivers.volumes.fake import FakeVolumes
from drover.drivers.volumes.layout import Layout
from drover.drivers.volumes.pool import make_pool, mount_pool
from drover.drivers.volumes.port import VolumeDriver
from drover.drivers.volumes.shared import SharedVolumes
from drover.errors import Conflict, Unavailable


class RealFiles(Files):
    def write(self, driver: VolumeDriver, path: str, name: str, text: str) -> None:
        (Path(path) / name).write_text(text)

    def read(self, driver: VolumeDriver, path: str) -> dict[str, str]:
        return {file.name: file.read_text() for file in Path(path).iterdir()}


class FakeFiles(Files):
    def write(self, driver: VolumeDriver, path: str, name: str, text: str) -> None:
        assert isinstance(driver, FakeVolumes)
        driver.write("data", name, text)

    def read(self, driver: VolumeDriver, path: str) -> dict[str, str]:
        assert isinstance(driver, FakeVolumes)
        return driver.read("data")


class TestFake(VolumeContract):
    @pytest.fixture
    def here(self) -> VolumeDriver:
        return FakeVolumes()

    @pytest.fixture
    def there(self) -> VolumeDriver:
        return FakeVolumes()

    @pytest.fixture
    def files(self) -> Files:
        return FakeFiles()


class _OnDisk(VolumeContract):
    @pytest.fixture
    def files(self) -> Files:
        return RealFiles()


class TestDirectory(_OnDisk):
    @pytest.fixture
    def here(self, tmp_path: Path) -> VolumeDriver:
        return DirectoryVolumes(tmp_path / "h1")

    @pytest.fixture
    def there(self, tmp_path: Path) -> VolumeDriver:
        return DirectoryVolumes(tmp_path / "h2")

    async def test_everything_a_tree_can_hold_arrives(
        self, tmp_path: Path, here: VolumeDriver, there: VolumeDriver
    ) -> None:
        root = Path(await here.ensure("data", 1))
        _fill(root)
        first, second = ids(2)
        await here.snapshot("data", first)
        await copy(here, there, first)
        (root / "late").write_text("1")
        await here.demote("data", second)
        await copy(here, there, second)
        came = Path(await there.promote("data", second, 2))
        assert _seen(came) == _seen(Layout(tmp_path / "h1").snapshot("data", second))
        assert os.stat(came / "one").st_ino == os.stat(came / "two").st_ino
        assert os.stat(came / "sparse").st_blocks < 100

    async def test_files_of_a_promoted_set_are_its_own(self, here: VolumeDriver, there: VolumeDriver) -> None:
        first, second, third = ids(3)
        root = Path(await here.ensure("data", 1))
        (root / "fish").write_text("1")
        os.utime(root / "fish", (1, 1))
        await here.snapshot("data", first)
        await copy(here, there, first)
        await here.demote("data", second)
        await copy(here, there, second)
        live = Path(await there.promote("data", second, 2))
        (live / "fish").write_text("2")
        await there.demote("data", third)
        assert await there.snapshots("data") == [third]
        assert os.stat(Path(await there.promote("data", third, 3)) / "fish").st_nlink == 1

    async def test_a_file_written_again_within_the_clocks_grain_is_sent_again(
        self, here: VolumeDriver, there: VolumeDriver
    ) -> None:
        root = Path(await here.ensure("data", 1))
        now = T0
        (root / "fish").write_text("old")
        os.utime(root / "fish", (now, now))
        first, second = ids(2)
        await here.snapshot("data", first)
        await copy(here, there, first)
        (root / "fish").write_text("new")
        os.utime(root / "fish", (now, now))
        await here.demote("data", second)
        await copy(here, there, second)
        assert (Path(await there.promote("data", second, 2)) / "fish").read_text() == "new"


class TestShared(_OnDisk):
    @pytest.fixture
    def here(self, tmp_path: Path) -> VolumeDriver:
        (tmp_path / "nfs").mkdir()
        return SharedVolumes(tmp_path / "h1", tmp_path / "nfs")

    @pytest.fixture
    def there(self, tmp_path: Path) -> VolumeDriver:
        return SharedVolumes(tmp_path / "h2", tmp_path / "nfs")

    async def test_other_storage_is_refused_before_the_claim_passes(self, tmp_path: Path, here: VolumeDriver) -> None:
        (tmp_path / "other").mkdir()
        stranger = SharedVolumes(tmp_path / "h3", tmp_path / "other")
        await here.ensure("data", 1)
        (first,) = ids(1)
        await here.demote("data", first)
        with pytest.raises(Conflict, match="is not the storage"):
            await copy(here, stranger, first)

    async def test_storage_that_is_not_mounted_is_no_empty_volume(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable):
            await SharedVolumes(tmp_path / "h1", tmp_path / "absent").ensure("data", 1)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Two hosts' pools in files, mounted."""
    base = tmp_path_factory.mktemp("pools")
    points = [base / "h1", base / "h2"]
    for point in points:
        make_pool(point.with_suffix(".img"), 1 << 30)
        mount_pool(point.with_suffix(".img"), point)
    yield points
    for point in points:
        subprocess.run(["umount", point], check=True)


@pytest.mark.lab
class TestBtrfs(_OnDisk):
    @pytest.fixture
    def here(self, pools: list[Path], request: pytest.FixtureRequest) -> VolumeDriver:
        return BtrfsVolumes(pools[0] / request.node.name)

    @pytest.fixture
    def there(self, pools: list[Path], request: pytest.FixtureRequest) -> VolumeDriver:
        return BtrfsVolumes(pools[1] / request.node.name)

    async def test_a_chain_runs_back_and_forth(self, here: VolumeDriver, there: VolumeDriver, files: Files) -> None:
        files.write(here, await here.ensure("data", 1), "big", "x" * 2_000_000)
        sides = [here, there]
        for hop, snapshot in enumerate(ids(6), start=1):
            source, target = sides[(hop + 1) % 2], sides[hop % 2]
            await source.demote("data", snapshot)
            sent_bytes = await copy(source, target, snapshot)
            assert sent_bytes < 100_000 or hop == 1
            path = await target.promote("data", snapshot, hop + 1)
            files.write(target, path, f"hop{hop}", "1")
        assert len(files.read(here, path)) == 7

    async def test_an_unmounted_pool_is_no_empty_volume(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable, match="btrfs"):
            await BtrfsVolumes(tmp_path).ensure("data", 1)


def _fill(root: Path) -> None:
    """One of each kind of thing."""
    (root / "one").write_text("1")
    os.link(root / "one", root / "two")
    (root / "empty dir").mkdir(mode=0o1777)
    (root / "link").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    with (root / "sparse").open("wb") as sparse:
        sparse.seek(10_000_000)
        sparse.write(b"end")
    (root / "odd\nname \udcff").write_text("2")
    os.chmod(root / "one", 0o4755)
    if os.geteuid() == 0:
        os.chown(root / "link", 1234, 4321, follow_symlinks=False)
        os.setxattr(root / "one", "trusted.overlay.opaque", b"y")
    os.setxattr(root / "one", "user.colour", b"blue")


def _seen(root: Path) -> dict[str, tuple[object, ...]]:
    """All of a tree that must arrive."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *root.rglob("*")]:
        stat = path.lstat()
        attributes = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(root))] = (
            stat.st_mode,
            stat.st_uid,
            stat.st_gid,
            stat.st_mtime_ns,
            attributes,
            content,
        )
    return found
