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
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from drover.daemon.etcd_process import CLIENT_PORT, url
from drover.lab.host import LabHost

FAULTS = ("slow", "deaf")
STILL_S, WRITTEN_S = 0.8, 0.2
DEAF_S, HEARD_S = 0.8, 1.5
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


def deaf(host: LabHost, asker: LabHost, members: Sequence[LabHost], for_s: float) -> list[int]:
    """The host misses what the store says, and cannot ask for it later: `asker` has one of `members` forget it. Those
    that are none refuse. Returns the revisions before which all was forgotten."""
    forgotten = []
    with _forgetting(asker, members) as forget:
        for _ in _until(for_s):
            with _refused(host):
                time.sleep(DEAF_S)
                forgotten.append(forget())
            time.sleep(HEARD_S)
    return forgotten


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


@contextlib.contextmanager
def _forgetting(asker: LabHost, members: Sequence[LabHost]) -> Iterator[Callable[[], int]]:
    """A program that is ready to have the store forget its history, for as long as the block lasts."""
    urls = [url(member.address, CLIENT_PORT) for member in members]
    argv = asker.argv([sys.executable, str(FORGET), str(asker.state_dir / "tls"), *urls])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        said, told = program.stdout, program.stdin
        said.readline()

        def forget() -> int:
            told.write("\n")
            told.flush()
            return int(said.readline())

        yield forget
