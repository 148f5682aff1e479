"""Programs that drivers run: to their end, or with a stream going in or coming out.

Every failure is one `DroverError` with the program's own words. A stream that is not read or fed to its end leaves no
process behind: it is killed, and waited for.

Streams go through pipes of a megabyte that are read and written directly: a pipe of the usual size wakes both sides
sixteen times as often, and asyncio's own streams copy each piece twice more (a third of a sender's processor time).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from io import FileIO

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
    with _pipe() as (output, theirs):
        process = await _start(argv, stdout=theirs.fileno(), environment=environment)
        theirs.close()
        os.set_blocking(output.fileno(), False)
        async with _heard(process) as words:
            with output:  # closed before anybody waits for a process that may have children at its other end
                while piece := await _read(output):
                    yield piece
            await process.wait()
            _accept(argv, process, await words)


async def consume(stream: AsyncIterator[bytes], *argv: str) -> None:
    """Feed a stream to a program's standard input. An error of the stream passes through, the program is killed."""
    with _pipe() as (theirs, entry):
        process = await _start(argv, stdin=theirs.fileno())
        theirs.close()
        os.set_blocking(entry.fileno(), False)
        async with _heard(process) as words:
            with entry, contextlib.suppress(ConnectionError):  # it ended early: its words say why
                async for piece in stream:
                    await _write(entry, piece)
            await process.wait()
            _accept(argv, process, await words)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """Its reading and its writing end; those that are still open are closed in the end."""
    descriptors = os.pipe()
    with FileIO(descriptors[0], "rb") as reading, FileIO(descriptors[1], "wb") as writing:
        with contextlib.suppress(OSError):  # an ordinary user may have so much only in few pipes
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIECE_BYTES)
        yield reading, writing


async def _read(pipe: FileIO) -> bytes:
    """What is in a pipe, once there is something; nothing at its end."""
    loop = asyncio.get_running_loop()
    while (piece := pipe.read(PIECE_BYTES)) is None:
        await _once(pipe, loop.add_reader, loop.remove_reader)
    return piece


async def _write(pipe: FileIO, piece: bytes) -> None:
    """Raises `BrokenPipeError` if nobody reads any more."""
    loop, left = asyncio.get_running_loop(), memoryview(piece)
    while left:
        written = pipe.write(left)
        if written is None:
            await _once(pipe, loop.add_writer, loop.remove_writer)
        else:
            left = left[written:]


async def _once(pipe: FileIO, add: Callable[..., None], remove: Callable[[FileIO], bool]) -> None:
    """Wait until a pipe is ready."""
    ready = asyncio.Event()
    add(pipe, ready.set)
    try:
        await ready.wait()
    finally:
        remove(pipe)


async def _start(
    argv: tuple[str, ...], stdin: int = DEVNULL, stdout: int = DEVNULL, environment: Mapping[str, str] | None = None
) -> Process:
    try:
        return await asyncio.create_subprocess_exec(*argv, stdin=stdin, stdout=stdout, stderr=PIPE, env=environment)
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


@contextlib.asynccontextmanager
async def _heard(process: Process) -> AsyncIterator[asyncio.Task[bytes]]:
    """As `_ended`, and what it says on standard error meanwhile."""
    async with _ended(process):
        words = asyncio.create_task(_words(process))
        try:
            yield words
        finally:
            words.cancel()


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
