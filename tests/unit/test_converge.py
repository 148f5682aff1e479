"""Each row of the table in `decide.converge`, from values alone."""

import json

import pytest

from drover.decide import steps as s
from drover.decide.converge import REFUSED_KEPT_S, Seen, SeenHere, converge, running_strays
from drover.decide.restarts import Restarts
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put

CID = "c" * 64
NET = "e" * 64
NOW = 1000.0
IMAGE = "sha256:1"


def cluster_with(*changes: Change, body: dict[str, object] | None = None, **container: object) -> Cluster:
    record = r.Container(
        id=CID, name="web", image_id=IMAGE, body=json.dumps({"Image": "busybox"} | (body or {})), **container
    )
    placement = r.Placement(container=CID, host="h1", epoch=2)
    base = [
        put(r.key("hosts", "h1"), r.Host(name="h1", id="1", index=1, address="10.0.0.1")),
        put(r.key("containers", CID), record),
        put(r.key("names", "web"), r.Name(id=CID)),
        put(r.key("placements", CID), placement),
    ]
    return Cluster().apply(1, [*base, *changes])


def facts(**fields: object) -> Change:
    return put(r.key("container_facts", "h1", CID), r.ContainerFacts(container=CID, host="h1", **fields))


def here(state: str = "running", epoch: int = 2) -> dict[str, SeenHere]:
    return {CID: SeenHere("e1", state, epoch)}


def steps(cluster: Cluster, **seen: object) -> list[s.Step]:
    return list(converge(cluster, "h1", Seen(**({"containers": {}, "images": frozenset({IMAGE})} | seen)), NOW).steps)


def order(number: int, verb: str, desired: str = "running") -> dict[str, object]:
    return {"order": r.Order(number=number, verb=verb), "desired": desired}


def test_an_engine_that_was_not_seen_proves_nothing() -> None:
    plan = converge(cluster_with(), "h1", Seen(containers=None), NOW)
    assert plan.steps == ()
    assert "does not answer" in plan.waits[0].sentence


def test_a_new_container_is_created() -> None:
    assert steps(cluster_with()) == [s.CreateContainer(CID)]


def test_another_hosts_container_is_none_of_ours() -> None:
    assert converge(cluster_with(), "h2", Seen(containers={}), NOW).steps == ()


def test_its_image_comes_first() -> None:
    assert steps(cluster_with(), images=frozenset()) == [s.EnsureImage(CID, "busybox", IMAGE)]


def test_its_volume_and_network_come_first() -> None:
    cluster = cluster_with(
        put(r.key("volumes", "data"), r.Volume(name="data", body="", host="h1")),
        put(r.key("networks", NET), r.Network(id=NET, name="app", body="{}")),
        put(r.key("network_names", "app"), r.Name(id=NET)),
        body={"HostConfig": {"Binds": ["data:/data"], "NetworkMode": "app"}},
    )
    assert set(steps(cluster)) == {s.EnsureVolume("data"), s.EnsureNetwork(NET)}
    assert steps(cluster, volumes={"data": 1}, live={"data": 1}, networks={NET: "n1"}) == [s.CreateContainer(CID)]


def test_the_answer_to_a_create_that_was_lost_is_given_again() -> None:
    cluster = cluster_with()
    assert steps(cluster, containers=here("created")) == [s.Perform(CID, cluster.containers[CID].order)]


@pytest.mark.parametrize("verb", ["start", "stop", "kill", "restart", "rename", "update", "remove"])
def test_a_pending_order_is_performed_once(verb: str) -> None:
    cluster = cluster_with(facts(engine_id="e1", answer=r.Answer(number=1, status=201)), **order(2, verb))
    assert steps(cluster, containers=here()) == [s.Perform(CID, r.Order(number=2, verb=verb))]
    answered = {CID: r.Answer(number=2, status=204)}
    assert steps(cluster, containers=here(), answers=answered) == []


def test_an_order_to_a_missing_container_makes_it_first() -> None:
    cluster = cluster_with(facts(engine_id="e1", answer=r.Answer(number=1, status=201)), **order(2, "start"))
    assert steps(cluster) == [s.CreateContainer(CID)]


