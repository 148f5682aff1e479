"""Listening on a Unix socket: nobody waits for others' turns."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from gateway_wire_tools import until

from drover.gateway.accepting import UnixListener


class Recorder(asyncio.Protocol):
    """Notes the turn of the loop in which it was connected."""

    def __init__(self, turns: list[int], connected: list[int]) -> None:
        self._turns, self._connected = turns, connected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connected.append(len(self._turns))
        transport.close()


def clients(path: Path, count: int) -> list[socket.socket]:
    made = [socket.socket(socket.AF_UNIX) for _ in range(count)]
    for client in made:
        client.connect(str(path))
    return made


async def test_all_who_wait_are_taken_in_one_turn(tmp_path: Path) -> None:
    turns: list[int] = []
    connected: list[int] = []
    listener = UnixListener(tmp_path / "s", lambda: Recorder(turns, connected))
    listener.start()
    waiting = clients(tmp_path / "s", 20)

    def turn() -> None:
        turns.append(0)
        if len(connected) < len(waiting):
            asyncio.get_running_loop().call_soon(turn)

    turn()
    await until(lambda: len(connected) == len(waiting))
    assert max(connected) - min(connected) <= 2
    listener.close()
    for client in waiting:
        client.close()


async def test_after_the_end_nobody_is_taken(tmp_path: Path) -> None:
    listener = UnixListener(tmp_path / "s", asyncio.Protocol)
    listener.start()
    listener.close()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        clients(tmp_path / "s", 1)


async def test_a_path_that_cannot_be_bound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").touch()
    with pytest.raises(OSError, match="in use"):
        UnixListener(tmp_path / "s", asyncio.Protocol).start()
