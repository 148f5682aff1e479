"""nftables through libnftables, the library that the program `nft` is made of: what a small change costs is then the
change, and no new process.

Theory of operation. A context belongs to the thread that made it, and with its socket to the network namespace that the
thread was in. The library ends the process where it cannot open a socket, so `Library` opens one first; and it keeps
in memory what a script needed, so large scripts are left to the program (`filter.apply`).
"""

from __future__ import annotations

import ctypes
import socket
import threading
from functools import cache

NETLINK_NETFILTER = 12


class Library:
    """One context. Raises `OSError` where there is no library, or no socket for it."""

    def __init__(self) -> None:
        self._context: int | None = None
        self._nft = _loaded()
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER).close()
        self._context = self._nft.nft_ctx_new(0)
        if not self._context:
            raise OSError("libnftables gives no context")
        self._nft.nft_ctx_buffer_error(self._context)
        self._nft.nft_ctx_buffer_output(self._context)

    def refusal(self, script: str) -> str:
        """Run one transaction: what was refused, in the words of `nft`; empty if nothing was."""
        if self._nft.nft_run_cmd_from_buffer(self._context, script.encode()) == 0:
            return ""
        told = bytes(self._nft.nft_ctx_get_error_buffer(self._context) or b"").decode(errors="replace")
        return told.strip() or "no reason given"

    def __del__(self) -> None:
        if self._context:
            self._nft.nft_ctx_free(self._context)


_of_thread = threading.local()


def library() -> Library | None:
    """This thread's; None where there is none."""
    if not hasattr(_of_thread, "library"):
        try:
            _of_thread.library = Library()
        except OSError:
            _of_thread.library = None
    found: Library | None = _of_thread.library
    return found


@cache
def _loaded() -> ctypes.CDLL:
    """Raises `OSError` if it is not installed, or is another one than it seems."""
    loaded = ctypes.CDLL("libnftables.so.1")
    try:
        loaded.nft_ctx_new.argtypes, loaded.nft_ctx_new.restype = [ctypes.c_uint32], ctypes.c_void_p
        loaded.nft_ctx_free.argtypes, loaded.nft_ctx_free.restype = [ctypes.c_void_p], None
        loaded.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
        loaded.nft_ctx_buffer_output.argtypes = [ctypes.c_void_p]
        loaded.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
        loaded.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        loaded.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    except AttributeError as error:
        raise OSError(f"libnftables lacks {error}") from error
    return loaded
