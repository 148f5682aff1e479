"""The insides of containers of this host's engine, on its disk and in `/proc`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from drover.drivers.engine.port import OwnFiles
from drover.drivers.insides import layer, log
from drover.model.records import Part

INIT_PID = 1
TABLES = ("tcp", "tcp6")
LISTEN = "0A"
"""The state of a listening socket in `/proc/PID/net/tcp`."""
OPEN = ("01", "03", "04", "08")
"""Those of connections that would break if the namespace ended now: established, being made, or with something left to
send (FIN_WAIT1, CLOSE_WAIT)."""


class LinuxInsides:
    async def have(self, files: OwnFiles, part: Part) -> bytes:
        if part == "layer":
            return await layer.have(Path(files.layer))
        return await asyncio.to_thread(log.have, Path(files.log_directory))

    def send(self, files: OwnFiles, part: Part, have: bytes, running: bool) -> AsyncGenerator[bytes, None]:
        if part == "layer":
            return layer.send(Path(files.layer), have, running)
        return log.send(Path(files.log_directory), files.log_stem, have)

    async def receive(self, files: OwnFiles, part: Part, snapshot: str, stream: AsyncIterator[bytes]) -> None:
        if part == "layer":
            await layer.receive(Path(files.layer), snapshot, stream)
        else:
            await log.receive(Path(files.log_directory), stream)

    async def install(self, files: OwnFiles, part: Part) -> None:
        if part == "layer":
            layer.install(Path(files.layer))
        else:
            log.install(Path(files.log_directory), files.log_stem)

    async def clean(self, files: OwnFiles) -> None:
        if files.layer:
            await asyncio.to_thread(layer.clean, Path(files.layer))
        if files.log_directory:
            await asyncio.to_thread(log.clean, Path(files.log_directory))

    @asynccontextmanager
    async def ending(self, pid: int, engine_id: str) -> AsyncIterator[asyncio.Event]:
        """The kernel ends all of a PID namespace before its first process counts as ended (pid_namespaces(7))."""
        ended = asyncio.Event()
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            yield ended
            return
        loop = asyncio.get_running_loop()
        try:
            if _is_first_of(pid, engine_id):  # asked after the open: it is that very process
                loop.add_reader(descriptor, ended.set)
            yield ended
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    async def listening(self, pid: int) -> frozenset[int]:
        return frozenset(port for name in TABLES for port in listening_ports(_sockets(pid, name)))

    async def serving(self, pid: int) -> int:
        return served_connections([line for name in TABLES for line in _sockets(pid, name)])


def _is_first_of(pid: int, engine_id: str) -> bool:
    """Whether a process is the first of a PID namespace of its own, in that container."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        group = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False
    pids = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
    return engine_id in group and len(pids) > 1 and int(pids[-1]) == INIT_PID


def _sockets(pid: int, name: str) -> list[str]:
    """The lines of `/proc/PID/net/tcp` or `tcp6`; none for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    except OSError:
        return []


def listening_ports(lines: Iterable[str]) -> set[int]:
    """The ports of the listening sockets in lines of `/proc/PID/net/tcp` or `tcp6`."""
    sockets = [line.split()[1:4] for line in lines if line.strip()]
    local = [where.partition(":") for where, _, state in sockets if state == LISTEN]
    return {int(port, 16) for address, _, port in local if not _is_loopback(address)}


def served_connections(lines: Iterable[str]) -> int:
    """How many connections to the listening ports are open."""
    lines = list(lines)
    ports = listening_ports(lines)
    sockets = [line.split()[1:4] for line in lines if line.strip()]
    return sum(state in OPEN and int(where.rpartition(":")[2], 16) in ports for where, _, state in sockets)


def _is_loopback(address: str) -> bool:
    """127.x.y.z or ::1: words are in the byte order of a small-endian machine there."""
    return address == "0" * 24 + "01000000" or (len(address) == 8 and address.endswith("7F"))
