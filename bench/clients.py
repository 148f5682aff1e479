"""500 clients at once, each asking for lists, inspections and logs in turn without a pause, for a minute.

Theory of operation. The clients are one process of their own (`python -m bench.clients SOCKET SECONDS NAMES`), so that
their work is not counted as the caller's; all ask h1's gateway. Every tenth question is asked on a new connection, as a
CLI does. The process prints one JSON line, a `Tally`.

    row                 says
    errors              answers that were not 200, and connections that ended: none are allowed
    latencies           with 500 questions open at any time on this machine's cores, mostly waiting for a turn
    memory              the daemon's peak in the second half over its peak in the first: bounded, or it would grow
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvloop

from bench.bed import Bed, container, create_many, remove_many, resident_mb
from bench.frame import Budget, Row, alone
from bench.wire import AnswerParser, request_bytes
from drover.errors import Unavailable
from drover.lab import LabHost

CLIENTS = 500
CONTAINERS = 12
QUESTIONS_PER_CONNECTION = 10
NO_ERROR = Budget(0)
BOUNDED = Budget(1.1)
NAMES = tuple(f"bench-clients-{number}" for number in range(CONTAINERS))
_SAY = ("sh", "-c", "seq 20; exec sleep 86400")
_GRACE_S = 60.0
_PIECE_BYTES = 64 * 1024


class Tally(msgspec.Struct):
    """What the clients saw. Latencies in milliseconds by kind of question; a few of the errors in words."""

    latencies_ms: dict[str, list[float]]
    errors: int = 0
    samples: list[str] = []


def rows(bed: Bed) -> Iterator[Row]:
    host = bed.host("h1")
    try:
        for name in ("h1", "h2", "h3"):
            mine = NAMES[int(name[1:]) - 1 :: 3]
            create_many(host.gateway_socket, mine, container(name, command=_SAY), start=len(mine))
        before_mb = resident_mb(host)
        tally, memory_mb = _watched(host, bed.effort.clients_s)
        yield from _rows(tally, bed.effort.clients_s, before_mb, memory_mb)
        time.sleep(2)
        yield alone("daemon's VmRSS afterwards", "MB", [resident_mb(host)])
    finally:
        remove_many(host.gateway_socket, NAMES)


def _rows(tally: Tally, seconds: float, before_mb: float, memory_mb: list[float]) -> Iterator[Row]:
    answers = sum(len(each) for each in tally.latencies_ms.values())
    what = f"{CLIENTS} clients for {seconds:.0f} s"
    yield alone(f"{what}: errors", "errors", [float(tally.errors)], NO_ERROR, "; ".join(tally.samples))
    yield alone(f"{what}: answers", "/s", [answers / seconds])
    for kind, latencies in tally.latencies_ms.items():
        ordered = sorted(latencies)
        tail = ", ".join(f"p{p} {ordered[len(ordered) * p // 100]:.0f} ms" for p in (95, 99)) if ordered else ""
        yield alone(f"{what}: {kind}", "ms", latencies or [float("nan")], note=tail)
    half = len(memory_mb) // 2
    growth = max(memory_mb[half:]) / max(memory_mb[:half])
    note = f"{before_mb:.0f} MB before, at most {max(memory_mb):.0f} MB"
    yield alone("daemon's peak memory, second half over first", "x", [growth], BOUNDED, note)
    yield alone("daemon's peak memory", "MB", [max(memory_mb)], note=f"{before_mb:.0f} MB before")


def _watched(host: LabHost, seconds: float) -> tuple[Tally, list[float]]:
    """Run the clients against the host's gateway; what they saw, and the daemon's memory every second in MB."""
    argv = [sys.executable, "-m", "bench.clients", str(host.gateway_socket), str(seconds), *NAMES]
    memory_mb: list[float] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            while process.poll() is None and len(memory_mb) < seconds + _GRACE_S:
                memory_mb.append(resident_mb(host))
                if len(memory_mb) >= seconds:
                    break
                time.sleep(1)
            output, _ = process.communicate(timeout=_GRACE_S)
        finally:
            process.kill()
    if process.returncode != 0:
        raise Unavailable(f"the clients ended with {process.returncode}")
    return msgspec.json.decode(output, type=Tally), memory_mb


# -- the process of the clients ---------------------------------------------------------------------------------------


class Clients:
    """All clients, until the loop's time `until`."""

    def __init__(self, socket: Path, until: float, names: list[str]) -> None:
        self._socket = str(socket)
        self._until = until
        self._names = names
        self.tally = Tally({"ps": [], "inspect": [], "logs": []})

    async def run(self, count: int) -> Tally:
        await asyncio.gather(*(self._client(number) for number in range(count)))
        return self.tally

    async def _client(self, number: int) -> None:
        """One client: new connections until the time is over."""
        kinds = itertools.islice(itertools.cycle(self.tally.latencies_ms), number % 3, None)
        name = self._names[number % len(self._names)]
        while time.monotonic() < self._until:
            try:
                await self._connection(kinds, name)
            except (OSError, EOFError) as error:
                self._failed(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.1)

    async def _connection(self, kinds: Iterator[str], name: str) -> None:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            for kind in itertools.islice(kinds, QUESTIONS_PER_CONNECTION):
                if time.monotonic() >= self._until:
                    return
                await self._question(reader, writer, kind, name)
        finally:
            writer.close()

    async def _question(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str, name: str) -> None:
        begin = time.perf_counter()
        writer.write(request_bytes("GET", _target(kind, name)))
        answer = AnswerParser()
        while not answer.complete:
            data = await reader.read(_PIECE_BYTES)
            if not data:
                raise EOFError(f"the gateway ended the connection during {kind}")
            answer.feed(data)
        if answer.status != 200:
            self._failed(f"{kind}: {answer.status} {answer.body.decode(errors='replace').strip()}")
        self.tally.latencies_ms[kind].append((time.perf_counter() - begin) * 1000)

    def _failed(self, why: str) -> None:
        self.tally.errors += 1
        if len(self.tally.samples) < 3:
            self.tally.samples.append(why)


def _target(kind: str, name: str) -> str:
    return {
        "ps": "/containers/json",
        "inspect": f"/containers/{name}/json",
        "logs": f"/containers/{name}/logs?stdout=1&tail=10",
    }[kind]


def main() -> None:
    """`python -m bench.clients SOCKET SECONDS NAME…`"""
    _, socket, seconds, *names = sys.argv
    clients = Clients(Path(socket), time.monotonic() + float(seconds), names)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(clients.run(CLIENTS))) + b"\n")


if __name__ == "__main__":
    main()
