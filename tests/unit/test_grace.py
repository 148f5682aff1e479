"""Addresses that stay with a name for a while."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from cluster_factory import address, cid, container, host, network, world
from hypothesis import given
from hypothesis import strategies as st

from drover.decide.claims import addresses_of
from drover.decide.doctor import record_doubts
from drover.decide.grace import (
    EXPIRED_AT_ONCE,
    GRACE_S,
    Wanted,
    asked_ip,
    claim,
    expiry,
    given_up,
    inherited,
    release,
)
from drover.decide.removal import container_removal
from drover.decide.services import Draft
from drover.errors import Conflict, DroverError, NotFound
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put

NET = "n1"
WEB, NEXT = cid(1), cid(2)


def app(*parts: list[Change], subnet: str = "10.44.0.0/24") -> Cluster:
    one = network(NET, "app", subnet, gateway="10.44.0.1", vni=4096)
    return world(host("h1"), one, *parts)


def later(cluster: Cluster, draft: Draft | list[Change]) -> Cluster:
    changes = draft.changes if isinstance(draft, Draft) else draft
    return cluster.apply(cluster.revision + 1, changes)


def removed(cluster: Cluster, identity: str, now: float = 0.0) -> Cluster:
    return later(cluster, container_removal(cluster, identity, now)[0])


def wanted(name: str, ip: str = "", identity: str = NEXT) -> Wanted:
    return Wanted(container=identity, name=name, ip=ip)


def taken(draft: Draft) -> str:
    return next(change.record.ip for change in draft.changes if isinstance(change.record, r.Address))


def claimed(cluster: Cluster, wish: Wanted) -> Draft:
    return claim(cluster, cluster.networks[NET], wish)


def web(ip: str = "10.44.0.9", **fields: Any) -> list[Change]:
    return [*container(1, "web", **fields), *address(NET, ip, 1)]


def keeping(number: int, at: float = 0.0) -> Change:
    """An address kept for a name of its own."""
    record = r.KeptAddress(network=NET, ip=f"10.44.0.{number}", name=f"w{number}", at=at)
    return put(r.key("kept_addresses", NET, record.ip), record)


def test_the_next_of_the_name_has_the_address_again() -> None:
    cluster = removed(app(web()), WEB, now=50.0)
    assert cluster.addresses == {}
    kept = cluster.kept_addresses[f"{NET}/10.44.0.9"]
    assert (kept.name, kept.container, kept.at) == ("web", WEB, 50.0)
    draft = claimed(cluster, wanted("web"))
    assert taken(draft) == "10.44.0.9"
    cluster = later(cluster, draft)
    assert cluster.kept_addresses == {}
    assert cluster.addresses[f"{NET}/10.44.0.9"].mac == "02:42:0a:2c:00:09"


def test_a_commit_rests_on_both_records_of_the_address() -> None:
    cluster = removed(app(web()), WEB)
    for name, ip in (("web", "10.44.0.9"), ("db", "10.44.0.2")):
        expect = claimed(cluster, wanted(name)).expect
        assert set(expect) == {f"addresses/{NET}/{ip}", f"kept_addresses/{NET}/{ip}"}
    assert claimed(cluster, wanted("web")).expect[f"kept_addresses/{NET}/10.44.0.9"] == cluster.revision


def test_others_get_other_addresses_until_the_pool_is_dry() -> None:
    cluster = app(web("10.44.0.2"), subnet="10.44.0.0/29")
    cluster = removed(cluster, WEB)
    assert taken(claimed(cluster, wanted("db"))) == "10.44.0.3"
    full = later(cluster, [change for n in range(3, 6) for change in address(NET, f"10.44.0.{n}", n)])
    assert taken(claimed(full, wanted("db"))) == "10.44.0.2"
    dry = later(full, claimed(full, wanted("db")))
    with pytest.raises(Conflict, match="network app has no free address left"):
        claimed(dry, wanted("cache", identity=cid(9)))


def test_a_dry_pool_gives_what_was_kept_longest() -> None:
    kept = [
        put(
            r.key("kept_addresses", NET, f"10.44.0.{n}"),
            r.KeptAddress(network=NET, ip=f"10.44.0.{n}", name=f"w{n}", at=at),
        )
        for n, at in ((2, 30.0), (3, 10.0), (4, 20.0), (5, 40.0))
    ]
    assert taken(claimed(app(kept, subnet="10.44.0.0/29"), wanted("db"))) == "10.44.0.3"


def test_who_asks_for_it_by_number_has_it() -> None:
    cluster = removed(app(web()), WEB)
    cluster = later(cluster, claimed(cluster, wanted("db", "10.44.0.9")))
    assert cluster.kept_addresses == {}
    assert taken(claimed(cluster, wanted("web", identity=cid(3)))) == "10.44.0.2"


def test_a_name_keeps_one_address_per_network() -> None:
    cluster = removed(app(web("10.44.0.9")), WEB)
    second = [*container(2, "web"), *address(NET, "10.44.0.20", 2)]
    cluster = removed(later(cluster, second), cid(2))
    assert [one.ip for one in cluster.kept_addresses.values()] == ["10.44.0.20"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [({"name_made_up": True}, "nobody asks for the name again"), ({"id": cid(8)}, "the record is gone already")],
)
def test_nothing_is_kept(fields: Mapping[str, Any], why: str) -> None:
    record = msgspec.structs.replace(r.Container(id=WEB, name="web", body="{}"), **fields)
    cluster = app([put(r.key("containers", record.id), record)], address(NET, "10.44.0.9", 1))
    changes = given_up(cluster, addresses_of(cluster, WEB), 0.0)
    assert [change.key for change in changes] == [f"addresses/{NET}/10.44.0.9"], why


def test_grace_ends_and_goes_with_its_network() -> None:
    cluster = removed(app(web()), WEB, now=100.0)
    assert expiry(cluster, 100.0 + GRACE_S).changes == ()
    over = expiry(cluster, 101.0 + GRACE_S)
    assert list(over.expect) == [f"kept_addresses/{NET}/10.44.0.9"]
    assert later(cluster, over).kept_addresses == {}
    without = cluster.apply(cluster.revision + 1, [Change(r.key("networks", NET), None)])
    assert expiry(without, 100.0) == over


def test_not_more_ends_in_one_commit_than_a_store_takes() -> None:
    kept = [keeping(n) for n in range(2, 180)]
    assert len(expiry(app(kept), 2 * GRACE_S).changes) == EXPIRED_AT_ONCE


def started(body: Mapping[str, Any] | None = None, state: str = "created") -> Cluster:
    """A container that was made as `old_web` beside `web`, which is gone: Compose has renamed it."""
    cluster = removed(app(web()), WEB)
    made = [*container(2, "web", body=body, state=state), *address(NET, "10.44.0.2", 2)]
    return later(cluster, made)


def test_the_first_start_takes_the_address_of_the_one_it_replaces() -> None:
    cluster = started()
    draft = inherited(cluster, cluster.containers[cid(2)])
    assert set(draft.expect) == {
        f"addresses/{NET}/10.44.0.2",
        f"addresses/{NET}/10.44.0.9",
        f"kept_addresses/{NET}/10.44.0.9",
    }
    cluster = later(cluster, draft)
    assert [(one.ip, one.container, one.epoch) for one in cluster.addresses.values()] == [("10.44.0.9", cid(2), 2)]
    assert cluster.kept_addresses == {}
    assert inherited(cluster, cluster.containers[cid(2)]).changes == ()


def asking(ip: str) -> dict[str, Any]:
    return {"NetworkingConfig": {"EndpointsConfig": {"app": {"IPAMConfig": {"IPv4Address": ip}}}}}


@pytest.mark.parametrize("cluster", [started(state="exited"), started(asking("10.44.0.2"))])
def test_one_that_ran_or_asked_for_its_address_keeps_it(cluster: Cluster) -> None:
    assert inherited(cluster, cluster.containers[cid(2)]).changes == ()


def test_an_address_may_be_asked_for_when_a_network_is_joined() -> None:
    joined = json.dumps({"IPAMConfig": {"IPv4Address": "10.44.0.7"}})
    cluster = app()
    for attachments, expected in (({NET: joined}, "10.44.0.7"), ({NET: "null"}, ""), ({}, "")):
        record = r.Container(id=WEB, name="web", body="{}", attachments=attachments)
        assert asked_ip(record, cluster.networks[NET]) == expected


def test_release_of_what_is_kept_or_orphaned() -> None:
    cluster = removed(app(web()), WEB)
    assert later(cluster, release(cluster, "10.44.0.9", "app")).kept_addresses == {}
    orphaned = app(address(NET, "10.44.0.9", 1))
    assert later(orphaned, release(orphaned, "10.44.0.9")).addresses == {}


def test_release_refuses_the_living_and_the_unknown() -> None:
    cluster = app(web())
    with pytest.raises(Conflict, match=r"address 10.44.0.9 of network app is held by container web on h1: it cannot"):
        release(cluster, "10.44.0.9")
    with pytest.raises(NotFound, match=r"address 10.44.0.8 of network app is neither held nor kept"):
        release(cluster, "10.44.0.8", "app")


def test_an_address_both_held_and_kept_is_a_doubt() -> None:
    both = r.KeptAddress(network=NET, ip="10.44.0.9", name="db")
    cluster = app(web(), [put(r.key("kept_addresses", NET, "10.44.0.9"), both)])
    assert record_doubts(cluster) == ["address 10.44.0.9 is kept for the name db, and web claims it"]


STEP = st.one_of(
    st.tuples(st.just("create"), st.sampled_from("abc"), st.sampled_from(["", "10.44.0.3"])),
    st.tuples(st.just("remove"), st.sampled_from("abc"), st.just("")),
    st.tuples(st.just("start"), st.sampled_from("abc"), st.just("")),
    st.tuples(st.just("expire"), st.just(""), st.just("")),
    st.tuples(st.just("release"), st.just(""), st.sampled_from(["10.44.0.2", "10.44.0.3"])),
)


@given(st.lists(STEP, max_size=25))
def test_no_address_is_ever_held_twice_or_held_and_kept(steps: list[tuple[str, str, str]]) -> None:
    cluster, last = app(subnet="10.44.0.0/29"), dict[str, str]()
    for number, (what, name, ip) in enumerate(steps, 1):
        now = number * GRACE_S / 4
        before = cluster
        cluster = _step(cluster, what, name, ip, number, now, last)
        keys = [*cluster.addresses, *cluster.kept_addresses]
        assert len(set(keys)) == len(keys)
        holders = [one.container for one in cluster.addresses.values()]
        assert len(set(holders)) == len(holders)
        for rest, one in cluster.addresses.items():
            assert rest not in before.addresses or before.addresses[rest].container == one.container


def _step(cluster: Cluster, what: str, name: str, ip: str, number: int, now: float, last: dict[str, str]) -> Cluster:
    holder = cluster.names.get(name)
    try:
        match what:
            case "create" if holder is None:
                draft = claimed(cluster, wanted(name, ip, cid(number)))
                if not ip and last.get(name) and f"{NET}/{last[name]}" in cluster.kept_addresses:
                    kept = cluster.kept_addresses[f"{NET}/{last[name]}"]
                    assert kept.name != name or taken(draft) == last[name]
                last[name] = taken(draft)
                return later(cluster, [*container(number, name, state="created"), *draft.changes])
            case "remove" if holder is not None:
                return removed(cluster, holder.id, now)
            case "start" if holder is not None:
                return later(cluster, inherited(cluster, cluster.containers[holder.id]))
            case "expire":
                return later(cluster, expiry(cluster, now))
            case "release":
                return later(cluster, release(cluster, ip))
    except DroverError:
        return cluster
    return cluster
