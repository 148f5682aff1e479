"""Recipes, layers and archives of images."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import msgspec
import pytest

from drover.errors import Invalid, NotFound
from drover.lab import images


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {info.name: info for info in tar.getmembers()}


@pytest.mark.parametrize("name", ["postgres", "postgres:15", "postgres:latest"])
def test_a_recipe_is_found_by_name_and_by_tag(name: str) -> None:
    assert images.recipe(name) is images.RECIPES["postgres"]


def test_an_unknown_image_is_answered_with_the_known_ones() -> None:
    with pytest.raises(NotFound) as caught:
        images.recipe("mysql")
    assert caught.value.hint == "there are busybox, postgres, redis, nginx"


def test_the_busybox_layer_has_users_directories_and_applets() -> None:
    data = images.layer(
        images.RECIPES["busybox"].files, images.busybox_entries(b"ELF", ["bin/busybox", "bin/ls", "usr/bin/id"])
    )
    found = members(data)
    assert found["bin/busybox"].size == 3
    assert found["bin/busybox"].mode == 0o755
    assert found["usr/bin/id"].linkname == "/bin/busybox"
    assert found["tmp"].isdir()
    assert found["tmp"].mode == 0o1777
    assert found["var/opt"].isdir()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        passwd = tar.extractfile("etc/passwd")
        assert passwd is not None
        users = [line.split(":")[0] for line in passwd.read().decode().splitlines()]
    assert {"root", "postgres", "nobody"} <= set(users)


def test_the_same_entries_make_the_same_bytes() -> None:
    files = images.RECIPES["nginx"].files
    assert images.layer(files) == images.layer(files)


def test_the_cache_key_changes_with_everything_that_goes_in() -> None:
    recipe = images.RECIPES["busybox"]
    other = msgspec.structs.replace(recipe, config={"Cmd": ["true"]})
    keys = {
        images.fingerprint(recipe, b"one"),
        images.fingerprint(recipe, b"two"),
        images.fingerprint(other, b"one"),
        images.fingerprint(images.RECIPES["redis"], None),
    }
    assert len(keys) == 4
    assert images.fingerprint(recipe, b"one") in keys


def test_an_archive_names_its_layers_by_their_digests(tmp_path: Path) -> None:
    parts = [tmp_path / "one", tmp_path / "two"]
    for part in parts:
        part.write_bytes(images.layer([images.File(part.name)]))
    whole = tmp_path / "image.tar"
    images.write_archive(whole, parts, images.RECIPES["redis"])
    with tarfile.open(whole) as tar:
        contents = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    (manifest,) = json.loads(contents["manifest.json"])
    config = json.loads(contents[manifest["Config"]])
    assert manifest["RepoTags"] == ["redis:latest", "redis:7"]
    digests = [f"sha256:{hashlib.sha256(contents[name]).hexdigest()}" for name in manifest["Layers"]]
    assert config["rootfs"]["diff_ids"] == digests
    assert config["config"]["WorkingDir"] == "/data"
    assert manifest["Config"] == hashlib.sha256(contents[manifest["Config"]]).hexdigest() + ".json"


def test_a_cached_archive_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_busybox_binary", lambda: b"ELF")
    cached = tmp_path / f"busybox-latest-{images.fingerprint(images.RECIPES['busybox'], b'ELF')}.tar"
    cached.write_bytes(b"cooked")
    said: list[str] = []
    assert images.archive("busybox", said.append, cache=tmp_path) == cached
    assert cached.read_bytes() == b"cooked"
    assert said == []


def test_loading_into_no_host_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        images.load(tmp_path / "image.tar", [])
