"""The deputy as a real process: it answers while there is no daemon, and at no other time."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.message
import pytest

from drover.daemon import deputy
from drover.daemon.deputy_link import DeputyLink, _lock
from drover.decide.wiring import Zone
from drover.drivers.network.dns import Responder

GATEWAY = "127.9.6.1"
WEB = {"web": ("10.44.0.2",), "web.app": ("10.44.0.2",)}


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((GATEWAY, 0))
        return int(probe.getsockname()[1])


class Daemon:
    """The part of a daemon that answers for names."""

    def __init__(self, run: Path, port: int) -> None:
        self.responder = Responder(port=port, upstreams=list)
        self.link = DeputyLink(run, self.responder, port)

    async def start(self) -> None:
        await self.link.begin()
        self.noting = asyncio.create_task(self.link.run())

    async def die(self) -> None:
        """As a killed process does: its sockets are closed, its locks are free."""
        self.noting.cancel()
        await self.responder.close()
        self.link.end()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Path]:
    yield tmp_path
    (tmp_path / deputy.NAMES).unlink(missing_ok=True)
    await ended(tmp_path)


async def ended(run: Path) -> None:
    """Until no deputy lives."""
    async with asyncio.timeout(20):
        os.close(await _lock(run / deputy.LOCK))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.05)


async def ask(port: int, name: str = "web", at: str = GATEWAY) -> list[str]:
    """The addresses; an error if nobody answers."""
    answer = await dns.asyncquery.udp(dns.message.make_query(name, "A"), at, timeout=1, port=port)
    return [str(record) for rrset in answer.answer for record in rrset]


async def answered(port: int, name: str = "web", at: str = GATEWAY) -> list[str]:
    async with asyncio.timeout(20):
        while True:
            try:
                return await ask(port, name, at)
            except (dns.exception.DNSException, OSError):
                await asyncio.sleep(0.05)


async def noted(run: Path, text: str) -> None:
    await until(lambda: (run / deputy.NAMES).exists() and text in (run / deputy.NAMES).read_text())


async def test_names_go_on_without_the_daemon_and_come_from_the_next_one(run: Path, port: int) -> None:
    first = Daemon(run, port)
    await first.start()
    await first.link.serve("app", f"{GATEWAY}/8", Zone(names=WEB))
    await noted(run, "10.44.0.2")
    assert deputy.locked(run / deputy.ALIVE) is None
    await first.die()
    assert await answered(port) == ["10.44.0.2"]
    second = Daemon(run, port)
    await second.start()
    await second.link.serve("app", f"{GATEWAY}/8", Zone(names={"web": ("10.44.0.3",)}))
    assert await ask(port) == ["10.44.0.3"]
    await noted(run, "10.44.0.3")
    await second.die()
    assert await answered(port) == ["10.44.0.3"]


async def test_a_network_that_is_not_served_any_more_is_not_the_deputys(run: Path, port: int) -> None:
    first = Daemon(run, port)
    await first.start()
    await first.link.serve("app", f"{GATEWAY}/8", Zone(names=WEB))
    await first.link.serve("back", "127.9.6.2/8", Zone(names={"db": ("10.45.0.2",)}))
    await noted(run, "10.45.0.2")
    await first.link.stop("app")
    await until(lambda: "10.44.0.2" not in (run / deputy.NAMES).read_text())
    await first.die()
    assert await answered(port, "db", "127.9.6.2") == ["10.45.0.2"]  # the deputy has taken over by now
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine:
        mine.bind((GATEWAY, port))
        assert mine.getsockname() == (GATEWAY, port)


async def test_a_host_that_left_has_no_deputy(run: Path, port: int) -> None:
    first = Daemon(run, port)
    await first.start()
    await first.link.serve("app", f"{GATEWAY}/8", Zone(names=WEB))
    await noted(run, "10.44.0.2")
    await first.die()
    assert await answered(port) == ["10.44.0.2"]
    (run / deputy.NAMES).unlink()
    await ended(run)


async def test_a_deputy_that_was_killed_is_replaced(run: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drover.daemon.deputy_link.CHECK_EVERY_S", 0.1)
    first = Daemon(run, port)
    await first.start()
    await first.link.serve("app", f"{GATEWAY}/8", Zone(names=WEB))
    await noted(run, "10.44.0.2")
    killed = first.link._process
    assert killed is not None
    killed.kill()
    await until(lambda: first.link._process is not killed)
    await first.die()
    assert await answered(port) == ["10.44.0.2"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot": "another", "networks": {}}'])
def test_a_file_that_is_damaged_or_of_an_earlier_boot_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / deputy.NAMES).write_text(text)
    assert deputy.read(tmp_path) is None
