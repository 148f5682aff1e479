"""An image goes from one host's engine to another's, without a registry and without what the other has.

Theory of operation. The target says which chain ids it has; the source answers with a thin archive; the target loads it
and names it. A `Source` is where the image is: `EngineSource` on this host, `wire.RemoteSource` on another.

    what happens                                   what is done
    the target lost a layer meanwhile, or its      the load is refused: once more, with all layers
      image store takes no thin archives
    the stream is cut                              nothing was loaded; `Unavailable`, the caller may call again
    the source has no such image                   its error passes through
    the loaded image has another id                `Conflict`: the two engines' image stores do not agree
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Protocol

import msgspec

from drover.decide.sentences import count, size
from drover.drivers.engine.port import Engine
from drover.drivers.images.thin import leading, spare, thin
from drover.errors import Conflict, EngineError

PROGRESS_EVERY_S = 0.5


class Offer(msgspec.Struct, frozen=True):
    """An archive on its way: about how many bytes will come, how many layers need not, and the bytes."""

    total_bytes: int
    present_layers: int
    pieces: AsyncIterator[bytes]


class Source(Protocol):
    """A host that has images."""

    @property
    def host(self) -> str: ...

    def offer(self, image: str, chains: Collection[str]) -> AbstractAsyncContextManager[Offer]:
        """Open the archive of an image (by id) for an engine that has these chain ids; closed when left."""
        ...


class EngineSource:
    """The images of this host's own engine."""

    def __init__(self, host: str, engine: Engine) -> None:
        self.host = host
        self._engine = engine

    @asynccontextmanager
    async def offer(self, image: str, chains: Collection[str]) -> AsyncIterator[Offer]:
        """Raises `EngineError` 404 if the engine does not have the image."""
        diff_ids = await self._engine.image_layers(image)
        have = leading(diff_ids, chains)
        sizes = await self._engine.layer_sizes(image)
        async with (
            aclosing(self._engine.save([image])) as archive,
            aclosing(thin(archive, spare(diff_ids, chains))) as pieces,
        ):
            yield Offer(sum(sizes[have:]), have, pieces)


class Progress:
    """Says how far an image is, at most twice a second and at the beginning."""

    def __init__(self, ref: str, host: str, offer: Offer, say: Callable[[str], None]) -> None:
        self._what = f"moving image {ref} from {host}"
        self._offer = offer
        self._say = say
        self._said_at = float("-inf")
        self.moved_bytes = 0

    def add(self, moved_bytes: int) -> None:
        self.moved_bytes += moved_bytes
        now = asyncio.get_running_loop().time()
        if now - self._said_at >= PROGRESS_EVERY_S:
            self._said_at = now
            self._say(self.text())

    def text(self) -> str:
        """`moving image app:latest from h1: 12.3 MiB of 40 MiB, 2 layers already here`."""
        total_bytes = max(self._offer.total_bytes, self.moved_bytes)
        text = f"{self._what}: {size(self.moved_bytes)} of {size(total_bytes)}"
        here = self._offer.present_layers
        return f"{text}, {count(here, 'layer')} already here" if here else text


async def move_image(
    source: Source, target: Engine, ref: str, image_id: str, progress: Callable[[str], None] = lambda _: None
) -> int:
    """Have the image on the target under `ref` (an id, or a name with a digest, names nothing new).

    Returns the bytes that travelled. Errors: see the module's table.
    """
    chains = await target.all_layers()
    try:
        moved_bytes = await _copy(source, target, ref, image_id, chains, progress)
    except EngineError as refused:
        if not chains or refused.status == 404:
            raise
        moved_bytes = await _copy(source, target, ref, image_id, frozenset(), progress)
    if await target.image_id(image_id) != image_id:
        raise Conflict(
            f"image {ref} from {source.host} has another id on this host than {image_id[:19]}",
            hint="the engines of all hosts must keep images the same way: all with or all without containerd's store",
        )
    if is_name(ref):
        await target.tag(image_id, ref)
    return moved_bytes


def is_name(ref: str) -> bool:
    """Whether a reference is a name that can be given to an image."""
    return not ref.startswith("sha256:") and "@" not in ref


async def _copy(
    source: Source, target: Engine, ref: str, image: str, chains: Collection[str], say: Callable[[str], None]
) -> int:
    """One attempt; returns the bytes that travelled."""
    async with source.offer(image, chains) as offer:
        progress = Progress(ref, source.host, offer, say)
        progress.add(0)
        await target.load(_counted(offer.pieces, progress))
        return progress.moved_bytes


async def _counted(pieces: AsyncIterator[bytes], progress: Progress) -> AsyncIterator[bytes]:
    async for piece in pieces:
        progress.add(len(piece))
        yield piece
