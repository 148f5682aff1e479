"""Rebalancing: each move makes the cluster more even, there is an end, and what is even stays as it is."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from cluster_factory import cid, composed, container, host, host_config, volume, world

from drover.decide import rebalance
from drover.decide.evacuate import families
from drover.decide.rebalance import AUTOMATIC, SETTLED_S, Proposal, automatic, proposals
from drover.decide.wanted import family_of
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put
from drover.model.spec import parse_spec

NOW = 10_000.0
DRIVERS = {"facts": {"volume_drivers": ("btrfs",)}}


def running(number: int, name: str, on: str, body: dict[str, Any] | None = None, at: float = 0.0) -> list[Change]:
    made = container(number, name, on, body, state="running")
    record = made[0].record
    assert isinstance(record, r.Container)
    placed = r.Placement(container=cid(number), host=on, at=at)
    changed = msgspec.structs.replace(record, desired="running", created_at=float(number))
    return [put(made[0].key, changed), *made[1:], put(r.key("placements", cid(number)), placed)]


def three(*parts: list[Change]) -> Cluster:
    return world(*[host(f"h{number}", **DRIVERS) for number in (1, 2, 3)], *parts)


def all_of(cluster: Cluster, limit: int = 50) -> list[Proposal]:
    return list(proposals(cluster, NOW, limit))


def unevenness(cluster: Cluster) -> tuple[int, int]:
    """The pair that each move must make smaller."""
    per_host: Counter[str] = Counter()
    per_family: Counter[tuple[str, str]] = Counter()
    for identity, placement in cluster.placements.items():
        record = cluster.containers[identity]
        per_host[placement.host] += 1
        per_family[placement.host, family_of(record.name, parse_spec(record.body).labels)] += 1
    return sum(n * n for n in per_family.values()), sum(n * n for n in per_host.values())


def made(cluster: Cluster, one: Proposal) -> Cluster:
    """The cluster after a move."""
    key = f"{one.source}/{one.container}"
    facts = msgspec.structs.replace(cluster.container_facts[key], host=one.target)
    return cluster.apply(
        cluster.revision + 1,
        [
            put(r.key("placements", one.container), r.Placement(container=one.container, host=one.target)),
            put(r.key("container_facts", one.target, one.container), facts),
        ],
    )


def test_an_even_cluster_stays_as_it_is() -> None:
    assert all_of(three(*[running(n, f"app{n}x", f"h{n % 3 + 1}") for n in range(1, 7)])) == []
    assert all_of(three(running(1, "a", "h1"), running(2, "b", "h1"), running(3, "c", "h2"))) != []
    assert all_of(three(running(1, "a", "h1"))) == []


def test_a_host_that_came_back_gets_its_share() -> None:
    found = all_of(three(*[running(n, f"app{n}x", "h1" if n % 2 else "h2") for n in range(1, 13)]))
    assert {one.target for one in found} == {"h3"}
    assert len(found) == 4
    assert "h1 runs 6 containers, h3 0" in found[0].why


def test_containers_of_one_service_are_spread_first() -> None:
    web = [running(n, f"web-{n}", "h1", composed("shop", "web", n)) for n in (1, 2)]
    found = all_of(three(*web, running(3, "x", "h2"), running(4, "y", "h3")))
    assert [one.name for one in found] == ["web-2"]
    assert found[0].why == "h1 runs 2 of shop/web, h2 0"


def test_data_moves_only_if_it_is_worth_it() -> None:
    def with_data(number: int) -> Cluster:
        parts = [running(n, f"db{n}x", "h1", host_config(Binds=[f"v{n}:/data"])) for n in range(1, number + 1)]
        return three(*parts, *[volume(f"v{n}", "h1") for n in range(1, number + 1)])

    assert all_of(with_data(3)) == []
    assert len(all_of(with_data(5))) >= 1


def test_what_cannot_move_or_was_placed_just_now_stays() -> None:
    tied = [running(n, f"t{n}x", "h1", host_config(Binds=["/etc:/etc"])) for n in range(1, 6)]
    assert all_of(three(*tied)) == []
    fresh = [running(n, f"t{n}x", "h1", at=NOW - SETTLED_S + 1) for n in range(1, 6)]
    assert all_of(three(*fresh)) == []


def test_a_wish_and_a_zone_are_not_given_up() -> None:
    wish = [running(n, f"t{n}x", "h1", {"Env": ["constraint:host==~h1"]}) for n in range(1, 6)]
    assert all_of(three(*wish)) == []
    packed = [running(n, f"t{n}x", "h1", {"Labels": {"drover.strategy": "binpack"}}) for n in range(1, 6)]
    assert all_of(three(*packed)) == []


@pytest.mark.parametrize("seed", range(25))
def test_each_move_makes_it_more_even_and_there_is_an_end(seed: int) -> None:
    chance = random.Random(seed)
    hosts = [f"h{n}" for n in range(1, chance.randint(2, 5) + 1)]
    parts = [
        running(n, f"app{chance.randint(1, 4)}-{n}", chance.choice(hosts[:2] if seed % 2 else hosts))
        for n in range(1, chance.randint(2, 25))
    ]
    cluster = world(*[host(name, **DRIVERS) for name in hosts], *parts)
    moves = 0
    while found := all_of(cluster, 1):
        before = unevenness(cluster)
        cluster = made(cluster, found[0])
        assert unevenness(cluster) < before
        moves += 1
        assert moves <= 60
    per_host = Counter(placement.host for placement in cluster.placements.values())
    for family in families(cluster).values():
        counts = Counter(dict.fromkeys(hosts, 0) | Counter(cluster.host_of(one) for one in family))
        assert max(counts.values()) - min(counts.values()) <= 1
    assert sum(per_host.values()) == len(parts)


def auto(value: str, *parts: list[Change]) -> Cluster:
    return three([put(f"settings/{AUTOMATIC}", r.Setting(value=value))], *parts)


def test_the_leader_moves_by_itself_only_if_asked_to_and_all_is_quiet() -> None:
    uneven = [running(n, f"app{n}x", "h1") for n in range(1, 7)]
    assert automatic(auto("off", *uneven), NOW) is None
    found = automatic(auto("auto", *uneven), NOW)
    assert found is not None
    busy = auto("auto", *uneven).apply(2, found.commit.changes)
    assert automatic(busy, NOW) is None
    assert automatic(auto("auto", *uneven, running(9, "new", "h2", at=NOW - 5)), NOW) is None
    assert automatic(auto("auto", *uneven, host("h4", state="lost")), NOW) is None


@pytest.mark.parametrize("seed", range(25))
def test_no_move_is_missed_for_what_no_target_can_gain(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    hosts = [f"h{n}" for n in range(1, 6)]
    body = (None, composed("shop", "web"), host_config(Binds=["v1:/data"]))
    parts = [
        running(n, f"app{chance.randint(1, 4)}-{n}", chance.choice(hosts[: 2 + seed % 4]), chance.choice(body))
        for n in range(1, chance.randint(2, 30))
    ]
    cluster = world(*[host(name, **DRIVERS) for name in hosts], *parts)
    found = all_of(cluster)
    monkeypatch.setattr(rebalance._Least, "may_gain", lambda self, container, source: True)
    assert all_of(cluster) == found


def test_what_was_made_and_never_started_is_not_moved() -> None:
    idle = [change for number in range(1, 7) for change in container(number, f"idle{number}", "h1")]
    assert all_of(three(idle)) == []
