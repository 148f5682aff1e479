"""What every engine driver must do. A test module derives `EngineContract` and gives `engine` and `other`.

`engine` has the image `IMAGE` (a busybox whose command is `sleep infinity`), `other` has no image, `away` cannot be
reached. Commands are those of the table in `drover.drivers.engine.fake_container`: they mean the same on a real engine.
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from drover.drivers.engine.fake_images import FakeImage, make_image
from drover.drivers.engine.port import EPOCH_LABEL, ID_LABEL, Engine, SeenContainer, SeenEvent
from drover.drivers.engine.read import chain_ids
from drover.errors import EngineError, Invalid, Unavailable

PATIENCE_S = 20.0
"""How long a test waits for what must come; nothing asserts that it came fast."""
IMAGE = "busybox:latest"
APPLETS = ("sh", "sleep", "true", "false", "cat")
CLUSTER_ID = "ab" * 32
RUNS_ON = ("sleep", "infinity")


def layer(files: dict[str, bytes], links: Sequence[str] = ()) -> bytes:
    """A layer: files (executable), and symbolic links to busybox."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
        for path in links:
            info = tarfile.TarInfo(path)
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(info)
    return target.getvalue()


def busybox_image(binary: bytes, *more: bytes) -> FakeImage:
    """A busybox, with more layers on top."""
    base = layer({"bin/busybox": binary}, [f"bin/{applet}" for applet in APPLETS])
    return make_image([base, *more], RUNS_ON)


def unique(prefix: str) -> str:
    """A name that no other test has."""
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def body(*command: str, **fields: Any) -> dict[str, Any]:
    """A create body of a managed container."""
    labels = {ID_LABEL: CLUSTER_ID, EPOCH_LABEL: "4"}
    return {"Image": IMAGE, "Cmd": list(command or RUNS_ON), "Labels": labels, **fields}


async def settled(engine: Engine, ref: str, *states: str) -> SeenContainer:
    """The container once it is in one of the states."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        seen = await engine.container(ref)
        if seen is not None and seen.state in states:
            return seen
        assert time.monotonic() < deadline, f"{ref} is {seen}, not {states}"
        await asyncio.sleep(0.05)


async def gone(engine: Engine, ref: str) -> None:
    """Return once the engine does not have the container any more."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        seen = await engine.container(ref)
        if seen is None:
            return
        assert time.monotonic() < deadline, f"{ref} is still {seen.state}"
        await asyncio.sleep(0.05)


async def collect(events: AsyncIterator[SeenEvent], last: str) -> list[SeenEvent]:
    """Events up to the first with the action `last`."""
    found = []
    async with asyncio.timeout(PATIENCE_S):
        async for event in events:
            found.append(event)
            if event.action == last:
                break
    return found


def message(text: str) -> str:
    return str(json.loads(text)["message"])


def says(text: str, sentence: str) -> bool:
    """Whether a refusal has this in it; newer engines write the same with small letters and more around it."""
    return sentence.lower() in message(text).lower()


