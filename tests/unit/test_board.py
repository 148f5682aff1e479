"""A board gives the answers of `place` word for word, whatever containers and hosts there are and become."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest
from cluster_factory import GIB, composed, container, host, host_config, port_claim, volume, wanted, without, world
from hypothesis import given, settings
from hypothesis import strategies as st

from drover.decide import board as boards
from drover.decide import field as fields
from drover.decide.board import Board
from drover.decide.choice import Chosen
from drover.decide.field import Crowds
from drover.decide.fit import crowds
from drover.decide.schedule import LARGE, place
from drover.decide.views import HostViews
from drover.errors import NoPlacement
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put

NAMES = [f"h{number}" for number in range(1, 9)]
STATES = ["up"] * 6 + ["lost", "mute", "silent"]
LABELS = [
    {},
    {"drover.strategy": "binpack"},
    {"drover.spread": "rack"},
    {"drover.spread": "zone;rack"},
    {"drover.max_per_host": "2"},
    {"drover.tolerate": "gpu"},
    {"drover.disk": "1g"},
    {"tier": "web"},
]
ENV = [
    [],
    [],
    [],
    ["constraint:zone==a"],
    ["constraint:zone!=~b"],
    ["constraint:rack==~1", "constraint:zone==~a"],
    ["affinity:container==s1"],
    ["affinity:container!=~s1"],
    ["affinity:image==~app"],
    ["affinity:tier!=web"],
]
HOST: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "state": st.sampled_from(STATES),
        "scheduling": st.sampled_from(["active"] * 5 + ["drain"]),
        "labels": st.fixed_dictionaries({}, optional={"zone": st.sampled_from("ab"), "rack": st.sampled_from("12")}),
        "taints": st.sampled_from([{}, {}, {}, {"gpu": ""}]),
        "facts": st.fixed_dictionaries(
            {
                "cpus": st.integers(1, 3),
                "memory_bytes": st.integers(1, 3).map(GIB.__mul__),
                "disk_low": st.sampled_from(["", "", "/ is nearly full"]),
                "disk_bytes": st.just(10 * GIB),
                "disk_free_bytes": st.sampled_from([0, 2 * GIB]),
                "volume_drivers": st.just(("fake",)),
                "arch": st.sampled_from(["x86_64", "x86_64", "aarch64"]),
            }
        ),
    }
)
BODY = st.builds(
    lambda memory, cpus, labels, env, binds, ports, slot: {
        **(composed("p", "s", slot) if slot else {}),
        "Image": "app",
        "Labels": {**(composed("p", "s", slot)["Labels"] if slot else {}), **labels},
        "Env": env,
        **host_config(
            Memory=memory * GIB // 4,
            NanoCpus=cpus * 500_000_000,
            Binds=binds,
            PortBindings={"80": [{"HostPort": ports}]} if ports else {},
            NetworkMode="bridge" if ports else "default",
        ),
    },
    st.integers(0, 3),
    st.integers(0, 1),
    st.sampled_from(LABELS),
    st.sampled_from(ENV),
    st.sampled_from([[], [], [], ["data:/data"], ["data:/data", "logs:/logs"]]),
    st.sampled_from(["", "", "", "80", "80-81"]),
    st.integers(0, 2),
)
ASKED = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["s", "t"]),
        "body": BODY,
        "platform": st.sampled_from(["", "", "", "linux/arm64"]),
        "image_hosts": st.frozensets(st.sampled_from(NAMES), max_size=3),
        "bring_volumes": st.booleans(),
    }
)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    hosts = [host(name, **draw(HOST)) for name in NAMES[: draw(st.integers(0, len(NAMES)))]]
    made: list[list[Change]] = []
    for number in range(1, draw(st.integers(0, 6)) + 1):
        facts: dict[str, Any] = draw(
            st.sampled_from([{}, {"state": "running"}, {"state": "exited", "answer": r.Answer(number=9)}])
        )
        name = f"{draw(st.sampled_from('st'))}{number}"
        made.append(container(number, name, draw(st.sampled_from(NAMES)), draw(BODY), **facts))
    held = [volume(name, draw(st.sampled_from(NAMES))) for name in ("data", "logs") if draw(st.booleans())]
    claims = [port_claim(draw(st.sampled_from([*NAMES, "*"])), "tcp", 80, 1)] if draw(st.booleans()) else []
    packed = [put("settings/strategy", r.Setting(value="binpack"))] if draw(st.integers(0, 4)) == 0 else []
    return world(*hosts, *made, *held, *claims, packed)


def outcome(call: Any) -> Chosen | tuple[str, dict[str, str]]:
    try:
        found: Chosen = call()
    except NoPlacement as nowhere:
        return nowhere.message, dict(nowhere.reasons)
    return found


@settings(max_examples=200, deadline=None)
@given(clusters(), st.lists(st.tuples(ASKED, st.integers(0, 9)), min_size=1, max_size=12), st.data())
def test_a_board_says_what_asking_every_host_says(
    cluster: Cluster, asked: list[tuple[dict[str, Any], int]], data: st.DataObject
) -> None:
    views = HostViews.of(cluster)
    quick, said = Board(views), []
    for number, (one, kind) in enumerate(asked, 100):
        who = data.draw(st.integers(1, 6)) if kind == 0 else number
        seek = wanted(cluster, f"{one['name']}{number}", one["body"], who, one["platform"])
        how = {"image_hosts": one["image_hosts"], "bring_volumes": one["bring_volumes"]}
        found = outcome(partial(place, cluster, seek, views=views, **how))
        said.append((outcome(partial(quick.place, cluster, seek, **how)), found))
        assert (said[-1][0] == found) if number % 2 else _same_choice(*said[-1])
        if isinstance(found, Chosen):
            views = views.with_container(found.host, seek.id, seek.name, seek.spec)
            quick.put(found.host, seek.id, seek.name, seek.spec)
        if kind == 1 and cluster.hosts:
            name = data.draw(st.sampled_from(sorted(cluster.hosts)))
            changes = host(name, **data.draw(HOST))
            cluster = data.draw(st.sampled_from([cluster.apply(2, changes), without(cluster, r.key("hosts", name))]))
            views = HostViews.of(cluster)
            quick.follow(views)
    assert all(quickly == slowly for quickly, slowly in said), "an answer that is read later is that of its time"


def _same_choice(one: Any, other: Any) -> bool:
    """But for the reasons, which are not read."""
    if isinstance(one, Chosen) and isinstance(other, Chosen):
        return (one.host, one.why) == (other.host, other.why)
    return bool(one == other)


@given(st.lists(st.sampled_from(["a", "a", "b", "c"]), min_size=30, max_size=60), st.booleans())
def test_it_does_as_many_levels_are_filled(families: list[str], zoned: bool) -> None:
    hosts = [host(f"h{number}", labels={"zone": "ab"[number % 2]} if zoned else {}) for number in range(1, 6)]
    cluster = world(*hosts)
    views = HostViews.of(cluster)
    quick = Board(views)
    for number, family in enumerate(families):
        seek = wanted(cluster, f"{family}{number}", {}, number + 1)
        found = place(cluster, seek, views=views)
        assert quick.place(cluster, seek) == found
        views = views.with_container(found.host, seek.id, seek.name, seek.spec)
        quick.put(found.host, seek.id, seek.name, seek.spec)


@pytest.mark.parametrize("seed", range(3))
def test_on_a_large_cluster_placing_follows_the_pictures(seed: int) -> None:
    chance = random.Random(seed)
    cluster = world(*[host(f"h{number}", labels={"zone": chance.choice("abc")}) for number in range(LARGE)])
    for number in range(30):
        body = host_config(Memory=chance.choice((0, GIB)))
        seek = wanted(cluster, f"{chance.choice('ab')}{number}", body, number + 1)
        found = place(cluster, seek)
        assert found == place(cluster, seek, views=HostViews.of(cluster)) == place(cluster, seek)
        cluster = cluster.apply(number + 2, container(number + 1, seek.name, found.host, body))
        if chance.random() < 0.3:
            cluster = without(cluster, r.key("alive", f"h{chance.randrange(LARGE)}"))


def test_little_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields and orders that were thrown away are made again."""
    monkeypatch.setattr(boards, "FIELDS", 2)
    monkeypatch.setattr(boards, "LOG", 20)
    monkeypatch.setattr(fields, "CROWDED", 2)
    chance = random.Random(1)
    cluster = world(*[host(f"h{number}") for number in range(1, 4)])
    views = HostViews.of(cluster)
    quick = Board(views)
    for number in range(1, 60):
        seek = wanted(cluster, f"{chance.choice('abcd')}{number}", host_config(Memory=chance.choice((0, 1, 2))), number)
        found = place(cluster, seek, views=views)
        assert quick.place(cluster, seek) == found
        views = views.with_container(found.host, seek.id, seek.name, seek.spec)
        quick.put(found.host, seek.id, seek.name, seek.spec)


