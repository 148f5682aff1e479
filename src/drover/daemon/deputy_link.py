"""`DeputyLink`: the daemon's side of the deputy: this host's name server, whose answers are noted for it.

when             does
the daemon starts     takes the lock, so that a deputy that answers ends; waits for that; starts one that waits
names change          notes them, at most once in WRITE_EVERY_S
the daemon ends       nothing: the kernel lets go of the lock
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import structlog

from drover.daemon import deputy
from drover.decide.wiring import Zone
from drover.drivers.network.dns import Responder
from drover.store.waking import woken

log = structlog.get_logger("drover.daemon.deputy")

WRITE_EVERY_S = 1.0
LOOK_S = 0.02
PATIENCE_S = 5.0
CHECK_EVERY_S = 30.0


class DeputyLink:
    """The agent's `Responder`: passes everything on to the name server, and notes it."""

    def __init__(self, run: Path, responder: Responder, port: int) -> None:
        self._run = run
        self._responder = responder
        self._noted: dict[str, dict[str, Any]] = {}
        self._about = {"port": port, "boot": deputy.BOOT_ID.read_text().strip()}
        self._changed = asyncio.Event()
        self._alive: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def serve(self, network: str, gateway: str, zone: Zone) -> None:
        told = msgspec.structs.asdict(zone)
        await self._responder.serve(network, gateway, **told)
        self._noted[network] = {"gateway": gateway, **told}
        self._changed.set()

    async def stop(self, network: str) -> None:
        await self._responder.stop(network)
        if self._noted.pop(network, None) is not None:
            self._changed.set()

    async def begin(self) -> None:
        """Before anything is served: be the one who answers."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                self._alive = await _lock(self._run / deputy.ALIVE)
                os.close(await _lock(self._run / deputy.LOCK))
        except TimeoutError:
            log.warning("an earlier deputy does not end", run=str(self._run))
        self._have_one()

    def _have_one(self) -> None:
        """One that has ended, whatever for, is replaced."""
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", deputy.__name__, str(self._run)]
            nothing = subprocess.DEVNULL
            self._process = subprocess.Popen(
                command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True, cwd="/"
            )

    async def run(self) -> None:
        """Note what is answered, for ever."""
        while True:
            await woken(self._changed, CHECK_EVERY_S)
            self._have_one()
            await asyncio.to_thread(self._write, {**self._about, "networks": dict(self._noted)})
            await asyncio.sleep(WRITE_EVERY_S)

    def _write(self, noted: dict[str, Any]) -> None:
        """Replace the file in one step. A full disk costs the deputy its news, and nobody else anything."""
        fresh = self._run / f"{deputy.NAMES}.new"
        try:
            fresh.write_bytes(msgspec.json.encode(noted))
            fresh.replace(self._run / deputy.NAMES)
        except OSError as error:
            log.warning("names are not noted for the deputy", error=str(error))

    def end(self) -> None:
        """Let go of the lock: from here on the deputy answers."""
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None


async def _lock(path: Path) -> int:
    """Until this process holds it."""
    while True:
        handle = deputy.locked(path)
        if handle is not None:
            return handle
        await asyncio.sleep(LOOK_S)
