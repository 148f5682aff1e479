"""What is said about volumes that are not well, when backups are due, and which volumes go together."""

from __future__ import annotations

import msgspec
import pytest
from cluster_factory import container, host, host_config, volume, without, world

from drover.decide import replicas
from drover.decide.backups import RETRY_S, backup_due
from drover.decide.moves import unmovable
from drover.decide.volume_health import left_behind, pool_doubts, refuse_sync, volume_doubts
from drover.decide.volume_space import no_room
from drover.errors import Invalid
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put
from drover.model.snapshots import next_id

T0 = 1_000_000.0
GIB = 1 << 30
DRIVERS = {"facts": {"volume_drivers": ("btrfs",)}}
SNAPSHOT = next_id([], 1, T0)


def space(on: str, free_bytes: int, message: str = "") -> list[Change]:
    seen = r.VolumeSpace(host=on, driver="btrfs", total_bytes=10 * GIB, free_bytes=free_bytes, message=message)
    return [put(r.key("volume_space", on, "btrfs"), seen)]


def scene(*more: list[Change], facts: dict[str, object] | None = None, **record: object) -> Cluster:
    held = r.VolumeFacts(volume="data", host="h1", driver="btrfs", epoch=1, **(facts or {}))  # type: ignore[arg-type]
    copy = r.VolumeFacts(volume="data", host="h2", driver="btrfs", snapshots=(SNAPSHOT,), synced_at=T0)
    made = r.Volume(name="data", body="{}", host="h1", driver="btrfs", created_at=T0, **record)  # type: ignore[arg-type]
    known = [put("volumes/data", made), put("volume_facts/h1/data", held), put("volume_facts/h2/data", copy)]
    return world(host("h1", **DRIVERS), host("h2", **DRIVERS), known, *more)


def doubts(cluster: Cluster, now: float = T0 + 5) -> list[str]:
    return volume_doubts(cluster, cluster.volumes["data"], now)


def test_nothing_is_said_of_a_volume_that_is_well() -> None:
    cluster = scene(space("h1", 5 * GIB), space("h2", 5 * GIB))
    assert doubts(cluster) == []
    assert pool_doubts(cluster) == {"h1": [], "h2": []}


def test_a_full_disk_is_said_and_pauses_copies_until_there_is_space() -> None:
    for on in ("h1", "h2"):
        full = scene(space(on, 100 << 20))
        assert list(replicas.kept_here(full, "h2")) == []
        assert pool_doubts(full)[on] == ["the disk of driver btrfs is full: 100 MiB of 10 GiB are free"]
        again = full.apply(full.revision + 1, space(on, GIB))
        assert [[one.name for one in group] for group in replicas.kept_here(again, "h2")] == [["data"]]
    assert doubts(scene(space("h1", 100 << 20))) == ["is on a full disk: that of driver btrfs on h1"]


def test_a_driver_that_hangs_is_named() -> None:
    assert pool_doubts(scene(space("h1", 0, "does not answer")))["h1"] == ["driver btrfs: does not answer"]


def test_sizes_lags_and_missing_copies() -> None:
    assert doubts(scene(size_bytes=GIB, facts={"size_bytes": 2 * GIB, "limit_bytes": GIB})) == [
        "has 2 GiB, more than its size of 1 GiB"
    ]
    assert doubts(scene(size_bytes=GIB)) == ["is watched, not limited, by the driver btrfs: its size is 1 GiB"]
    assert doubts(scene(), T0 + 90) == ["has a copy on h2 that is 90 s behind"]
    assert doubts(without(scene(), "alive/h2")) == ["has 0 hosts for copies, and 1 are wanted"]


def test_what_is_half_made_says_so() -> None:
    fill = r.Fill(kind="restore")
    assert doubts(scene(filling=fill)) == ["is not ready: its restore is not done"]


@pytest.mark.parametrize(
    ("plan", "facts", "due_at"),
    [
        (r.Backup(repository="/b", asked=2), r.BackupFacts(asked=1), 0.0),
        (r.Backup(repository="/b", asked=1), r.BackupFacts(asked=1), None),
        (r.Backup(repository="/b", every_s=60), r.BackupFacts(), T0 + 60),
        (r.Backup(repository="/b", every_s=60), r.BackupFacts(at=T0 + 90), T0 + 150),
        (r.Backup(repository="/b", every_s=9000), r.BackupFacts(at=1, tried_at=T0, failure="x"), T0 + RETRY_S),
    ],
)
def test_when_a_backup_is_due(plan: r.Backup, facts: r.BackupFacts, due_at: float | None) -> None:
    cluster = scene(backup=plan, facts={"backup": facts})
    assert backup_due(cluster, cluster.volumes["data"]) == due_at


