"""The volume drivers of one host, by the name in `--opt driver=NAME`.

name        offered where                                                    default
btrfs       the volume directory is on btrfs, or there is a pool             where it is offered
directory   everywhere                                                       elsewhere
shared      the host was given a directory of shared storage
others      a package has an entry point of the group `drover.volumes`: called with the driver's own directory

Each runs in a thread of its own (`threaded`): a disk that hangs holds up nothing else.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

from drover.drivers.volumes.btrfs import BtrfsVolumes, filesystem_of
from drover.drivers.volumes.directory import DirectoryVolumes
from drover.drivers.volumes.port import VolumeDriver
from drover.drivers.volumes.shared import SharedVolumes
from drover.drivers.volumes.threaded import ThreadedDriver
from drover.errors import Invalid

ENTRY_POINTS = "drover.volumes"


class Catalog:
    """Drivers by name; the first is the host's default."""

    def __init__(self, drivers: Mapping[str, VolumeDriver]) -> None:
        self._drivers = dict(drivers)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._drivers)

    @property
    def synchronous(self) -> tuple[str, ...]:
        """The drivers with which what is written is at once there for every host."""
        return tuple(name for name, driver in self._drivers.items() if driver.synchronous)

    def driver(self, name: str) -> VolumeDriver:
        """The driver of that name, or the host's default for an empty one. Raises `Invalid` if it is not offered."""
        found = self._drivers.get(name or self.names[0])
        if found is None:
            raise Invalid(
                f"this host has no volume driver {name}: it has {', '.join(self.names)}",
                hint="a host offers btrfs if it has a pool (`drover init --volume-pool SIZE`) or a btrfs filesystem",
            )
        return found


def host_catalog(root: Path, pool: Path | None, shared: Path | None) -> Catalog:
    """What this host offers. `root`: volume directory; `pool`: where a pool is mounted; `shared`: shared storage."""
    drivers: dict[str, VolumeDriver] = {}
    if pool is not None:
        drivers["btrfs"] = BtrfsVolumes(pool)
    elif filesystem_of(root) == "btrfs":
        drivers["btrfs"] = BtrfsVolumes(root / "btrfs")
    drivers["directory"] = DirectoryVolumes(root / "directory")
    if shared is not None:
        drivers["shared"] = SharedVolumes(root / "shared", shared)
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        drivers.setdefault(point.name, point.load()(root / point.name))
    return Catalog({name: ThreadedDriver(driver, name) for name, driver in drivers.items()})
