"""`DockerEngine`: the engine port on the real Docker API, over the engine's Unix socket.

Theory of operation. `api` speaks HTTP and knows deadlines and errors, `read` knows what answers mean; here each
method of the port is its call:

    containers        GET /containers/json with the label filter, then every one inspected, 16 at a time: the list
                      lacks exit code, health, times and pid
    order             POST /containers/REF/VERB or DELETE, query string and body as received, any status returned
    events            GET /events since the call itself (not since the first `await`): listing after the call and
                      then iterating misses nothing
    save, load        streams; at most a few pieces in memory

    deadline          for
    10 s              reads
    60 s              networks, volumes and tags
    120 s             creating a container (the engine unpacks, copies image content into volumes, …)
    t + 60 s          stop and restart that name their own grace period `t`
    none              other orders, save, load, events
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, urlencode

from drover.drivers.engine import machine, read
from drover.drivers.engine.api import EngineApi
from drover.drivers.engine.port import ID_LABEL, OwnFiles, SeenContainer, SeenEvent
from drover.errors import EngineError, Unavailable
from drover.model.records import HostFacts

T = TypeVar("T")

CONCURRENT_READS = 16
CREATE_DEADLINE_S = 120.0
GRACE_MARGIN_S = 60.0
EVENT_KINDS = ("container", "network", "volume", "image", "daemon")
OUR_OWN = json.dumps({"label": [ID_LABEL]})


class DockerEngine:
    """One engine, by the path of its Unix socket."""

    def __init__(self, socket_path: str) -> None:
        self._api = EngineApi(socket_path)
        self._checks: dict[str, Sequence[str]] = {}
        """Health checks of containers that are about to be started, by full id: nobody should wait for the question."""

    async def facts(self, host: str) -> HostFacts:
        builtin = {"filters": json.dumps({"type": ["builtin"]})}
        info, version, networks = await asyncio.gather(
            self._api.read("/info"), self._api.read("/version"), self._api.read("/networks", builtin)
        )
        facts = read.host_facts(host, info, version, networks)
        return await asyncio.to_thread(machine.with_machine, facts, info.get("DockerRootDir", ""))

    # -- containers ------------------------------------------------------------------------------------------------

    async def containers(self) -> list[SeenContainer]:
        listed = await self._api.read("/containers/json", {"all": 1, "filters": OUR_OWN})
        found = await _bounded([self.container(entry["Id"]) for entry in listed])
        return [seen for seen in found if seen is not None]

    async def container(self, engine_ref: str) -> SeenContainer | None:
        detail = await self._api.find(f"/containers/{_part(engine_ref)}/json")
        return None if detail is None else read.seen_container(detail)

    async def own_files(self, engine_ref: str) -> OwnFiles:
        path = f"/containers/{_part(engine_ref)}/json"
        detail, info = await asyncio.gather(self._api.read(path), self._api.read("/info"))
        if detail["State"]["Status"] == "created":
            self._checks[detail["Id"]] = read.check_command(detail)
        return read.own_files(detail, str(info.get("DockerRootDir") or ""))

    async def passes_its_check(self, engine_ref: str, within_s: int) -> bool:
        check = self._checks.pop(engine_ref, None)
        if check is None:
            check = read.check_command(await self._api.read(f"/containers/{_part(engine_ref)}/json"))
        return not check or await self.run(engine_ref, read.repeated(check, within_s)) == 0

    async def run(self, engine_ref: str, command: Sequence[str]) -> int:
        asked = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True}
        made = json.loads(await self._api.change("POST", f"/containers/{_part(engine_ref)}/exec", body=asked))
        await self._api.change("POST", f"/exec/{made['Id']}/start", body={"Detach": False, "Tty": False})
        done = await self._api.read(f"/exec/{made['Id']}/json")
        return -1 if done.get("Running") else int(done.get("ExitCode") or 0)

    async def create_container(self, name: str, body: Mapping[str, Any], platform: str = "") -> tuple[str, str]:
        wanted = {"name": name, "platform": platform}
        query = {key: value for key, value in wanted.items() if value}
        text = await self._api.change("POST", "/containers/create", query, body, CREATE_DEADLINE_S)
        return json.loads(text)["Id"], text

    async def order(self, engine_ref: str, verb: str, query: str = "", body: str = "") -> tuple[int, str]:
        path = f"/containers/{_part(engine_ref)}"
        if verb == "remove":
            self._checks.pop(engine_ref, None)
            return await self._api.ask("DELETE", path, query, deadline_s=None)
        return await self._api.ask("POST", f"{path}/{_part(verb)}", query, body, order_deadline_s(verb, query))

    # -- networks and volumes --------------------------------------------------------------------------------------

    async def networks(self) -> dict[str, str]:
        listed = await self._api.read("/networks", {"filters": OUR_OWN})
        return {network["Labels"][ID_LABEL]: network["Id"] for network in listed}

    async def create_network(self, body: Mapping[str, Any]) -> str:
        text = await self._api.change("POST", "/networks/create", body={**body, "CheckDuplicate": True})
        return str(json.loads(text)["Id"])

    async def remove_network(self, engine_ref: str) -> None:
        await _gone_is_fine(self._api.change("DELETE", f"/networks/{_part(engine_ref)}"))

    async def connect(self, network: str, engine_ref: str, endpoint: Mapping[str, Any]) -> None:
        body = {"Container": engine_ref, "EndpointConfig": dict(endpoint)}
        await self._api.change("POST", f"/networks/{_part(network)}/connect", body=body)

    async def disconnect(self, network: str, engine_ref: str, force: bool) -> None:
        body = {"Container": engine_ref, "Force": force}
        await self._api.change("POST", f"/networks/{_part(network)}/disconnect", body=body)

    async def volumes(self) -> dict[str, Mapping[str, str]]:
        listed = await self._api.read("/volumes")
        return {volume["Name"]: volume.get("Labels") or {} for volume in listed.get("Volumes") or ()}

    async def create_volume(self, body: Mapping[str, Any]) -> None:
        await self._api.change("POST", "/volumes/create", body=body)

    async def remove_volume(self, name: str, force: bool = False) -> None:
        query = {"force": 1} if force else {}
        await _gone_is_fine(self._api.change("DELETE", f"/volumes/{_part(name)}", query))

    # -- images ----------------------------------------------------------------------------------------------------

    async def image_id(self, ref: str) -> str | None:
        detail = await self._api.find(f"/images/{_part(ref)}/json")
        return None if detail is None else str(detail["Id"])

    async def image_layers(self, ref: str) -> Sequence[str]:
        detail = await self._api.read(f"/images/{_part(ref)}/json")
        return tuple(detail["RootFS"].get("Layers") or ())

    async def layer_sizes(self, ref: str) -> Sequence[int]:
        layers, history = await asyncio.gather(self.image_layers(ref), self._api.read(f"/images/{_part(ref)}/history"))
        return read.layer_sizes(len(layers), history)

    async def all_layers(self) -> frozenset[str]:
        listed = await self._api.read("/images/json")
        stacks = await _bounded([self._layers_if_present(image["Id"]) for image in listed])
        return frozenset(chain for stack in stacks for chain in read.chain_ids(stack))

    async def _layers_if_present(self, image: str) -> Sequence[str]:
        """An image's layers; none if it was removed since it was listed."""
        detail = await self._api.find(f"/images/{_part(image)}/json")
        return () if detail is None else detail["RootFS"].get("Layers") or ()

    async def tag(self, image: str, ref: str) -> None:
        repo, tag = split_ref(ref)
        await self._api.change("POST", f"/images/{_part(image)}/tag", {"repo": repo, "tag": tag})

    def save(self, refs: Sequence[str]) -> AsyncGenerator[bytes, None]:
        return self._api.pieces("/images/get", urlencode([("names", ref) for ref in refs]))

    async def load(self, archive: AsyncIterator[bytes]) -> str:
        return read.load_report(await self._api.upload("/images/load", "quiet=1", archive))

    # -- events ----------------------------------------------------------------------------------------------------

    def events(self) -> AsyncGenerator[SeenEvent, None]:
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        query = {"since": f"{seconds}.{nanoseconds:09d}", "filters": json.dumps({"type": EVENT_KINDS})}
        return self._events(urlencode(query))

    async def _events(self, query: str) -> AsyncGenerator[SeenEvent, None]:
        async with aclosing(self._api.lines("/events", query)) as lines:
            async for line in lines:
                if line.strip():
                    yield read.seen_event(line)
        raise Unavailable(
            f"the Docker engine at {self._api.socket_path} closed its event stream",
            hint="it is stopping or restarting; Drover connects again by itself",
        )

    async def close(self) -> None:
        await self._api.close()


