"""The checksums of large files' blocks, kept beside a snapshot: what a receiver tells in advance (`delta`)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from drover.drivers.volumes.delta import Sums, sums_of


def stored(snapshot: Path) -> dict[str, str]:
    """The checksums kept beside a snapshot; none if they were not."""
    try:
        return msgspec.json.decode(_beside(snapshot).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def store(snapshot: Path, sums: Sums) -> None:
    part = _beside(snapshot).with_suffix(".sums-part")
    part.write_bytes(msgspec.json.encode(sums))
    part.rename(_beside(snapshot))


def drop(snapshot: Path) -> None:
    _beside(snapshot).unlink(missing_ok=True)


def completed(snapshot: Path, large: Iterable[str]) -> dict[str, str]:
    """The checksums of these files of a snapshot: those on record, the others read now and recorded."""
    known = stored(snapshot)
    wanted = list(large)
    missing = [path for path in wanted if path not in known]
    sums = {path: known[path] for path in wanted if path in known}
    sums |= {path: sums_of(snapshot / os.fsdecode(path.encode("latin-1"))) for path in missing}
    if missing:
        store(snapshot, sums)
    return sums


def _beside(snapshot: Path) -> Path:
    return snapshot.with_name(snapshot.name + ".sums")