def test_a_backup_that_failed_or_is_late_is_said() -> None:
    plan = r.Backup(repository="/b", every_s=60)
    failed = scene(backup=plan, facts={"backup": r.BackupFacts(failure="it is locked", tried_at=T0)})
    assert doubts(failed) == ["could not be backed up to /b: it is locked"]
    assert "was last backed up never" in doubts(scene(backup=plan), T0 + 500)


def test_what_was_set_aside_is_listed_until_it_is_dropped() -> None:
    aside, own = next_id([], 1, T0, "aside"), next_id([], 1, T0, "mine")
    cluster = scene(facts={"snapshots": (aside, own)})
    assert left_behind(cluster, cluster.volumes["data"]) == [("h1", aside)]


def test_sync_is_refused_where_it_cannot_be_kept() -> None:
    facts = {"volume_drivers": ("btrfs", "shared"), "synchronous_drivers": ("shared",)}
    cluster = world(host("h1", facts=facts))
    refuse_sync(cluster, True, "shared")
    refuse_sync(cluster, False, "btrfs")
    for driver in ("btrfs", ""):
        with pytest.raises(Invalid, match="sync=yes cannot be kept"):
            refuse_sync(cluster, True, driver)


def test_room_is_what_is_above_the_headroom() -> None:
    cluster = scene(space("h1", 2 * GIB))
    assert no_room(cluster, "h1", "btrfs", GIB) == ""
    assert no_room(cluster, "h1", "btrfs", 2 * GIB) == "has 1.8 GiB left for the driver btrfs, and 2 GiB are needed"
    assert no_room(cluster, "h2", "btrfs", 2 * GIB) == ""


def test_a_host_without_room_for_it_is_no_target() -> None:
    tight = scene(space("h3", GIB), facts={"size_bytes": 2 * GIB})
    tight = tight.apply(tight.revision + 1, host("h3", **DRIVERS))
    assert unmovable(tight, tight.volumes["data"], "h3") == (
        "host h3 has 819.2 MiB left for the driver btrfs, and 2 GiB are needed by volume data"
    )
    assert unmovable(tight, tight.volumes["data"], "h2") == ""


def test_volumes_of_one_container_go_together() -> None:
    names = ("a", "b", "c", "d")
    cluster = world(
        *(host(f"h{number}", **DRIVERS) for number in range(1, 6)),
        *(volume(name, "h1") for name in names),
        [put(f"volume_facts/h1/{one}", r.VolumeFacts(volume=one, host="h1", driver="btrfs", epoch=1)) for one in names],
        container(1, "one", "h1", host_config(Binds=["a:/a", "b:/b"])),
        container(2, "two", "h1", host_config(Binds=["b:/b", "c:/c"])),
    )
    assert replicas.groups(cluster) == dict.fromkeys(("a", "b", "c"), ("a", "b", "c"))
    homes = {name: replicas.keepers(cluster, cluster.volumes[name]) for name in ("a", "b", "c")}
    assert homes["a"] == homes["b"] == homes["c"]
    rounds = [[one.name for one in group] for group in replicas.kept_here(cluster, homes["a"][0])]
    assert ["a", "b", "c"] in rounds


def test_the_newest_whole_round_is_promoted() -> None:
    """A round that was cut between two volumes is not the one that comes back."""
    old, new = next_id([], 1, T0 + 10), next_id([], 1, T0 + 20)
    cluster = world(
        *(host(name, **DRIVERS) for name in ("h1", "h2")),
        *(volume(name, "h1") for name in ("a", "b", "c")),
        container(1, "one", "h1", host_config(Binds=["a:/a", "b:/b", "c:/c"])),
    )
    held = {"a": (old, new), "b": (old,), "c": (next_id([], 1, T0),)}
    copies = [
        put(f"volume_facts/h2/{name}", r.VolumeFacts(volume=name, host="h2", snapshots=ids, synced_at=T0 + 10))
        for name, ids in held.items()
    ]
    lost = without(cluster.apply(cluster.revision + 1, copies), "alive/h1")
    chosen = {name: replicas.successor(lost, lost.volumes[name]) for name in held}
    assert {name: one.snapshot for name, one in chosen.items() if isinstance(one, r.Volume)} == {
        "a": old,
        "b": old,
        "c": held["c"][0],
    }


def test_a_record_with_a_fill_is_read_as_it_was_written() -> None:
    record = r.Volume(name="data", body="", filling=r.Fill(kind="clone", source="x"), backup=r.Backup(repository="/b"))
    assert r.decode("volumes/data", r.encode(record)) == record
    assert msgspec.structs.replace(record, filling=None).filling is None
