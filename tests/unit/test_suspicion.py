"""A daemon that is not heard: what is made ready and replaced before its host's lease is over, and what is not."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cluster_factory import address, cid, host, network, port_claim, volume, world
from test_recover import NET, NOW, running

from drover.daemon.suspicion import Suspicions, TcpListener
from drover.decide import steps as s
from drover.decide.converge import Seen, SeenHere, converge
from drover.decide.health import host_state
from drover.decide.prepared import prepared_here
from drover.decide.recover import relocations
from drover.decide.schedule import place
from drover.decide.suspicion import Suspicion, cleared, replacements, suspected
from drover.decide.wanted import wanted_of
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.spec import Spec
from drover.sim import clock
from drover.store.memory import MemoryCluster
from drover.store.mirror import Mirror

DB, WEB = cid(1), cid(2)
ON_NET = {"HostConfig": {"NetworkMode": "app"}}
BOUND = {"HostConfig": {"Binds": ["data:/data"]}}


def three(*parts: list[Change]) -> Cluster:
    return world(host("h1"), host("h2"), host("h3"), *parts)


def after(cluster: Cluster, suspicion: Suspicion) -> Cluster:
    return cluster.apply(cluster.revision + 1, suspicion.changes)


def suspect(*parts: list[Change], closed: bool = True) -> Cluster:
    cluster = three(*parts)
    return after(cluster, suspected(cluster, "h3", closed, NOW))


# -- what is written ---------------------------------------------------------------------------------------------------


def test_a_suspicion_names_a_host_for_each_container_and_rests_on_the_lease() -> None:
    cluster = three(running(1, "db"), running(2, "web"))
    found = suspected(cluster, "h3", True, NOW)
    [change] = found.changes
    assert isinstance(change.record, r.Suspect)
    assert change.record.targets.keys() == {DB, WEB}
    assert set(change.record.targets.values()) <= {"h1", "h2"}
    assert found.expect == {"suspects/h3": 0, "alive/h3": cluster.version("alive/h3")}


@pytest.mark.parametrize(
    "change",
    [delete("alive/h3"), delete("hosts/h3"), put("alive/h3", r.Alive(host="h3", session="s1", resting=True))],
)
def test_who_has_no_lease_or_ended_in_order_is_no_suspect(change: Change) -> None:
    assert suspected(three([change]), "h3", True, NOW) == Suspicion()


def test_the_same_again_is_not_written_and_an_end_that_was_seen_is_news() -> None:
    silent = suspect(running(1, "db"), closed=False)
    assert suspected(silent, "h3", False, NOW) == Suspicion()
    assert suspected(silent, "h3", True, NOW).changes


@pytest.mark.parametrize(("session", "heard", "over"), [("s1", (), False), ("s1", ("h3",), True), ("s2", (), True)])
def test_a_suspicion_ends_when_the_daemon_is_heard_or_has_a_new_lease(
    session: str, heard: tuple[str, ...], over: bool
) -> None:
    cluster = suspect().apply(99, [put("alive/h3", r.Alive(host="h3", session=session))])
    assert [change.key for change in cleared(cluster, heard).changes] == (["suspects/h3"] if over else [])


def test_when_the_lease_is_over_the_record_stays_until_recovery_is_done() -> None:
    lost = suspect(running(1, "db")).apply(99, [delete("alive/h3")])
    assert cleared(lost) == Suspicion()
    [moved] = relocations(lost, NOW).relocations
    assert [change.key for change in cleared(lost.apply(100, moved.changes)).changes] == ["suspects/h3"]


def test_nothing_new_goes_to_a_suspect_host() -> None:
    cluster = suspect()
    assert host_state(cluster, "h3").state == "suspect"
    chosen = place(cluster, wanted_of(cluster, "x", "x", Spec(image="a")))
    assert "its daemon has ended" in chosen.reasons["h3"]


def test_a_host_with_a_new_lease_is_a_target_though_its_last_suspicion_is_still_there() -> None:
    """A record of an older session says nothing of the daemon that there is now."""
    old = put("suspects/h2", r.Suspect(host="h2", session="an older one", closed=True, at=NOW))
    here = (running(number, f"web{number}", body={"HostConfig": {"NetworkMode": "none"}}) for number in range(1, 5))
    cluster = three(*here).apply(99, [old])
    [change] = suspected(cluster, "h3", True, NOW).changes
    assert isinstance(change.record, r.Suspect)
    assert set(change.record.targets.values()) == {"h1", "h2"}
    at_once = replacements(cluster.apply(100, [change]), NOW)
    assert {one.target for one in at_once} == {"h1", "h2"}


# -- what is replaced at once ------------------------------------------------------------------------------------------


def test_what_holds_nothing_is_replaced_at_once() -> None:
    cluster = suspect(running(1, "db"))
    [one] = replacements(cluster, NOW)
    assert (one.container, one.source, one.target) == (DB, "h3", cluster.suspects["h3"].targets[DB])
    versions = {key: cluster.version(key) for key in ("alive/h3", "suspects/h3", f"placements/{DB}")}
    assert versions.items() <= one.expect.items()
    assert 0 not in versions.values()


@pytest.mark.parametrize(
    "parts",
    [
        [running(1, "db", body=BOUND), volume("data", "h1")],
        [network(NET, "app", "10.44.0.0/24"), running(1, "db", body=ON_NET), address(NET, "10.44.0.2", 1)],
        [running(1, "db", body={"Labels": {"drover.reschedule_after": "60"}})],
        [running(1, "db", body={"HostConfig": {"AutoRemove": True}})],
    ],
)
def test_claims_wait_for_the_lease_and_so_does_patience(parts: list[list[Change]]) -> None:
    """A dead daemon does not prove its containers dead."""
    assert replacements(suspect(*parts), NOW) == []


def test_a_host_of_which_nothing_is_heard_keeps_all_until_its_lease_is_over() -> None:
    assert replacements(suspect(running(1, "db"), closed=False), NOW) == []


# -- what is made ready ------------------------------------------------------------------------------------------------


def steps(cluster: Cluster, target: str, **seen: Any) -> list[s.Step]:
    return list(converge(cluster, target, Seen(**{"containers": {}, **seen}), NOW).steps)


def test_the_chosen_host_brings_image_and_network_then_makes_the_container() -> None:
    cluster = suspect(network(NET, "app", "10.44.0.0/24"), running(1, "db", body=ON_NET), address(NET, "10.44.0.2", 1))
    target = cluster.suspects["h3"].targets[DB]
    assert {type(step) for step in steps(cluster, target)} == {s.EnsureNetwork, s.EnsureImage}
    ready = {"networks": {NET: "n"}, "images": frozenset(("sha256:1",))}
    assert s.PrepareContainer(DB, 2) in steps(cluster, target, **ready)
    made = {DB: SeenHere(engine_id="e", state="created", epoch=2)}
    assert steps(cluster, target, **ready, containers=made) == []
    other = "h1" if target == "h2" else "h2"
    assert steps(cluster, other, **ready) == [s.RemoveNetwork(NET, "n")]


def test_of_a_container_with_volumes_only_image_and_networks_are_brought() -> None:
    copied = [put("volumes/data", r.Volume(name="data", body="", host="h1"))]
    cluster = suspect(running(1, "db", body={"HostConfig": {"Binds": ["data:/data:ro"]}}), copied)
    target = cluster.suspects["h3"].targets.get(DB)
    assert target == "h1"
    assert not [x for x in steps(cluster, "h1", images=frozenset(("sha256:1",))) if isinstance(x, s.PrepareContainer)]


def test_once_the_lease_is_over_it_goes_where_it_is_ready_and_is_only_started() -> None:
    cluster = suspect(running(1, "db"))
    target = cluster.suspects["h3"].targets[DB]
    crowd = [change for number in range(5, 15) for change in running(number, f"c{number}", target)]
    [moved] = relocations(cluster.apply(99, [delete("alive/h3"), *crowd]), NOW).relocations
    assert moved.target == target
    lost = cluster.apply(99, [delete("alive/h3"), *moved.changes])
    made = {DB: SeenHere(engine_id="e", state="created", epoch=2)}
    assert s.StartContainer(DB) in steps(lost, target, containers=made, answers={DB: r.Answer(number=1)})
    assert lost.placements[DB].reasons["h3"].startswith("is down")


def test_a_host_that_is_ready_but_does_not_fit_any_more_is_passed_over() -> None:
    cluster = suspect(running(1, "db"))
    target = cluster.suspects["h3"].targets[DB]
    drained = put(r.key("hosts", target), msgspec.structs.replace(cluster.hosts[target], scheduling="drain"))
    [moved] = relocations(cluster.apply(99, [delete("alive/h3"), drained]), NOW).relocations
    assert moved.target not in ("h3", target)


def test_what_was_made_ready_in_vain_is_a_stray() -> None:
    cluster = suspect(running(1, "db"))
    target = cluster.suspects["h3"].targets[DB]
    calm = after(cluster, cleared(cluster, ("h3",)))
    assert list(prepared_here(calm, target)) == []
    made = {DB: SeenHere(engine_id="e", state="created", epoch=2)}
    assert s.RemoveStray in map(type, steps(calm, target, containers=made))
    assert s.RemoveStray not in map(type, steps(cluster, target, containers=made))


def test_host_ports_go_along_with_what_is_replaced() -> None:
    cluster = suspect(running(1, "db"), port_claim("h3", "tcp", 80, 1))
    [one] = replacements(cluster, NOW)
    assert f"ports/{one.target}/tcp/80" in [change.key for change in one.changes]


# -- who listens -------------------------------------------------------------------------------------------------------


class Ear:
    """`Listen`, and the connection it gives: `hosts` says what becomes of an attempt."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.end = asyncio.Event()
        self.attempts = 0

    async def __call__(self, host: str) -> Ear:
        self.attempts += 1
        if self.error is not None:
            raise self.error
        return self

    async def ended(self) -> None:
        await self.end.wait()

    def close(self) -> None:
        return


