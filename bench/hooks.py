"""What hooks cost: a gateway on a Unix socket before a scripted engine, without hooks and with one no-op pre-hook.

    python -m bench hooks              its rows, as `make bench` has them
    python -m bench.hooks [--seconds 20]

Three processes beside this one: engine, adapter, gateway. Latency is measured one call at a time, interleaved in
rounds; the load asks 32 at a time. Prints a table and the gateway's resident memory along the load. The processor time
of the gateway per call, beside each latency, says on a busy machine too what a hook costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import cast

import msgspec
import uvloop
from aiohttp import web

from bench.bed import Bed
from bench.frame import Budget, Row, added, alone
from drover.gateway.call import Call, Relay
from drover.gateway.hooks.layer import HookLayer
from drover.gateway.links import EngineLinks
from drover.gateway.server import GatewayServer
from drover.model.cluster import put
from drover.model.records import Adapters, key
from drover.store.memory import MemoryCluster
from drover.store.mirror import Mirror

BODY = json.dumps({"Image": "nginx", "Env": [f"NAME{n}=value" for n in range(10)], "HostConfig": {}}).encode()
ANSWER = (
    b'HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 26\r\n\r\n{"Id":"e1","Warnings":[]}\n'
)
ROUNDS, CALLS = 10, 200
AT_ONCE = 32
HOOKED_S, QUICK_S = 20.0, 4.0
UNMATCHED, HOOKED, RATE, FLAT = Budget(0.1), Budget(2.0), Budget(1000, at_most=False), Budget(1.1)
"""No measurable cost: a tenth of a millisecond is what rounds differ by."""


class Engine(asyncio.Protocol):
    """Answers each request it has whole; one per connection at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire, self.held = cast(asyncio.Transport, transport), b""

    def data_received(self, data: bytes) -> None:
        self.held += data
        while (end := self.held.find(b"\r\n\r\n")) >= 0:
            head = self.held[:end].lower()
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0]) if b"content-length" in head else 0
            if len(self.held) < end + 4 + length:
                return
            self.held = self.held[end + 4 + length :]
            self.wire.write(ANSWER)


def engine(path: str) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_unix_server(Engine, path)
        await server.serve_forever()

    uvloop.run(run())


def adapter(port: multiprocessing.Queue[int]) -> None:
    async def hook(request: web.Request) -> web.Response:
        told = await request.json()
        return web.json_response({"PowerstripProtocolVersion": 1, "ModifiedClientRequest": told["ClientRequest"]})

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/", hook)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.put(runner.addresses[0][1])
        await asyncio.Event().wait()

    uvloop.run(run())


def gateway(directory: str, adapter_port: int, ready: Event) -> None:
    async def relay(call: Call) -> Relay:
        return Relay(host="h1")

    async def run() -> None:
        links = EngineLinks(f"{directory}/engine.sock", locate=lambda host: None)
        await GatewayServer(relay, links).listen_unix(Path(f"{directory}/bare.sock"))
        for name, expression in (("unmatched", "POST /*/networks/create"), ("hooked", "* *")):
            store = MemoryCluster().client()
            text = json.dumps(
                {"endpoints": {expression: {"pre": ["a"]}}, "adapters": {"a": f"http://127.0.0.1:{adapter_port}/"}}
            )
            await store.commit([put(key("adapters", "current"), Adapters(text=text))])
            mirror = Mirror(store)
            await mirror.start()
            layer = HookLayer(mirror, links)
            await GatewayServer(layer.wrap(relay), links).listen_unix(Path(f"{directory}/{name}.sock"))
        ready.set()
        await asyncio.Event().wait()

    uvloop.run(run())


class Client:
    """One kept connection."""

    async def open(self, path: str) -> Client:
        self.reader, self.writer = await asyncio.open_unix_connection(path)
        self.raw = (
            b"POST /v1.41/containers/create?name=a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(BODY)
        ) + BODY
        return self

    async def call(self) -> float:
        began = time.perf_counter()
        self.writer.write(self.raw)
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert b" 201 " in head, head
        await self.reader.readexactly(26)
        return time.perf_counter() - began


