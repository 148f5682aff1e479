"""The gateway's way to the engines of a simulated world: what it asks for itself, answered by the fakes.

question                       answer
GET /images/NAME/json          the image, if the engine has it
anything else                  404
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from drover.errors import EngineError, Unavailable
from drover.gateway.call import EngineResponse, Headers

if TYPE_CHECKING:
    from drover.sim.host import SimHost

CONNECT_S = 0.5
LOOK_S = 0.25
KEPT_ALIVE = 8
"""So many looks in vain are the two seconds after which a kernel gives a connection up."""


class SimLinks:
    """`Links` of one host. `find(from, to)` is the other host while packets pass both ways, else None."""

    def __init__(self, host: str, find: Callable[[str, str], SimHost | None]) -> None:
        self._host = host
        self._find = find

    async def request(
        self,
        host: str,
        method: str,
        target: str,
        *,
        body: bytes = b"",
        headers: Headers = (),
        deadline_s: float = 30.0,
    ) -> EngineResponse:
        other = self._find(self._host, host)
        if other is None or not other.serves or other.is_stopped or other.engine.down:
            await asyncio.sleep(deadline_s)
            raise Unavailable(f"host {host} does not answer")
        await asyncio.sleep(other.engine.slow_s)
        return _answer(other, method, unquote(urlsplit(target).path))

    async def stream(self, host: str, method: str, target: str) -> AsyncIterator[bytes]:
        raise EngineError(404, "page not found")
        yield b""


class SimListener:
    """What a kernel knows of another host's daemon: that it listens, whether or not it is stopped."""

    def __init__(self, host: str, find: Callable[[str, str], SimHost | None]) -> None:
        self._host = host
        self._find = find

    async def __call__(self, host: str) -> SimHeard:
        other = self._find(self._host, host)
        if other is None or not other.powered:
            await asyncio.sleep(CONNECT_S)
            raise TimeoutError
        if not other.serves:
            raise ConnectionRefusedError
        return SimHeard(lambda: self._find(self._host, host), other.starts)


class SimHeard:
    def __init__(self, find: Callable[[], SimHost | None], start: int) -> None:
        self._find = find
        self._start = start

    async def ended(self) -> None:
        unheard = 0
        while unheard < KEPT_ALIVE:
            await asyncio.sleep(LOOK_S)
            other = self._find()
            if other is None or not other.powered:
                unheard += 1
            elif not other.serves or other.starts != self._start:
                return
            else:
                unheard = 0

    def close(self) -> None:
        return


def _answer(host: SimHost, method: str, path: str) -> EngineResponse:
    parts = path.strip("/").split("/")
    if method == "GET" and parts[0] == "images" and parts[-1] == "json":
        image = host.engine.images.find("/".join(parts[1:-1]))
        return _said({"Id": image.id}) if image is not None else _said({"message": "No such image"}, 404)
    return _said({"message": "page not found"}, 404)


def _said(value: Any, status: int = 200) -> EngineResponse:
    return EngineResponse(status=status, body=json.dumps(value).encode())
