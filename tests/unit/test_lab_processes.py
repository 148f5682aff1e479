"""Which processes belong to a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from drover.errors import DeadlineExceeded, MissingTool
from drover.lab.processes import cgroup_mounts, descendants, wait_until

HYBRID = """proc /proc proc rw 0 0
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0
cgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
"""
UNIFIED = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n"


def test_hierarchies_of_both_kinds_of_machines() -> None:
    root = Path("/sys/fs/cgroup")
    assert cgroup_mounts(HYBRID) == (root / "unified", [root / "pids", root / "freezer"])
    assert cgroup_mounts(UNIFIED) == (root, [])


def test_a_machine_without_cgroup_v2_is_told_how_to_mount_it() -> None:
    with pytest.raises(MissingTool) as caught:
        cgroup_mounts("proc /proc proc rw 0 0\n")
    assert "mount -t cgroup2" in caught.value.hint


def test_descendants_are_found_at_any_depth_and_roots_are_none() -> None:
    parents = {2: 1, 10: 2, 11: 10, 12: 11, 20: 1, 21: 20}
    assert descendants(parents, {2}) == {10, 11, 12}
    assert descendants(parents, {2, 11}) == {10, 12}
    assert descendants(parents, {12}) == set()


def test_a_loop_of_reused_process_ids_ends() -> None:
    assert descendants({1: 2, 2: 1, 3: 2}, {1}) == {2, 3}


def test_waiting_ends_with_what_did_not_happen() -> None:
    with pytest.raises(DeadlineExceeded, match="the moon did not happen"):
        wait_until(lambda: False, "the moon", deadline_s=0.0)
    answers = iter([False, False, True])
    wait_until(lambda: next(answers), "three", poll_s=0.0)
    assert next(answers, "used up") == "used up"