def test_a_missing_container_that_should_be_removed_is_forgotten() -> None:
    assert steps(cluster_with(**order(2, "remove", "removed"))) == [s.Forget(CID)]
    assert steps(cluster_with(facts(answer=r.Answer(number=2)), **order(2, "start", "removed"))) == [s.Forget(CID)]


def test_an_auto_removed_container_is_forgotten_when_the_engine_dropped_it() -> None:
    body = {"HostConfig": {"AutoRemove": True}}
    existed = facts(engine_id="e1", answer=r.Answer(number=1, status=201))
    assert steps(cluster_with(existed, body=body)) == [s.Forget(CID)]
    assert steps(cluster_with(body=body)) == [s.CreateContainer(CID)]


def test_a_container_somebody_removed_by_hand_is_made_again() -> None:
    cluster = cluster_with(facts(engine_id="e1", answer=r.Answer(number=2, status=204)), **order(2, "start"))
    assert steps(cluster) == [s.CreateContainer(CID)]
    assert steps(cluster, containers=here("created")) == [s.StartContainer(CID)]


def test_an_exit_is_not_a_failure() -> None:
    cluster = cluster_with(facts(engine_id="e1", answer=r.Answer(number=2, status=204)), **order(2, "start"))
    assert steps(cluster, containers=here("exited")) == []


def test_a_refused_create_is_not_tried_again_and_forgotten_in_the_end() -> None:
    refused = r.Answer(number=1, status=409)
    assert steps(cluster_with(facts(answer=refused, at=NOW - 1))) == []
    assert steps(cluster_with(facts(answer=refused, at=NOW - REFUSED_KEPT_S - 1))) == [s.Forget(CID)]


def test_an_older_copy_is_removed_before_anything_else() -> None:
    plan = converge(cluster_with(), "h1", Seen(containers=here(epoch=1), images=frozenset({IMAGE})), NOW)
    assert plan.steps == (s.RemoveStray("e1", "epoch 1 is over, 2 holds"),)


def test_a_container_that_moved_away_or_that_no_record_asks_for_is_a_stray() -> None:
    cluster = cluster_with(put(r.key("placements", CID), r.Placement(container=CID, host="h2", epoch=2)))
    assert steps(cluster, containers=here()) == [s.RemoveStray("e1", "it runs on h2 now")]
    assert steps(Cluster(), containers=here()) == [s.RemoveStray("e1", "no record asks for it")]


def test_a_network_nobody_here_uses_goes() -> None:
    assert steps(Cluster(), networks={NET: "n1"}) == [s.RemoveNetwork(NET, "n1")]


def test_a_removed_volume_goes_where_its_data_is() -> None:
    removed = put(r.key("volumes", "data"), r.Volume(name="data", body="", host="h1", removed=True))
    cluster = Cluster().apply(1, [removed])
    assert steps(cluster) == [s.RemoveVolume("data")]
    assert converge(cluster, "h2", Seen(containers={}), NOW).steps == ()


def test_a_held_object_waits_and_says_when() -> None:
    plan = converge(
        cluster_with(), "h1", Seen(containers={}, images=frozenset({IMAGE}), held={f"container/{CID}": NOW + 3}), NOW
    )
    assert plan.steps == ()
    assert plan.again_at == NOW + 3
    assert "again in 3.0 s" in plan.waits[0].sentence


def ended(policy: str, *, tries: int = 0, **container: object) -> Cluster:
    """A started claim holder with a restart policy."""
    restart = {"Name": policy, "MaximumRetryCount": tries}
    fixed = {"EndpointsConfig": {"bridge": {"IPAMConfig": {"IPv4Address": "10.44.0.9"}}}}
    body: dict[str, object] = {"HostConfig": {"RestartPolicy": restart}, "NetworkingConfig": fixed}
    done = facts(engine_id="e1", answer=r.Answer(number=2, status=204))
    return cluster_with(done, body=body, **(order(2, "start") | container))


