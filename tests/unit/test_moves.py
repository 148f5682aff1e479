"""`decide.moves` from values alone: the whole product of phases, hosts and accidents; refusals; the one commit."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from cluster_factory import cid, container, host, host_config, port_claim, volume, without, world

from drover.decide import moves
from drover.decide import steps as s
from drover.errors import Conflict, DroverError, Invalid, NotFound, Unavailable
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put

DB = cid(1)
PHASES = ("copying", "stopping", "stopped", "handed", "done", "aborting", "aborted")
AFTER = ("stopping", "stopped", "done", "aborting", "aborted")
DRIVERS = {"facts": {"volume_drivers": ("btrfs", "directory")}}
BINDS = host_config(Binds=["data:/d"])


def move_record(phase: str = "copying", **fields: object) -> r.Move:
    known = {"source": "h1", "target": "h2", "container": DB, "volumes": ("data",), "phase": phase}
    return r.Move(**{**known, **fields})


def scene(phase: str = "copying", *more: list[Change], **fields: object) -> Cluster:
    """db with volume data on h1, on its way to h2."""
    hosts = [host(name, **DRIVERS) for name in ("h1", "h2", "h3")]
    moving = [put(r.key("moves", DB), move_record(phase, **fields))]
    return world(*hosts, container(1, "db", "h1", BINDS), volume("data", "h1"), moving, *more)


def step(cluster: Cluster, name: str) -> s.Step | None:
    return moves.next_step(cluster, name, DB, cluster.moves[DB])


TURNS = {
    ("copying", "h2"): s.CopyRounds(DB),
    ("stopping", "h1"): s.StopForMove(DB),
    ("stopped", "h2"): s.TakeOver(DB),
    ("aborting", "h1"): s.Restore(DB),
}


@pytest.mark.parametrize(("phase", "name"), list(itertools.product(PHASES, ("h1", "h2", "h3"))))
def test_whose_turn_it_is(phase: str, name: str) -> None:
    assert step(scene(phase), name) == TURNS.get((phase, name))


@pytest.mark.parametrize(("phase", "lost", "looks"), list(itertools.product(PHASES, ("h1", "h2"), ("h1", "h2"))))
def test_a_lost_partner_aborts_until_the_hand_over(phase: str, lost: str, looks: str) -> None:
    cluster = without(scene(phase), f"alive/{lost}")
    aborts = phase in moves.BEFORE_HAND_OVER and looks != lost
    assert isinstance(step(cluster, looks), s.AbortMove) == aborts


@pytest.mark.parametrize("phase", PHASES)
def test_a_claim_that_went_elsewhere_aborts_until_the_hand_over(phase: str) -> None:
    cluster = scene(phase).apply(2, volume("data", "h3"))
    assert isinstance(step(cluster, "h2"), s.AbortMove) == (phase in moves.BEFORE_HAND_OVER)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(PHASES, AFTER)))
def test_phases_follow_each_other(before: str, after: str) -> None:
    allowed = {
        ("copying", "stopping"), ("stopping", "stopped"), ("handed", "done"), ("aborting", "aborted"),
        ("copying", "aborting"), ("stopping", "aborting"), ("stopped", "aborting"),
    }  # fmt: skip
    commit = moves.passed(scene(before), DB, after)  # type: ignore[arg-type]
    assert (commit is not None) == ((before, after) in allowed)
    if commit is not None:
        assert commit.expect == {r.key("moves", DB): 1}


@pytest.mark.parametrize("phase", PHASES)
def test_claims_pass_only_when_the_source_has_stopped(phase: str) -> None:
    commit = moves.hand_over(scene(phase, final={"data": "snap"}), DB, 7.0)
    assert (commit is not None) == (phase == "stopped")


def test_all_claims_pass_in_one_commit_that_rests_on_both_leases() -> None:
    cluster = scene("stopped", port_claim("h1", "tcp", 80, 1), final={"data": "0000000001-000000000000001"})
    commit = moves.hand_over(cluster, DB, 7.0)
    assert commit is not None
    after = cluster.apply(2, commit.changes)
    taken = after.volumes["data"]
    assert (taken.host, taken.epoch, taken.snapshot) == ("h2", 2, "0000000001-000000000000001")
    assert (after.host_of(DB), after.placements[DB].epoch, after.moves[DB].phase) == ("h2", 2, "handed")
    assert {claim.host for claim in after.ports.values()} == {"h2"}
    keys = [
        "alive/h1",
        "alive/h2",
        f"moves/{DB}",
        f"placements/{DB}",
        "ports/h1/tcp/80",
        "ports/h2/tcp/80",
        "volumes/data",
    ]
    assert sorted(commit.expect) == keys
    assert commit.expect["ports/h2/tcp/80"] == 0


def test_cancelling_and_handing_over_exclude_each_other() -> None:
    for phase in moves.BEFORE_HAND_OVER:
        commit = moves.cancelled(scene(phase), DB, "why not")
        assert commit.expect == {r.key("moves", DB): 1}
    assert moves.cancelled(scene("aborting"), DB, "again").changes == ()
    with pytest.raises(Conflict, match="the move completes"):
        moves.cancelled(scene("handed"), DB, "late")
    for phase in moves.ENDED:
        with pytest.raises(NotFound):
            moves.cancelled(scene(phase), DB, "late")


@pytest.mark.parametrize("state", ["", "created", "running", "exited"])
def test_it_is_over_when_the_container_runs(state: str) -> None:
    cluster = scene("handed")
    running = msgspec.structs.replace(cluster.containers[DB], desired="running")
    cluster = cluster.apply(2, [put(r.key("containers", DB), running)])
    move = cluster.moves[DB]
    assert moves.is_over(cluster, "h2", DB, move, state) == (state in ("running", "exited"))
    assert not moves.is_over(cluster, "h1", DB, move, state)
    assert moves.is_over(scene("handed"), "h2", DB, move, "created")


def begin(cluster: Cluster, target: str = "h2") -> r.Move:
    asked = moves.Asked(target=target)
    commit = moves.begin_container(cluster, cluster.containers[DB], asked, 5.0)
    return cluster.apply(9, commit.changes).moves[DB]


def test_a_move_begins_after_the_one_before_has_ended() -> None:
    assert begin(scene("done", number=3)).number == 4
    with pytest.raises(Conflict, match="already"):
        begin(scene("stopping"))


def tied(**fields: object) -> list[Change]:
    return container(1, "db", "h1", host_config(**{"Binds": ["data:/d"], **fields}))


def engine(name: str, **facts: object) -> list[Change]:
    return host(name, facts={**DRIVERS["facts"], **facts})


def made(**fields: object) -> list[Change]:
    return [put("volumes/data", r.Volume(**{"name": "data", "body": "", "host": "h1", **fields}))]


REFUSALS = [
    (scene("done"), "h1", Invalid, "on h1 already"),
    (scene("done"), "h9", NotFound, "no host is called h9"),
    (without(scene("done"), "alive/h2"), "h2", Unavailable, "host h2 is down"),
    (scene("done", host("h2", scheduling="drain", **DRIVERS)), "h2", Conflict, "draining"),
    (scene("done", container(2, "web", "h1", BINDS)), "h2", Conflict, "in use by container web on h1"),
    (scene("done", tied(AutoRemove=True)), "h2", Conflict, "removes itself"),
    (scene("done", tied(Binds=["/etc:/e"])), "h2", Conflict, "host path /etc"),
    (scene("done", tied(NetworkMode="container:web")), "h2", Conflict, "must stay with container web"),
    (scene("done", engine("h2", storage_driver="vfs")), "h2", Conflict, "h2 has the storage driver vfs"),
    (scene("done", engine("h1", log_driver="journald"), engine("h2", log_driver="journald")), "h2",
     Conflict, "kept by journald on h1"),
    (scene("done", tied(LogConfig={"Type": "syslog"}), engine("h1", log_driver="local")), "h2",
     Conflict, "kept by syslog on h1"),
    (scene("done", made(driver="zfs")), "h2", Conflict, "zfs"),
    (scene("done", made(body='{"DriverOpts": {"type": "nfs"}}')), "h2", Conflict, "engine's own options"),
]  # fmt: skip


@pytest.mark.parametrize(("cluster", "target", "kind", "words"), REFUSALS, ids=[words for *_, words in REFUSALS])
def test_what_cannot_be_moved_says_why(cluster: Cluster, target: str, kind: type[DroverError], words: str) -> None:
    with pytest.raises(kind, match=words):
        begin(cluster, target)


def test_what_cannot_go_along_stays_behind_on_request() -> None:
    engines = engine("h2", storage_driver="vfs", log_driver="local")
    cluster = scene("done", tied(LogConfig={"Type": "journald"}), engines)
    asked = moves.Asked(target="h2", leave=("layer", "log"))
    commit = moves.begin_container(cluster, cluster.containers[DB], asked, 5.0)
    assert cluster.apply(9, commit.changes).moves[DB].leave == ("layer", "log")


def test_a_log_that_nobody_keeps_is_no_hindrance() -> None:
    assert begin(scene("done", tied(LogConfig={"Type": "none"}))).leave == ("log",)
    assert begin(scene("done", tied(LogConfig={"Type": "local"}))).leave == ()


def test_a_volume_alone_moves_only_unused() -> None:
    free = world(host("h1", **DRIVERS), host("h2", **DRIVERS), volume("data", "h1"), volume("new", ""))
    commit = moves.begin_volume(free, "data", moves.Asked(target="h2"), 5.0)
    assert [change.key for change in commit.changes] == ["moves/volume:data"]
    with pytest.raises(Conflict, match="never been used"):
        moves.begin_volume(free, "new", moves.Asked(target="h2"), 5.0)
    with pytest.raises(Conflict, match="in use by container db"):
        moves.begin_volume(scene("done"), "data", moves.Asked(target="h2"), 5.0)
