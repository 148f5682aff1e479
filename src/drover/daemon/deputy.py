"""The deputy: a small process that answers for names while this host has no daemon (P6: what runs goes on).

Theory of operation. Containers ask their host for every name, those of the world outside too; without an answer they
are as good as cut off. The daemon notes what it answers in a file, and starts this process, which sleeps until the
kernel lets go of the daemon's lock: however the daemon ended. It then answers as the daemon did last, until another
daemon holds the lock, or the file is gone (the host left its cluster). It never changes anything.

    file             written by     says
    names.json       the daemon     port, boot, and by network: gateway, names, shared, links, servers
    daemon.alive     the daemon     locked while one lives
    deputy.lock      the deputy     locked while one lives

While it waits it has imported next to nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any

LOOK_S = 0.1
NAMES, ALIVE, LOCK = "names.json", "daemon.alive", "deputy.lock"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def locked(path: Path, kind: int = fcntl.LOCK_EX, create: int = os.O_CREAT) -> int | None:
    """A descriptor that holds the lock; None if another process does."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | create, 0o600)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def read(run: Path) -> dict[str, Any] | None:
    """What the last daemon answered; None if there is nothing of this boot."""
    try:
        found = json.loads((run / NAMES).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("boot") == BOOT_ID.read_text().strip() else None


def _daemon_lives(run: Path) -> bool:
    """Makes no file: the host may be leaving its cluster, and wants to leave nothing."""
    try:
        handle = locked(run / ALIVE, fcntl.LOCK_SH, 0)
    except OSError:
        return False
    if handle is not None:
        os.close(handle)
    return handle is None


def _wait_for_its_end(run: Path) -> None:
    handle = os.open(run / ALIVE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_SH)
    os.close(handle)


def _answer(run: Path, noted: dict[str, Any]) -> None:
    """Until there is a daemon again, or nothing to answer."""
    import asyncio

    from drover.drivers.network.dns import Responder
    from drover.errors import DroverError

    async def answer() -> None:
        responder = Responder(port=noted["port"])
        waiting = dict(noted["networks"])
        while (run / NAMES).exists() and not _daemon_lives(run):
            for network, zone in list(waiting.items()):
                with contextlib.suppress(DroverError):  # the daemon's socket is not closed yet
                    await responder.serve(network, **zone)
                    del waiting[network]
            await asyncio.sleep(LOOK_S)
        await responder.close()

    asyncio.run(answer())


def main(run: Path) -> None:
    handle = locked(run / LOCK)
    if handle is None:
        return
    _wait_for_its_end(run)
    noted = read(run)
    if noted is not None:
        _answer(run, noted)
    os.close(handle)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
