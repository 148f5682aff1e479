"""The volume port: where a named volume's data lives on a host, and how it gets to another one.

Theory of operation. On a host a volume is at most one *live set*, which containers write, and any number of
*snapshots*, which nobody writes. The agent makes the engine's volume a bind of the live set's path (Docker's built-in
`local` driver with `type=none,o=bind,device=PATH`). The path exists only while this host may write the volume, and it
carries the epoch of that claim: an engine that starts a container by itself on a host that lost the claim finds no
path and refuses. That is the last fence.

    call       live set                      snapshots
    ensure     made empty if there is none   -
    snapshot   -                             one more: the live set as it is now
    demote     gone, its path first          one more: the live set as it was
    prepare    -                             - (a promotion of this one will be quick)
    promote    made from a snapshot          - (the one promoted from stays usable as a base)
    receive    -                             one more, or nothing if the stream was cut
    forget     -                             those named are gone
    clone      of another volume, made from  -
               a snapshot of this one
    limit      may not outgrow it            -
    remove     gone                          all gone

A snapshot's id sorts by age and says which claim it belongs to (`drover.model.snapshots`); the caller makes it. The
same id means the same content on every host. All calls can be repeated after a crash at any point: an incomplete
snapshot is never listed, and goes when its id or its volume is used again.

A driver is one class with these methods; a package offers it as an entry point of the group `drover.volumes`, named as
in `--opt driver=NAME`, which is called with the host's volume directory (`drivers.volumes.catalog`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection
from typing import Protocol

import msgspec

from drover.errors import Conflict


class Space(msgspec.Struct, frozen=True):
    """What a driver's disk has, in bytes."""

    total_bytes: int
    free_bytes: int


class NoBase(Conflict):
    """A stream builds on a snapshot that the receiver does not have (any more): ask again for all of it."""


class VolumeDriver(Protocol):
    @property
    def instant(self) -> bool:
        """Whether a snapshot of a live set that is being written is consistent: one instant of all its files."""
        ...

    @property
    def synchronous(self) -> bool:
        """Whether what is written here is, when that is acknowledged, there for every host that may take over."""
        ...

    def path(self, volume: str, epoch: int) -> str:
        """Where the live set of an epoch is, or will be: an absolute path. No I/O."""
        ...

    async def ensure(self, volume: str, epoch: int) -> str:
        """Make the live set, empty, if there is none; returns the absolute path of its root.

        Raises `Conflict` if there is one of another epoch, and `Unavailable` if the disk is not there: never an
        empty directory in place of data.
        """
        ...

    async def live(self, volume: str) -> int:
        """The epoch of the live set here; 0 if there is none."""
        ...

    async def live_sets(self) -> dict[str, int]:
        """The volumes that have a live set here, each with its epoch."""
        ...

    async def snapshot(self, volume: str, snapshot: str) -> None:
        """Take one of the live set. Raises `NotFound` if there is none."""
        ...

    async def snapshots(self, volume: str) -> list[str]:
        """The ids of the complete snapshots here, oldest first."""
        ...

    async def have(self, volume: str) -> bytes:
        """What a sender has to know of this side: an answer for `send`, of any length."""
        ...

    async def unchanged(self, volume: str, have: bytes) -> bool:
        """Whether the live set holds nothing that the newest snapshot of the side that answered `have` does not. In
        doubt it has changed."""
        ...

    def send(self, volume: str, snapshot: str, have: bytes) -> AsyncGenerator[bytes, None]:
        """The snapshot as a stream, less what the other side has. Raises `NotFound` if it is not here."""
        ...

    async def receive(self, volume: str, snapshot: str, stream: AsyncIterator[bytes]) -> None:
        """Make a complete, durable snapshot of a stream; one that is there already is left alone.

        A stream that was cut or damaged raises and leaves nothing that is listed; `NoBase` if it builds on what is
        not here.
        """
        ...

    async def prepare(self, volume: str, snapshot: str) -> None:
        """Do ahead what a promotion of this snapshot would take time for. Only `promote` finds what that makes, and it
        goes with the next `receive`, `forget` or `remove`. Where promotions are quick this does nothing."""
        ...

    async def promote(self, volume: str, snapshot: str, epoch: int) -> str:
        """Make the live set of a snapshot and return its path; one of this epoch is left alone.

        Raises `NotFound` if the snapshot is not here, `Conflict` if there is a live set of another epoch.
        """
        ...

    async def demote(self, volume: str, snapshot: str) -> None:
        """Set the live set aside as a snapshot: its path is gone. Nothing there is success."""
        ...

    async def clone(self, volume: str, snapshot: str, clone: str, epoch: int) -> str:
        """Make the live set of another volume from a snapshot of this one, and return its path; one of this epoch is
        left alone. Raises as `promote` does."""
        ...

    async def files(self, volume: str, snapshot: str) -> str:
        """Where the files of a snapshot can be read: an absolute path. Without `instant` it may be the live set's.
        Raises `NotFound` if it is not here."""
        ...

    async def limit(self, volume: str, limit_bytes: int) -> bool:
        """Keep the live set from growing much beyond so many bytes (0: it may again). False if the driver cannot: the
        caller then can only watch."""
        ...

    async def forget(self, volume: str, snapshots: Collection[str]) -> None:
        """Delete snapshots. Those that are not there count as deleted."""
        ...

    async def remove(self, volume: str) -> None:
        """Delete everything of the volume: first renamed, so that half of it is never found under its name."""
        ...

    async def size_bytes(self, volume: str) -> int:
        """The bytes of the live set's files, or of the newest snapshot where there is no live set."""
        ...

    async def space(self) -> Space: ...
