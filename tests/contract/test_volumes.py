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
from drover.drivers.volumes.threaded import ThreadedDriver
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

    async def test_the_files_of_a_snapshot_can_be_read(self, here: VolumeDriver) -> None:
        (first,) = ids(1)
        (Path(await here.ensure("data", 1)) / "fish").write_text("1")
        await here.snapshot("data", first)
        assert (Path(await here.files("data", first)) / "fish").read_text() == "1"
        path = Path(await here.clone("data", first, "other", 1))
        assert (path / "fish").read_text() == "1"


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

    async def test_of_a_large_file_only_the_blocks_that_changed_travel(
        self, here: VolumeDriver, there: VolumeDriver
    ) -> None:
        first, second, third, fourth = ids(4)
        root = Path(await here.ensure("data", 1))
        (root / "big").write_bytes(os.urandom(8 << 20))
        await here.snapshot("data", first)
        assert await copy(here, there, first) > 8 << 20
        _change(root / "big", 5_000_000, b"fish")
        await here.demote("data", second)
        assert await copy(here, there, second) < 1 << 20
        came = Path(await there.promote("data", second, 2))
        assert (came / "big").read_bytes() == (Path(await here.files("data", second)) / "big").read_bytes()
        _change(came / "big", 100, b"fowl")
        os.truncate(came / "big", 7_000_001)
        await there.demote("data", third)
        assert await copy(there, here, third) < 1 << 20
        back = Path(await here.promote("data", third, 3))
        assert (back / "big").read_bytes() == (Path(await there.files("data", third)) / "big").read_bytes()
        with (back / "big").open("ab") as file:
            file.write(b"x" * 300_000)
        await here.demote("data", fourth)
        assert await copy(here, there, fourth) < 1 << 20
        ours, theirs = Path(await here.files("data", fourth)), Path(await there.files("data", fourth))
        assert (ours / "big").read_bytes() == (theirs / "big").read_bytes()

    async def test_a_block_that_became_zeros_arrives_and_holes_stay(
        self, here: VolumeDriver, there: VolumeDriver
    ) -> None:
        first, second = ids(2)
        root = Path(await here.ensure("data", 1))
        (root / "big").write_bytes(b"x" * (4 << 20))
        os.truncate(root / "big", (64 << 20) + 17)
        await here.snapshot("data", first)
        assert await copy(here, there, first) < 5 << 20
        assert os.stat(Path(await there.files("data", first)) / "big").st_blocks * 512 < 8 << 20
        _change(root / "big", 65536, bytes(70_000))
        await here.demote("data", second)
        await copy(here, there, second)
        ours, theirs = Path(await here.files("data", second)), Path(await there.files("data", second))
        assert (ours / "big").read_bytes() == (theirs / "big").read_bytes()

    async def test_large_files_keep_their_attributes(self, here: VolumeDriver, there: VolumeDriver) -> None:
        (first,) = ids(1)
        root = Path(await here.ensure("data", 1))
        (root / "big").write_bytes(os.urandom(2 << 20))
        os.chown(root / "big", 1234, 4321)
        os.chmod(root / "big", 0o4750)
        os.setxattr(root / "big", "user.colour", b"blue")
        await here.demote("data", first)
        await copy(here, there, first)
        ours, theirs = Path(await here.files("data", first)) / "big", Path(await there.files("data", first)) / "big"
        assert os.getxattr(theirs, "user.colour") == b"blue"
        for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_size"):
            assert getattr(os.stat(ours), field) == getattr(os.stat(theirs), field)

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


class TestThreaded(_OnDisk):
    """The contract holds with a thread between."""

    @pytest.fixture
    def here(self, tmp_path: Path) -> VolumeDriver:
        return ThreadedDriver(DirectoryVolumes(tmp_path / "h1"), "directory")

    @pytest.fixture
    def there(self, tmp_path: Path) -> VolumeDriver:
        return ThreadedDriver(DirectoryVolumes(tmp_path / "h2"), "directory")


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
    """Two hosts' pools in files, mounted, and a small one."""
    base = tmp_path_factory.mktemp("pools")
    points = [base / "h1", base / "h2", base / "small"]
    for point, size_bytes in zip(points, (1 << 30, 1 << 30, 1 << 28), strict=True):
        make_pool(point.with_suffix(".img"), size_bytes)
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

    async def test_what_was_prepared_in_vain_goes(
        self, here: VolumeDriver, there: VolumeDriver, pools: list[Path]
    ) -> None:
        first, second, third = ids(3)
        await here.ensure("data", 1)
        await here.ensure("data.2", 1)
        for snapshot in (first, second):
            await here.snapshot("data", snapshot)
        await here.snapshot("data.2", third)
        await copy(here, there, first)
        root = next(pools[1].glob("*what_was_prepared*/next"))

        await there.prepare("data", first)
        assert [one.name for one in root.iterdir()] == [f"data@{first}"]
        await copy(here, there, second)
        assert not list(root.iterdir())
        await there.prepare("data", second)
        await there.forget("data.2", [third])
        assert [one.name for one in root.iterdir()] == [f"data@{second}"]
        await there.forget("data", [first])
        assert not list(root.iterdir())
        await there.prepare("data", second)
        await there.remove("data")
        assert not list(root.iterdir())

    async def test_a_write_beyond_the_limit_fails_and_the_rest_stays(self, here: VolumeDriver) -> None:
        root = Path(await here.ensure("data", 1))
        assert await here.limit("data", 16 << 20)
        with pytest.raises(OSError, match=r"Disk quota exceeded|No space left"):
            _fill_up(root / "big", 120)
        (root / "big").unlink()
        await here.limit("data", 0)
        _fill_up(root / "big", 120)
        assert await here.size_bytes("data") >= 120 << 20

    async def test_a_full_pool_fails_writes_and_spoils_nothing(self, pools: list[Path], files: Files) -> None:
        """Copies, moves and removals go on with the metadata that btrfs holds back for itself."""
        here = BtrfsVolumes(pools[2])
        first, second = ids(2)
        root = Path(await here.ensure("data", 1))
        files.write(here, str(root), "fish", "1")
        with pytest.raises(OSError, match="No space left"):
            _fill_up(root / "big", 2000)
        await here.snapshot("data", first)
        await here.demote("data", second)
        path = await here.promote("data", second, 2)
        assert (Path(path) / "fish").read_text() == "1"
        assert (await here.space()).free_bytes < 64 << 20
        await here.remove("data")

    async def test_an_unmounted_pool_is_no_empty_volume(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable, match="btrfs"):
            await BtrfsVolumes(tmp_path).ensure("data", 1)


def _change(file: Path, at: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(data)


def _fill_up(file: Path, mebibytes: int) -> None:
    """Write, and have it on disk: then the filesystem must say what it thinks of it."""
    with file.open("wb") as opened:
        for _ in range(mebibytes):
            opened.write(os.urandom(1 << 20))
        opened.flush()
        os.fsync(opened.fileno())


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
