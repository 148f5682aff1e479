"""Properties of placing over generated clusters."""

from __future__ import annotations

from typing import Any

from cluster_factory import GIB, cid, container, host, host_config, wanted, world
from hypothesis import given
from hypothesis import strategies as st

from drover.decide.choice import Chosen
from drover.decide.schedule import place
from drover.decide.views import HostViews
from drover.errors import NoPlacement
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put
from drover.model.spec import parse_spec

STATES = ["up", "up", "up", "lost", "noteless", "mute", "silent", "new"]
HOSTS = st.lists(
    st.fixed_dictionaries(
        {
            "state": st.sampled_from(STATES),
            "scheduling": st.sampled_from(["active", "active", "drain"]),
            "labels": st.dictionaries(st.just("zone"), st.sampled_from("ab")),
            "facts": st.fixed_dictionaries(
                {"cpus": st.integers(0, 3), "memory_bytes": st.integers(0, 4).map(GIB.__mul__)}
            ),
        }
    ),
    max_size=5,
)
BODIES = st.builds(
    lambda memory, cpus, port, zone: {
        **host_config(
            Memory=memory * GIB,
            NanoCpus=cpus * 500_000_000,
            PortBindings={"80": [{"HostPort": str(port)}]},
            NetworkMode="bridge",
        ),
        "Env": [f"constraint:zone{zone}"] if zone else [],
    },
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from(["", "==a", "!=b", "==~b"]),
)


def members(fields: list[dict[str, Any]]) -> list[list[Change]]:
    return [host(f"h{n}", **one) for n, one in enumerate(fields, 1)]


def try_place(
    cluster: Cluster, body: dict[str, Any], number: int, views: HostViews | None = None
) -> Chosen | dict[str, str]:
    try:
        return place(cluster, wanted(cluster, f"c{number}x", body, number), views=views)
    except NoPlacement as nowhere:
        return nowhere.reasons


def placed_one_after_another(cluster: Cluster, bodies: list[dict[str, Any]]) -> Cluster:
    for number, body in enumerate(bodies, 1):
        outcome = try_place(cluster, body, number)
        if isinstance(outcome, Chosen):
            cluster = cluster.apply(cluster.revision + 1, container(number, f"c{number}x", outcome.host, body))
    return cluster


@given(HOSTS, st.lists(BODIES, max_size=8))
def test_placing_respects_every_limit(fields: list[dict[str, Any]], bodies: list[dict[str, Any]]) -> None:
    cluster = placed_one_after_another(world(*members(fields)), bodies)
    for name, view in HostViews.of(cluster).hosts.items():
        placed = [cid for cid, where in cluster.placements.items() if where.host == name]
        ports = [port.first for cid in placed for port in parse_spec(cluster.containers[cid].body).ports if port.first]
        assert not placed or view.health.state == "ready"
        assert not placed or (view.free_memory_bytes >= 0 and view.free_nano_cpus >= 0)
        assert len(ports) == len(set(ports))
        assert view.containers == len(placed)


@given(HOSTS, BODIES)
def test_every_other_host_gets_exactly_one_reason(fields: list[dict[str, Any]], body: dict[str, Any]) -> None:
    cluster = world(*members(fields))
    outcome = try_place(cluster, body, 1)
    told = {**outcome.reasons, outcome.host: outcome.why} if isinstance(outcome, Chosen) else outcome
    assert set(told) == set(cluster.hosts)
    assert all(told.values())


@given(HOSTS, st.lists(BODIES, max_size=5), BODIES, st.randoms(use_true_random=False))
def test_the_order_of_records_does_not_matter(
    fields: list[dict[str, Any]], bodies: list[dict[str, Any]], body: dict[str, Any], chance: Any
) -> None:
    cluster = placed_one_after_another(world(*members(fields)), bodies)
    changes = [
        put(f"{table}/{rest}", record) for table, rows in cluster.tables.items() for rest, record in rows.items()
    ]
    chance.shuffle(changes)
    assert try_place(cluster, body, 99) == try_place(Cluster().apply(1, changes), body, 99)


@given(HOSTS, st.lists(BODIES, max_size=8))
def test_views_kept_up_to_date_equal_views_made_anew(
    fields: list[dict[str, Any]], bodies: list[dict[str, Any]]
) -> None:
    cluster = world(*members(fields))
    views = HostViews.of(cluster)
    for number, body in enumerate(bodies, 1):
        outcome = try_place(cluster, body, number, views)
        if isinstance(outcome, Chosen):
            name = f"c{number}x"
            cluster = cluster.apply(cluster.revision + 1, container(number, name, outcome.host, body))
            views = views.with_container(
                outcome.host, cid(number), name, parse_spec(cluster.containers[cid(number)].body)
            )
    assert views == HostViews.of(cluster)
    for identity in cluster.placements:
        gone = cluster.apply(cluster.revision + 1, [Change(r.key("placements", identity), None)])
        assert views.without(cluster, identity).hosts.keys() == HostViews.of(gone).hosts.keys()
        assert totals(views.without(cluster, identity)) == totals(HostViews.of(gone))


def totals(views: HostViews) -> dict[str, tuple[int, int, int, set[tuple[str, int]]]]:
    return {n: (v.containers, v.memory_bytes, v.nano_cpus, set(v.ports)) for n, v in views.hosts.items()}