def exit_with(code: int) -> dict[str, SeenHere]:
    return {CID: SeenHere("e1", "exited", 2, code)}


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        ("no", 1, False),
        ("on-failure", 0, False),
        ("on-failure", 1, True),
        ("always", 0, True),
        ("unless-stopped", 0, True),
    ],
)
def test_a_claim_holder_that_ended_is_started_by_the_agent_as_its_policy_says(
    policy: str, code: int, again: bool
) -> None:
    wanted = [s.StartContainer(CID)] if again else []
    assert steps(ended(policy), containers=exit_with(code)) == wanted


def test_a_restart_waits_until_it_is_due_and_its_tries_end() -> None:
    cluster = ended("on-failure", tries=3)
    soon = {"containers": exit_with(1), "images": frozenset({IMAGE}), "restarts": {CID: Restarts(2, due_at=NOW + 4)}}
    plan = converge(cluster, "h1", Seen(**soon), NOW)
    assert (plan.steps, plan.again_at) == ((), NOW + 4)
    assert "ended; started again in 4.0 s" in plan.waits[0].sentence
    assert steps(cluster, containers=exit_with(1), restarts={CID: Restarts(3)}) == []


def ruled(**rules: object) -> Cluster:
    """A started container without claims that has rules of its own for its restarts."""
    labels = {f"drover.restart.{name}": str(value) for name, value in rules.items()}
    body: dict[str, object] = {"Labels": labels, "HostConfig": {"RestartPolicy": {"Name": "always"}}}
    return cluster_with(facts(engine_id="e1", answer=r.Answer(number=2, status=204)), body=body, **order(2, "start"))


def test_a_container_with_rules_is_started_by_the_agent_after_its_own_delay() -> None:
    seen = {"containers": exit_with(1), "images": frozenset({IMAGE})}
    just = {CID: Restarts(1, ended_at=NOW - 2, due_at=NOW - 1.9)}
    plan = converge(ruled(delay=5), "h1", Seen(**seen, restarts=just), NOW)
    assert (plan.steps, plan.again_at) == ((), NOW + 3)
    assert converge(ruled(delay=5), "h1", Seen(**seen, restarts=just), NOW + 3).steps == (
        s.StartContainer(CID, due_at=NOW + 3),
    )


def test_a_container_with_rules_is_left_alone_after_its_attempts_within_the_window() -> None:
    spent = Restarts(9, ended_at=NOW, starts=(NOW - 50, NOW - 10))
    for rules in ({"attempts": 2}, {"attempts": 2, "window": 60}):
        assert steps(ruled(**rules), containers=exit_with(0), restarts={CID: spent}) == [], rules
    late = {"attempts": 2, "window": 30}
    assert steps(ruled(**late), containers=exit_with(0), restarts={CID: spent}) == [s.StartContainer(CID)]


def test_a_stopped_claim_holder_stays_stopped() -> None:
    assert steps(ended("always", desired="stopped"), containers=exit_with(0)) == []


def test_what_the_fence_stopped_runs_again_whatever_its_policy() -> None:
    assert steps(ended("no"), containers=exit_with(137), fenced=frozenset({"e1"})) == [s.StartContainer(CID)]
    assert steps(ended("no"), containers=exit_with(137), fenced=frozenset({"e0"})) == []


def test_an_engine_restarts_containers_without_claims_itself() -> None:
    body = {"HostConfig": {"RestartPolicy": {"Name": "always"}}}
    done = facts(engine_id="e1", answer=r.Answer(number=2, status=204))
    assert steps(cluster_with(done, body=body, **order(2, "start")), containers=exit_with(1)) == []


def test_a_spare_image_is_fetched_one_at_a_time() -> None:
    others = [("d" * 64, "sha256:2"), ("f" * 64, "sha256:3")]
    changes = []
    for host in ("h1", "h2"):
        changes += [put(r.key("hosts", host), r.Host(name=host, id=host, index=int(host[1]), address="10.0.0.1"))]
        changes += [put(r.key("alive", host), r.Alive(host=host, session="s"))]
        changes += [put(r.key("host_facts", host), r.HostFacts(host=host))]
    for one, image in others:
        record = r.Container(id=one, name=one[:2], image_id=image, body='{"Image": "app"}', desired="running")
        changes += [
            put(r.key("containers", one), record),
            put(r.key("placements", one), r.Placement(container=one, host="h2")),
            put(r.key("container_facts", "h2", one), r.ContainerFacts(container=one, host="h2", engine_id="e9")),
        ]
    cluster = Cluster().apply(1, changes)
    assert steps(cluster) == [s.KeepImage("d" * 64, "app", "sha256:2")]
    assert steps(cluster, images=frozenset({"sha256:2"})) == [s.KeepImage("f" * 64, "app", "sha256:3")]
    assert steps(cluster, held={"image/sha256:2": NOW + 1}) == [s.KeepImage("f" * 64, "app", "sha256:3")]
    assert steps(cluster, images=frozenset({"sha256:2", "sha256:3"})) == []


