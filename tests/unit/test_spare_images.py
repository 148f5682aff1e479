"""Who keeps a spare copy of an image: everybody comes to the same choice, and a dead host's images are elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from cluster_factory import cid, container, host, without, world

from drover.decide.spare_images import COPIES, Spare, image_hosts, spares
from drover.model import records as r
from drover.model.cluster import Change, put

APP = "sha256:app"
HOSTS = ("h1", "h2", "h3", "h4")


def using(number: int, on: str, desired: r.Desired = "running", **facts: Any) -> list[Change]:
    record = r.Container(id=cid(number), name=f"c{number}", body='{"Image": "app:1"}', image_id=APP, desired=desired)
    seen = {"state": "running", "engine_id": f"e{number}"} | facts
    return [*container(number, f"c{number}", on, **seen), put(r.key("containers", cid(number)), record)]


def keepers(cluster: Any) -> list[str]:
    return [name for name in HOSTS if spares(cluster, name)]


def test_an_image_of_one_host_gets_spares_under_the_name_it_was_asked_for() -> None:
    cluster = world(*map(host, HOSTS), using(1, "h3"))
    kept = keepers(cluster)
    assert len(kept) == COPIES - 1
    assert "h3" not in kept
    assert spares(cluster, kept[0]) == (Spare(APP, "app:1", cid(1)),)
    assert image_hosts(cluster, [APP]) == {APP: {"h3", *kept}}


def test_an_image_that_enough_hosts_have_needs_no_spare() -> None:
    assert keepers(world(*map(host, HOSTS), using(1, "h3"), using(2, "h1"), using(3, "h2"))) == []
    assert len(keepers(world(*map(host, HOSTS), using(1, "h3"), using(2, "h1")))) == 1


@pytest.mark.parametrize("desired", ["created", "stopped", "removed"])
def test_an_image_that_nothing_should_run_on_is_not_spread(desired: r.Desired) -> None:
    assert keepers(world(*map(host, HOSTS), using(1, "h3", desired))) == []


def test_after_a_death_the_spare_is_where_it_was_and_another_one_is_made() -> None:
    before = world(*map(host, HOSTS), using(1, "h3"))
    kept = keepers(before)
    after = without(before, r.key("alive", "h3"))
    assert image_hosts(after, [APP]) == {APP: set(kept)}
    assert keepers(after) == ["h1", "h2", "h4"]


@pytest.mark.parametrize("fields", [{"state": "silent"}, {"scheduling": "drain"}, {"state": "lost"}])
def test_a_host_that_cannot_be_used_keeps_none(fields: dict[str, Any]) -> None:
    assert keepers(world(host("h1", **fields), host("h2"), host("h3"), using(1, "h3"))) == ["h2"]


def test_a_container_that_was_not_made_yet_proves_no_copy() -> None:
    cluster = world(*map(host, HOSTS), using(1, "h3", engine_id="", state="missing"))
    assert len(keepers(cluster)) == COPIES
