"""The images of a `FakeEngine`: real archives of tiny images, in both layouts that engines write.

Theory of operation. An image is a configuration (JSON bytes; their SHA-256 is the image's id) and layers (bytes; their
SHA-256 are the diff ids). What an engine has is known by chain ids, exactly as in Docker, so an archive that lacks a
layer loads where the chain is present and is refused where it is not.

    layout      layers at                          configuration at      written by
    `oci`       blobs/sha256/HEX                   blobs/sha256/HEX      Docker 25 and later
    `docker`    HEX/layer.tar (a repeated layer:   HEX.json              Docker up to 24
                a symbolic link to the first one)
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from drover.drivers.engine.docker import split_ref
from drover.drivers.engine.read import chain_ids
from drover.errors import EngineError

Layout = Literal["oci", "docker"]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class FakeImage(msgspec.Struct, frozen=True):
    """`config` is the JSON text of an image configuration whose `rootfs.diff_ids` are those of `layers`."""

    config: bytes
    layers: tuple[bytes, ...]

    @property
    def id(self) -> str:
        return digest(self.config)

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return tuple(digest(layer) for layer in self.layers)

    @property
    def command(self) -> list[str]:
        return list(json.loads(self.config)["config"].get("Cmd") or ())


def make_image(layers: Sequence[bytes], command: Sequence[str] = ("sleep", "infinity")) -> FakeImage:
    """An image of the given layers."""
    diff_ids = [digest(layer) for layer in layers]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": list(command)},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    return FakeImage(json.dumps(config).encode(), tuple(layers))


class FakeImages:
    """Image id to image, and `name:tag` to image id."""

    def __init__(self) -> None:
        self.by_id: dict[str, FakeImage] = {}
        self.tags: dict[str, str] = {}

    def add(self, image: FakeImage, *refs: str) -> str:
        """Have an image under some names; returns its id."""
        self.by_id[image.id] = image
        for ref in refs:
            self.tags[":".join(split_ref(ref))] = image.id
        return image.id

    def find(self, ref: str) -> FakeImage | None:
        """By id (with or without `sha256:`, whole or its beginning) or by name."""
        tagged = self.tags.get(":".join(split_ref(ref)))
        if tagged is not None:
            return self.by_id[tagged]
        wanted = "sha256:" + ref.removeprefix("sha256:")
        found = [image for id_, image in self.by_id.items() if len(wanted) > 7 and id_.startswith(wanted)]
        return found[0] if len(found) == 1 else None

    def chains(self) -> dict[str, bytes]:
        """The layers of all images by chain id."""
        stacks = ((chain_ids(image.diff_ids), image.layers) for image in self.by_id.values())
        return {chain: layer for chains, layers in stacks for chain, layer in zip(chains, layers, strict=True)}

    def load(self, archive: bytes) -> str:
        """Take the images of an archive; the progress text. Raises `EngineError` 500: then nothing is taken."""
        chains = self.chains()
        images = [
            (_assemble(files, entry, chains), entry.get("RepoTags") or []) for files, entry in _images_of(archive)
        ]
        for image, refs in images:
            self.add(image, *refs)
        said = [f"Loaded image: {ref}" for _, refs in images for ref in refs]
        said += [f"Loaded image ID: {image.id}" for image, refs in images if not refs]
        return "".join(f"{line}\n" for line in said)

    def archive(self, refs: Iterable[str], layout: Layout) -> bytes:
        """`docker save`; images must exist. Names are kept for refs that are names."""
        writer = _Writer(layout)
        for ref in refs:
            image = self.find(ref)
            assert image is not None
            name = ":".join(split_ref(ref))
            writer.image(image, [name] if name in self.tags else None)
        return writer.finish()


class _Writer:
    """Writes an archive in one layout; members in the order Docker writes them: by name, `manifest.json` last."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._members: dict[str, bytes | str] = {}
        self._manifest: list[dict[str, Any]] = []

    def image(self, image: FakeImage, tags: list[str] | None) -> None:
        config = self._path(image.id, ".json")
        self._members[config] = image.config
        paths = [
            self._layer(chain, layer) for chain, layer in zip(chain_ids(image.diff_ids), image.layers, strict=True)
        ]
        self._manifest.append({"Config": config, "RepoTags": tags, "Layers": paths})

    def _path(self, name: str, suffix: str) -> str:
        hex_ = name.removeprefix("sha256:")
        return f"blobs/sha256/{hex_}" if self._layout == "oci" else hex_ + suffix

    def _layer(self, chain: str, layer: bytes) -> str:
        """The path of a layer: named by content in one layout, by its place in the image in the other."""
        if self._layout == "oci":
            path = self._path(digest(layer), "")
            self._members[path] = layer
            return path
        path = self._path(chain, "/layer.tar")
        first = next((p for p, data in self._members.items() if data == layer and p != path), None)
        self._members[path] = layer if first is None else f"../{first}"
        return path

    def finish(self) -> bytes:
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w") as archive:
            for path in sorted(self._members):
                _write(archive, path, self._members[path])
            _write(archive, "manifest.json", json.dumps(self._manifest).encode())
        return target.getvalue()


def _write(archive: tarfile.TarFile, path: str, data: bytes | str) -> None:
    """A member: a file, or (given a text) a symbolic link to it."""
    info = tarfile.TarInfo(path)
    if isinstance(data, str):
        info.type, info.linkname = tarfile.SYMTYPE, data
        archive.addfile(info)
    else:
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))


def _images_of(archive: bytes) -> list[tuple[Mapping[str, bytes], Mapping[str, Any]]]:
    """For each image of an archive: all files by path, and its entry in `manifest.json`."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            entries = {member.name: _content(tar, member) for member in tar}
    except (tarfile.TarError, EOFError) as error:
        raise EngineError(500, f"Error processing tar file(exit status 1): {error}") from error
    if "manifest.json" not in entries:
        raise EngineError(500, "open manifest.json: no such file or directory")
    return [(entries, image_entry) for image_entry in json.loads(entries["manifest.json"])]


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """A member's bytes, through a symbolic link; empty for what has none."""
    try:
        file = tar.extractfile(member)
    except KeyError:
        return b""
    data = b"" if file is None else file.read()
    if file is not None and member.isreg() and len(data) < member.size:
        raise EOFError("unexpected EOF")
    return data


def _assemble(entries: Mapping[str, bytes], image_entry: Mapping[str, Any], chains: Mapping[str, bytes]) -> FakeImage:
    """An image from its configuration, with layers that are present already or else in the archive."""
    config = entries[image_entry["Config"]]
    diff_ids = json.loads(config)["rootfs"]["diff_ids"]
    layers = []
    for diff_id, chain, path in zip(diff_ids, chain_ids(diff_ids), image_entry["Layers"], strict=True):
        layer = chains[chain] if chain in chains else entries.get(path)
        if layer is None:
            raise EngineError(500, f"open {path}: no such file or directory")
        if digest(layer) != diff_id:
            raise EngineError(500, f'invalid diffID for layer: expected "{diff_id}", got "{digest(layer)}"')
        layers.append(layer)
    return FakeImage(config, tuple(layers))