@pytest.mark.parametrize("phase", ["handed", "done"])
@pytest.mark.parametrize("state", ["exited", "running"])
def test_what_a_move_has_stopped_here_is_removed_when_it_is_done(phase: str, state: str) -> None:
    move = r.Move(source="h1", target="h2", container=CID, phase=phase)
    there = put(r.key("placements", CID), r.Placement(container=CID, host="h2", epoch=3))
    found = steps(cluster_with(there, put(r.key("moves", CID), move)), containers=here(state))
    stays = phase == "handed" and state == "exited"
    assert found == ([] if stays else [s.RemoveStray("e1", "it runs on h2 now")])


def test_strays_that_run_are_told_from_those_that_do_not() -> None:
    cluster = cluster_with(put(r.key("placements", CID), r.Placement(container=CID, host="h2", epoch=2)))
    assert running_strays(cluster, "h1", Seen(containers=here("running"))) == ["e1"]
    assert running_strays(cluster, "h1", Seen(containers=here("exited"))) == []
    assert running_strays(cluster, "h1", Seen(strays={"e2": SeenHere("e2", "paused")}, containers={})) == ["e2"]
    assert running_strays(cluster_with(), "h1", Seen(containers=here("running"))) == []


BOUND = {"HostConfig": {"Binds": ["data:/data"], "RestartPolicy": {"Name": "always"}}}


def bound(on: str, epoch: int) -> Change:
    return put(r.key("volumes", "data"), r.Volume(name="data", body="", host=on, epoch=epoch))


def mounting(state: str, body: dict[str, object], volume: Change, **container: object) -> Cluster:
    answered = facts(engine_id="e1", state=state, answer=r.Answer(number=2, status=204))
    return cluster_with(answered, volume, body=body, **(order(2, "start") | container))


def test_a_container_bound_to_an_earlier_claim_is_made_anew() -> None:
    cluster = mounting("exited", BOUND, bound("h1", 3))
    seen = {"volumes": {"data": 1}, "live": {}}
    assert steps(cluster, containers=here("exited"), **seen) == [s.Remake(CID, finished=False)]
    assert steps(cluster, containers=here("exited"), volumes={"data": 3}, live={"data": 3}) == [s.StartContainer(CID)]


def test_one_that_had_finished_is_made_anew_and_not_run_again() -> None:
    body = {"HostConfig": {"Binds": ["data:/data"]}}
    cluster = mounting("exited", body, bound("h1", 3))
    assert steps(cluster, containers=here("exited"), volumes={"data": 1}) == [s.Remake(CID, finished=True)]
    stopped = mounting("exited", body, bound("h1", 3), desired="stopped")
    assert steps(stopped, containers=here("exited"), volumes={"data": 1}) == [s.Remake(CID, finished=False)]


def test_what_is_to_start_and_has_its_volume_elsewhere_waits_and_says_so() -> None:
    plan = converge(
        mounting("exited", BOUND, bound("h2", 2)),
        "h1",
        Seen(containers=here("exited"), images=frozenset({IMAGE}), volumes={"data": 1}),
        NOW,
    )
    assert plan.steps == ()
    assert [wait.sentence for wait in plan.waits] == ["volume data is on h2: it has to come here first"]


def test_a_live_set_under_a_stopped_container_is_set_aside_and_under_a_running_one_not() -> None:
    cluster = mounting("exited", BOUND, bound("h2", 2))
    seen = {"volumes": {"data": 1}, "live": {"data": 1}}
    assert s.SetAside("data") in steps(cluster, containers=here("exited"), **seen)
    assert s.SetAside("data") not in steps(cluster, containers=here("running"), **seen)
