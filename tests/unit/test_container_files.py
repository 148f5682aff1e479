"""Configs and secrets on a host: owner, mode, whole or not at all, and there again after a reboot."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from drover.agent.files import ContainerFiles
from drover.errors import Unavailable
from drover.model import records as r
from drover.model.apps import FILES_LABEL, PROJECT_LABEL, FileUse
from drover.model.cluster import Cluster, put

USES = [
    FileUse(file="f1", target="/run/secrets/pw", mode="0400", uid=str(os.getuid()), gid=str(os.getgid())),
    FileUse(file="f2", target="/etc/page", uid="www-data", gid=str(os.getgid())),
]


def record(uses: list[FileUse] = USES) -> r.Container:
    labels = {PROJECT_LABEL: "shop", FILES_LABEL: msgspec.json.encode(uses).decode()}
    return r.Container(id="c" * 64, name="shop-web-1", body=json.dumps({"Labels": labels}))


def cluster(*ids: str) -> Cluster:
    files = [
        r.AppFile(app="shop", name=one, content=base64.b64encode(one.encode()).decode(), secret=True) for one in ids
    ]
    return Cluster().apply(1, [put(r.key("files", "shop", one.name), one) for one in files])


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContainerFiles:
    if os.getuid():  # only root gives files away
        monkeypatch.setattr(os, "chown", lambda path, uid, gid: None)
    return ContainerFiles(tmp_path / "files")


def placed(files: ContainerFiles, tmp_path: Path) -> list[Path]:
    mounts = files.mounted(record(), {})["HostConfig"]["Mounts"]
    return [Path(mount["Source"]) for mount in mounts]


async def test_each_use_is_a_file_that_is_mounted_read_only(files: ContainerFiles, tmp_path: Path) -> None:
    await files.ready(cluster("f1", "f2"), record())
    paths = placed(files, tmp_path)
    assert [path.read_text() for path in paths] == ["f1", "f2"]
    assert [oct(path.stat().st_mode & 0o777) for path in paths] == ["0o400", "0o444"]
    assert oct((tmp_path / "files").stat().st_mode & 0o777) == "0o700"
    body = files.mounted(record(), {"HostConfig": {"Mounts": [{"Type": "tmpfs", "Target": "/t"}], "Init": True}})
    assert [mount["Target"] for mount in body["HostConfig"]["Mounts"]] == ["/t", "/run/secrets/pw", "/etc/page"]
    assert all(mount["ReadOnly"] for mount in body["HostConfig"]["Mounts"][1:])
    assert body["HostConfig"]["Init"] is True


async def test_after_a_reboot_they_are_written_again(files: ContainerFiles, tmp_path: Path) -> None:
    await files.ready(cluster("f1", "f2"), record())
    shutil.rmtree(tmp_path / "files")
    await files.ready(cluster("f1", "f2"), record())
    assert all(path.exists() for path in placed(files, tmp_path))


async def test_what_is_there_already_needs_no_store(files: ContainerFiles, tmp_path: Path) -> None:
    await files.ready(cluster("f1", "f2"), record())
    before = [path.read_bytes() for path in placed(files, tmp_path)]
    await files.ready(cluster(), record())
    assert [path.read_bytes() for path in placed(files, tmp_path)] == before != []


async def test_a_content_that_is_not_in_the_store_is_waited_for(files: ContainerFiles) -> None:
    with pytest.raises(Unavailable, match="the content of /etc/page of container shop-web-1"):
        await files.ready(cluster("f1"), record())


async def test_they_go_with_their_container(files: ContainerFiles, tmp_path: Path) -> None:
    await files.ready(cluster("f1", "f2"), record())
    files.forget("c" * 64)
    files.forget("never there")
    assert list((tmp_path / "files").iterdir()) == []


def test_a_container_without_files_is_left_as_it_is(files: ContainerFiles) -> None:
    body = {"Image": "busybox"}
    assert files.mounted(record([]), body) is body
