"""Faults that are no state but a row of moments: a disk that stands still, a store that is not heard.

    fault   in each moment                                            between two
    slow    the file system of the host's volumes is frozen (the      it takes what has waited
            kernel's FIFREEZE): whoever writes or syncs waits
    deaf    what the host sends to the store's members is answered    connections and watches are made anew, from where
            with a reset, by its own kernel: connections end, new     the watch ended; that is forgotten, so the host
            ones are refused; the store goes on, and at the end       needs a new snapshot
            forgets its history

A disk is slow for those who write: reads go on. A deaf host hears its peers, and is heard; its member of the store, if
it has one, keeps its place among the members, whose own port stays open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from drover.daemon.etcd_process import CLIENT_PORT, url
from drover.errors import DroverError
from drover.lab.host import LabHost
from drover.lab.processes import wait_until

FAULTS = ("slow", "deaf")
STILL_S, WRITTEN_S = 0.8, 0.2
DEAF_S, HEARD_S = 1.0, 1.5
"""A deaf moment is shorter than what a host waits before it fences itself."""
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
"""`linux/fs.h`."""
FORGET = Path(__file__).with_name("forget.py")
TABLE = "drover-chaos"
_REFUSE = f"""table inet {TABLE} {{
  chain sent {{
    type filter hook output priority 0
    tcp dport {CLIENT_PORT} reject with tcp reset
  }}
}}
"""


def slow(pool: Path, for_s: float) -> None:
    """The disk below `pool` stands still for most of the time."""
    disk = os.open(pool, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in _until(for_s):
            fcntl.ioctl(disk, FIFREEZE, 0)
            try:
                time.sleep(STILL_S)
            finally:
                fcntl.ioctl(disk, FITHAW, 0)
            time.sleep(WRITTEN_S)
    finally:
        os.close(disk)


def deaf(host: LabHost, asker: LabHost, members: Sequence[LabHost], for_s: float) -> None:
    """The host misses what the store says, and cannot ask for it later: `asker` has one of `members` forget it."""
    for _ in _until(for_s):
        with _refused(host):
            time.sleep(DEAF_S)
            wait_until(lambda: any(_forgets(asker, member) for member in members), "the end of the store's history")
        time.sleep(HEARD_S)


def _until(for_s: float) -> Iterator[None]:
    """Once, and again until the time is over."""
    end_s = time.monotonic() + for_s
    yield
    while time.monotonic() < end_s:
        yield


@contextlib.contextmanager
def _refused(host: LabHost) -> Iterator[None]:
    host.exec(["nft", "-f", "-"], stdin=_REFUSE)
    try:
        yield
    finally:
        host.exec(["nft", "delete", "table", "inet", TABLE])


def _forgets(asker: LabHost, member: LabHost) -> bool:
    """False if that member does not answer, or nothing was written since the last time."""
    argv = [sys.executable, str(FORGET), url(member.address, CLIENT_PORT), str(asker.state_dir / "tls")]
    with contextlib.suppress(DroverError):
        asker.exec(argv)
        return True
    return False
