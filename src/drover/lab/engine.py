"""A host's Docker Engine: its command line, and asking it over its Unix socket.

Theory of operation. Each engine gets directories of its own below the host's, so engines share nothing:

    --data-root   HOST/data                 the disk: survives a power cut
    --exec-root   /run/docker               on the host's private tmpfs: gone with the power
    --host        HOST/engine/docker.sock   reachable from the machine, too
    --cgroup-parent                         containers stay inside the host's cgroup

A host may run the engine of another Linux system, a directory as mmdebstrap makes it (`ROOTS_VARIABLE`): the engine
sees that system, unchanged, below a layer of its own that is gone with the power, and the lab's directory at its own
place; what the host mounts there later (a volume pool) arrives in it.

An engine is ready when `GET /_ping` answers 200; the same question tells of a cluster gateway.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from drover.errors import DroverError, EngineError, NotFound, Unavailable

ROOTS_VARIABLE = "DROVER_LAB_ENGINE_ROOTS"
"""Directories of Linux systems, separated by colons, that the hosts of new labs take in turn; `-` is this machine."""
_TIMEOUT_S = 2.0
# $1 the system's directory, $2 the lab's; then the engine's command line.
_ENTER = """set -e
system=$1 lab=$2
shift 2
mount --make-rslave /
mkdir -p /run/engine/upper /run/engine/work /run/engine/root
mount -t overlay -o "lowerdir=$system,upperdir=/run/engine/upper,workdir=/run/engine/work" overlay /run/engine/root
cd /run/engine/root
mount -t proc proc proc
for part in sys dev run; do mount --rbind "/$part" "$part"; done
mkdir -p ".$lab" .old
mount --rbind "$lab" ".$lab"
cat /etc/resolv.conf >etc/resolv.conf
pivot_root . .old
umount -l /.old
exec "$@" """


def dockerd_argv(directory: Path, cgroup: str) -> list[str]:
    """The engine's command line for a host whose disk is `directory` and whose cgroup is `cgroup`."""
    return [
        "dockerd",
        *("--data-root", f"{directory}/data"),
        *("--exec-root", "/run/docker"),
        *("--pidfile", "/run/docker.pid"),
        *("--host", f"unix://{directory}/engine/docker.sock"),
        *("--storage-driver", "overlay2"),
        *("--exec-opt", "native.cgroupdriver=cgroupfs"),
        *("--cgroup-parent", cgroup),
    ]


def entered_argv(root: str, lab: Path, argv: list[str]) -> list[str]:
    """The command that runs `argv` in the system below `root`, in mounts of its own; as it is, if that is empty."""
    if not root:
        return argv
    return ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", _ENTER, "enter", root, str(lab), *argv]


def roots_asked(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The systems that ROOTS_VARIABLE lists. NotFound if one has no Docker Engine."""
    found = ["" if root == "-" else root for root in environ.get(ROOTS_VARIABLE, "").split(":") if root]
    for root in found:
        if root and not any((Path(root) / part / "dockerd").exists() for part in ("usr/bin", "usr/sbin")):
            raise NotFound(f"there is no Docker Engine in {root}", hint="`tools/engines` makes systems that have one")
    return found


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def request(
    path: Path, method: str, target: str, *, body: IO[bytes] | None = None, timeout_s: float = _TIMEOUT_S
) -> tuple[int, bytes]:
    """One request over a Unix socket: status and body. Unavailable if nobody answers in time."""
    connection = _UnixConnection(path, timeout_s)
    headers = {"Content-Type": "application/x-tar"} if body else {}
    try:
        connection.request(method, target, body=body, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"nobody answers at {path}: {error or type(error).__name__}") from error
    finally:
        connection.close()


def answers(path: Path) -> bool:
    """Whether an engine or a gateway answers pings at this socket."""
    try:
        return request(path, "GET", "/_ping")[0] == 200
    except DroverError:
        return False


def version(path: Path) -> str | None:
    """The engine's version; None if it does not answer."""
    try:
        return str(json.loads(request(path, "GET", "/version")[1])["Version"])
    except (DroverError, ValueError, KeyError):
        return None


def load(path: Path, archive: Path, *, timeout_s: float = 600.0) -> str:
    """Load a `docker save` archive into an engine; its last sentence. EngineError repeats a refusal."""
    with archive.open("rb") as body:
        status, answer = request(path, "POST", "/images/load?quiet=1", body=body, timeout_s=timeout_s)
    lines = [json.loads(line) for line in answer.splitlines() if line.strip()]
    failures = [line.get("error") or line.get("message") for line in lines if "error" in line or status >= 400]
    if failures:
        raise EngineError(max(status, 400), f"loading {archive.name} failed: {failures[0]}")
    return str(lines[-1].get("stream", "")).strip() if lines else ""
