"""Who keeps copies, which snapshots are spare, and who takes over."""

from __future__ import annotations

import msgspec
from cluster_factory import container, host, volume, without, world
from hypothesis import given
from hypothesis import strategies as st

from drover.decide import replicas
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put
from drover.model.snapshots import next_id, taken_at

DRIVERS = {"facts": {"volume_drivers": ("btrfs",)}}
T0 = 1_000_000.0


def snap(second: int, epoch: int = 1, label: str = "") -> str:
    return next_id([], epoch, T0 + second, label)


def has(name: str, *snapshots: str, **fields: object) -> list[Change]:
    facts = r.VolumeFacts(volume="data", host=name, driver="btrfs", snapshots=snapshots, **fields)
    return [put(r.key("volume_facts", name, "data"), facts)]


def scene(*more: list[Change], count: int = 4, **labels: dict[str, str]) -> Cluster:
    hosts = [host(f"h{i}", labels=labels.get(f"h{i}", {}), **DRIVERS) for i in range(1, count + 1)]
    return world(*hosts, volume("data", "h1"), has("h1", epoch=1), *more)


def keepers(cluster: Cluster, wanted: int = 1) -> list[str]:
    return replicas.keepers(cluster, msgspec.structs.replace(cluster.volumes["data"], replicas=wanted))


def test_a_copy_stays_where_it_is() -> None:
    for name in ("h2", "h3", "h4"):
        assert keepers(scene(has(name, snap(1)))) == [name]


def test_another_zone_is_better_than_an_old_copy() -> None:
    zones = {"h1": {"zone": "a"}, "h2": {"zone": "a"}, "h3": {"zone": "b"}, "h4": {"zone": "a"}}
    assert keepers(scene(has("h2", snap(1)), **zones)) == ["h3"]
    assert keepers(scene(has("h2", snap(1)), **zones), 2) == ["h3", "h2"]


def test_hosts_that_are_down_or_lack_the_driver_keep_none() -> None:
    cluster = without(scene(has("h2", snap(1))), "alive/h2").apply(2, host("h3"))
    assert keepers(cluster, 9) == ["h4"]
    assert replicas.keepers(cluster, r.Volume(name="new", body="")) == []


def test_a_refresh_is_followed_by_its_rest() -> None:
    assert replicas.next_refresh(5.0, 100.0, 101.0) == 105.0
    assert replicas.next_refresh(5.0, 100.0, 104.0) == 112.0


def test_a_long_refresh_is_not_followed_by_a_longer_rest() -> None:
    assert replicas.next_refresh(5.0, 100.0, 160.0) == 170.0
    assert replicas.next_refresh(300.0, 100.0, 160.0) == 400.0


def spare(cluster: Cluster, *here: str, on: str = "h2", now: float = T0 + 1000) -> tuple[str, ...]:
    return replicas.spare(cluster, on, cluster.volumes["data"], here, now)


def test_what_the_next_streams_build_on_is_kept() -> None:
    ours = [snap(second) for second in range(8)]
    cluster = scene(has("h1", *ours[:3]), has("h3", ours[3]))
    assert spare(cluster, *ours) == (ours[0], ours[4], ours[5])


def test_young_and_named_snapshots_are_kept() -> None:
    ours = [snap(0), snap(1, label="nightly"), snap(2), snap(3), snap(4)]
    assert spare(scene(), *ours) == (ours[0], ours[2])
    assert spare(scene(), *ours, now=T0 + 10) == ()


def test_nothing_is_spare_while_the_volume_moves() -> None:
    moving = [put("moves/volume:data", r.Move(source="h1", target="h2", volumes=("data",)))]
    assert spare(scene(moving), *[snap(second) for second in range(8)]) == ()


