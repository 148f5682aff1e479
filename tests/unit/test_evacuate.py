"""What leaves a host that is to be emptied, from values alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from cluster_factory import cid, composed, container, host, host_config, volume, world

from drover.decide.evacuate import PARALLEL, RETRY_S, Evacuation, emptied_hosts, evacuation, with_moves
from drover.decide.views import HostViews
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put

DRIVERS = {"facts": {"volume_drivers": ("btrfs",)}}
RUNS = {"state": "running"}
NOW = 1000.0


def running(number: int, name: str, on: str = "h1", body: dict[str, Any] | None = None, **facts: Any) -> list[Change]:
    """A container that should run, and does unless `facts` say otherwise."""
    made = container(number, name, on, body, **(RUNS | facts))
    record = made[0].record
    assert isinstance(record, r.Container)
    return [put(made[0].key, msgspec.structs.replace(record, desired="running", created_at=float(number))), *made[1:]]


def cluster_of(*parts: list[Change], scheduling: str = "drain") -> Cluster:
    return world(host("h1", scheduling=scheduling, **DRIVERS), host("h2", **DRIVERS), host("h3", **DRIVERS), *parts)


def targets(found: Evacuation) -> list[str]:
    records = [change.record for commit in found.begin for change in commit.changes]
    return [record.target for record in records if isinstance(record, r.Move)]


def said(found: Evacuation) -> dict[str, tuple[str, str]]:
    return {item.name: (item.state, item.says) for item in found.items}


def test_only_hosts_that_are_to_be_emptied_and_live_are() -> None:
    made = world(host("h1"), host("h2", scheduling="drain"), host("h3", scheduling="shutdown"),
                 host("h4", scheduling="drain", state="lost"), host("h5", scheduling="pause"))  # fmt: skip
    assert emptied_hosts(made) == ["h2", "h3"]


@pytest.mark.parametrize("scheduling", ["active", "pause"])
def test_a_host_that_is_not_to_be_emptied_keeps_what_it_has(scheduling: str) -> None:
    assert evacuation(cluster_of(running(1, "web"), scheduling=scheduling), "h1", NOW) == Evacuation()


def test_containers_and_unused_volumes_leave_and_the_others_share_them() -> None:
    found = evacuation(cluster_of(running(1, "web"), running(2, "db"), volume("old", "h1")), "h1", NOW)
    assert [item.state for item in found.items] == ["moving"] * 3
    assert sorted(targets(found)[:2]) == ["h2", "h3"]
    assert found.in_progress


def test_a_volume_goes_with_its_container() -> None:
    body = host_config(Binds=["data:/data"])
    found = evacuation(cluster_of(running(1, "db", body=body), volume("data", "h1")), "h1", NOW)
    assert [item.name for item in found.items] == ["db"]
    move = next(c.record for c in found.begin[0].changes if isinstance(c.record, r.Move))
    assert (move.volumes, move.because, move.grace_s) == (("data",), "h1 is drained", -1)


def test_of_one_service_one_moves_at_a_time() -> None:
    web = [running(n, f"web-{n}", body=composed("shop", "web", n)) for n in (1, 2, 3)]
    found = evacuation(cluster_of(*web), "h1", NOW)
    assert [item.state for item in found.items] == ["moving", "waiting", "waiting"]
    assert "web-1 of its service" in said(found)["web-2"][1]


def test_more_of_a_service_move_where_its_label_lets_them() -> None:
    body = {"Labels": {**composed("shop", "web")["Labels"], "drover.max_unavailable": "2"}}
    found = evacuation(cluster_of(*[running(n, f"web-{n}", body=body) for n in (1, 2, 3)]), "h1", NOW)
    assert [item.state for item in found.items] == ["moving", "moving", "waiting"]


def test_nothing_moves_while_another_of_the_service_is_down_elsewhere() -> None:
    down = running(2, "web-2", on="h2", state="restarting")
    found = evacuation(cluster_of(running(1, "web-1"), down), "h1", NOW)
    assert said(found)["web-1"] == ("waiting", "waits until web-2 of its service runs")
    assert found.in_progress


def test_so_many_moves_at_a_time_and_no_more() -> None:
    made = [running(n, name) for n, name in enumerate(["a", "b", "c", "d", "e", "f"], start=1)]
    found = evacuation(cluster_of(*made), "h1", NOW)
    assert len(found.begin) == PARALLEL
    assert [item.state for item in found.items][PARALLEL:] == ["waiting"] * 2


def test_a_host_that_shuts_down_moves_what_runs_and_all_at_once() -> None:
    web = [running(n, f"web-{n}") for n in range(1, 8)]
    found = evacuation(cluster_of(*web, container(9, "idle"), volume("old", "h1"), scheduling="shutdown"), "h1", NOW)
    assert len(found.begin) == len(found.items) == 7
    move = next(c.record for c in found.begin[0].changes if isinstance(c.record, r.Move))
    assert (move.grace_s, move.because) == (2, "h1 shuts down")


@pytest.mark.parametrize(("own_s", "grace_s"), [(-1, 2), (0, -1), (1, -1), (2, 2), (10, 2)])
def test_nothing_gets_more_time_to_stop_in_a_hurry_than_it_has_of_its_own(own_s: int, grace_s: int) -> None:
    quick = running(1, "quick", body={"StopTimeout": own_s})
    found = evacuation(cluster_of(quick, scheduling="shutdown"), "h1", NOW)
    move = next(c.record for c in found.begin[0].changes if isinstance(c.record, r.Move))
    assert move.grace_s == grace_s


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (host_config(Binds=["/etc:/etc"]), "is tied to h1 by the host path"),
        (host_config(AutoRemove=True), "removes itself when it stops"),
        ({"Env": ["constraint:host==h1"]}, "no host can take odd"),
    ],
)
def test_what_cannot_leave_says_why(body: dict[str, Any], why: str) -> None:
    found = evacuation(cluster_of(running(1, "odd", body=body)), "h1", NOW)
    assert said(found)["odd"][0] == "stuck"
    assert why in said(found)["odd"][1]
    assert not found.in_progress


@pytest.mark.parametrize(("scheduling", "state"), [("drain", "waiting"), ("shutdown", "stuck")])
def test_a_move_that_failed_is_tried_again_later(scheduling: str, state: str) -> None:
    move = r.Move(container=cid(1), source="h1", target="h2", phase="aborted", why="no space left", ended_at=NOW)
    made = cluster_of(running(1, "web"), [put(r.key("moves", cid(1)), move)], scheduling=scheduling)
    assert said(evacuation(made, "h1", NOW + 1))["web"] == (state, "could not be moved to h2: no space left")
    assert targets(evacuation(made, "h1", NOW + RETRY_S)) in (["h2"], ["h3"])


def test_what_is_on_its_way_counts_at_its_target_already() -> None:
    move = r.Move(container=cid(1), source="h1", target="h2", phase="copying")
    made = cluster_of(running(1, "web"), running(2, "db"), [put(r.key("moves", cid(1)), move)])
    found = evacuation(made, "h1", NOW)
    assert said(found)["web"] == ("moving", "on its way to h2")
    assert targets(found) == ["h3"]


def test_host_paths_that_are_the_same_everywhere_tie_it_to_no_host() -> None:
    body = {**host_config(Binds=["/srv/shared:/data"]), "Labels": {"drover.host_paths": "everywhere"}}
    assert said(evacuation(cluster_of(running(1, "web", body=body)), "h1", NOW))["web"][0] == "moving"


def test_a_volume_on_its_way_without_a_container_counts_nowhere() -> None:
    move = r.Move(volumes=("logs",), source="h1", target="h3", phase="copying")
    moving = [put(r.key("moves", "volume/logs"), move)]
    alone = cluster_of(running(1, "web", "h2"), volume("logs", "h1"))
    views = HostViews.of(alone)
    assert with_moves(alone.apply(2, moving), views) is views
