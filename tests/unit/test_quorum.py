"""The store's members: whole small products of situations, and walks that are interrupted after every step."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drover.daemon.quorum_keeper import STUCK_S, Learners
from drover.decide.quorum import (
    NO_TROUBLE,
    AddLearner,
    EtcdMember,
    Nothing,
    Promote,
    Remove,
    Step,
    Trouble,
    endpoints,
    initial_cluster,
    majority,
    next_step,
    record_changes,
    wanted_voters,
)
from drover.model.cluster import Cluster, delete, put
from drover.model.records import Alive, Host, Member, Record


class World(msgspec.Struct, frozen=True):
    """Hosts by number: `present` in the cluster, `up` (power), and etcd's members by host number."""

    present: frozenset[int]
    up: frozenset[int]
    voters: frozenset[int] = frozenset()
    learner: int = 0
    learner_started: bool = True

    @property
    def cluster(self) -> Cluster:
        return cluster_of(self.present, self.up)

    @property
    def members(self) -> list[EtcdMember]:
        voters = [member(number) for number in sorted(self.voters)]
        learners = [member(self.learner, True, self.learner_started)] if self.learner else []
        return voters + learners

    @property
    def step(self) -> Step:
        return next_step(self.cluster, self.members)

    @property
    def alive(self) -> frozenset[int]:
        """Those that Drover can count on: up, and not removed from the cluster."""
        return self.present & self.up

    @property
    def has_quorum(self) -> bool:
        return bool(self.voters) and len(self.voters & self.alive) >= majority(len(self.voters))

    def after(self, step: Step) -> World:
        change = msgspec.structs.replace
        match step:
            case AddLearner(host):
                return change(self, learner=int(host[1:]), learner_started=False)
            case Promote():
                return change(self, voters=self.voters | {self.learner}, learner=0)
            case Remove(member=removed):
                number = number_of(removed)
                return change(self, learner=0) if removed.learner else change(self, voters=self.voters - {number})
        return self


@cache
def cluster_of(present: frozenset[int], up: frozenset[int]) -> Cluster:
    rows: list[tuple[str, Record]] = []
    for number in sorted(present):
        name = f"h{number}"
        rows.append((f"hosts/{name}", Host(name=name, id=f"id{number}", index=number, address=f"10.0.0.{number}")))
        if number in up:
            rows.append((f"alive/{name}", Alive(host=name, session="s")))
    return Cluster().apply(1, [put(key, row) for key, row in rows])


@cache
def member(number: int, learner: bool = False, started: bool = True) -> EtcdMember:
    return EtcdMember(
        id=f"m{number}",
        peer_url=f"https://10.0.0.{number}:4743",
        name=f"h{number}" if started else "",
        client_url=f"https://10.0.0.{number}:4742" if started else "",
        learner=learner,
    )


def number_of(one: EtcdMember) -> int:
    return int(one.id[1:])


HOST_STATES = ("up", "down", "removed")
MEMBER_STATES = ("none", "voter", "learner", "new learner")


def worlds(hosts: int) -> Iterator[World]:
    """Every combination of every host's state and membership, with at most one learner (etcd allows no more)."""
    for states in itertools.product(itertools.product(HOST_STATES, MEMBER_STATES), repeat=hosts):
        if sum(membership.endswith("learner") for _, membership in states) <= 1:
            yield world_of(states)


def world_of(states: Iterable[tuple[str, str]]) -> World:
    rows = list(enumerate(states, 1))
    learner = next((number for number, (_, membership) in rows if membership.endswith("learner")), 0)
    return World(
        present=frozenset(number for number, (state, _) in rows if state != "removed"),
        up=frozenset(number for number, (state, _) in rows if state == "up"),
        voters=frozenset(number for number, (_, membership) in rows if membership == "voter"),
        learner=learner,
        learner_started=all(membership != "new learner" for _, membership in rows),
    )


def assert_safe(world: World, step: Step) -> None:
    """What must hold of every step, whatever the world."""
    after = world.after(step)
    if world.has_quorum:
        assert after.has_quorum, (world, step)
    match step:
        case AddLearner(host):
            assert not world.learner, "one learner at a time"
            assert int(host[1:]) in world.alive - world.voters
        case Promote(member=promoted):
            assert promoted.learner
            assert promoted.started
            assert world.learner in world.alive
        case Remove(member=removed) if not removed.learner:
            gone = number_of(removed) not in world.present
            surplus = len(world.voters) > wanted_voters(len(world.present)) and world.voters <= world.alive
            assert gone or surplus, "a host that is merely down keeps its member"
            assert after.has_quorum
        case Nothing(reason):
            assert reason


