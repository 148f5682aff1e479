"""The daemon's settings of the C library."""

import asyncio
import ctypes
import subprocess
import sys

import pytest

from drover.daemon import heap
from drover.sim import clock

HELD = """
from pathlib import Path
from drover.daemon import heap

def resident_mb():
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) / 1024

heap.keep_small()
before = resident_mb()
pieces = [bytearray(b"x" * 1024**2) for _ in range(60)]
last = bytearray(b"x" * 1024**2)  # above them all: the heap's end cannot go back
full = resident_mb()
pieces.clear()
freed = resident_mb()
heap.give_back()
print(full - before, freed - before, resident_mb() - before)
"""


def test_the_settings_are_taken_where_the_c_library_has_them() -> None:
    assert heap.keep_small() is hasattr(ctypes.CDLL(None), "mallopt")


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library gives nothing back on request"
)
def test_pieces_of_streams_come_from_the_heap_and_go_back_on_request() -> None:
    told = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True).stdout
    full, freed, given_back = map(float, told.split())
    assert full > 60
    assert freed > 50  # else each piece would have been a mapping of its own, made and taken down again
    assert given_back < 10


def test_what_is_free_goes_back_for_as_long_as_the_daemon_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back_s: list[float] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        monkeypatch.setattr(heap, "give_back", lambda: given_back_s.append(loop.time() - begun_s))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(16):
                await heap.give_back_now_and_then()

    clock.run(scene())
    assert given_back_s == [5.0, 10.0, 15.0]
