"""The devices that not every host has: what a host reports, and what a container that asks for one needs."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

NOTABLE = (
    "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/vhost-net", "/dev/dri/*", "/dev/nvidia*", "/dev/kfd", "/dev/snd/*",
    "/dev/video*", "/dev/ttyUSB*", "/dev/ttyACM*", "/dev/ttyS*", "/dev/i2c-*", "/dev/spidev*", "/dev/gpiochip*",
    "/dev/bus/usb/*/*", "/dev/infiniband/*", "/dev/watchdog*", "/dev/tpm*",
)  # fmt: skip
"""Globs. Of other devices nobody is asked: the engine says so if it lacks one."""


def is_notable(path: str) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in NOTABLE)


def missing(asked: Iterable[str], has: Iterable[str]) -> list[str]:
    """The notable devices among those asked for that are not there."""
    there = frozenset(has)
    return [path for path in asked if is_notable(path) and path not in there]
