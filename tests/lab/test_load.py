"""Five hundred clients at once, some of them rude, on a real cluster.

| client | does | must |
|---|---|---|
| 500 polite ones | list, inspect, logs over all three gateways, again and again | get 200 every time |
| one that stops reading | asks for a large file and reads nothing | cost the daemon no memory |
| one that leaves | goes away in the middle of a stream, over and over | be forgotten |
| one that talks garbage | sends what is not HTTP | be told so, and cut off |

They go on for `DROVER_LOAD_S` seconds (default 15).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from stock import docker_program

from drover.lab import Lab, LabHost
from drover.lab.clients import Docker

LOAD_S = float(os.environ.get("DROVER_LOAD_S", "15"))
pytestmark = [pytest.mark.lab, pytest.mark.alone, pytest.mark.timeout(LOAD_S + 180)]

CLIENTS = 500
CALL_DEADLINE_S = 60.0
GROWTH_BYTES = 100 * 1024**2
LARGE, LARGE_MB = "large", 300
GARBAGE = (b"\x16\x03\x01\x02\x00\x01" + bytes(200), b"GET\r\n\r\n", b"NONSENSE " * 10_000, b"\r\n" * 50_000)


def resident_bytes(host: LabHost) -> int:
    """What the host's daemon has in memory."""
    pid = host.pid_of("drover")
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


@pytest.fixture(scope="module")
def containers(cluster: Lab) -> list[str]:
    """Two containers per host with some lines of log; and beside them one with a large file, on the first host.

    An engine holds a container's lock while a file is read from it, so nobody else may ask about that one.
    """
    docker = Docker(cluster.hosts[0].gateway_socket, docker_program(20))
    script = "seq 1 50; exec sleep 100000"
    names = [f"load{number}" for number in range(6)]
    for name, host in zip([*names, LARGE], itertools.cycle(cluster.hosts)):
        place = ("--label", f"drover.constraint=host=={host.name}")
        docker("run", "-d", "--name", name, *place, "busybox", "sh", "-c", script)
    docker("exec", LARGE, "dd", "if=/dev/zero", "of=/large", "bs=1M", f"count={LARGE_MB}")
    return names


@asynccontextmanager
async def sessions(lab: Lab) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """One HTTP client per gateway, with as many connections as calls at a time."""
    made = [
        aiohttp.ClientSession(
            "http://docker",
            connector=aiohttp.UnixConnector(str(host.gateway_socket), limit=0),
            timeout=aiohttp.ClientTimeout(total=CALL_DEADLINE_S),
        )
        for host in lab.hosts
    ]
    try:
        yield made
    finally:
        for session in made:
            await session.close()


async def polite(session: aiohttp.ClientSession, paths: list[str], stop: asyncio.Event, seen: Counter[str]) -> None:
    """Call in turn until told to stop; count what came of it."""
    for path in itertools.cycle(random.sample(paths, len(paths))):
        if stop.is_set():
            return
        try:
            async with session.get(path) as answer:
                body = await answer.read()
                seen["200" if answer.status == 200 else f"{answer.status} {body.decode()[:200]}"] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            seen[repr(error)] += 1


async def stuck(host: LabHost, stop: asyncio.Event, _seen: Counter[str]) -> None:
    """Ask for a large file and do not read it."""
    reader, writer = await asyncio.open_unix_connection(str(host.gateway_socket), limit=1024)
    writer.write(f"GET /containers/{LARGE}/archive?path=/large HTTP/1.1\r\nHost: docker\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    await stop.wait()
    writer.close()


async def leaver(host: LabHost, stop: asyncio.Event, seen: Counter[str]) -> None:
    """Leave in the middle of a stream, over and over."""
    while not stop.is_set():
        reader, writer = await asyncio.open_unix_connection(str(host.gateway_socket))
        writer.write(b"GET /containers/load1/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: docker\r\n\r\n")
        await reader.readline()
        writer.transport.abort()
        seen["left"] += 1
        await asyncio.sleep(0.05)


async def talker_of_garbage(host: LabHost, stop: asyncio.Event, seen: Counter[str]) -> None:
    """Say what is not HTTP; a refusal or nothing comes back, and then the end."""
    for garbage in itertools.cycle(GARBAGE):
        if stop.is_set():
            return
        reader, writer = await asyncio.open_unix_connection(str(host.gateway_socket))
        try:
            writer.write(garbage)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), CALL_DEADLINE_S)
            seen[answer[9:12].decode()] += 1
        except (ConnectionResetError, BrokenPipeError):
            seen["cut off"] += 1
        writer.close()
        await asyncio.sleep(0.05)


Rude = Callable[[LabHost, asyncio.Event, Counter[str]], Coroutine[None, None, None]]


async def run_load(lab: Lab, names: list[str]) -> tuple[Counter[str], dict[str, Counter[str]], dict[str, int]]:
    """All clients at once; what the polite and the rude ones saw, and each daemon's largest size in bytes."""
    paths = ["/containers/json", *(f"/containers/{name}/json" for name in names)]
    paths += [f"/containers/{name}/logs?stdout=1&tail=10" for name in names]
    seen: Counter[str] = Counter()
    rude: dict[str, Counter[str]] = {}
    largest = dict.fromkeys((host.name for host in lab.hosts), 0)
    stop = asyncio.Event()
    async with sessions(lab) as clients, asyncio.TaskGroup() as tasks:
        for kind in (stuck, leaver, talker_of_garbage):
            rude[kind.__name__] = Counter()
            for host in lab.hosts:
                tasks.create_task(kind(host, stop, rude[kind.__name__]))
        for number in range(CLIENTS):
            tasks.create_task(polite(clients[number % len(clients)], paths, stop, seen))
        end = asyncio.get_running_loop().time() + LOAD_S
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.5)
            for host in lab.hosts:
                largest[host.name] = max(largest[host.name], resident_bytes(host))
        stop.set()
    return seen, rude, largest


async def test_five_hundred_clients(cluster: Lab, containers: list[str]) -> None:
    before = {host.name: resident_bytes(host) for host in cluster.hosts}
    seen, rude, largest = await run_load(cluster, containers)
    growth = {name: (largest[name] - before[name]) // 1024**2 for name in before}
    print(f"{sum(seen.values())} calls in {LOAD_S:g} s; growth in MB {growth}; rude clients saw {rude}")
    assert set(seen) == {"200"}, seen
    assert sum(seen.values()) >= CLIENTS
    assert set(rude["talker_of_garbage"]) <= {"400", "cut off"}, rude
    assert rude["talker_of_garbage"]["400"] > 0
    assert rude["leaver"]["left"] > 0
    assert all(largest[name] - before[name] < GROWTH_BYTES for name in before), growth
