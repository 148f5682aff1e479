"""What a host's disk no longer has, and what never came whole: neither is taken for a volume's data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest
from move_world import CID, MoveWorld, on_virtual_time

from drover.errors import Unavailable
from drover.model import records as r
from drover.model.cluster import put

SLOW_S = 0.05
KEPT = "what was written long ago"


@pytest.mark.parametrize("waited_s", [0.0, 60.0])
def test_data_that_is_not_where_it_was_is_waited_for_and_never_replaced_by_an_empty_volume(waited_s: float) -> None:
    """A host boots, and in place of its disk there is an empty directory; later somebody mounts the disk."""

    async def scene(world: MoveWorld) -> None:
        h1 = world.hosts["h1"]
        await asyncio.sleep(10)
        await h1.kill_agent()
        h1.engine.reboot()
        kept, h1.disk._live = h1.disk._live, {}
        await h1.start()
        await asyncio.sleep(waited_s)
        container = world.cluster.containers[CID]
        again = msgspec.structs.replace(container, order=r.Order(number=container.order.number + 1, verb="start"))
        await world.hosts["h2"].store.commit([put(r.key("containers", CID), again)])
        await asyncio.sleep(60)
        print(world.cluster.facts_of(CID))
        assert h1.disk.ensured == ["data"]
        assert h1.running() is None
        h1.disk._live = kept
        await world.until(lambda now: (seen := now.facts_of(CID)) is not None and seen.state == "running")
        world.check()

    on_virtual_time(scene)


def test_a_copy_that_broke_off_is_no_copy_wherever_it_did() -> None:
    """The stream ends early at each of its pieces, once; what did not change since is looked at, too."""
    pieces = _moved_with_a_broken_stream(0)
    assert pieces > 10
    for broken_at in range(1, pieces + 1):
        _moved_with_a_broken_stream(broken_at)


def _moved_with_a_broken_stream(broken_at: int) -> int:
    """Move the container while the stream's piece of this number does not come (0: all come); how many were sent."""
    sent = 0

    async def scene(world: MoveWorld) -> None:
        source, target = world.hosts["h1"].disk, world.hosts["h2"].disk
        source.write("data", "old", KEPT)
        send = source.send

        async def cut(volume: str, snapshot: str, have: bytes) -> AsyncGenerator[bytes, None]:
            nonlocal sent
            async for piece in send(volume, snapshot, have):
                sent += 1
                if sent == broken_at:
                    raise Unavailable("the link is cut")
                yield piece

        source.send = cut  # type: ignore[method-assign]
        await world.begin("h2")
        move = await world.ended()
        assert move.phase == "done"
        world.check()
        assert target.read("data")["old"] == KEPT

    on_virtual_time(scene, SLOW_S)
    return sent


def test_another_volume_of_that_name_begins_empty_where_the_first_one_was() -> None:
    async def scene(world: MoveWorld) -> None:
        await world.begin("h2")
        await world.ended()
        await asyncio.sleep(20)
        container, store = world.cluster.containers[CID], world.hosts["h3"].store
        order = r.Order(number=9, verb="remove", query="force=1")
        gone = msgspec.structs.replace(container, desired="removed", order=order)
        await store.commit([put(r.key("containers", CID), gone)])
        await world.until(lambda now: CID not in now.containers)
        marked = msgspec.structs.replace(world.cluster.volumes["data"], removed=True)
        await store.commit([put(r.key("volumes", "data"), marked)])
        await world.until(lambda now: not now.volumes)
        await world.run_container()
        assert world.hosts["h1"].disk.ensured == ["data", "data"]

    on_virtual_time(scene)
