"""Programs with a stream going in or coming out: real ones, of any system."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path

import pytest

from drover.drivers.volumes.command import PIECE_BYTES, consume, produce
from drover.errors import DroverError, MissingTool

SIZE_BYTES = 3 * PIECE_BYTES + 17


async def pieces(*given: bytes) -> AsyncGenerator[bytes, None]:
    for piece in given:
        yield piece


def processes(marker: str) -> list[int]:
    """Those with a word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            found += [int(entry.name)] if marker.encode() in words else []
    return found


async def test_all_that_a_program_says_comes_in_order() -> None:
    script = f"i=0; while [ $i -lt 9 ]; do printf %s $i; i=$((i+1)); done; head -c {SIZE_BYTES} /dev/zero"
    said = b"".join([piece async for piece in produce("sh", "-c", script)])
    assert said == b"012345678" + bytes(SIZE_BYTES)


async def test_a_program_that_fails_raises_its_words_after_its_last_piece() -> None:
    said = produce("sh", "-c", "printf some; echo no more of it >&2; exit 3")
    assert await anext(said) == b"some"
    with pytest.raises(DroverError, match="no more of it"):
        await anext(said)


async def test_a_stream_that_is_not_read_to_its_end_leaves_no_process() -> None:
    marker = f"drover-unread-{os.getpid()}"
    async with aclosing(produce("sh", "-c", f": {marker}; while :; do echo more; done")) as said:
        assert await anext(said)
        assert processes(marker)
    assert not processes(marker)


@pytest.mark.parametrize("slow", ["", "sleep 0.3; "])
async def test_a_program_is_fed_everything(tmp_path: Path, slow: str) -> None:
    given = [bytes([number]) * (PIECE_BYTES // 2 + number) for number in range(6)]
    await consume(pieces(*given), "sh", "-c", f"{slow}cat > '{tmp_path / 'fed'}'")
    assert (tmp_path / "fed").read_bytes() == b"".join(given)


async def test_a_program_that_ends_before_it_is_fed_says_why() -> None:
    with pytest.raises(DroverError, match="too much for me"):
        await consume(pieces(*[bytes(PIECE_BYTES)] * 8), "sh", "-c", "echo too much for me >&2; exit 1")


async def test_an_error_of_the_stream_kills_the_program() -> None:
    marker = f"drover-broken-{os.getpid()}"

    async def broken() -> AsyncGenerator[bytes, None]:
        yield b"some"
        assert processes(marker)
        raise ValueError("the stream broke")

    with pytest.raises(ValueError, match="the stream broke"):
        await consume(broken(), "sh", "-c", f": {marker}; cat >/dev/null")
    assert not processes(marker)


async def test_a_reader_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    silent = tmp_path / f"drover-silent-{os.getpid()}"
    os.mkfifo(silent)  # nobody writes: whoever opens it waits
    said = produce("cat", str(silent))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await anext(said)
    await said.aclose()
    assert not processes(silent.name)


@pytest.mark.parametrize("call", [lambda: consume(pieces(), "drover-no-such-program"), lambda: _all("drover-no-such")])
async def test_a_missing_program_is_named(call: object) -> None:
    before = _descriptors()
    with pytest.raises(MissingTool, match="has no drover-no-such"):
        await call()  # type: ignore[operator]
    assert _descriptors() == before


async def _all(program: str) -> Iterable[bytes]:
    return [piece async for piece in produce(program)]


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