async def latencies(directory: str, pid: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each call, and the gateway's processor seconds per call, by the socket that was asked."""
    names = ("bare", "unmatched", "hooked")
    spent = dict.fromkeys(names, 0.0)
    clients = {name: await Client().open(f"{directory}/{name}.sock") for name in names}
    found: dict[str, list[float]] = {name: [] for name in names}
    for each in clients.values():
        for _ in range(50):
            await each.call()
    for _ in range(ROUNDS):
        for name, client in clients.items():
            before = ran_s(pid)
            found[name] += [await client.call() for _ in range(CALLS)]
            spent[name] += (ran_s(pid) - before) / (ROUNDS * CALLS)
    return found, spent


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1024 / 1024


def ran_s(pid: int) -> float:
    """Processor seconds of a process's first thread, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(directory: str, pids: list[int], seconds: float) -> tuple[float, list[float], list[float]]:
    """Calls per second, the gateway's memory at each tenth of the time, and CPU seconds per call of each process."""
    pid, before = pids[-1], [cpu_s(each) for each in pids]
    clients = [await Client().open(f"{directory}/hooked.sock") for _ in range(AT_ONCE)]
    done, end, memory = 0, time.perf_counter() + seconds, []

    async def work(client: Client) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await client.call()
            done += 1

    async def watch() -> None:
        while time.perf_counter() < end:
            memory.append(resident_mib(pid))
            await asyncio.sleep(seconds / 10)

    await asyncio.gather(watch(), *(work(client) for client in clients))
    return done / seconds, memory, [(cpu_s(each) - was) / done for each, was in zip(pids, before, strict=True)]


class Figures(msgspec.Struct):
    """`latencies_s` and `spent_s` (the gateway's processor time per call) by socket; hooked calls per second; the
    gateway's memory along the load; CPU per call of each process."""

    latencies_s: dict[str, list[float]]
    spent_s: dict[str, float]
    rate: float
    memory_mib: list[float]
    cpu_s: list[float]


def measured(seconds: float) -> Figures:
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    ready = multiprocessing.Event()
    with tempfile.TemporaryDirectory() as directory:
        parts = [
            multiprocessing.Process(target=engine, args=(f"{directory}/engine.sock",), daemon=True),
            multiprocessing.Process(target=adapter, args=(port,), daemon=True),
        ]
        for part in parts:
            part.start()
        parts.append(
            multiprocessing.Process(target=gateway, args=(directory, port.get(timeout=20), ready), daemon=True)
        )
        parts[-1].start()
        ready.wait(20)
        try:
            found, spent = uvloop.run(latencies(directory, parts[-1].pid or 0))
            return Figures(found, spent, *uvloop.run(load(directory, [part.pid or 0 for part in parts], seconds)))
        finally:
            for part in parts:
                part.terminate()
                part.join()


def rows(bed: Bed) -> Iterator[Row]:
    """No lab is needed. The latencies of a round (CALLS calls of each) are one figure, their median."""
    found = measured(HOOKED_S if bed.effort.lab_rounds > 1 else QUICK_S)
    rounds = {name: _medians_ms(times) for name, times in found.latencies_s.items()}
    yield added("hooks: a call that no hook matches", "ms", rounds["unmatched"], rounds["bare"], UNMATCHED)
    yield added("hooks: one no-op pre-hook", "ms", rounds["hooked"], rounds["bare"], HOOKED)
    more_ms = (found.spent_s["hooked"] - found.spent_s["bare"]) * 1000
    yield alone("hooks: one no-op pre-hook, the gateway's processor time", "ms", [more_ms])
    yield alone("hooks: hooked calls sustained", "/s", [found.rate], RATE)
    half = len(found.memory_mib) // 2
    growth = max(found.memory_mib[half:]) / max(found.memory_mib[:half])
    yield alone("hooks: gateway's memory, second half of the load over first", "x", [growth], FLAT)


def _medians_ms(times: list[float]) -> list[float]:
    return [statistics.median(times[at : at + CALLS]) * 1000 for at in range(0, len(times), CALLS)]


def main() -> None:
    parser = argparse.ArgumentParser(description="What hooks cost.")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the load lasts")
    found = measured(parser.parse_args().seconds)
    report(found.latencies_s, found.spent_s, found.rate, found.memory_mib, found.cpu_s)


def report(
    found: dict[str, list[float]], spent: dict[str, float], rate: float, memory: list[float], cpu: list[float]
) -> None:
    bare = statistics.median(found["bare"])
    for name, times in found.items():
        median, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
        print(
            f"{name:10} median {median * 1e3:6.3f} ms  p99 {p99 * 1e3:6.3f} ms  {(median - bare) * 1e3:+.3f} ms  "
            f"CPU {spent[name] * 1e3:.3f} ms  {(spent[name] - spent['bare']) * 1e3:+.3f} ms"
        )
    print(f"load       {rate:.0f} hooked calls/s, {AT_ONCE} at once")
    names = zip(("engine", "adapter", "gateway"), cpu, strict=True)
    print("CPU/call   " + ", ".join(f"{name} {each * 1e3:.3f} ms" for name, each in names))
    print("memory     " + " ".join(f"{each:.1f}" for each in memory) + " MiB")


if __name__ == "__main__":
    main()