@given(st.lists(st.sets(st.integers(0, 30)), min_size=2, max_size=4))
def test_forgetting_never_costs_the_last_common_snapshot(held: list[set[int]]) -> None:
    names = [f"h{i}" for i in range(1, len(held) + 1)]
    has_now = {name: [snap(second) for second in sorted(seconds)] for name, seconds in zip(names, held, strict=True)}
    cluster = scene(*(has(name, *snapshots) for name, snapshots in has_now.items()))
    left = {name: set(own) - set(spare(cluster, *own, on=name)) for name, own in has_now.items()}
    for one in names:
        for other in names:
            common = set(has_now[one]) & set(has_now[other])
            assert not common or max(common) in left[one] & left[other]


def test_the_newest_complete_copy_of_a_live_host_takes_over() -> None:
    cluster = scene(has("h2", snap(1), snap(5)), has("h3", snap(9)), has("h4", snap(3)))
    lost = without(cluster, "alive/h1", "alive/h3")
    taken = replicas.successor(lost, lost.volumes["data"])
    assert isinstance(taken, r.Volume)
    assert (taken.host, taken.epoch, taken.snapshot) == ("h2", 2, snap(5))
    assert taken.note.startswith("what was written after that is lost: h2 has it as of ")


def test_what_a_promotion_may_lose_is_said() -> None:
    noted = [put("lost/h1", r.HostLost(host="h1", at=T0 + 9.5))]
    lost = without(scene(has("h2", snap(5), synced_at=T0 + 7), noted), "alive/h1")
    taken = replicas.successor(lost, lost.volumes["data"])
    assert isinstance(taken, r.Volume)
    assert taken.note.startswith("at most 3 seconds of writes are lost: h2 has it as of ")


def test_what_is_lost_counts_from_the_snapshot_that_is_taken() -> None:
    """Volumes that one container uses go back together: of `data` an older snapshot is taken than the newest here, and
    that the newest was still equal later says nothing of it."""
    body = {"HostConfig": {"Binds": ["data:/data", "logs:/logs"]}}
    logs = r.VolumeFacts(volume="logs", host="h2", driver="btrfs", snapshots=(snap(5),))
    cluster = scene(
        has("h2", snap(4), snap(60), synced_at=T0 + 90),
        volume("logs", "h1"),
        [put(r.key("volume_facts", "h2", "logs"), logs)],
        container(1, "db", "h1", body),
        [put("lost/h1", r.HostLost(host="h1", at=T0 + 100))],
    )
    lost = without(cluster, "alive/h1")
    taken = replicas.successor(lost, lost.volumes["data"])
    assert isinstance(taken, r.Volume)
    assert taken.snapshot == snap(4)
    assert taken.note.startswith("at most 96 seconds of writes are lost")


def test_without_a_copy_nobody_takes_over() -> None:
    alone = without(scene(), "alive/h1")
    assert replicas.successor(alone, alone.volumes["data"]) == (
        "volume data has no complete replica on another host than h1 that is up"
    )


def test_the_way_back_is_prepared_for_a_third_host() -> None:
    cluster = scene(has("h1", snap(1), snap(2)), has("h2", snap(2), snap(4)), has("h3"))
    assert replicas.first_base(cluster, "data", "h2", "h3") == ("h2", snap(2))
    assert replicas.first_base(cluster, "data", "h2", "h1") is None


def test_a_move_in_a_ring_begins_with_what_the_host_before_has() -> None:
    """h1 got it from h3, which had got it from h2: what h3 gave on is nearer to h2 than what h1 once gave to h2."""
    ring = has("h1", snap(1), snap(3)), has("h2", snap(1), snap(2)), has("h3", snap(2), snap(3))
    cluster = scene(*ring, count=3)
    assert replicas.first_base(cluster, "data", "h1", "h2") == ("h3", snap(3))
    assert replicas.first_base(cluster, "data", "h1", "h3") is None
    assert replicas.first_base(without(cluster, "alive/h3"), "data", "h1", "h2") is None


def test_the_lag_is_since_it_was_last_equal() -> None:
    facts = r.VolumeFacts(volume="data", host="h2", snapshots=(snap(10),), synced_at=T0 + 50)
    assert replicas.lag_s(facts, T0 + 60) == 10
    assert taken_at(facts.snapshots[0]) == T0 + 10
