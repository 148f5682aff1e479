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


def _answer(host: SimHost, method: str, path: str) -> EngineResponse:
    parts = path.strip("/").split("/")
    if method == "GET" and parts[0] == "images" and parts[-1] == "json":
        image = host.engine.images.find("/".join(parts[1:-1]))
        return _said({"Id": image.id}) if image is not None else _said({"message": "No such image"}, 404)
    return _said({"message": "page not found"}, 404)


def _said(value: Any, status: int = 200) -> EngineResponse:
    return EngineResponse(status=status, body=json.dumps(value).encode())
