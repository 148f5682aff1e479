"""What is done about unhealthy containers: as Docker does, unless they ask for more."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from cluster_factory import cid, container, host, host_config, three, volume

from drover.decide import steps as s
from drover.decide.converge import Seen, SeenHere, converge
from drover.decide.restarts import Restarts
from drover.decide.unhealthy import LABEL, MAX_DELAY_S, MOVE_PAUSE_S, RESTARTS, moves_of_unhealthy, policy, restarted
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put
from drover.model.spec import Spec

NOW = 10_000.0


def labelled(value: str) -> dict[str, Any]:
    return {"Labels": {LABEL: value}} if value else {}


def unhealthy(value: str = "move", restarts: int = RESTARTS, body: dict[str, Any] | None = None) -> list[Change]:
    body = {**(body or {}), **labelled(value)}
    made = container(1, "web", "h1", body, state="running", health="unhealthy", unhealthy_restarts=restarts)
    record = made[0].record
    assert isinstance(record, r.Container)
    return [put(made[0].key, msgspec.structs.replace(record, desired="running", order=r.Order(number=0))), *made[1:]]


def targets(cluster: Cluster, now: float = NOW) -> list[str]:
    records = [change.record for _, commit in moves_of_unhealthy(cluster, now) for change in commit.changes]
    return [one.target for one in records if isinstance(one, r.Move)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, "leave"),
        ({LABEL: "restart"}, "restart"),
        ({LABEL: "move"}, "move"),
        ({LABEL: "dance"}, "leave"),
        ({"drover.app.slot": "1"}, "move"),
        ({"drover.app.slot": "1", LABEL: "leave"}, "leave"),
    ],
)
def test_only_who_asks_for_it_or_comes_from_a_manifest_is_touched(labels: dict[str, str], expected: str) -> None:
    assert policy(Spec(labels=labels)) == expected


@pytest.mark.parametrize(
    ("value", "health", "steps"),
    [
        ("", "unhealthy", []),
        ("restart", "healthy", []),
        ("restart", "starting", []),
        ("restart", "unhealthy", [s.RestartContainer(cid(1))]),
        ("move", "unhealthy", [s.RestartContainer(cid(1))]),
    ],
)
def test_its_host_restarts_it(value: str, health: str, steps: list[s.Step]) -> None:
    here = SeenHere(engine_id="e", state="running", epoch=1, health=health)
    plan = converge(three(unhealthy(value)), "h1", Seen(containers={cid(1): here}), NOW)
    assert list(plan.steps) == steps


def test_restarts_become_rarer() -> None:
    here = SeenHere(engine_id="e", state="running", epoch=1, health="unhealthy")
    done = Restarts()
    delays = []
    for _ in range(8):
        done = restarted(done, NOW)
        delays.append(done.due_at - NOW)
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY_S
    plan = converge(three(unhealthy()), "h1", Seen(containers={cid(1): here}, mended={cid(1): done}), NOW)
    assert plan.steps == ()
    assert plan.again_at == NOW + MAX_DELAY_S
    assert "is unhealthy; restarted in 60.0 s" in plan.waits[0].sentence


def test_where_restarts_do_not_help_it_moves_with_its_volume_and_says_why() -> None:
    drivers = [one for name in ("h1", "h2", "h3") for one in host(name, facts={"volume_drivers": ("btrfs",)})]
    cluster = three(drivers, unhealthy(body=host_config(Binds=["data:/data"])), volume("data", "h1"))
    ((name, commit),) = moves_of_unhealthy(cluster, NOW)
    move = next(change.record for change in commit.changes if isinstance(change.record, r.Move))
    assert (name, move.source, move.volumes) == ("web", "h1", ("data",))
    assert move.because == "it was unhealthy on h1 after 3 restarts"


@pytest.mark.parametrize(
    "cluster",
    [
        three(unhealthy("restart")),
        three(unhealthy(restarts=RESTARTS - 1)),
        three(unhealthy(body={"Env": ["constraint:host==h1"]})),
        three(
            unhealthy(),
            [
                put(
                    r.key("moves", cid(1)),
                    r.Move(source="h2", target="h1", phase="done", ended_at=NOW - MOVE_PAUSE_S + 1),
                )
            ],
        ),
        three(unhealthy(), [put(r.key("moves", cid(1)), r.Move(source="h1", target="h2"))]),
    ],
)
def test_and_otherwise_it_stays(cluster: Cluster) -> None:
    assert targets(cluster) == []


def test_it_tries_another_host_again_later() -> None:
    before = r.Move(source="h2", target="h1", phase="done", ended_at=NOW - MOVE_PAUSE_S)
    assert targets(three(unhealthy(), [put(r.key("moves", cid(1)), before)])) != []