def listening(scene: Callable[[Ear, Mirror, Any], Any], leads: bool = True) -> None:
    async def main() -> None:
        shared = MemoryCluster()
        store, mirror = shared.client(), Mirror(shared.client())
        for part in (host("h1"), host("h3")):
            await store.commit(part)
        await mirror.start()
        ear = Ear()
        runner = Suspicions("h1", store, mirror, ear, lambda: leads, lambda: NOW)
        task = asyncio.create_task(runner.run())
        await asyncio.sleep(1)
        await scene(ear, mirror, store)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await mirror.stop()

    clock.run(main())


def test_a_refused_connection_after_one_that_ended_is_a_suspicion_until_it_is_heard_again() -> None:
    async def scene(ear: Ear, mirror: Mirror, store: Any) -> None:
        assert (ear.attempts, mirror.cluster.suspects) == (1, {})
        ear.error = ConnectionRefusedError()
        ear.end.set()
        await mirror.until(lambda now: now.suspects, 5.0, "the suspicion")
        assert mirror.cluster.suspects["h3"].closed
        ear.error, ear.end = None, asyncio.Event()
        await mirror.until(lambda now: not now.suspects, 5.0, "its end")

    listening(scene)


def test_a_connection_that_leads_nowhere_is_a_suspicion_of_another_kind() -> None:
    async def scene(ear: Ear, mirror: Mirror, store: Any) -> None:
        ear.error = TimeoutError()
        ear.end.set()
        await mirror.until(lambda now: now.suspects, 5.0, "the suspicion")
        assert not mirror.cluster.suspects["h3"].closed

    listening(scene)


