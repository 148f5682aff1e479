"""The checker itself: what it must see, and what it must not mistake for a broken promise."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from cluster_factory import address, cid, container, host, network, volume, world

from drover.decide.invariants import Live, steps_back, violations
from drover.model import records as r
from drover.model.cluster import Cluster, put

NET = "e" * 64
WEB, DB = cid(1), cid(2)
IP = frozenset({(NET, "10.44.0.9")})


def live(on: str, what: str = WEB, **fields: Any) -> Live:
    return Live(host=on, container=what, **fields)


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (live("h1", exclusive=True), live("h2", exclusive=True), "holds claims and runs on h1 and on h2"),
        (live("h1", volumes=frozenset({"v"})), live("h2", DB, volumes=frozenset({"v"})), "P1: volume v is written"),
        (live("h1", addresses=IP), live("h2", addresses=IP), "P2: address 10.44.0.9 answers on h1 and on h2"),
    ],
)
def test_two_of_what_must_be_one_are_seen(one: Live, other: Live, says: str) -> None:
    [sentence] = violations([one, live("h3", "f" * 64), other])
    assert says in sentence


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (live("h1"), live("h2")),
        (live("h1", addresses=IP), live("h2", addresses=IP, heard=False)),
        (live("h1", volumes=frozenset({"v"})), live("h1", DB, volumes=frozenset({"v"}))),
        (live("h1", exclusive=True), live("h2", DB, exclusive=True)),
    ],
)
def test_what_may_be_twice_is_no_violation(one: Live, other: Live) -> None:
    assert violations([one, other]) == []


def placed(on: str, epoch: int) -> Cluster:
    parts = [host("h1"), host("h2"), container(1, "web", on), network(NET, "app"), address(NET, "10.44.0.9", 1)]
    cluster = world(*parts, volume("data", on))
    placement = msgspec.structs.replace(cluster.placements[WEB], epoch=epoch)
    claim = msgspec.structs.replace(cluster.addresses[f"{NET}/10.44.0.9"], epoch=epoch)
    kept = msgspec.structs.replace(cluster.volumes["data"], epoch=epoch)
    changes = [
        put(r.key("placements", WEB), placement),
        put(r.key("addresses", NET, "10.44.0.9"), claim),
        put(r.key("volumes", "data"), kept),
    ]
    return cluster.apply(2, changes)


def test_epochs_only_grow() -> None:
    assert steps_back(placed("h1", 1), placed("h2", 2)) == []
    told = steps_back(placed("h1", 2), placed("h1", 1))
    assert told[0] == "web went from h1 (epoch 2) to h1 (epoch 1)"
    assert len(told) == 3


def test_another_host_needs_the_next_epoch() -> None:
    assert steps_back(placed("h1", 1), placed("h2", 1)) == ["web went from h1 (epoch 1) to h2 (epoch 1)"]


def test_an_address_given_to_another_container_begins_anew() -> None:
    before = placed("h1", 5)
    claim = r.Address(network=NET, ip="10.44.0.9", container=DB)
    assert steps_back(before, before.apply(3, [put(r.key("addresses", NET, "10.44.0.9"), claim)])) == []
