"""Which of the hosts that fit is taken, and the sentences that say so."""

from __future__ import annotations

from typing import Any

import pytest
from cluster_factory import GIB, composed, container, env, host, host_config, three, wanted, world

from drover.decide.choice import NAMED_HOSTS, REASONED_HOSTS
from drover.decide.schedule import place
from drover.errors import NoPlacement
from drover.model import records as r
from drover.model.cluster import Change, put

RANKED: list[tuple[str, list[Change], dict[str, Any], str, str]] = [
    (
        "the emptiest",
        [*container(1, "a", "h1"), *container(2, "b", "h2"), *container(3, "c", "h2")],
        {},
        "h3",
        "h3 runs 0 containers; the next best, h1, runs 1 container",
    ),
    (
        "away from its service, though fuller",
        [
            *container(1, "p_web_1", "h1", composed("p", "web")),
            *container(2, "x", "h2"),
            *container(3, "y", "h2"),
            *container(4, "p_web_2", "h3", composed("p", "web", 2)),
        ],
        composed("p", "web", 3),
        "h2",
        "h2 runs 0 containers of p/web; the next best, h1, runs 1 container of p/web",
    ),
    (
        "a soft constraint before an even spread",
        container(1, "a", "h2"),
        env("constraint:host==~h2"),
        "h2",
        "h2 meets every soft constraint; the next best, h1, leaves 1 soft constraint unmet",
    ),
    (
        "two soft wishes before one",
        container(1, "a", "h2"),
        env("constraint:host==~h1", "affinity:container==~a", "affinity:container!=~b", "constraint:host!=~h1"),
        "h2",
        "h2 leaves 1 soft constraint unmet; the next best, h1, leaves 2 soft constraints unmet",
    ),
    (
        "the most free memory",
        [
            *container(1, "a", "h1", host_config(Memory=GIB)),
            *container(2, "b", "h2", host_config(Memory=2 * GIB)),
            *container(3, "c", "h3", host_config(Memory=3 * GIB)),
        ],
        {},
        "h1",
        "h1 has 7 GiB of memory free; the next best, h2, has 6 GiB of memory free",
    ),
]


@pytest.mark.parametrize(("_name", "running", "body", "expected", "why"), RANKED)
def test_ranking(_name: str, running: list[Change], body: dict[str, Any], expected: str, why: str) -> None:
    cluster = three(running)
    chosen = place(cluster, wanted(cluster, body=body))
    assert (chosen.host, chosen.why) == (expected, why)


def test_a_family_of_names_spreads() -> None:
    cluster = three(
        container(1, "web-1", "h1"), container(2, "web_2", "h3"), container(3, "a", "h2"), container(4, "b", "h2")
    )
    assert place(cluster, wanted(cluster, "web3")).host == "h2"


def test_an_image_decides_between_equals_only() -> None:
    cluster = three(container(1, "a", "h1"))
    chosen = place(cluster, wanted(cluster), image_hosts=frozenset({"h2"}))
    assert chosen.why == "h2 has the image; the next best, h3, lacks the image"
    assert place(cluster, wanted(cluster), image_hosts=frozenset({"h1"})).host != "h1"


def test_a_tie_is_decided_by_the_containers_id() -> None:
    cluster = three()
    hosts = {place(cluster, wanted(cluster, number=n)).host for n in range(1, 30)}
    assert hosts == {"h1", "h2", "h3"}
    chosen = place(cluster, wanted(cluster, number=1))
    assert chosen.why.endswith("a hash of the container's id decided")
    assert set(chosen.reasons.values()) == {f"fits as well as {chosen.host}; a hash of the container's id decided"}


def test_every_other_host_has_a_reason() -> None:
    cluster = world(host("h1"), host("h2", state="mute"), host("h3"), container(1, "a", "h3"))
    chosen = place(cluster, wanted(cluster))
    assert chosen.host == "h1"
    assert chosen.reasons == {
        "h2": "has not reported its engine yet",
        "h3": "fits, but runs 1 container; h1 runs 0 containers",
    }