def test_every_step_is_safe_in_every_world_of_four_hosts() -> None:
    for hosts in range(1, 5):
        for world in worlds(hosts):
            assert_safe(world, world.step)


def settled(world: World) -> World:
    """Take steps until there is none; a member that was announced starts if its host is up."""
    for _ in range(20):
        step = world.step
        assert_safe(world, step)
        starts = bool(world.learner) and world.learner in world.up and not world.learner_started
        if isinstance(step, Nothing) and not starts:
            return world
        world = msgspec.structs.replace(world, learner_started=True) if starts else world.after(step)
    raise AssertionError(f"no end: {world}")


def test_every_world_with_a_quorum_settles_as_wanted_if_its_hosts_are_up() -> None:
    for world in worlds(4):
        if world.has_quorum and world.present == world.alive:
            end = settled(world)
            assert len(end.voters) == wanted_voters(len(world.present)), (world, end)
            assert end.voters <= world.present
            assert not end.learner


def test_every_world_settles_without_going_in_circles() -> None:
    for world in worlds(4):
        settled(world)


seven = st.lists(st.tuples(st.sampled_from(HOST_STATES), st.sampled_from(MEMBER_STATES[:2])), min_size=5, max_size=7)
events = st.lists(
    st.tuples(st.sampled_from(("kill", "revive", "remove", "join", "look", "start")), st.integers(1, 7)), max_size=40
)


def happens(world: World, event: str, number: int) -> World:
    """What people, fate and the daemon do between two looks."""
    change, one = msgspec.structs.replace, frozenset((number,))
    match event:
        case "kill":
            return change(world, up=world.up - one)
        case "revive":
            return change(world, up=world.up | (one & world.present))
        case "remove":
            return change(world, present=world.present - one, up=world.up - one)
        case "join" if number not in world.voters | {world.learner}:
            return change(world, present=world.present | one, up=world.up | one)
        case "start" if world.learner in world.alive:
            return change(world, learner_started=True)
        case "look":
            step = world.step
            assert_safe(world, step)
            return world.after(step)
    return world


@given(seven, events)
@settings(max_examples=150, deadline=None)
def test_a_walk_interrupted_anywhere_never_loses_the_quorum_by_a_step(
    start: list[tuple[str, str]], walk: list[tuple[str, int]]
) -> None:
    world = world_of(start)
    for event, number in walk:
        world = happens(world, event, number)
    settled(world)


@pytest.mark.parametrize(("hosts", "voters"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (50, 5)])
def test_how_many_voters_are_wanted(hosts: int, voters: int) -> None:
    assert wanted_voters(hosts) == voters


