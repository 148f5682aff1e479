"""Keeping what the daemon has been through out of what it holds.

Theory of operation. Streams pass through buffers of up to two megabytes. The C library gives each thread a heap of its
own and takes blocks of that size from it; it gives back only what lies at the heap's end. Where such blocks come from
the kernel instead, each is a mapping made, filled with zeros and taken down again: three times the processor time of a
stream (10 ms/MB instead of 3). So they come from one heap, and what of that is free goes back now and then, wherever
it lies.

    setting             value      so that
    M_ARENA_MAX         1          threads share one heap (they rarely run: the daemon is one event loop)
    M_MMAP_THRESHOLD    4 MiB      the pieces of streams come from the heap; what is larger goes back when it is freed
    M_TRIM_THRESHOLD    8 MiB      the heap's end does not go back with each piece
"""

from __future__ import annotations

import asyncio
import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BYTES = 4 * 1024 * 1024
_SPARE_BYTES = 8 * 1024 * 1024
_REST_S = 5.0


def keep_small() -> bool:
    """Set all; false where the C library has no such settings (musl) or refuses."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _LARGE_BYTES), (_M_TRIM_THRESHOLD, _SPARE_BYTES))
    return all(mallopt(setting, value) for setting, value in wanted)


def give_back() -> bool:
    """Give what is free to the kernel (malloc_trim(3)); whether there was anything. False without such a function."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return bool(trim is not None and trim(0))


async def give_back_now_and_then() -> None:
    """For ever. It takes less than a millisecond where there is little."""
    while True:
        await asyncio.sleep(_REST_S)
        give_back()