def test_the_refusal_reads_as_one_sentence() -> None:
    cluster = world(host("h1", facts={"memory_bytes": 100 * 2**20}), host("h2", state="mute"))
    with pytest.raises(NoPlacement) as nowhere:
        place(cluster, wanted(cluster, body=host_config(Memory=512 * 2**20)))
    assert nowhere.value.message == (
        "no host can take web: h1: 512 MiB of memory asked, 100 MiB free; h2: has not reported its engine yet"
    )
    assert "drover host ls" in nowhere.value.hint


def test_no_hosts_at_all() -> None:
    cluster = world()
    with pytest.raises(NoPlacement, match="no host can take web: the cluster has no hosts") as nowhere:
        place(cluster, wanted(cluster))
    assert nowhere.value.reasons == {}


def test_a_large_cluster_is_told_in_part() -> None:
    many = [host(f"h{n:03}", scheduling="drain") for n in range(1, 101)]
    cluster = world(*many)
    with pytest.raises(NoPlacement) as nowhere:
        place(cluster, wanted(cluster))
    assert len(nowhere.value.reasons) == 100
    assert nowhere.value.message.endswith(f"; and {100 - NAMED_HOSTS} more")
    ready = world(*(host(f"h{n:03}") for n in range(1, 101)))
    assert len(place(ready, wanted(ready)).reasons) == REASONED_HOSTS


def zoned() -> list[list[Change]]:
    """Two hosts in zone a, one in zone b."""
    return [host("h1", labels={"zone": "a"}), host("h2", labels={"zone": "a"}), host("h3", labels={"zone": "b"})]


def spread(number: int, label: str, value: str) -> dict[str, Any]:
    body = composed("p", "web", number)
    return {**body, "Labels": {**body["Labels"], label: value}}


def test_containers_of_a_service_are_spread_over_zones_first() -> None:
    others = [*container(1, "p_web_1", "h1", composed("p", "web")), *container(2, "x", "h3"), *container(3, "y", "h3")]
    cluster = world(*zoned(), others)
    chosen = place(cluster, wanted(cluster, body=spread(2, "drover.spread", "zone")))
    assert chosen.host == "h3"
    assert chosen.why == (
        "h3 is in zone b, which has 0 of p/web; the next best, h2, is in zone a, which has 1 of p/web"
    )


def test_the_first_label_to_spread_over_counts_most() -> None:
    hosts = [host("h1", labels={"zone": "a", "rack": "1"}), host("h2", labels={"zone": "a", "rack": "2"})]
    hosts += [host("h3", labels={"zone": "b", "rack": "1"})]
    taken = [
        *container(1, "p_web_1", "h1", composed("p", "web")),
        *container(2, "p_web_2", "h3", composed("p", "web", 2)),
    ]
    cluster = world(*hosts, taken)
    assert place(cluster, wanted(cluster, body=spread(3, "drover.spread", "zone;rack"))).host == "h2"


def test_no_more_containers_of_a_service_than_a_host_may_have() -> None:
    taken = [one for n in (1, 2, 3) for one in container(n, f"p_web_{n}", f"h{n}", composed("p", "web", n))]
    cluster = three(taken)
    with pytest.raises(NoPlacement, match="h1: runs 1 of p/web, and may run 1"):
        place(cluster, wanted(cluster, body=spread(4, "drover.max_per_host", "1")))
    assert place(cluster, wanted(cluster, body=spread(4, "drover.max_per_host", "2"))).host
    with pytest.raises(NoPlacement, match="is no number"):
        place(cluster, wanted(cluster, body=spread(4, "drover.max_per_host", "x")))


def test_hosts_are_filled_one_after_the_other_where_that_is_asked_for() -> None:
    cluster = three(container(1, "web-1", "h2"))
    packed = {"Labels": {"drover.strategy": "binpack"}}
    assert place(cluster, wanted(cluster, name="web-2", body=packed)).host == "h2"
    assert place(cluster, wanted(cluster, name="web-2")).host != "h2"
    everywhere = cluster.apply(2, [put("settings/strategy", r.Setting(value="binpack"))])
    assert place(everywhere, wanted(everywhere, name="web-2")).host == "h2"


def test_hosts_with_zones_are_spread_over_by_themselves() -> None:
    cluster = world(*zoned(), container(1, "web-1", "h1"))
    assert place(cluster, wanted(cluster, name="web-2")).host == "h3"
