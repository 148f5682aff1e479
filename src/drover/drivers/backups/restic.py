"""Backups by restic: encrypted, each block stored once, to a directory, S3, SFTP and what else restic speaks.

Theory of operation. restic tells what changed by path, and a volume's snapshots have changing paths. It therefore runs
in a mount namespace of its own, in which the tree is always at POINT/VOLUME: only files that changed are read. The
mounts go with the process, however it ends.

Secrets are lines `NAME=VALUE` (RESTIC_PASSWORD, AWS_ACCESS_KEY_ID, …) of a file of the host that only root may read;
they reach restic as its environment. Locks that a dead restic left are removed before each run (restic tells which).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path

import msgspec

from drover.drivers.backups.port import Kept
from drover.drivers.volumes.command import produce, run
from drover.errors import DroverError, Invalid, NotFound

POINT = "/run/drover-volume"
_IN_PLACE = (
    'mkdir -p "$1" && mount -t tmpfs none "$1" && mkdir "$1/$2" && mount --bind "$3" "$1/$2" && shift 3 && exec "$@"'
)
_QUIETLY = ("nice", "-n", "10")


class _Line(msgspec.Struct):
    """What restic prints, as far as it matters."""

    message_type: str = ""
    percent_done: float = 0.0
    snapshot_id: str = ""


class _Snapshot(msgspec.Struct):
    id: str
    time: datetime


class Restic:
    """`secrets`: the file with the environment; `cache`: a directory for restic's own use."""

    def __init__(self, secrets: Path, cache: Path) -> None:
        self._secrets = secrets
        self._cache = cache

    async def save(self, repository: str, volume: str, root: Path, told: Callable[[str], None]) -> str:
        await self._ready(repository)
        argv = ("backup", "--host", "drover", "--tag", f"volume={volume}", f"{POINT}/{volume}")
        identity = ""
        async for line in self._lines(self._there(root, volume, self._restic(repository, "--json", *argv))):
            if line.message_type == "status":
                told(f"{line.percent_done:.0%}")
            identity = line.snapshot_id[:8] or identity
        if not identity:
            raise DroverError(f"restic made no backup of volume {volume} and did not say why")
        return identity

    async def restore(self, repository: str, volume: str, backup: str, root: Path, told: Callable[[str], None]) -> None:
        found = await self.kept(repository, volume)
        chosen = [one for one in found if one.id.startswith(backup)] if backup else found[-1:]
        if not chosen:
            raise NotFound(
                f"{repository} has no backup {backup or 'at all'} of volume {volume}",
                hint=f"`drover volume backups {volume} --from {repository}` lists them",
            )
        told("0%")
        argv = self._restic(repository, "restore", chosen[-1].id, "--target", "/")
        await run(*self._there(root, volume, argv), environment=self._environment())

    async def thin_out(self, repository: str, volume: str, keep: int) -> None:
        argv = ("forget", "--tag", f"volume={volume}", "--group-by", "host,tags", "--keep-last", str(keep), "--prune")
        await run(*self._restic(repository, *argv), environment=self._environment())

    async def kept(self, repository: str, volume: str) -> list[Kept]:
        argv = self._restic(repository, "--json", "snapshots", "--tag", f"volume={volume}")
        answer = await run(*argv, environment=self._environment())
        found = msgspec.json.decode(answer or "[]", type=list[_Snapshot] | None) or []
        return sorted((Kept(one.id[:8], one.time.timestamp()) for one in found), key=lambda one: one.at)

    # -- running -------------------------------------------------------------------------------------------------

    async def _ready(self, repository: str) -> None:
        """Have the repository, and no lock that nobody holds."""
        environment = self._environment()
        try:
            await run(*self._restic(repository, "unlock"), environment=environment)
        except DroverError as error:
            try:
                await run(*self._restic(repository, "init"), environment=environment)
            except DroverError:
                raise error from None  # there is a repository, and it cannot be opened

    def _restic(self, repository: str, *argv: str) -> tuple[str, ...]:
        return (*_QUIETLY, "restic", "--repo", repository, "--cache-dir", str(self._cache), *argv)

    def _there(self, root: Path, volume: str, argv: tuple[str, ...]) -> tuple[str, ...]:
        """The command, with the tree at its fixed place."""
        return ("unshare", "--mount", "sh", "-c", _IN_PLACE, "sh", POINT, volume, str(root), *argv)

    def _environment(self) -> dict[str, str]:
        """This process's own and the secrets. Raises `Invalid` if there is no password."""
        found = dict(os.environ) | secrets_of(self._secrets)
        if not {"RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND"} & found.keys():
            raise Invalid(
                f"there is no password for backups on this host: {self._secrets} has no RESTIC_PASSWORD",
                hint="write RESTIC_PASSWORD=… (and, for S3, AWS_ACCESS_KEY_ID=… and AWS_SECRET_ACCESS_KEY=…) into that "
                "file on every host, readable by root only",
            )
        return found

    async def _lines(self, argv: tuple[str, ...]) -> AsyncIterator[_Line]:
        held = b""
        async with contextlib.aclosing(produce(*argv, environment=self._environment())) as pieces:
            async for piece in pieces:
                *whole, held = (held + piece).split(b"\n")
                for line in whole:
                    with contextlib.suppress(msgspec.DecodeError):
                        yield msgspec.json.decode(line, type=_Line)


def secrets_of(file: Path) -> dict[str, str]:
    """The file's lines as an environment; none if there is no file. Raises `Invalid` if others may read it."""
    try:
        mode, text = file.stat().st_mode, file.read_text()
    except FileNotFoundError:
        return {}
    if mode & 0o077:
        raise Invalid(f"{file} holds secrets, and others than root may read it", hint=f"chmod 600 {file}")
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {name.strip().removeprefix("export "): value.strip().strip("\"'") for name, value in pairs}


def check_repository(text: str) -> str:
    """A repository's name as restic takes it. Raises `Invalid` for a relative path, or a URL with a password."""
    scheme, colon, rest = text.partition(":")
    if "@" in rest and scheme in ("rest", "s3") and ":" in rest.split("@")[0].replace("://", ""):
        raise Invalid(
            "the repository's URL holds a password: it would be stored, and shown", hint="use the secrets file"
        )
    if not text.startswith("/") and not (
        colon and scheme in ("s3", "sftp", "rest", "b2", "azure", "gs", "swift", "rclone")
    ):
        raise Invalid(
            f"{text!r} is no place for backups",
            hint="give an absolute path, or for instance s3:https://s3.example.com/bucket/path",
        )
    return text
