"""The cluster's own events: what changes of records mean to people, who writes them down, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from api_world import World, world
from cluster_factory import LOST_AT, cid, container, host, three, volume

from drover.api.events import event_routes
from drover.daemon import eventhooks
from drover.daemon.eventhooks import HookRunner, due
from drover.daemon.eventlog import EventLog
from drover.decide.happenings import KEPT, READERS, TYPES, happenings, matches, written
from drover.errors import Invalid
from drover.model import records as r
from drover.model.apps import Rollout, RolloutState, Run, Trouble
from drover.model.cluster import Change, Cluster, delete, put
from drover.store.memory import MemoryCluster
from drover.store.mirror import Mirror


def event(before: Cluster, *changes: Change) -> list[tuple[str, str, str]]:
    after = before.apply(before.revision + 1, changes)
    return [(one.type, one.subject, one.says) for one in happenings(before, after, changes, 5.0).values()]


def facts(**fields: Any) -> Change:
    row = r.ContainerFacts(container=cid(1), host="h1", **fields)
    return put(r.key("container_facts", "h1", cid(1)), row)


def running(**fields: Any) -> Cluster:
    """Container web on h1, which should run and does."""
    made = three(container(1, "web", state="running"))
    record = msgspec.structs.replace(made.containers[cid(1)], desired="running")
    return made.apply(2, [put(r.key("containers", cid(1)), record), facts(state="running", **fields)])


def rolled(state: RolloutState, why: str = "") -> Change:
    return put("deployments/shop", r.Deployment(app="shop", rollouts={"web": Rollout(to="2", state=state, why=why)}))


def ran(run: Run) -> Change:
    return put("deployments/shop", r.Deployment(app="shop", runs={"shop": (run,)}))


def suspected(session: str = "s1") -> Change:
    return put("suspects/h3", r.Suspect(host="h3", session=session, closed=True, targets={cid(1): "h1"}))


def test_a_suspicion_is_told_once_for_each_daemon_it_is_about() -> None:
    before = three(container(1, "web", "h3"))
    assert event(before, suspected())[0][2].endswith("; 1 container made ready elsewhere")
    told = before.apply(2, [suspected()])
    again = put("suspects/h3", msgspec.structs.replace(told.suspects["h3"], at=9.0))
    assert event(told, again) == []
    assert [one[0] for one in event(told, suspected("s2"))] == ["host.suspect"]
    assert event(told, delete("suspects/h3")) == []


def test_the_end_of_an_application_is_no_event_of_its_update() -> None:
    assert event(three().apply(2, [rolled("running")]), delete("deployments/shop")) == []


@pytest.mark.parametrize(
    ("before", "change", "expected"),
    [
        (three(container(1, "web", "h3")), put("lost/h3", r.HostLost(host="h3", at=LOST_AT)), "host.lost"),
        (three().apply(2, [put("lost/h3", r.HostLost(host="h3"))]), delete("lost/h3"), "host.back"),
        (three(container(1, "web", "h3")), suspected(), "host.suspect"),
        (three(), host("h4")[0], "host.joined"),
        (three(), delete("hosts/h3"), "host.removed"),
        (three(), host("h3", scheduling="drain")[0], "host.scheduling"),
        (three(), put("host_facts/h1", r.HostFacts(host="h1", engine_ok=False, message="gone")), "engine.silent"),
        (three(), put("host_facts/h1", r.HostFacts(host="h1", disk_low="only 1% free")), "disk.low"),
        (running(), facts(state="exited", exit_code=3), "container.crashed"),
        (running(), facts(state="exited", exit_code=137, oom=True), "container.oom"),
        (running(), facts(state="running", health="unhealthy"), "container.unhealthy"),
        (running(health="unhealthy"), facts(state="running", health="healthy"), "container.healthy"),
        (running(), facts(state="running", answer=r.Answer(number=1, status=500)), "container.failed"),
        (three(), put("members/h2", r.Member(host="h2", peer_url="", client_url="", state="voter")), "store.member"),
        (
            three(volume("data", "h1")),
            put("volumes/data", r.Volume(name="data", body="", host="h2", epoch=2, note="at most 3 seconds")),
            "volume.promoted",
        ),
        (running(engine_id="e1"), facts(state="missing"), "container.vanished"),
        (
            three(),
            put("app_troubles/shop", r.AppTroubles(app="shop", troubles={"container/shop-web-1": Trouble("no image")})),
            "app.trouble",
        ),
        (three(), rolled("paused", why="it ended"), "update.halted"),
        (three(), rolled("reverting", why="it ended"), "update.reverted"),
        (three().apply(2, [rolled("updating")]), rolled("done"), "update.done"),
        (three(), ran(Run(due_at=60.0, ended=True, exit_code=3)), "job.failed"),
        (three(), ran(Run(due_at=60.0, ended=True, note="skipped")), "job.failed"),
        (
            running(),
            put(
                r.key("moves", cid(1)), r.Move(container=cid(1), source="h1", target="h2", phase="aborted", why="full")
            ),
            "move.failed",
        ),
    ],
)
def test_what_happened_has_a_type_and_a_sentence(before: Cluster, change: Change, expected: str) -> None:
    ((kind, subject, says),) = event(before, change)
    assert kind == expected
    assert kind in TYPES
    assert subject in says


def test_the_same_trouble_again_is_no_news() -> None:
    def trouble(why: str, tries: int) -> Change:
        record = r.AppTroubles(app="shop", troubles={"container/shop-web-1": Trouble(why, tries)})
        return put("app_troubles/shop", record)

    before = three().apply(2, [trouble("no image", 1)])
    assert event(before, trouble("no image", 2)) == []
    assert event(before, trouble("no room", 2)) == [("app.trouble", "shop", "shop: container shop-web-1: no room")]


@pytest.mark.parametrize("order", [r.Order(number=1, verb="remove"), r.Order(number=1)])
def test_what_was_to_go_has_not_vanished(order: r.Order) -> None:
    seen = running(engine_id="e1")
    desired = "running" if order.verb == "remove" else "removed"
    record = msgspec.structs.replace(seen.containers[cid(1)], order=order, desired=desired)
    before = seen.apply(seen.revision + 1, [put(r.key("containers", cid(1)), record)])
    assert event(before, facts(state="missing")) == []


@pytest.mark.parametrize(
    "change",
    [
        rolled("updating"),
        ran(Run(due_at=60.0, ended=True, exit_code=0)),
        ran(Run(due_at=60.0)),
        facts(state="exited", exit_code=0),
        facts(state="exited", exit_code=137, interrupted=True),
        facts(state="running", health="healthy"),
        put("alive/h1", r.Alive(host="h1", session="s2")),
    ],
)
def test_what_is_as_it_should_be_is_no_event(change: Change) -> None:
    assert event(running(), change) == []


@pytest.mark.parametrize(("lost", "kind"), [(True, "container.recovered"), (False, "container.moved")])
def test_a_placement_elsewhere_says_why(lost: bool, kind: str) -> None:
    before = three(container(1, "web", "h3"))
    if lost:
        before = before.apply(2, [delete("alive/h3")])
    placed = r.Placement(container=cid(1), host="h2", epoch=2, chosen="h3 is drained")
    assert event(before, put(r.key("placements", cid(1)), placed)) == [
        (kind, "web", "web went from h3 to h2: h3 is drained")
    ]


def test_events_are_the_same_for_every_daemon_and_named_by_the_revision() -> None:
    before = three()
    changes = [delete("hosts/h2"), delete("hosts/h3")]
    after = before.apply(7, changes)
    assert list(happenings(before, after, changes, 1.0)) == ["events/000000000007-0000", "events/000000000007-0001"]
    assert set(READERS) <= set(r.TABLES)


def test_what_is_written_already_is_not_written_again_and_the_oldest_go() -> None:
    kept = {f"{number:012d}-0000": r.Event(type="host.back") for number in range(KEPT)}
    made = Cluster().apply(1, [put(f"events/{key}", one) for key, one in kept.items()])
    pending = {"events/000000000005-0000": r.Event(type="host.back"), "events/000000009999-0000": r.Event(type="x")}
    changes = written(made, pending)
    assert [change.key for change in changes] == ["events/000000009999-0000", "events/000000000000-0000"]
    assert changes[1].record is None
    assert written(made, {"events/000000000000-0001": r.Event(type="x")}) != []


@pytest.mark.parametrize(
    ("patterns", "said"),
    [((), True), (("host.*",), True), (("disk.*", "host.lost"), True), (("x",), False)],
)
def test_types_may_be_globs(patterns: tuple[str, ...], said: bool) -> None:
    assert matches(r.Event(type="host.lost"), patterns) is said


async def test_the_next_leader_writes_what_the_last_one_did_not() -> None:
    shared = MemoryCluster()
    store, mirror = shared.client(), Mirror(shared.client())
    await store.commit(host("h1"))
    await mirror.start()
    log = EventLog(store, mirror, lambda: 7.0)
    log.follow()
    await mirror.reached(await store.commit(host("h2")), 1.0)
    await log.write()
    assert [one.says for one in mirror.cluster.rows("events", r.Event).values()] == ["host h2 joined at 10.94.0.2"]
    await log.write()
    assert len(mirror.cluster.rows("events", r.Event)) == 1
    await mirror.stop()


def test_a_cursor_skips_what_does_not_match() -> None:
    rows = [("1", "host.lost"), ("2", "disk.low"), ("3", "disk.ok")]
    made = Cluster().apply(1, [put(f"events/{key}", r.Event(type=kind)) for key, kind in rows])
    hook = r.EventHook(id="a", types=("disk.low",), cursor="0")
    key, found = due(made, hook)
    assert (key, found and found.type) == ("2", "disk.low")
    assert due(made, msgspec.structs.replace(hook, cursor="2")) == ("3", None)
    assert due(made, msgspec.structs.replace(hook, cursor="3")) == ("3", None)


class Told:
    """A store with one event after another, and a runner that leads."""

    def __init__(self) -> None:
        shared = MemoryCluster()
        self.store, self.mirror = shared.client(), Mirror(shared.client())
        self.runner = HookRunner(self.store, self.mirror, lambda: True, lambda: 9.0)

    async def happen(self, number: int) -> None:
        key = f"events/{number:012d}-0000"
        made = r.Event(type="host.lost", subject=f"h{number}", says=f"host h{number} is down", at=1.0)
        await self.store.commit([put(key, made)])

    async def hooked(self, **fields: Any) -> None:
        await self.store.commit([put("event_hooks/a", r.EventHook(id="a", cursor="0", **fields))])

    async def cursor_at(self, key: str) -> None:
        rows = lambda now: now.rows("event_hooks", r.EventHook)["a"].cursor >= key  # noqa: E731
        await self.mirror.until(rows, 10.0, "the cursor")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventhooks, "FIRST_PAUSE_S", 0.01)


async def test_a_command_gets_the_event_and_is_tried_again_until_it_succeeds(impatient: None, tmp_path: Path) -> None:
    told, seen = Told(), tmp_path / "seen"
    await told.hooked(command=f'cat >>{seen}; echo " $DROVER_EVENT_SUBJECT" >>{seen}; [ $(wc -l <{seen}) -ge 2 ]')
    await told.happen(1)
    await told.mirror.start()
    task = asyncio.create_task(told.runner.run())
    await told.cursor_at("000000000001-0000")
    task.cancel()
    await told.mirror.stop()
    lines = await asyncio.to_thread(seen.read_text)
    assert [line.partition("}")[2] for line in lines.splitlines()] == [" h1", " h1"]
    assert msgspec.json.decode(lines.partition("}")[0] + "}")["says"] == "host h1 is down"


async def test_a_webhook_that_never_answers_well_is_given_up_and_that_is_an_event(impatient: None) -> None:
    asked: list[bytes] = []

    async def refuse(request: web.Request) -> web.Response:
        asked.append(await request.read())
        return web.Response(status=503)

    app = web.Application()
    app.router.add_post("/", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    told = Told()
    await told.hooked(url=f"http://127.0.0.1:{port}/", types=("host.*",))
    await told.happen(1)
    await told.mirror.start()
    task = asyncio.create_task(told.runner.run())
    await told.cursor_at("000000000001-0000")
    task.cancel()
    await runner.cleanup()
    assert len(asked) == eventhooks.TRIES
    failed = [one for one in told.mirror.cluster.rows("events", r.Event).values() if one.type == "hook.failed"]
    assert "answered 503" in failed[0].says
    await told.mirror.stop()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, event_routes()) as made:
        yield made


async def test_the_api_lists_events_and_keeps_hooks(api: World) -> None:
    rows = [("1", "host.lost", 10.0), ("2", "disk.low", 20.0)]
    await api.commit(*[put(f"events/{k}", r.Event(type=t, subject="h1", says="x", at=at)) for k, t, at in rows])
    assert [one["id"] for one in await api.call("GET", "/events")] == ["1", "2"]
    assert [one["id"] for one in await api.call("GET", "/events?since=15&type=disk.*&subject=h1")] == ["2"]
    hook = await api.call("POST", "/event-hooks", {"url": "http://127.0.0.1/", "types": ["host.*"]})
    assert (hook["cursor"], await api.call("GET", "/event-hooks")) == ("2", [hook])
    assert await api.call("DELETE", f"/event-hooks/{hook['id']}") == {"removed": hook["id"]}


@pytest.mark.parametrize(
    "body", [{}, {"url": "http://x", "command": "y"}, {"url": "ftp://x"}, {"command": "x", "types": ["hots.*"]}]
)
async def test_a_hook_that_makes_no_sense_is_refused(api: World, body: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await api.call("POST", "/event-hooks", body)
