"""The kept views are what adding everything up again gives, whatever changed in between."""

from __future__ import annotations

import random
from typing import Any

import pytest
from cluster_factory import cid, composed, container, host, port_claim, world

from drover.decide.kept_views import kept
from drover.decide.views import HostViews
from drover.model import records as r
from drover.model.cluster import Change, delete, put
from drover.model.table import changed

HOSTS = ("h1", "h2", "h3")


def step(chance: random.Random) -> list[Change]:
    """One change such as a cluster goes through."""
    number, name = chance.randint(1, 12), chance.choice(HOSTS)
    body: dict[str, Any] = chance.choice([{}, composed("p", "web", number % 3 + 1), {"HostConfig": {"Memory": 2**20}}])
    identity = cid(number)
    possible: list[list[Change]] = [
        container(number, f"c{number}", name, body, state="running"),
        container(number, f"c{number}", name, body, state="exited", answer=r.Answer(number=9)),
        [delete(r.key("containers", identity)), delete(r.key("placements", identity))],
        [put(r.key("placements", identity), r.Placement(container=identity, host=name))],
        [delete(r.key("alive", name))],
        host(name, labels={"zone": chance.choice("ab")}, taints={}),
        host(name, scheduling="drain"),
        [delete(r.key("hosts", name))],
        port_claim(chance.choice((*HOSTS, "*")), "tcp", 80 + number, number),
        [delete(r.key("ports", name, "tcp", str(80 + number)))],
    ]
    return chance.choice(possible)


def shown(views: HostViews) -> tuple[Any, ...]:
    return dict(views.hosts), dict(views.shared_ports), dict(views.slots).keys()


@pytest.mark.parametrize("seed", range(20))
def test_kept_views_are_as_if_added_up_anew(seed: int) -> None:
    chance = random.Random(seed)
    cluster = world(*[host(name) for name in HOSTS])
    assert shown(kept(cluster)) == shown(HostViews.of(cluster))
    for revision in range(2, 60):
        cluster = cluster.apply(revision, step(chance))
        if chance.random() < 0.7:
            assert shown(kept(cluster)) == shown(HostViews.of(cluster))


def test_a_slot_belongs_to_its_newest_container() -> None:
    cluster = world(host("h1"), container(1, "old", "h1", composed("p", "web")))
    assert list(kept(cluster).slots.values()) == [cid(1)]
    both = cluster.apply(2, container(2, "new", "h1", composed("p", "web")))
    assert list(kept(both).slots.values()) == [cid(2)]
    left = both.apply(3, [delete(r.key("containers", cid(2))), delete(r.key("placements", cid(2)))])
    assert list(kept(left).slots.values()) == [cid(1)]


def test_what_was_given_away_is_not_changed() -> None:
    cluster = world(host("h1"), container(1, "a", "h1"))
    before = kept(cluster)
    kept(cluster.apply(2, container(2, "b", "h1")))
    assert before.hosts["h1"].containers == 1
    assert kept(cluster).hosts["h1"].containers == 1


def test_changes_are_found_by_identity() -> None:
    one = r.Alive(host="h1", session="s")
    assert changed({"a": one, "b": one}, {"a": one, "c": one}) == ["c", "b"]
    assert changed({"a": one}, {"a": r.Alive(host="h1", session="s")}) == ["a"]
