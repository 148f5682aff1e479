"""Which volume drivers a host offers, those of other packages included, and how long each may be."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import drover.drivers.volumes
from drover.drivers.volumes.catalog import ENTRY_POINTS, host_catalog
from drover.drivers.volumes.fake import FakeVolumes
from drover.errors import Invalid

MAX_LINES = 300
"""What `docs/drivers.md` says."""


class OthersVolumes(FakeVolumes):
    """A driver of another package: made with a directory of its own."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def path(self, volume: str, epoch: int) -> str:
        return str(self.root / super().path(volume, epoch).lstrip("/"))


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {ENTRY_POINTS: [EntryPoint("others", f"{__name__}:OthersVolumes", ENTRY_POINTS)]}
    points[ENTRY_POINTS].append(EntryPoint("directory", f"{__name__}:OthersVolumes", ENTRY_POINTS))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points.get(group, []))


async def test_another_packages_driver_is_offered_after_drovers_own(offered: None, tmp_path: Path) -> None:
    catalog = host_catalog(tmp_path, None, tmp_path / "nfs")
    assert [name for name in catalog.names if name != "btrfs"] == ["directory", "shared", "others"]
    driver = catalog.driver("others")
    assert driver.path("data", 1).startswith(str(tmp_path / "others"))
    await driver.ensure("data", 1)
    assert await driver.live_sets() == {"data": 1}


async def test_another_packages_driver_takes_no_name_of_drovers(offered: None, tmp_path: Path) -> None:
    path = host_catalog(tmp_path, None, None).driver("directory").path("data", 1)
    assert path.startswith(str(tmp_path / "directory"))
    assert "/fake/" not in path


def test_a_driver_that_is_not_offered_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"no volume driver zfs: it has .*directory"):
        host_catalog(tmp_path, None, None).driver("zfs")


def test_no_driver_is_longer_than_it_is_said() -> None:
    modules = Path(drover.drivers.volumes.__file__).parent.glob("*.py")
    assert {path.name for path in modules if len(path.read_text().splitlines()) > MAX_LINES} == set()
