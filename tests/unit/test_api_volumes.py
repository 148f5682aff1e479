"""What the API shows of volumes and moves, from values alone; and the CLI's sentences about them."""

from __future__ import annotations

from cluster_factory import cid, container, host, host_config, volume, world

from drover.api.volumes import move_view, volume_view
from drover.cli.move import progress_line
from drover.model import records as r
from drover.model.cluster import put

DB = cid(1)
OLD, NEW = "0000000001-000000001000000", "0000000001-000000002000000"
MOVE = r.Move(source="h1", target="h2", container=DB, volumes=("data",), number=2, started_at=5.0)


def test_a_volume_with_its_copies() -> None:
    cluster = world(
        host("h1"),
        host("h2"),
        container(1, "db", "h1", host_config(Binds=["data:/d"])),
        volume("data", "h1"),
        [
            put(
                "volume_facts/h1/data",
                r.VolumeFacts(volume="data", host="h1", driver="btrfs", epoch=1, snapshots=(NEW,)),
            )
        ],
        [put("volume_facts/h2/data", r.VolumeFacts(volume="data", host="h2", snapshots=(OLD, NEW), synced_at=2100.0))],
    )
    shown = volume_view(cluster, cluster.volumes["data"], 2150.0)
    assert (shown["driver"], shown["live"], shown["used_by"]) == ("btrfs", True, ["db"])
    assert shown["copies"] == [{"host": "h2", "snapshot": NEW, "taken_at": 2000.0, "synced_at": 2100.0}]


def test_a_move_shows_only_its_own_progress() -> None:
    facts = r.MoveFacts(host="h2", number=2, rounds=1, moved_bytes=3 << 20, rate_bytes_s=1 << 20, left_s=7.0)
    before = r.MoveFacts(host="h2", number=1, rounds=9)
    base = [container(1, "db", "h1"), [put(f"moves/{DB}", MOVE)]]
    shown = move_view(world(*base, [put(f"move_facts/h2/{DB}", facts)]), DB, MOVE)
    assert (shown["name"], shown["phase"], shown["rounds"]) == ("db", "copying", 1)
    assert progress_line(shown) == "copying to h2, round 1: 3 MiB, 1 MiB/s, 7 s left"
    stale = move_view(world(*base, [put(f"move_facts/h2/{DB}", before)]), DB, MOVE)
    assert progress_line(stale) == "preparing h2"


def test_each_phase_has_its_sentence() -> None:
    shown = {"source": "h1", "target": "h2", "why": "it was cancelled"}
    told = {phase: progress_line({**shown, "phase": phase}) for phase in ("stopping", "stopped", "handed", "aborting")}
    assert told == {
        "stopping": "stopping on h1",
        "stopped": "copying what came last",
        "handed": "starting on h2",
        "aborting": "going back to how it was: it was cancelled",
    }
