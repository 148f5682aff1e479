"""Random bytes to move: files, tars of one file, and images of such layers. Random, so that nothing compresses."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

from drover.lab import engine, images

MB = 1_000_000


def random_file(file: Path, size_mb: float) -> Path:
    file.write_bytes(os.urandom(int(size_mb * MB)))
    return file


def random_tar(file: Path, member: str, size_mb: float) -> Path:
    """A tar with one file of that size: what `docker cp -` takes, and what a layer is."""
    info = tarfile.TarInfo(member)
    info.size = int(size_mb * MB)
    with tarfile.open(file, "w") as tar:
        tar.addfile(info, io.BytesIO(os.urandom(info.size)))
    return file


def load_image(socket: Path, archive: Path, tag: str, layers: Sequence[Path]) -> None:
    """Load an image of those layers into an engine, over the base image's configuration; the archive is left."""
    recipe = images.Recipe(tags=(tag,), files=(), config={"Cmd": ["sh"]})
    images.write_archive(archive, layers, recipe)
    engine.load(socket, archive)
