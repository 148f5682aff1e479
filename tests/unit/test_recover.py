"""What becomes of a lost host's containers: each row of the table in `decide.recover`, and what a commit rests on."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from cluster_factory import LOST_AT, LOST_TEXT, address, cid, container, host, network, port_claim, volume, world
from hypothesis import given, settings
from hypothesis import strategies as st

from drover.decide.recover import Relocation, merged, obstacle, relocations
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put

NET = "e" * 64
NOW = LOST_AT + 1
DB, WEB = cid(1), cid(2)


def running(number: int, name: str, on: str = "h3", body: dict[str, Any] | None = None, **facts: Any) -> list[Change]:
    """A container that should run, and did when its host last reported."""
    record = r.Container(id=cid(number), name=name, body=json.dumps(body or {}), desired="running", image_id="sha256:1")
    seen = {"state": "running", "engine_id": f"e{number}", "answer": r.Answer(number=1)} | facts
    return [*container(number, name, on, body, **seen), put(r.key("containers", cid(number)), record)]


def h3_lost(*parts: list[Change]) -> Cluster:
    return world(host("h1"), host("h2"), host("h3", state="lost"), *parts)


def labelled(**labels: str) -> dict[str, Any]:
    return {"Labels": {name.replace("__", "."): value for name, value in labels.items()}}


def only(cluster: Cluster, now: float = NOW) -> Relocation:
    [one] = relocations(cluster, now).relocations
    return one


def waits(cluster: Cluster, now: float = NOW) -> list[str]:
    recovery = relocations(cluster, now)
    assert recovery.relocations == ()
    return [wait.sentence for wait in recovery.waits]


def committed(cluster: Cluster, relocation: Relocation) -> Cluster:
    return cluster.apply(cluster.revision + 1, relocation.changes)


def test_nothing_moves_while_every_lease_is_held() -> None:
    assert relocations(world(host("h1"), host("h3"), running(1, "db")), NOW).relocations == ()


def test_a_lost_hosts_container_is_placed_elsewhere_with_the_next_epoch_and_the_reason() -> None:
    cluster = h3_lost(running(1, "db"))
    moved = committed(cluster, only(cluster)).placements[DB]
    assert (moved.host in ("h1", "h2"), moved.epoch, moved.at) == (True, 2, NOW)
    assert moved.chosen.startswith(f"it ran on h3, which is down since {LOST_TEXT}; {moved.host} ")
    assert moved.chosen.endswith("it starts from its image: what it wrote outside its volumes is lost")
    assert moved.reasons["h3"] == f"is down since {LOST_TEXT}"


def test_its_address_stays_with_the_next_epoch() -> None:
    cluster = h3_lost(network(NET, "app", "10.44.0.0/16", vni=4096), address(NET, "10.44.0.9", 1), running(1, "db"))
    claim = committed(cluster, only(cluster)).addresses[f"{NET}/10.44.0.9"]
    assert (claim.container, claim.epoch, claim.ip) == (DB, 2, "10.44.0.9")


def test_its_ports_move_to_the_new_host_and_shared_ones_stay() -> None:
    cluster = h3_lost(port_claim("h3", "tcp", 80, 1), port_claim("*", "tcp", 443, 1), running(1, "db"))
    after = committed(cluster, only(cluster))
    home = after.placements[DB].host
    assert set(after.ports) == {f"{home}/tcp/80", "*/tcp/443"}
    assert {claim.epoch for claim in after.ports.values()} == {2}


def test_a_host_whose_port_is_taken_is_passed_over() -> None:
    ports = {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "80"}]}}}
    body = ports | labelled(drover__publish="host")
    taken = [running(2, "web", "h1", body), port_claim("h1", "tcp", 80, 2)]
    cluster = h3_lost(port_claim("h3", "tcp", 80, 1), running(1, "db", body=body), *taken)
    assert only(cluster).target == "h2"


@pytest.mark.parametrize("desired", ["created", "stopped", "removed"])
def test_what_should_not_run_stays(desired: r.Desired) -> None:
    record = r.Container(id=DB, name="db", body="{}", desired=desired)
    assert waits(h3_lost(running(1, "db"), [put(r.key("containers", DB), record)])) == []


@pytest.mark.parametrize(
    ("body", "facts", "says"),
    [
        ({}, {"state": "exited"}, "had finished before its host was lost"),
        ({"HostConfig": {"RestartPolicy": {"Name": "on-failure"}}}, {"state": "exited"}, "had finished"),
        ({"HostConfig": {"AutoRemove": True}}, {}, "removed at its end"),
        (labelled(drover__reschedule="off"), {}, "drover.reschedule=off"),
        (labelled(drover__reschedule_after="soon"), {}, "drover.reschedule_after=soon is not a number"),
    ],
)
def test_what_is_left_where_it_is_says_why(body: dict[str, Any], facts: dict[str, Any], says: str) -> None:
    assert says in waits(h3_lost(running(1, "db", body=body, **facts)))[0]


@pytest.mark.parametrize(
    ("policy", "facts"),
    [
        ("always", {"state": "exited"}),
        ("on-failure", {"state": "exited", "exit_code": 1}),
        ("no", {"state": "exited", "answer": r.Answer(number=0)}),
        ("no", {"state": "missing", "engine_id": ""}),
    ],
)
def test_an_exit_that_is_not_the_end_moves(policy: str, facts: dict[str, Any]) -> None:
    body = {"HostConfig": {"RestartPolicy": {"Name": policy}}}
    assert only(h3_lost(running(1, "db", body=body, **facts))).source == "h3"


def test_patience_counts_from_when_the_loss_was_noted() -> None:
    cluster = h3_lost(running(1, "db", body=labelled(drover__reschedule_after="60")))
    recovery = relocations(cluster, LOST_AT + 59)
    assert recovery.again_at == LOST_AT + 60
    assert "if h3 is not back by" in recovery.waits[0].sentence
    assert only(cluster, LOST_AT + 60).container == DB


def test_a_loss_that_nobody_noted_yet_begins_now() -> None:
    cluster = world(
        host("h1"), host("h3", state="noteless"), running(1, "db", body=labelled(drover__reschedule_after="5"))
    )
    assert relocations(cluster, NOW).again_at == NOW + 5


def test_a_volume_without_a_replica_keeps_its_container_and_says_so() -> None:
    cluster = h3_lost(volume("data", "h3"), running(1, "db", body={"HostConfig": {"Binds": ["data:/data"]}}))
    assert waits(cluster) == ["volume data has no complete replica on another host than h3"]
    assert obstacle(cluster, DB, NOW) == waits(cluster)[0]


def test_a_volume_that_somebody_takes_over_goes_along_in_the_same_commit() -> None:
    cluster = h3_lost(volume("data", "h3"), running(1, "db", body={"HostConfig": {"Binds": ["data:/data"]}}))

    def to_h2(_: Cluster, old: r.Volume) -> r.Volume:
        return msgspec.structs.replace(old, host="h2", epoch=old.epoch + 1)

    [one] = relocations(cluster, NOW, to_h2).relocations
    after = committed(cluster, one)
    assert (after.placements[DB].host, after.volumes["data"].host, after.volumes["data"].epoch) == ("h2", "h2", 2)
    assert r.key("volumes", "data") in one.expect


def test_two_containers_of_one_volume_follow_it_one_after_the_other() -> None:
    body = {"HostConfig": {"Binds": ["data:/data"]}}
    cluster = h3_lost(volume("data", "h3"), running(1, "db", body=body), running(2, "web", body=body))

    def to_h2(_: Cluster, old: r.Volume) -> r.Volume:
        return msgspec.structs.replace(old, host="h2", epoch=old.epoch + 1)

    first = relocations(cluster, NOW, to_h2)
    assert [one.container for one in first.relocations] == [DB]
    after = committed(cluster, first.relocations[0])
    [second] = relocations(after, NOW, to_h2).relocations
    assert (second.container, second.target) == (WEB, "h2")
    assert r.key("volumes", "data") not in {change.key for change in second.changes}


def _brought_along(desired: r.Desired, **facts: Any) -> Cluster:
    """`db` runs and `web` uses the same volume; h3 is lost."""
    mounts = {"HostConfig": {"Binds": ["data:/data"]}}
    claims = [
        port_claim("h3", "tcp", 80, 2),
        network(NET, "app", "10.44.0.0/16", vni=4096),
        address(NET, "10.44.0.9", 2),
    ]
    cluster = h3_lost(
        volume("data", "h3"), running(1, "db", body=mounts), running(2, "web", body=mounts, **facts), *claims
    )
    record = msgspec.structs.replace(cluster.containers[WEB], desired=desired)
    return cluster.apply(cluster.revision + 1, [put(r.key("containers", WEB), record)])


def _taken_over(cluster: Cluster) -> Cluster:
    def successor(_: Cluster, one: r.Volume) -> r.Volume:
        return msgspec.structs.replace(one, host="h2", epoch=one.epoch + 1)

    [first, *others] = relocations(cluster, NOW, successor).relocations
    assert (first.container, others) == (DB, [])
    assert set(first.expect) >= {change.key for change in first.changes} | {r.key("containers", WEB)}
    return committed(cluster, first)


@pytest.mark.parametrize("desired", ["created", "stopped"])
def test_what_need_not_run_goes_along_with_a_volume_that_passes(desired: r.Desired) -> None:
    after = _taken_over(_brought_along(desired))
    placement = after.placements[WEB]
    assert (placement.host, placement.epoch) == ("h2", 2)
    assert placement.chosen == "it uses a volume that went to h2 with db"
    assert after.containers[WEB].desired == desired
    assert (set(after.ports), after.addresses[f"{NET}/10.44.0.9"].epoch) == ({"h2/tcp/80"}, 2)


def test_what_drover_itself_had_stopped_had_not_finished() -> None:
    """A host that was cut off stops what holds claims before it counts as lost."""
    assert only(h3_lost(running(1, "db", state="exited", interrupted=True))).container == DB


def test_what_had_finished_goes_along_and_is_not_run_a_second_time() -> None:
    after = _taken_over(_brought_along("running", state="exited", exit_code=0))
    assert (after.placements[WEB].host, after.containers[WEB].desired) == ("h2", "stopped")


def test_a_container_that_shares_anothers_network_waits_for_it_and_follows() -> None:
    cluster = h3_lost(running(1, "db"), running(2, "web", body={"HostConfig": {"NetworkMode": "container:db"}}))
    recovery = relocations(cluster, NOW)
    assert [one.container for one in recovery.relocations] == [DB]
    assert recovery.waits[0].sentence == "waits until db has moved: it shares the network of db"
    after = committed(cluster, recovery.relocations[0])
    assert only(after).target == after.placements[DB].host


@pytest.mark.parametrize(("phase", "ended"), [("copying", True), ("aborting", True), ("handed", True), ("done", False)])
def test_a_move_that_was_under_way_ends_with_the_relocation(phase: r.Phase, ended: bool) -> None:
    move = r.Move(source="h3", target="h2", container=DB, phase=phase)
    cluster = h3_lost(running(1, "db"), [put(r.key("moves", DB), move)])
    one = only(cluster)
    after = committed(cluster, one).moves[DB]
    assert (after.phase, r.key("moves", DB) in one.expect) == (("aborted", True) if ended else (phase, False))


def test_nowhere_to_go_gives_one_reason_per_host() -> None:
    cluster = h3_lost(running(1, "db", body={"Env": ["constraint:host==h3"]}))
    assert "no host can take db: h1: is not the host asked for" in waits(cluster)[0]


def test_a_host_that_has_the_image_is_taken_before_one_that_has_not() -> None:
    more = [host(f"h{number}") for number in range(4, 9)]
    have = {"h1", "h4", "h5"}
    cluster = h3_lost(*more, running(1, "db"), *(running(int(one[1:]) + 10, f"web{one}", one) for one in have))
    one = only(cluster)
    assert one.target in have
    reasons = one.changes[0].record.reasons  # type: ignore[union-attr]
    assert {name for name, why in reasons.items() if why == "does not have the image yet"} == {"h2", "h6", "h7", "h8"}


def test_a_commit_rests_on_the_lost_lease_and_on_every_record_it_was_decided_on() -> None:
    cluster = h3_lost(running(1, "db"))
    one = only(cluster)
    assert one.expect[r.key("alive", "h3")] == 0
    assert one.expect[r.key("alive", one.target)] == 1
    assert one.expect[r.key("placements", DB)] == one.expect[r.key("containers", DB)] == 1


def test_a_relocation_is_decided_once() -> None:
    cluster = h3_lost(running(1, "db"), running(2, "web"))
    changes, expect = merged(relocations(cluster, NOW).relocations)
    assert len({change.key for change in changes}) == len(changes)
    assert {r.key("placements", DB), r.key("placements", WEB)} <= set(expect)
    assert relocations(cluster.apply(2, changes), NOW).relocations == ()


@given(st.lists(st.sampled_from(["h1", "h2", "h3", "h4"]), max_size=12), st.sets(st.sampled_from(["h1", "h2", "h3"])))
@settings(max_examples=100, deadline=None)
def test_relocations_lead_from_lost_hosts_to_living_ones_and_end(homes: list[str], lost: set[str]) -> None:
    hosts = [host(name, state="lost" if name in lost else "up") for name in ("h1", "h2", "h3", "h4")]
    cluster = world(*hosts, *[running(number + 1, f"c{number}", home) for number, home in enumerate(homes)])
    found = relocations(cluster, NOW).relocations
    assert {one.container for one in found} == {cid(n + 1) for n, home in enumerate(homes) if home in lost}
    changes, _ = merged(found)
    after = cluster.apply(2, changes)
    assert all(placement.host in cluster.alive for placement in after.placements.values())
    for identity, placement in after.placements.items():
        assert placement.epoch == cluster.placements[identity].epoch + (cluster.placements[identity].host in lost)
    back = after.apply(3, [delete(r.key("lost", name)) for name in lost])
    assert relocations(back, NOW).relocations == ()
