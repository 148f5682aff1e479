"""What btrfs is asked by ioctl: subvolumes and snapshots made and deleted, and what it says of them.

Starting `btrfs` for each of these costs more than the call itself, and copies are refreshed all the time. Calls block
for as long as the filesystem takes: not for an event loop that has anything else to do.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

_GET_FLAGS = 0x80089419
"""BTRFS_IOC_SUBVOL_GETFLAGS"""
_GET_INFO = 0x81F8943C
"""BTRFS_IOC_GET_SUBVOL_INFO"""
_FS_INFO = 0x8400941F
"""BTRFS_IOC_FS_INFO"""
_CREATE = 0x5000940E
"""BTRFS_IOC_SUBVOL_CREATE"""
_DESTROY = 0x5000940F
"""BTRFS_IOC_SNAP_DESTROY"""
_SNAPSHOT = 0x50009417
"""BTRFS_IOC_SNAP_CREATE_V2"""
_SYNC = 0x9408
"""BTRFS_IOC_SYNC"""
_READ_ONLY = 2
_INFO_BYTES, _FS_INFO_BYTES = 504, 1024
_CTRANSID_AT = 344
"""In what _GET_INFO answers: the transaction of the last change; the one of the creation follows."""
_FSID_AT = 16
_NAMED = "=q4088s"
_NAMED_V2 = "=qQQ32x4040s"
_SUBVOLUME_INODE = 256
"""The inode number of every subvolume's root."""


def create(path: Path) -> None:
    """Make an empty subvolume. Raises OSError."""
    with _Open(path.parent) as parent:
        fcntl.ioctl(parent, _CREATE, _packed(_NAMED, 0, path))


def snapshot(source: Path, path: Path, read_only: bool) -> None:
    """Make a snapshot of a subvolume. Raises OSError."""
    with _Open(source) as origin, _Open(path.parent) as parent:
        flags = _READ_ONLY if read_only else 0
        fcntl.ioctl(parent, _SNAPSHOT, _packed(_NAMED_V2, origin, 0, flags, path))


def destroy(path: Path) -> None:
    """Delete a subvolume; nothing there is success. Its space is free when the filesystem has cleaned up."""
    try:
        with _Open(path.parent) as parent:
            fcntl.ioctl(parent, _DESTROY, _packed(_NAMED, 0, path))
    except FileNotFoundError:
        return


def sync(path: Path) -> None:
    """Have on disk all that was written to the filesystem."""
    with _Open(path) as handle:
        fcntl.ioctl(handle, _SYNC)


def is_subvolume(path: Path) -> bool:
    try:
        return os.stat(path).st_ino == _SUBVOLUME_INODE
    except FileNotFoundError:
        return False


def is_complete(path: Path) -> bool:
    """Whether a snapshot is there and read-only: a receive that was cut leaves a writable one."""
    return is_subvolume(path) and bool(struct.unpack("=Q", _asked(path, _GET_FLAGS, 8))[0] & _READ_ONLY)


def changed_in(path: Path) -> int:
    """The transaction that last changed anything in a subvolume."""
    return int(struct.unpack_from("=Q", _asked(path, _GET_INFO, _INFO_BYTES), _CTRANSID_AT)[0])


def made_in(path: Path) -> int:
    """The transaction that made a snapshot."""
    return int(struct.unpack_from("=Q", _asked(path, _GET_INFO, _INFO_BYTES), _CTRANSID_AT + 8)[0])


def quota(path: Path) -> Path | None:
    """Where the kernel shows a subvolume's quota group (`referenced`, `max_referenced`); None without quotas."""
    identity = int(struct.unpack_from("=Q", _asked(path, _GET_INFO, _INFO_BYTES))[0])
    raw = _asked(path, _FS_INFO, _FS_INFO_BYTES)[_FSID_AT : _FSID_AT + 16].hex()
    fsid = "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))
    shown = Path(f"/sys/fs/btrfs/{fsid}/qgroups/0_{identity}")
    return shown if shown.is_dir() else None


def _packed(form: str, *fields: int | Path) -> bytearray:
    """A request: numbers, and last the name of what it is about. (`ioctl` takes no `bytes` of that length.)"""
    values = [os.fsencode(field.name) if isinstance(field, Path) else field for field in fields]
    return bytearray(struct.pack(form, *values))


def _asked(path: Path, request: int, answer_bytes: int) -> bytes:
    """What the filesystem answers about a subvolume."""
    with _Open(path) as handle:
        return fcntl.ioctl(handle, request, bytes(answer_bytes))


class _Open:
    """A directory's file descriptor for a block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> int:
        self._handle = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        return self._handle

    def __exit__(self, *_error: object) -> None:
        os.close(self._handle)