class EngineContract:
    @pytest.fixture
    def name(self) -> str:
        return unique("web")

    # -- what it is ------------------------------------------------------------------------------------------------

    async def test_facts_say_what_the_engine_is(self, engine: Engine) -> None:
        facts = await engine.facts("h1")
        assert facts.host == "h1"
        assert facts.engine_ok
        assert facts.engine_version.split(".")[0].isdigit()
        assert (facts.os, bool(facts.arch)) == ("linux", True)
        assert facts.cpus > 0
        assert facts.memory_bytes > 1024**2
        assert set(facts.predefined_networks) == {"bridge", "host", "none"}
        assert all(len(id_) == 64 for id_ in facts.predefined_networks.values())

    # -- life ------------------------------------------------------------------------------------------------------

    async def test_a_created_container_is_seen_with_its_labels(self, engine: Engine, name: str) -> None:
        engine_id, text = await engine.create_container(name, body())
        assert json.loads(text)["Id"] == engine_id
        seen = await engine.container(name)
        assert seen is not None
        assert (seen.id, seen.engine_id, seen.name, seen.epoch) == (CLUSTER_ID, engine_id, name, 4)
        assert (seen.state, seen.started_at, seen.finished_at, seen.pid) == ("created", "", "", 0)
        assert seen.image == await engine.image_id(IMAGE)
        assert list(seen.networks) == ["bridge"]
        assert engine_id in {c.engine_id for c in await engine.containers()}

    async def test_containers_that_are_not_ours_are_not_listed(self, engine: Engine, name: str) -> None:
        engine_id, _ = await engine.create_container(name, body(Labels={}))
        assert engine_id not in {c.engine_id for c in await engine.containers()}
        seen = await engine.container(engine_id)
        assert seen is not None
        assert (seen.id, seen.epoch) == ("", 0)

    async def test_an_unknown_container_is_none(self, engine: Engine) -> None:
        assert await engine.container("nobody") is None

    async def test_start_and_stop_twice(self, engine: Engine, name: str) -> None:
        engine_id, _ = await engine.create_container(name, body())
        assert [(await engine.order(engine_id, "start"))[0] for _ in range(2)] == [204, 304]
        running = await settled(engine, engine_id, "running")
        assert running.pid > 0
        assert running.started_at.endswith("Z")
        assert [(await engine.order(name, "stop", "t=0"))[0] for _ in range(2)] == [204, 304]
        stopped = await settled(engine, engine_id, "exited")
        assert (stopped.exit_code, stopped.pid) == (137, 0)
        assert stopped.finished_at > stopped.started_at

    async def test_the_exit_code_is_reported(self, engine: Engine, name: str) -> None:
        engine_id, _ = await engine.create_container(name, body("sh", "-c", "sleep 0.1; exit 7"))
        await engine.order(engine_id, "start")
        assert (await settled(engine, engine_id, "exited")).exit_code == 7

    async def test_a_program_that_is_missing(self, engine: Engine, name: str) -> None:
        engine_id, _ = await engine.create_container(name, body("nosuch"))
        status, text = await engine.order(engine_id, "start")
        assert status == 400
        assert "executable file not found" in message(text)
        seen = await settled(engine, engine_id, "created")
        assert seen.exit_code == 127
        assert "executable file not found" in seen.error

    async def test_auto_remove(self, engine: Engine, name: str) -> None:
        engine_id, _ = await engine.create_container(name, body("true", HostConfig={"AutoRemove": True}))
        assert (await engine.order(engine_id, "start"))[0] == 204
        await gone(engine, engine_id)

    async def test_restart_runs_it_again(self, engine: Engine, name: str) -> None:
        engine_id, _ = await engine.create_container(name, body())
        assert (await engine.order(engine_id, "restart", "t=0"))[0] == 204
        first = await settled(engine, engine_id, "running")
        assert (await engine.order(engine_id, "restart", "t=0"))[0] == 204
        assert (await settled(engine, engine_id, "running")).started_at > first.started_at

    async def test_a_restart_policy_ends_after_its_limit(self, engine: Engine, name: str) -> None:
        policy = {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}
        events = engine.events()
        engine_id, _ = await engine.create_container(name, body("sh", "-c", "exit 5", HostConfig=policy))
        await engine.order(engine_id, "start")
        died = 0
        async with asyncio.timeout(PATIENCE_S):
            async for event in events:
                died += event.actor == engine_id and event.action == "die"
                if died == 3:
                    break
        assert (await settled(engine, engine_id, "exited")).exit_code == 5

    async def test_kill(self, engine: Engine, name: str) -> None:
        engine_id, _ = await engine.create_container(name, body())
        status, text = await engine.order(name, "kill")
        assert status == 409
        assert says(text, f"Cannot kill container: {name}: Container {engine_id} is not running")
        await engine.order(engine_id, "start")
        status, text = await engine.order(engine_id, "kill", "signal=NONSENSE")
        assert status == 400
        assert says(text, "Invalid signal: NONSENSE")
        assert (await engine.order(engine_id, "kill", "signal=SIGKILL"))[0] == 204
        assert (await settled(engine, engine_id, "exited")).exit_code == 137

    async def test_rename(self, engine: Engine, name: str) -> None:
        engine_id, _ = await engine.create_container(name, body())
        other_id, _ = await engine.create_container(f"{name}.b", body())
        status, text = await engine.order(engine_id, "rename", f"name={name}.b")
        assert status == 409
        assert message(text).startswith(f'Error when allocating new name: Conflict. The container name "/{name}.b" is')
        assert other_id in text
        assert (await engine.order(engine_id, "rename", f"name={name}.c"))[0] == 204
        seen = await engine.container(f"{name}.c")
        assert seen is not None
        assert seen.engine_id == engine_id
        assert await engine.container(name) is None

    @pytest.mark.parametrize(
        ("wanted", "said"),
        [
            ("", "Neither old nor new names may be empty"),
            ("SAME", "Renaming a container with the same name as its current name"),
            ("..", "Error when allocating new name: Invalid container name (/..), only [a-zA-Z0-9]"),
        ],
    )
    async def test_rename_refused(self, engine: Engine, name: str, wanted: str, said: str) -> None:
        engine_id, _ = await engine.create_container(name, body())
        status, text = await engine.order(engine_id, "rename", f"name={name if wanted == 'SAME' else wanted}")
        assert status == 400
        assert message(text).startswith(said)

    async def test_update(self, engine: Engine, name: str) -> None:
        engine_id, _ = await engine.create_container(name, body())
        status, text = await engine.order(engine_id, "update", body='{"RestartPolicy": {"Name": "always"}}')
        assert (status, json.loads(text)) == (200, {"Warnings": None})
        status, text = await engine.order(engine_id, "update", body="{")
        assert status in (400, 500)
        assert says(text, "unexpected EOF")

    async def test_remove(self, engine: Engine, name: str) -> None:
        engine_id, _ = await engine.create_container(name, body())
        await engine.order(engine_id, "start")
        status, text = await engine.order(engine_id, "remove")
        assert status == 409
        assert says(text, "cannot remove")
        assert says(text, "running")
        assert (await engine.order(engine_id, "remove", "force=1&v=1"))[0] == 204
        await gone(engine, engine_id)
        status, text = await engine.order(engine_id, "remove")
        assert (status, message(text)) == (404, f"No such container: {engine_id}")

    @pytest.mark.parametrize("verb", ["start", "stop", "kill", "restart", "rename", "update", "remove"])
    async def test_orders_to_nobody(self, engine: Engine, verb: str) -> None:
        text = "{}" if verb == "update" else ""
        status, answer = await engine.order("nobody", verb, "name=x" if verb == "rename" else "", text)
        assert status == 404
        assert says(answer, "No such container: nobody")
        assert says(answer, "Cannot kill container: nobody") == (verb == "kill")

    # -- refusals of create ----------------------------------------------------------------------------------------

    async def test_a_name_in_use(self, engine: Engine, name: str) -> None:
        engine_id, _ = await engine.create_container(name, body())
        with pytest.raises(EngineError) as refused:
            await engine.create_container(name, body())
        assert refused.value.status == 409
        assert refused.value.message == (
            f'Conflict. The container name "/{name}" is already in use by container "{engine_id}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )

    @pytest.mark.parametrize(
        ("named", "fields", "status", "said"),
        [
            ("", {"Image": "nosuch"}, 404, "No such image: nosuch:latest"),
            ("b$", {}, 400, "Invalid container name (b$), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
        ],
    )
    async def test_refused(self, engine: Engine, named: str, fields: dict[str, Any], status: int, said: str) -> None:
        with pytest.raises(EngineError) as refused:
            await engine.create_container(named, body() | fields)
        assert (refused.value.status, refused.value.message) == (status, said)

    async def test_without_a_command_the_image_has_one(self, engine: Engine, name: str) -> None:
        engine_id, _ = await engine.create_container(name, body() | {"Cmd": None})
        await engine.order(engine_id, "start")
        assert (await settled(engine, engine_id, "running")).exit_code == 0

    # -- networks and volumes --------------------------------------------------------------------------------------

    async def test_networks_of_ours_by_cluster_id(self, engine: Engine) -> None:
        name, cluster_id = unique("net"), unique("id")
        engine_id = await engine.create_network({"Name": name, "Labels": {ID_LABEL: cluster_id}})
        assert (await engine.networks())[cluster_id] == engine_id
        with pytest.raises(EngineError) as refused:
            await engine.create_network({"Name": name})
        assert (refused.value.status, refused.value.message) == (409, f"network with name {name} already exists")
        await engine.remove_network(engine_id)
        assert cluster_id not in await engine.networks()
        await engine.remove_network(engine_id)

    async def test_predefined_networks_stay(self, engine: Engine) -> None:
        with pytest.raises(EngineError) as refused:
            await engine.remove_network("bridge")
        assert refused.value.status == 403

    async def test_joining_and_leaving_a_network(self, engine: Engine, name: str) -> None:
        network = unique("net")
        network_id = await engine.create_network({"Name": network, "Labels": {ID_LABEL: network}})
        engine_id, _ = await engine.create_container(name, body())
        await engine.order(engine_id, "start")
        await engine.connect(network, engine_id, {"Aliases": ["db"]})
        seen = await engine.container(engine_id)
        assert seen is not None
        assert seen.networks[network] == network_id
        with pytest.raises(EngineError) as again:
            await engine.connect(network, engine_id, {})
        assert again.value.message == f"endpoint with name {name} already exists in network {network}"
        with pytest.raises(EngineError) as busy:
            await engine.remove_network(network)
        assert busy.value.status == 403
        assert "has active endpoints" in busy.value.message
        await engine.disconnect(network, engine_id, force=False)
        with pytest.raises(EngineError) as not_there:
            await engine.disconnect(network, engine_id, force=False)
        assert "is not connected to" in not_there.value.message
        await engine.remove_network(network)

    async def test_before_it_runs_a_container_can_get_another_address_or_network(
        self, engine: Engine, name: str
    ) -> None:
        network = unique("net")
        pool = {"IPAM": {"Config": [{"Subnet": "10.97.31.0/24"}]}, "Labels": {ID_LABEL: network}}
        await engine.create_network({"Name": network, **pool})
        endpoints = {"EndpointsConfig": {network: {"IPAMConfig": {"IPv4Address": "10.97.31.5"}}}}
        asked = body(HostConfig={"NetworkMode": network}) | {"NetworkingConfig": endpoints}
        engine_id, _ = await engine.create_container(name, asked)
        seen = await engine.container(engine_id)
        assert seen is not None
        assert seen.addresses == {network: "10.97.31.5"}
        await engine.disconnect(network, engine_id, force=False)
        seen = await engine.container(engine_id)
        assert seen is not None
        assert (dict(seen.networks), dict(seen.addresses)) == ({}, {})
        await engine.connect(network, engine_id, {"IPAMConfig": {"IPv4Address": "10.97.31.6"}})
        assert await engine.order(engine_id, "start") == (204, "")
        seen = await settled(engine, engine_id, "running")
        assert dict(seen.addresses) == {network: "10.97.31.6"}
        await engine.disconnect(network, engine_id, force=False)
        await engine.remove_network(network)

    async def test_a_container_on_a_network_that_is_missing(self, engine: Engine, name: str) -> None:
        engine_id, _ = await engine.create_container(name, body(HostConfig={"NetworkMode": "nonet"}))
        status, text = await engine.order(engine_id, "start")
        assert status == 404
        assert says(text, "network nonet not found")

    async def test_connect_nobody(self, engine: Engine) -> None:
        with pytest.raises(EngineError) as refused:
            await engine.connect("bridge", "nobody", {})
        assert (refused.value.status, refused.value.message) == (404, "No such container: nobody")

    async def test_volumes(self, engine: Engine, name: str) -> None:
        volume = unique("data")
        await engine.create_volume({"Name": volume, "Labels": {"drover.volume": volume}})
        await engine.create_volume({"Name": volume})
        assert (await engine.volumes())[volume] == {"drover.volume": volume}
        engine_id, _ = await engine.create_container(name, body(HostConfig={"Binds": [f"{volume}:/data"]}))
        with pytest.raises(EngineError) as used:
            await engine.remove_volume(volume)
        assert (used.value.status, used.value.message) == (
            409,
            f"remove {volume}: volume is in use - [{engine_id}]",
        )
        await engine.order(engine_id, "remove")
        await engine.remove_volume(volume)
        assert volume not in await engine.volumes()
        await engine.remove_volume(volume)

    # -- images ----------------------------------------------------------------------------------------------------

    async def test_images_by_name_and_id(self, engine: Engine) -> None:
        image_id = await engine.image_id(IMAGE)
        assert image_id is not None
        assert image_id.startswith("sha256:")
        assert await engine.image_id(image_id) == image_id
        assert await engine.image_id("nosuch") is None
        layers = await engine.image_layers(IMAGE)
        assert set(chain_ids(layers)) <= await engine.all_layers()
        assert len(await engine.layer_sizes(IMAGE)) == len(layers)

    async def test_layers_of_a_missing_image(self, engine: Engine) -> None:
        with pytest.raises(EngineError) as refused:
            await engine.image_layers("nosuch")
        assert refused.value.status == 404
        assert "No such image: nosuch" in refused.value.message

    async def test_tag(self, engine: Engine) -> None:
        ref = f"{unique('app')}:2"
        await engine.tag(IMAGE, ref)
        assert await engine.image_id(ref) == await engine.image_id(IMAGE)
        with pytest.raises(EngineError) as refused:
            await engine.tag("nosuch", ref)
        assert (refused.value.status, refused.value.message) == (404, "No such image: nosuch:latest")

    async def test_save_and_load(self, engine: Engine, other: Engine) -> None:
        ref = f"{unique('app')}:1"
        await engine.tag(IMAGE, ref)
        assert await other.image_id(ref) is None
        assert ref in await other.load(engine.save([ref]))
        assert await other.image_id(ref) == await engine.image_id(IMAGE)
        assert set(chain_ids(await engine.image_layers(ref))) <= await other.all_layers()

    async def test_save_nothing(self, engine: Engine) -> None:
        with pytest.raises(EngineError) as refused:
            await anext(engine.save(["nosuch"]))
        assert (refused.value.status, refused.value.message) == (404, "No such image: nosuch")

    async def test_a_cut_archive_loads_nothing(self, engine: Engine, other: Engine) -> None:
        ref = f"{unique('app')}:1"
        await engine.tag(IMAGE, ref)

        async def cut() -> AsyncIterator[bytes]:
            yield (await anext(engine.save([ref])))[:700]

        with pytest.raises(EngineError) as refused:
            await other.load(cut())
        assert refused.value.status == 500
        assert await other.image_id(ref) is None

    async def test_the_error_of_a_source_passes_through_load(self, engine: Engine, other: Engine) -> None:
        ref = f"{unique('app')}:1"
        await engine.tag(IMAGE, ref)

        async def breaks() -> AsyncIterator[bytes]:
            yield await anext(engine.save([ref]))
            raise Invalid("the source broke")

        with pytest.raises(Invalid, match="the source broke"):
            await other.load(breaks())
        assert await other.image_id(ref) is None

    # -- events ----------------------------------------------------------------------------------------------------

    async def test_events_of_a_life(self, engine: Engine, name: str) -> None:
        events = engine.events()
        engine_id, _ = await engine.create_container(name, body("sh", "-c", "exit 3"))
        await engine.order(engine_id, "start")
        await settled(engine, engine_id, "exited")
        await engine.order(engine_id, "remove")
        mine = [event for event in await collect(events, "destroy") if event.actor == engine_id]
        assert [event.action for event in mine] == ["create", "start", "die", "destroy"]
        assert {event.kind for event in mine} == {"container"}
        assert all(event.labels[ID_LABEL] == CLUSTER_ID and event.labels["name"] == name for event in mine)
        assert mine[2].labels["exitCode"] == "3"
        assert [event.time_ns for event in mine] == sorted(event.time_ns for event in mine)

    async def test_events_of_networks_volumes_and_images(self, engine: Engine) -> None:
        events = engine.events()
        network, volume, ref = unique("net"), unique("data"), f"{unique('app')}:1"
        network_id = await engine.create_network({"Name": network})
        await engine.create_volume({"Name": volume})
        await engine.tag(IMAGE, ref)
        found = {(event.kind, event.action): event for event in await collect(events, "tag")}
        assert found["network", "create"].actor == network_id
        assert found["network", "create"].labels["name"] == network
        assert found["volume", "create"].actor == volume
        assert found["image", "tag"].labels["name"] == ref
        await engine.remove_network(network)
        await engine.remove_volume(volume)

    async def test_an_engine_that_is_away(self, away: Engine) -> None:
        """`away`: an engine that cannot be reached."""
        with pytest.raises(Unavailable):
            await away.containers()
        with pytest.raises(Unavailable):
            await away.order("web", "start")
        with pytest.raises(Unavailable):
            await anext(away.events())
        with pytest.raises(Unavailable):
            await anext(away.save([IMAGE]))
