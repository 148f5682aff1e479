"""The docker context `drover`, by which this machine's docker CLI talks to the cluster: made, and removed again."""

from __future__ import annotations

import subprocess

from drover.daemon.config import HostConfig

NAME = "drover"


def endpoint(config: HostConfig) -> str:
    return f"unix://{config.docker_socket}"


def making(config: HostConfig) -> list[str]:
    """The command that makes it."""
    return ["docker", "context", "create", NAME, "--docker", f"host={endpoint(config)}"]


def make(config: HostConfig) -> str:
    """Make it; why not, if that failed."""
    return _run(making(config))[1]


def remove(config: HostConfig) -> bool:
    """Remove the context if there is one and it leads to this host's gateway: somebody else's of that name stays."""
    shown, failure = _run(["docker", "context", "inspect", NAME, "--format", "{{.Endpoints.docker.Host}}"])
    if failure or shown != endpoint(config):
        return False
    return not _run(["docker", "context", "rm", "--force", NAME])[1]  # forced: it may be the one in use


def _run(command: list[str]) -> tuple[str, str]:
    """What it printed, and why it failed if it did."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return "", str(error)
    return done.stdout.strip(), (done.stderr.strip() or "it failed") if done.returncode else ""
