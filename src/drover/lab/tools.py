"""The programs a lab needs, and running them.

Theory of operation. Everything a lab does to the machine goes through `run`, so a failure always becomes one
`DroverError` with the command and its own words. A program that is missing is named by the package that has it:

    program                             Debian package
    dockerd, docker                     docker.io
    ip                                  iproute2
    nft                                 nftables
    nsenter, unshare, mount, setsid     util-linux, mount
    etcd                                etcd-server
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence

from drover.errors import DroverError, Forbidden, MissingTool

PACKAGES = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "containerd": "containerd",
    "iptables": "iptables",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setsid": "util-linux",
    "mount": "mount",
    "etcd": "etcd-server",
    "busybox": "busybox-static",
    "mmdebstrap": "mmdebstrap",
    "mkfs.btrfs": "btrfs-progs",
    "btrfs": "btrfs-progs",
    "conntrack": "conntrack",
    "ping": "iputils-ping",
}
ENGINE_TOOLS = ("dockerd", "iptables", "ip", "nft", "nsenter", "unshare", "setsid", "mount")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TIMEOUT_S = 60.0


def find(program: str) -> str:
    """The program's path. MissingTool names the package that has it."""
    path = shutil.which(program) or shutil.which(program, path=SYSTEM_PATH)
    if path is None:
        package = PACKAGES.get(program, program)
        raise MissingTool(
            f"this machine has no {program}", hint=f"install the package {package}: tools/system-packages does"
        )
    return path


def require(programs: Iterable[str]) -> None:
    """Check for all programs at once, so that one answer names every missing package."""
    missing = [p for p in programs if not (shutil.which(p) or shutil.which(p, path=SYSTEM_PATH))]
    if missing:
        packages = " ".join(sorted({PACKAGES.get(p, p) for p in missing}))
        raise MissingTool(
            f"this machine has no {', '.join(missing)}", hint=f"install {packages}: tools/system-packages does"
        )


def require_root() -> None:
    if os.geteuid() != 0:
        raise Forbidden("only root can make network namespaces and start engines", hint="repeat the command with sudo")


def run(
    argv: Sequence[str], *, check: bool = True, stdin: str | None = None, timeout_s: float = _TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, output captured. With `check`, a failure raises what it wrote to standard error."""
    done = subprocess.run(
        [find(argv[0]), *argv[1:]], input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    return checked(done, f"`{' '.join(argv)}`") if check else done


def checked(done: subprocess.CompletedProcess[str], what: str) -> subprocess.CompletedProcess[str]:
    """A finished program if it succeeded; else an error with its own words."""
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise DroverError(f"{what} failed: {words}")
    return done