def order_deadline_s(verb: str, query: str) -> float | None:
    """How long an order may take; None: as long as the engine likes (its container may have a grace period too)."""
    grace = parse_qs(query).get("t", [""])[0]
    if verb in ("stop", "restart") and grace.isascii() and grace.isdigit():
        return int(grace) + GRACE_MARGIN_S
    return None


def split_ref(ref: str) -> tuple[str, str]:
    """`registry:5000/app:1` as (`registry:5000/app`, `1`); without a tag it is `latest`."""
    repo, colon, tag = ref.rpartition(":")
    if not colon or "/" in tag:
        return ref, "latest"
    return repo, tag


def _part(text: str) -> str:
    """A reference as part of a path: image names keep their slashes and colons, the engine's router expects them."""
    return quote(text, safe="/:@")


async def _gone_is_fine(removal: Awaitable[str]) -> None:
    """Await a removal; what is not there any more counts as removed."""
    try:
        await removal
    except EngineError as error:
        if error.status != 404:
            raise


async def _bounded(reads: Sequence[Awaitable[T]]) -> list[T]:
    """The results of all reads, in order, 16 at a time."""
    gate = asyncio.Semaphore(CONCURRENT_READS)

    async def one(awaitable: Awaitable[T]) -> T:
        async with gate:
            return await awaitable

    return await asyncio.gather(*(one(awaitable) for awaitable in reads))
