"""Programs that drivers run: to their end, or with a stream going in or coming out.

Every failure is one `DroverError` with the program's own words. A stream that is not read or fed to its end leaves no
process behind: it is killed, and waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from drover.errors import DroverError, MissingTool

PIECE_BYTES = 1024 * 1024
WORDS_BYTES = 16 * 1024


async def run(*argv: str, environment: Mapping[str, str] | None = None) -> str:
    """Run to the end; its output. Raises what it said on standard error if it fails."""
    process = await _start(argv, stdout=PIPE, environment=environment)
    async with _ended(process):
        output, words = await process.communicate()
    _accept(argv, process, words)
    return output.decode(errors="replace")


async def produce(*argv: str, environment: Mapping[str, str] | None = None) -> AsyncGenerator[bytes, None]:
    """A program's standard output in pieces. Raises after the last one if the program failed."""
    process = await _start(argv, stdout=PIPE, environment=environment)
    async with _ended(process):
        assert process.stdout is not None
        words = asyncio.create_task(_words(process))
        while piece := await process.stdout.read(PIECE_BYTES):
            yield piece
        await process.wait()
        _accept(argv, process, await words)


async def consume(stream: AsyncIterator[bytes], *argv: str) -> None:
    """Feed a stream to a program's standard input. An error of the stream passes through, the program is killed."""
    process = await _start(argv, stdin=PIPE)
    async with _ended(process):
        assert process.stdin is not None
        words = asyncio.create_task(_words(process))
        with contextlib.suppress(ConnectionError):  # it ended early: its words say why
            async for piece in stream:
                process.stdin.write(piece)
                await process.stdin.drain()
        process.stdin.close()
        await process.wait()
        _accept(argv, process, await words)


async def _start(
    argv: tuple[str, ...], stdin: int = DEVNULL, stdout: int = DEVNULL, environment: Mapping[str, str] | None = None
) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv, stdin=stdin, stdout=stdout, stderr=PIPE, limit=PIECE_BYTES, env=environment
        )
    except FileNotFoundError as error:
        raise MissingTool(
            f"this host has no {argv[0]}", hint=f"install the package that has {argv[0]}: see the guide"
        ) from error


@contextlib.asynccontextmanager
async def _ended(process: Process) -> AsyncIterator[None]:
    """However the block is left, the process is no more."""
    try:
        yield
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _words(process: Process) -> bytes:
    """What it says on standard error: the end of it, as that is where programs say why."""
    assert process.stderr is not None
    words = b""
    while piece := await process.stderr.read(WORDS_BYTES):
        words = (words + piece)[-WORDS_BYTES:]
    return words


def _accept(argv: tuple[str, ...], process: Process, words: bytes) -> None:
    if process.returncode:
        said = words.decode(errors="replace").strip() or f"exit status {process.returncode}"
        raise DroverError(f"`{' '.join(argv)}` failed: {said}")