def together(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


def test_three_hosts_grow_from_one_voter_by_four_steps() -> None:
    world = World(present=together(1, 2, 3), up=together(1, 2, 3), voters=together(1))
    taken = []
    while not isinstance(step := world.step, Nothing):
        taken.append(step)
        world = msgspec.structs.replace(world.after(step), learner_started=True)
    assert taken == [AddLearner("h2"), Promote(member(2, True)), AddLearner("h3"), Promote(member(3, True))]
    assert world.step == Nothing("3 of 3 wanted voters")


def test_two_voters_are_never_sought() -> None:
    world = World(present=together(1, 2, 3), up=together(1, 2), voters=together(1))
    assert world.step == Nothing("3 voters are wanted; waiting for more hosts to be up")
    half_way = msgspec.structs.replace(world, learner=2)
    assert half_way.step == Nothing("two voters are worse than one: waiting for one more host to be up")


def test_a_host_that_is_down_keeps_its_member_and_a_removed_one_is_replaced() -> None:
    world = World(present=together(1, 2, 3, 4), up=together(1, 2, 4), voters=together(1, 2, 3))
    assert world.step == Nothing("3 of 3 wanted voters")
    removed = msgspec.structs.replace(world, present=together(1, 2, 4))
    assert removed.step == Remove(member(3), "its host h3 was removed from the cluster")
    assert settled(removed).voters == together(1, 2, 4)


def test_the_last_majority_is_not_removed() -> None:
    world = World(present=together(1, 2), up=together(1), voters=together(1, 2, 3))
    assert world.step == Nothing("removing the member of h3 would leave too few alive; start the hosts that are down")


def test_a_learner_on_a_host_that_is_down_gives_way_to_another() -> None:
    world = World(present=together(1, 2, 3, 4), up=together(1, 2, 4), voters=together(1, 2), learner=3)
    assert world.step == Remove(member(3, True), "its host at 10.0.0.3 is down and another host can take its place")
    assert settled(world).voters == together(1, 2, 4)


def test_a_host_that_joined_again_does_not_take_up_its_old_member() -> None:
    world = World(present=together(1, 2, 3), up=together(1, 2, 3), voters=together(1, 2, 3))
    old = Member(host="h3", host_id="another id", peer_url="https://10.0.0.3:4743", client_url="", state="voter")
    cluster = world.cluster.apply(2, [put("members/h3", old)])
    assert next_step(cluster, world.members) == Remove(member(3), "its host h3 was removed from the cluster")
    assert "members/h3" not in {change.key for change in record_changes(cluster, world.members, 4742)}
    assert delete("members/h3") in record_changes(cluster, world.members[:2], 4742)


def test_a_host_that_joins_again_before_its_old_member_is_let_go_is_told_apart() -> None:
    world = World(present=together(1, 2, 3), up=together(1, 2, 3), voters=together(1, 2, 3))
    cluster = world.cluster.apply(2, record_changes(world.cluster, world.members, 4742))
    removed = cluster.apply(3, [delete("hosts/h3")])
    assert record_changes(removed, world.members, 4742) == []
    again = Host(name="h3", id="a new id", index=4, address="10.0.0.3")
    assert isinstance(next_step(removed.apply(4, [put("hosts/h3", again)]), world.members), Remove)


def test_records_follow_etcds_list() -> None:
    world = World(present=together(1, 2), up=together(1, 2), voters=together(1), learner=2, learner_started=False)
    changes = record_changes(world.cluster, world.members, 4742)
    assert [change.record for change in changes] == [
        Member(
            host="h1",
            host_id="id1",
            peer_url="https://10.0.0.1:4743",
            client_url="https://10.0.0.1:4742",
            state="voter",
            member_id="m1",
        ),
        Member(
            host="h2",
            host_id="id2",
            peer_url="https://10.0.0.2:4743",
            client_url="https://10.0.0.2:4742",
            state="starting",
            initial_cluster="h1=https://10.0.0.1:4743,h2=https://10.0.0.2:4743",
            member_id="m2",
        ),
    ]
    aligned = world.cluster.apply(2, changes)
    assert record_changes(aligned, world.members, 4742) == []
    assert [change.record for change in record_changes(aligned, world.members[:1], 4742)] == [None]


def test_endpoints_name_voters_first() -> None:
    world = World(present=together(1, 2, 3), up=together(1, 2, 3), voters=together(2, 3), learner=1)
    cluster = world.cluster.apply(2, record_changes(world.cluster, world.members, 4742))
    assert endpoints(cluster) == [f"https://10.0.0.{number}:4742" for number in (2, 3, 1)]


def test_a_new_member_is_told_of_all_by_name() -> None:
    world = World(present=together(1), up=together(1), voters=together(1, 9))
    assert initial_cluster(world.cluster, world.members) == "h1=https://10.0.0.1:4743,h9=https://10.0.0.9:4743"


@pytest.mark.parametrize("started", [False, True])
def test_a_member_that_never_gets_its_vote_gives_way_to_another_host_and_comes_last_then(started: bool) -> None:
    cluster = cluster_of(frozenset({1, 2, 3, 4}), frozenset({1, 2, 3, 4}))
    listed = [member(1), member(2, learner=True, started=started)]
    stuck = Trouble(frozenset({listed[1].id}), frozenset({"h2"}))
    step = next_step(cluster, listed, stuck)
    assert isinstance(step, Remove)
    assert "another host can take its place" in step.why
    assert next_step(cluster, [member(1)], stuck) == AddLearner("h3")


def test_a_member_that_never_gets_its_vote_is_waited_for_where_no_other_host_could() -> None:
    cluster = cluster_of(frozenset({1, 2, 3}), frozenset({1, 2}))
    listed = [member(1), member(2, learner=True, started=False)]
    assert isinstance(next_step(cluster, listed, Trouble(frozenset({listed[1].id}), frozenset({"h2"}))), Nothing)


def test_how_long_a_member_has_no_vote_is_remembered() -> None:
    now = 0.0
    learners = Learners(lambda: now)
    cluster = cluster_of(frozenset({1, 2}), frozenset({1, 2}))
    listed = [member(1), member(2, learner=True)]
    assert learners.trouble(cluster, listed) == NO_TROUBLE
    now = STUCK_S + 1
    assert learners.trouble(cluster, listed) == Trouble(frozenset({listed[1].id}), frozenset({"h2"}))
    assert learners.trouble(cluster, [member(1)]) == Trouble(frozenset(), frozenset({"h2"}))
