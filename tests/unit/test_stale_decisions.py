"""Decisions that pass claims, committed to a store in which the world has changed since they were made.

decided on a picture in which          meanwhile                              the commit
a host is lost                         nothing                                passes its claims
                                       its lease is there again               is refused: what it has stays its own
                                       the host chosen is lost, too           is refused
                                       its container is not wanted any more   is refused
a move's source has stopped            nothing                                passes all claims
                                       somebody calls the move off            is refused: the source goes on
                                       the source, or the target, is lost     is refused
                                       its volume has gone elsewhere          is refused
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import pytest
from cluster_factory import LOST_AT, address, cid, container, host, host_config, network, volume

from drover.decide import moves
from drover.decide.moves import Commit
from drover.decide.recover import relocations
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put
from drover.store.memory import MemoryCluster
from drover.store.port import CommitConflict

DB, NET = cid(1), "e" * 64
Decide = Callable[[Cluster], Commit]
BINDS = host_config(Binds=["data:/d"])


def committed(parts: Iterable[list[Change]], decide: Decide, meanwhile: list[Change]) -> Cluster | None:
    """What the store has after a decision about `parts` met what happened `meanwhile`; None if it was refused."""

    async def main() -> Cluster | None:
        store = MemoryCluster().client()
        await store.commit(list({change.key: change for part in parts for change in part}.values()))
        made = decide(await store.snapshot())
        if meanwhile:
            await store.commit(meanwhile)
        try:
            await store.commit(made.changes, made.expect)
        except CommitConflict:
            return None
        return await store.snapshot()

    return asyncio.run(main())


def lost() -> list[list[Change]]:
    """web ran on h3, which is lost, at an address of its own."""
    record = r.Container(id=DB, name="web", body="{}", desired="running", image_id="sha256:1")
    runs = container(1, "web", "h3", None, state="running", engine_id="e1", answer=r.Answer(number=1))
    around = [host("h1"), host("h2"), host("h3", state="lost"), network(NET, "app", "10.44.0.0/16", vni=4096)]
    return [*around, address(NET, "10.44.0.9", 1), runs, [put(r.key("containers", DB), record)]]


def relocated(cluster: Cluster) -> Commit:
    [one] = relocations(cluster, LOST_AT + 1).relocations
    return Commit(one.changes, one.expect)


def lease(name: str) -> Change:
    return put(r.key("alive", name), r.Alive(host=name, session=f"{name}-2", since=LOST_AT))


def target_of(parts: list[list[Change]]) -> str:
    after = committed(parts, relocated, [])
    assert after is not None
    return after.host_of(DB)


def test_what_a_lost_host_had_passes_while_it_is_lost() -> None:
    after = committed(lost(), relocated, [])
    assert after is not None
    assert (after.host_of(DB) in ("h1", "h2"), after.placements[DB].epoch) == (True, 2)
    assert after.addresses[f"{NET}/10.44.0.9"].epoch == 2


def test_a_host_whose_lease_is_there_again_keeps_what_it_has() -> None:
    assert committed(lost(), relocated, [lease("h3")]) is None


def test_nothing_passes_to_a_host_that_is_lost_by_then() -> None:
    assert committed(lost(), relocated, [delete(r.key("alive", target_of(lost())))]) is None


def test_a_container_that_nobody_wants_any_more_is_not_brought_back() -> None:
    record = r.Container(id=DB, name="web", body="{}", desired="removed", image_id="sha256:1")
    assert committed(lost(), relocated, [put(r.key("containers", DB), record)]) is None


def moving(phase: str = "stopped") -> list[list[Change]]:
    """db, with volume data, has stopped on h1 and is on its way to h2."""
    move = r.Move(source="h1", target="h2", container=DB, volumes=("data",), phase=phase, final={"data": "snap"})  # type: ignore[arg-type]
    return [
        *(host(name) for name in ("h1", "h2", "h3")),
        container(1, "db", "h1", BINDS),
        volume("data", "h1"),
        [put(r.key("moves", DB), move)],
    ]


def handed(cluster: Cluster) -> Commit:
    commit = moves.hand_over(cluster, DB, 7.0)
    assert commit is not None
    return commit


def test_all_claims_pass_while_nothing_else_happens() -> None:
    after = committed(moving(), handed, [])
    assert after is not None
    assert (after.host_of(DB), after.volumes["data"].host, after.moves[DB].phase) == ("h2", "h2", "handed")


ACCIDENTS = {
    "the move is called off": moving("aborting")[-1],
    "the source is lost": [delete(r.key("alive", "h1"))],
    "the target is lost": [delete(r.key("alive", "h2"))],
    "the volume went elsewhere": volume("data", "h3"),
    "the container went elsewhere": [put(r.key("placements", DB), r.Placement(container=DB, host="h3", epoch=2))],
}


@pytest.mark.parametrize("meanwhile", ACCIDENTS.values(), ids=ACCIDENTS.keys())
def test_a_move_is_not_handed_over_when(meanwhile: list[Change]) -> None:
    assert committed(moving(), handed, meanwhile) is None
