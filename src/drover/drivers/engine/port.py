"""The engine port: what the agent needs of one Docker engine.

Two implementations pass one contract suite (`tests/contract/engine_contract.py`): `docker` (the real API over a
Unix socket) and `fake` (in memory, for tests and the simulation). Containers are known by the label `drover.id`.
Creating is left to the engine's own rules; removing what is gone already is success (networks, volumes).
Every method raises `EngineError` with the engine's own status and message when the engine refuses, and
`Unavailable` when it cannot be reached or does not answer its deadline.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from drover.model.records import HostFacts

ID_LABEL = "drover.id"
EPOCH_LABEL = "drover.epoch"


class SeenContainer(msgspec.Struct, frozen=True, kw_only=True):
    """One managed container as the engine shows it. `state`: created, running, paused, restarting, removing,
    exited or dead. `image` is the image's id; times are Docker's, empty for never; `networks`: network name to
    engine-side network id. `id` is empty for a container that Drover did not make."""

    id: str
    engine_id: str
    name: str
    epoch: int = 0
    state: str
    exit_code: int = 0
    oom: bool = False
    health: str = ""
    error: str = ""
    pid: int = 0
    started_at: str = ""
    finished_at: str = ""
    image: str = ""
    networks: Mapping[str, str] = {}
    addresses: Mapping[str, str] = {}
    """Network name to the IPv4 address that it is configured to have there, as far as one is fixed."""
    volumes: tuple[str, ...] = ()
    """The names of the volumes it mounts, anonymous ones included."""


class OwnFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where an engine keeps what a container writes outside its volumes. `layer`: the directory of its writable layer,
    empty where the storage driver has none; `log_directory`, `log_stem`: its log is STEM, the rotated ones STEM.1, …
    (empty: the log driver has no files)."""

    storage_driver: str
    layer: str = ""
    log_driver: str = ""
    log_directory: str = ""
    log_stem: str = ""


class SeenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One engine event: `kind` is container, network, volume, image or daemon; `labels` are the actor's attributes."""

    kind: str
    action: str
    actor: str
    labels: Mapping[str, str] = {}
    time_ns: int = 0


class Engine(Protocol):
    async def facts(self, host: str) -> HostFacts:
        """Version, cores, memory, labels and ids of the predefined networks."""
        ...

    async def containers(self) -> list[SeenContainer]:
        """All managed containers, whatever their state."""
        ...

    async def container(self, engine_ref: str) -> SeenContainer | None:
        """One container by engine id or name; None if the engine does not have it."""
        ...

    async def own_files(self, engine_ref: str) -> OwnFiles: ...

    async def passes_its_check(self, engine_ref: str, within_s: int) -> bool:
        """Run the container's health check now, and where that can be done again and again until it passes or the time
        is over; one without a check passes."""
        ...

    async def run(self, engine_ref: str, command: Sequence[str]) -> int:
        """Run a command in a running container as its own user, wait for its end, and return its exit code."""
        ...

    async def create_container(self, name: str, body: Mapping[str, Any], platform: str = "") -> tuple[str, str]:
        """Create; returns (engine id, the engine's JSON answer as text, with its warnings)."""
        ...

    async def order(self, engine_ref: str, verb: str, query: str = "", body: str = "") -> tuple[int, str]:
        """Start, stop, kill, restart, rename, update (POST) or remove (DELETE): the engine's status and body text.

        `query` and `body` are passed as given. Every status is an answer, 304 and 409 too; only `Unavailable` raises.
        """
        ...

    async def networks(self) -> dict[str, str]:
        """Cluster ids (the label `drover.id`) to engine ids, of the networks that Drover made.

        Those of bridge, host and none are in `facts`.
        """
        ...

    async def create_network(self, body: Mapping[str, Any]) -> str:
        """Create; returns the engine's id. A name in use is refused with 409."""
        ...

    async def remove_network(self, engine_ref: str) -> None: ...

    async def connect(self, network: str, engine_ref: str, endpoint: Mapping[str, Any]) -> None: ...

    async def disconnect(self, network: str, engine_ref: str, force: bool) -> None: ...

    async def volumes(self) -> dict[str, Mapping[str, str]]:
        """Volume names to their labels."""
        ...

    async def create_volume(self, body: Mapping[str, Any]) -> None: ...

    async def remove_volume(self, name: str, force: bool = False) -> None: ...

    async def image_id(self, ref: str) -> str | None:
        """The id (`sha256:…`) of an image by name, id or digest; None if the engine does not have it."""
        ...

    async def image_layers(self, ref: str) -> Sequence[str]:
        """The image's layer digests (`RootFS.Layers`, the diff ids), lowest first."""
        ...

    async def all_layers(self) -> frozenset[str]:
        """The chain ids (a layer on top of all those below it, see `read.chain_ids`) of every image of this engine.

        Chain ids and not diff ids: the same layer on another base is stored, and looked for, separately.
        """
        ...

    async def layer_sizes(self, ref: str) -> Sequence[int]:
        """Bytes per layer, lowest first, as far as the engine tells: for progress, not for decisions."""
        ...

    async def tag(self, image: str, ref: str) -> None: ...

    def save(self, refs: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """`docker save` as a stream of pieces; `aclose` hangs up."""
        ...

    async def load(self, archive: AsyncIterator[bytes]) -> str:
        """`docker load`; the engine's progress text. An error of `archive` passes through; nothing is loaded then."""
        ...

    def events(self) -> AsyncGenerator[SeenEvent, None]:
        """Events from this call on (not from the first `await`), until the stream ends: then raises `Unavailable`.

        So whoever calls `events`, then lists, then iterates, misses nothing.
        """
        ...

    async def close(self) -> None: ...