def test_a_connection_that_only_ended_is_made_again_and_says_nothing() -> None:
    async def scene(ear: Ear, mirror: Mirror, store: Any) -> None:
        ear.end.set()
        await asyncio.sleep(1)
        assert ear.attempts > 2
        assert mirror.cluster.suspects == {}

    listening(scene)


def test_a_daemon_that_was_never_heard_is_starting() -> None:
    async def scene(ear: Ear, mirror: Mirror, store: Any) -> None:
        ear.error = ConnectionRefusedError()
        await store.commit([put("alive/h3", r.Alive(host="h3", session="s2"))])
        await asyncio.sleep(10)
        assert ear.attempts > 5
        assert mirror.cluster.suspects == {}

    listening(scene)


def test_a_leader_that_was_suspect_itself_ends_that_and_so_does_nobody_else() -> None:
    async def scene(ear: Ear, mirror: Mirror, store: Any) -> None:
        session = mirror.cluster.alive["h1"].session
        await store.commit([put("suspects/h1", r.Suspect(host="h1", session=session, closed=False, at=NOW))])
        await mirror.until(lambda now: "h1" in now.suspects, 5.0, "the suspicion")
        await mirror.until(lambda now: not now.suspects, 10.0, "its end")

    listening(scene)


def test_who_does_not_lead_does_not_listen() -> None:
    async def scene(ear: Ear, mirror: Mirror, store: Any) -> None:
        assert ear.attempts == 0

    listening(scene, leads=False)


async def test_by_tcp_the_end_of_a_process_is_noticed_and_then_nobody_listens() -> None:
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    listen = TcpListener(lambda host: ("127.0.0.1", port))
    connection = await listen("h3")
    ended = asyncio.create_task(connection.ended())
    daemon = await asyncio.wait_for(accepted.get(), 10.0)
    assert connection._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)  # type: ignore[attr-defined]
    server.close()
    daemon.close()
    await asyncio.wait_for(ended, 10.0)
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        await listen("h3")


def test_the_record_is_kept_small() -> None:
    """300 containers: one value of the store."""
    record = r.Suspect(host="h3", session="s1", targets={cid(number): "h1" for number in range(300)})
    assert len(json.dumps(msgspec.to_builtins(record))) < 64_000
