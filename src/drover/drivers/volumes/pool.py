"""A btrfs pool in a file, for a host that has no btrfs filesystem: made once, mounted at each start of the daemon.

    step      command                              because
    make      truncate, mkfs.btrfs                 sparse: the file takes what is used, and needs no spare disk
    attach    losetup --direct-io=on               without it every byte is cached twice, and writes take twice as long
    mount     mount, then losetup --detach         detaching a busy device makes it vanish with its last mount: after a
                                                   power cut, or when a lab goes, nothing is left behind

The mount stays when the daemon ends: containers write below it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from drover.errors import Conflict, DroverError, Invalid, MissingTool

MIN_BYTES = 128 * 1024 * 1024


def make_pool(file: Path, size_bytes: int) -> None:
    """Make the pool's file. Raises `Conflict` if there is one: it may hold data."""
    if size_bytes < MIN_BYTES:
        raise Invalid(f"a pool of {size_bytes} bytes is too small", hint="btrfs needs 128M at least")
    if file.exists():
        raise Conflict(f"{file} exists already", hint="it may hold volumes: move it away if it does not")
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    with part.open("wb") as made:
        os.ftruncate(made.fileno(), size_bytes)
    _run("mkfs.btrfs", "-q", "-f", str(part))
    part.rename(file)


def mount_pool(file: Path, point: Path) -> None:
    """Have the pool mounted at `point`; it may be already."""
    point.mkdir(parents=True, exist_ok=True)
    if point.is_mount():
        return
    device = _run("losetup", "--direct-io=on", "--show", "--find", str(file)).strip()
    try:
        _run("mount", "-t", "btrfs", "-o", "noatime", device, str(point))
    finally:
        _run("losetup", "--detach", device)


def _run(*argv: str) -> str:
    path = shutil.which(argv[0]) or shutil.which(argv[0], path="/usr/sbin:/sbin")
    if path is None:
        raise MissingTool(f"this host has no {argv[0]}", hint="apt-get install btrfs-progs mount util-linux")
    done = subprocess.run([path, *argv[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DroverError(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")
    return done.stdout