def test_how_crowded_zones_are_is_what_adding_up_says() -> None:
    zones = [host("h1", labels={"zone": "a"}), host("h2", labels={"zone": "b"}), host("h3", labels={"zone": "a"})]
    views = HostViews.of(world(*zones, container(1, "s1", "h1"), container(2, "s2", "h3"), container(3, "s3", "h2")))
    found = Crowds(views.hosts, ("zone",), ({"a": 2, "b": 1},))
    assert dict(found) == crowds(views, wanted(world(), "s4")) == {"h1": 2, "h2": 1, "h3": 2}
    assert len(found) == 3
    assert not Crowds(views.hosts, (), ())


def test_a_crowded_host_is_looked_for_in_the_zone_that_it_came_to() -> None:
    """Where all have one of the family already, the order among them is kept by zone, and a label may change."""
    zones = {"h1": "a", "h2": "a", "h3": "b"}
    cluster = world(*[host(name, labels={"zone": zone}) for name, zone in zones.items()])
    body = {"Labels": {"drover.spread": "zone"}}
    for number, name in enumerate(zones, 1):
        cluster = cluster.apply(number + 1, container(number, f"s{number}", name, body))
    quick = Board(HostViews.of(cluster))
    seek = wanted(cluster, "s9", body, 9)
    assert quick.place(cluster, seek) == place(cluster, seek)
    for name, zone in (("h3", "a"), ("h1", "b"), ("h2", "b")):
        cluster = cluster.apply(cluster.revision + 1, host(name, labels={"zone": zone}))
        quick.follow(HostViews.of(cluster))
        assert quick.place(cluster, seek) == place(cluster, seek)
