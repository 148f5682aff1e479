"""The writable layer: overlay2's upper directory, sent as a tree and staged beside the target's own.

    ENGINE/overlay2/ID/diff             the writable layer, as the engine mounts it
    ENGINE/overlay2/ID/drover/snap/…    what has been staged, by the source's snapshot ids

Deletions are what overlayfs keeps in it: devices 0/0, and the attribute `trusted.overlay.opaque` of directories.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

from drover.drivers.volumes import manifest, trees
from drover.drivers.volumes.layout import Layout
from drover.drivers.volumes.port import NoBase
from drover.errors import NotFound

STAGE = "drover"
NAME = "layer"


def stage_of(upper: Path) -> Layout:
    return Layout(upper.parent / STAGE)


async def have(upper: Path) -> bytes:
    """The manifest of what was staged last."""
    layout = stage_of(upper)
    ids = layout.ids(NAME)
    if not ids:
        return b""
    return (await asyncio.to_thread(manifest.scan, layout.snapshot(NAME, ids[-1]), ids[-1])).packed()


async def send(upper: Path, theirs: bytes, running: bool) -> AsyncGenerator[bytes, None]:
    _refuse_unseen(upper)
    async with aclosing(trees.send(upper, "", theirs, running)) as pieces:
        async for piece in pieces:
            yield piece


def _refuse_unseen(upper: Path) -> None:
    if not upper.is_dir():
        raise NotFound(f"the writable layer {upper} cannot be seen", hint="drover must see the engine's own directory")


async def receive(upper: Path, snapshot: str, stream: AsyncIterator[bytes]) -> None:
    """Stage a round; earlier ones go."""
    layout = stage_of(upper)
    layout.make()

    def base_of(base: str) -> Path:
        path = layout.snapshot(NAME, base)
        if not path.is_dir():
            raise NoBase(f"round {base} of a writable layer is not here any more")
        return path

    await trees.receive(layout.snapshot(NAME, snapshot), stream, base_of)
    for earlier in layout.ids(NAME):
        if earlier != snapshot:
            layout.bury(layout.snapshot(NAME, earlier))


def install(upper: Path) -> None:
    """Between the two renames there is no layer, and a start would fail: repeated, it goes on from there."""
    layout = stage_of(upper)
    for snapshot in layout.ids(NAME)[-1:]:
        layout.bury(upper)
        layout.snapshot(NAME, snapshot).rename(upper)
        trees.sync_directory(upper.parent)


def clean(upper: Path) -> None:
    shutil.rmtree(stage_of(upper).root, ignore_errors=True)
