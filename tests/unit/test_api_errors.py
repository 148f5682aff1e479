"""What becomes of an error in a call of the API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from structlog.testing import capture_logs

from drover.api import app as api

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def answered(handler: Handler, path: Path, *, leave: bool) -> tuple[bytes, list[str]]:
    """What a client reads that may leave at once, and what was logged."""
    ended = asyncio.Event()

    async def watched(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        finally:
            ended.set()

    served = web.Application(middlewares=[api.errors_as_json])
    served.router.add_get("/", watched)
    runner = web.AppRunner(served)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        with capture_logs() as logs:
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(REQUEST)
            await writer.drain()
            if leave:
                writer.close()
            said = b"" if leave else await reader.readuntil(b"}")
            await ended.wait()
            await asyncio.sleep(0.05)
            writer.close()
    finally:
        await runner.cleanup()
    return said, [str(one["event"]) for one in logs]


async def test_a_caller_who_leaves_in_the_middle_of_an_answer_is_no_fault(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        for _ in range(1000):
            if request.transport is None or request.transport.is_closing():
                break
            await asyncio.sleep(0.01)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"piece")
        return response

    assert await answered(handler, tmp_path / "socket", leave=True) == (b"", [])


async def test_a_broken_connection_to_somebody_else_is_a_fault(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise ConnectionResetError("another host left")

    said, logged = await answered(handler, tmp_path / "socket", leave=False)
    assert said.startswith(b"HTTP/1.1 500 ")
    assert logged == ["a call of the API failed"]
