"""Unix sockets whose file mode says who may connect: the owner and one group."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from pathlib import Path

from drover.errors import Conflict, Invalid

PATH_LIMIT_BYTES = 107
"""What the kernel's socket address holds."""


def bind_unix(path: Path, group: str = "") -> socket.socket:
    """A listening Unix socket at `path` with mode 0660, owned by `group` if the machine has it.

    A socket that nobody listens on any more is replaced. Raises `Conflict` if somebody does, or if the path is
    something else, and `Invalid` if the path is too long.
    """
    if len(os.fsencode(path)) > PATH_LIMIT_BYTES:
        raise Invalid(
            f"the socket path {path} is longer than {PATH_LIMIT_BYTES} bytes", hint="choose a shorter --run-dir"
        )
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _make_room(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mask closes the moment between bind and chmod in which anybody could connect.
    mask = os.umask(0o177)
    try:
        sock.bind(str(path))
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(mask)
    _give_to(path, group)
    path.chmod(0o660)
    sock.listen(1024)
    sock.setblocking(False)
    return sock


def _make_room(path: Path) -> None:
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise Conflict(f"{path} exists and is not a socket", hint="remove it, or choose another --run-dir")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        # Any other answer, a full backlog included, means that somebody listens.
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise Conflict(f"somebody listens on {path} already", hint="is a drover daemon running on this host?")
    path.unlink()


def _give_to(path: Path, group: str) -> None:
    """Without such a group the socket stays its owner's: less access than asked for, never more."""
    try:
        if group:
            shutil.chown(path, group=group)
    except (LookupError, PermissionError):
        return
