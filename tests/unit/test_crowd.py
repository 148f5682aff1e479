"""Ten hosts in the simulated world: deployed, two killed, one drained, and all converges (`bench.crowd`, in small)."""

from __future__ import annotations

from bench.crowd import Act, acts

from drover.sim import clock

EACH = 4


def test_ten_hosts_lose_two_and_a_third_is_drained() -> None:
    told: list[Act] = []
    done = clock.run(acts(10, EACH, told.append))
    assert [act.name for act in done] == ["deploy", "idle", "kill", "drain"] == [act.name for act in told]
    assert all(act.cpu_s > 0 for act in done)
    assert done[2].world_s >= 3  # nothing passes before the lease is over
