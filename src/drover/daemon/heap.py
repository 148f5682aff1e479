"""Keeping what the daemon has been through out of what it holds.

Theory of operation. Streams pass through buffers of up to half a megabyte. The C library gives each thread a heap of
its own and, once a large block was freed, takes blocks of that size from the heap, too, which then cannot shrink.
Three settings, made before the first thread starts, keep the daemon near the size it started with:

    setting             value      so that
    M_ARENA_MAX         1          threads share one heap (they rarely run: the daemon is one event loop)
    M_MMAP_THRESHOLD    128 KiB    larger blocks go back to the kernel when they are freed, always
    M_TRIM_THRESHOLD    1 MiB      the heap's end does not go back with each piece of a stream
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BYTES = 128 * 1024
_SPARE_BYTES = 1024 * 1024


def keep_small() -> bool:
    """Set all; false where the C library has no such settings (musl) or refuses."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _LARGE_BYTES), (_M_TRIM_THRESHOLD, _SPARE_BYTES))
    return all(mallopt(setting, value) for setting, value in wanted)
