"""What an engine does not tell of its machine: the disk its data is on, and devices; from this host's own files."""

from __future__ import annotations

import glob
import os

import msgspec

from drover.decide.fit_machine import low, rounded_free
from drover.model.devices import NOTABLE
from drover.model.records import HostFacts


def with_machine(facts: HostFacts, root_dir: str) -> HostFacts:
    """The facts with disk and devices. `root_dir`: where the engine keeps its data; one that is not there (an engine on
    another machine) leaves the disk unknown."""
    devices = tuple(sorted(path for pattern in NOTABLE for path in glob.glob(pattern)))
    try:
        found = os.statvfs(root_dir)
    except OSError:
        return msgspec.structs.replace(facts, devices=devices)
    total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return msgspec.structs.replace(
        facts,
        devices=devices,
        disk_bytes=total,
        disk_free_bytes=rounded_free(total, free),
        disk_low=low(total, free, root_dir),
    )
