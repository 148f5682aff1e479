"""Backups by the real restic to a directory, and how secrets and places reach it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from drover.drivers.backups import restic
from drover.drivers.backups.restic import Restic, check_repository, secrets_of
from drover.errors import DroverError, Invalid, NotFound


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    file = tmp_path / "backup.env"
    file.write_text("# for backups\nRESTIC_PASSWORD=sesame\nexport AWS_ACCESS_KEY_ID='key'\n")
    file.chmod(0o600)
    return file


def test_secrets_are_lines_of_a_file_that_only_root_reads(secrets: Path, tmp_path: Path) -> None:
    assert secrets_of(secrets) == {"RESTIC_PASSWORD": "sesame", "AWS_ACCESS_KEY_ID": "key"}
    assert secrets_of(tmp_path / "none") == {}
    secrets.chmod(0o640)
    with pytest.raises(Invalid, match="others than root may read it"):
        secrets_of(secrets)


@pytest.mark.parametrize("place", ["/mnt/backups", "s3:https://s3.example.com/bucket/drover", "sftp:me@host:/srv/b"])
def test_places_that_restic_knows(place: str) -> None:
    assert check_repository(place) == place


@pytest.mark.parametrize("place", ["backups", "ftp:x", "", "rest:https://me:secret@backup.example.com/"])
def test_places_that_are_none_or_hold_a_password(place: str) -> None:
    with pytest.raises(Invalid):
        check_repository(place)


async def test_without_a_password_it_says_where_to_write_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESTIC_PASSWORD", raising=False)
    with pytest.raises(Invalid, match=r"backup\.env has no RESTIC_PASSWORD"):
        await Restic(tmp_path / "backup.env", tmp_path).kept("/mnt/backups", "data")


async def test_a_place_on_s3_and_its_keys_reach_restic_and_its_words_come_back(
    secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for restic that shows how it was called: no S3 store is here."""
    stand_in = tmp_path / "bin" / "restic"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\necho "repo=$2 key=$AWS_ACCESS_KEY_ID password=$RESTIC_PASSWORD" >&2\nexit 1\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    with pytest.raises(DroverError, match=r"repo=s3:https://s3\.example\.com/b key=key password=sesame"):
        await Restic(secrets, tmp_path).kept("s3:https://s3.example.com/b", "data")


@pytest.mark.lab
@pytest.mark.skipif(shutil.which("restic") is None, reason="restic is not installed")
async def test_trees_are_kept_found_restored_and_thinned_out(secrets: Path, tmp_path: Path) -> None:
    place, tool = str(tmp_path / "place"), Restic(secrets, tmp_path / "cache")
    made = []
    for number in range(3):
        tree = tmp_path / f"snapshot{number}"
        _tree(tree, str(number))
        made.append(await tool.save(place, "data", tree, lambda _: None))
    assert [one.id for one in await tool.kept(place, "data")] == made
    assert await tool.kept(place, "other") == []
    for backup, found in (("", "2"), (made[0], "0")):
        target = tmp_path / f"back-{backup}"
        _tree(target, None)
        await tool.restore(place, "data", backup, target, lambda _: None)
        assert (target / "part" / "fish").read_text() == found
    with pytest.raises(NotFound, match="no backup at all of volume other"):
        await tool.restore(place, "other", "", tmp_path, lambda _: None)
    await tool.thin_out(place, "data", 2)
    assert [one.id for one in await tool.kept(place, "data")] == made[1:]
    _say(secrets, "RESTIC_PASSWORD=wrong")
    with pytest.raises(DroverError, match="wrong password"):
        await tool.save(place, "data", tmp_path / "snapshot0", lambda _: None)
    assert not any(restic.POINT in line for line in _mounts())


def _tree(root: Path, text: str | None) -> None:
    """A directory, with a file below it if there is a text for it."""
    root.mkdir()
    if text is not None:
        (root / "part").mkdir()
        (root / "part" / "fish").write_text(text)


def _mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()


def _say(file: Path, line: str) -> None:
    file.write_text(f"{line}\n")
