"""Configs and secrets as files: from the store into this host's run directory, from there into containers.

Theory of operation. A container's label says which contents it uses, at which path, with which owner and mode; the
contents are in the store. The run directory is in memory on most machines (`/run`), so nothing secret meets a disk; it
is empty after a reboot, so the files are looked after before every start, too.

    RUN/files/CONTAINER/NUMBER    one file per use, written once under another name and renamed
    a bind mount, read-only       in the body that the engine gets; the client's own body is as it was
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
from pathlib import Path
from typing import Any

from drover.decide.app_steps import files_of
from drover.errors import Unavailable
from drover.model import records as r
from drover.model.apps import PROJECT_LABEL, FileUse
from drover.model.cluster import Cluster
from drover.model.spec import parse_spec


class ContainerFiles:
    """`directory`: the files of this host's containers, a directory for each; readable by root only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def ready(self, cluster: Cluster, record: r.Container) -> None:
        """Have a container's files there. Raises `Unavailable` if the store has not (yet) a content."""
        labels = parse_spec(record.body).labels
        for number, use in enumerate(files_of(labels)):
            content = cluster.files.get(f"{labels.get(PROJECT_LABEL, '')}/{use.file}")
            path = self._path(record.id, number)
            if path.exists():
                continue
            if content is None:
                raise Unavailable(f"the content of {use.target} of container {record.name} is not in the store")
            await asyncio.to_thread(_write, path, base64.b64decode(content.content), use)

    def mounted(self, record: r.Container, body: dict[str, Any]) -> dict[str, Any]:
        """The create body for the engine, with the container's files bound into it."""
        uses = files_of(parse_spec(record.body).labels)
        if not uses:
            return body
        mounts = [
            {"Type": "bind", "Source": str(self._path(record.id, number)), "Target": use.target, "ReadOnly": True}
            for number, use in enumerate(uses)
        ]
        host = body.get("HostConfig") or {}
        return {**body, "HostConfig": {**host, "Mounts": [*(host.get("Mounts") or ()), *mounts]}}

    def forget(self, container: str) -> None:
        """Remove a container's files, if it has any."""
        shutil.rmtree(self._directory / container, ignore_errors=True)

    def _path(self, container: str, number: int) -> Path:
        return self._directory / container / str(number)


def _write(path: Path, content: bytes, use: FileUse) -> None:
    """Whole or not at all; the container's owner and mode, in a directory that only root enters."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.parent.chmod(0o700)
    draft = path.with_suffix(".new")
    draft.write_bytes(content)
    os.chown(draft, _number(use.uid), _number(use.gid))
    draft.chmod(int(use.mode, 8))
    draft.rename(path)


def _number(text: str) -> int:
    """An owner's number; what is no number is root: names are the image's affair, which nobody can look into."""
    return int(text) if text.isdigit() else 0
