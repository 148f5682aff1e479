"""The engine in memory, against the contract; its switches, and its archives."""

from __future__ import annotations

import asyncio

import pytest
from engine_contract import CLUSTER_ID, IMAGE, EngineContract, body, busybox_image, settled

from drover.drivers.engine.fake import FakeEngine
from drover.drivers.engine.fake_container import Plan, plan_of
from drover.drivers.engine.fake_images import FakeImages, make_image
from drover.errors import EngineError, Unavailable


@pytest.fixture
def engine() -> FakeEngine:
    engine = FakeEngine("one")
    engine.images.add(busybox_image(b"a program"), IMAGE)
    return engine


class TestFake(EngineContract):
    @pytest.fixture
    def other(self) -> FakeEngine:
        return FakeEngine("two")

    @pytest.fixture
    def away(self) -> FakeEngine:
        engine = FakeEngine("three")
        engine.down = True
        return engine


class TestFakeWithTheNewLayout(TestFake):
    @pytest.fixture
    def engine(self) -> FakeEngine:
        engine = FakeEngine("one", archive_layout="oci")
        engine.images.add(busybox_image(b"a program"), IMAGE)
        return engine


async def test_two_runs_make_the_same_ids() -> None:
    ids = []
    for _ in range(2):
        engine = FakeEngine("seed")
        engine.images.add(busybox_image(b"a program"), IMAGE)
        ids.append((await engine.create_container("web", body()))[0])
    assert ids[0] == ids[1]


async def test_event_streams_end_when_the_engine_goes_down(engine: FakeEngine) -> None:
    events = engine.events()
    engine_id, _ = await engine.create_container("web", body())
    engine.down = True
    assert (await anext(events)).actor == engine_id
    with pytest.raises(Unavailable):
        await anext(events)
    engine.down = False
    assert (await engine.containers())[0].engine_id == engine_id


async def test_failures_are_played_once(engine: FakeEngine) -> None:
    engine.fail_next("create_container", EngineError(500, "no space left on device"))
    with pytest.raises(EngineError, match="no space left"):
        await engine.create_container("web", body())
    assert (await engine.create_container("web", body()))[0]
    assert engine.calls == ["create_container", "create_container"]


async def test_a_slow_engine_takes_its_time(engine: FakeEngine) -> None:
    engine.slow_s = 0.01
    begun = asyncio.get_running_loop().time()
    await engine.containers()
    assert asyncio.get_running_loop().time() >= begun + 0.01


async def test_a_power_cut_ends_containers_and_policies_start_them_again(engine: FakeEngine) -> None:
    always = {"RestartPolicy": {"Name": "always"}}
    plain, _ = await engine.create_container("plain", body())
    stubborn, _ = await engine.create_container("stubborn", body(HostConfig=always))
    for ref in (plain, stubborn):
        await engine.order(ref, "start")
    engine.reboot()
    assert (await settled(engine, plain, "exited")).exit_code == 255
    assert (await settled(engine, stubborn, "running")).id == CLUSTER_ID


async def test_a_stopped_container_does_not_restart(engine: FakeEngine) -> None:
    always = {"RestartPolicy": {"Name": "always"}}
    engine_id, _ = await engine.create_container("web", body("false", HostConfig=always))
    await engine.order(engine_id, "start")
    await settled(engine, engine_id, "restarting")
    assert (await engine.order(engine_id, "stop"))[0] == 204
    container = engine.peek("web")
    assert container is not None
    assert (container.state, container.timer) == ("exited", None)


@pytest.mark.parametrize(
    ("command", "plan"),
    [
        (["true"], Plan(0.0, 0)),
        (["false"], Plan(0.0, 1)),
        (["sleep", "5"], Plan(5.0, 0)),
        (["sh", "-c", "sleep 0.3; exit 7"], Plan(0.3, 7)),
        (["sh", "-c", "exit 3"], Plan(0.0, 3)),
        (["sleep", "infinity"], Plan(None)),
        (["nginx"], Plan(None)),
        (["nosuchthing"], Plan(None, 127, startable=False)),
    ],
)
def test_what_commands_mean(command: list[str], plan: Plan) -> None:
    assert plan_of(command) == plan


def test_an_archive_whose_layer_is_not_what_it_says() -> None:
    source = FakeImages()
    source.add(make_image([b"the real layer"]), "app:1")
    archive = source.archive(["app:1"], "docker").replace(b"the real layer", b"the fake layer")
    with pytest.raises(EngineError, match="invalid diffID"):
        FakeImages().load(archive)
