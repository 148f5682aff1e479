"""`depends_on.*.restart`: who follows when a deployment replaces what they depend on, from any leader at any point."""

from __future__ import annotations

from typing import Any

import pytest
from app_world import LeaderDied, World, web

from drover.decide.app_plan import plan
from drover.decide.apps import instances
from drover.manifest.app import read_app

FOLLOWS = {"db": {"condition": "service_started", "required": True, "restart": True}}
SHARES = {"network_mode": "service:db", "depends_on": FOLLOWS}


def shop(db: str = "1", restart: bool = True, follower: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    """A database in some version, and two containers that depend on it."""
    wanted = {**FOLLOWS["db"], "restart": restart}
    update = {"monitor": "2s"}
    return {
        "db": {**web(replicas=1, update_config=update), "environment": {"V": db}},
        "web": follower or {**web(replicas=2, update_config=update), "depends_on": {"db": wanted}, **top},
    }


def deployed(**asked: Any) -> World:
    world = World()
    world.deploy(shop(**asked))
    world.run()
    world.log.clear()
    return world


def starts(world: World, service: str = "web") -> list[str]:
    found = [one for one in instances(world.cluster, world.name) if one.service == service]
    return [one.facts.started_at for one in found if one.facts is not None]


def restarted(world: World) -> list[str]:
    return [line.removeprefix("Restart container/") for line in world.log if line.startswith("Restart")]


def test_dependents_are_restarted_after_their_dependency_was_replaced() -> None:
    world = deployed()
    before = starts(world)
    world.deploy(shop(db="2"))
    world.run()
    assert restarted(world) == ["shop-web-1", "shop-web-2"]
    assert not set(before) & set(starts(world))
    assert world.log.index("Restart container/shop-web-1") > world.log.index("Make container/shop-db-1")
    assert world.view()["state"] == "converged"
    assert world.cluster.deployments["shop"].follows == {}


def test_without_restart_nobody_is() -> None:
    world = deployed(restart=False)
    world.deploy(shop(db="2", restart=False))
    world.run()
    assert restarted(world) == []


def test_a_deployment_that_replaces_nothing_restarts_nobody() -> None:
    world = deployed()
    world.deploy(shop(labels={"new": "1"}))
    world.run()
    assert restarted(world) == []


def test_a_dependency_that_ends_and_starts_by_itself_restarts_nobody() -> None:
    """As with Compose: it is about what a deployment does, not about the monitor's restarts."""
    world = deployed()
    [db] = [one for one in instances(world.cluster, world.name) if one.service == "db"]
    world.facts(db.container.id, started_at="again")
    world.run()
    assert restarted(world) == []


def test_the_application_is_not_converged_before_they_are() -> None:
    world = deployed()
    world.deploy(shop(db="2"))
    for _ in range(50):
        world.look()
        if world.cluster.deployments["shop"].follows:
            break
        world.pass_time()
    assert "shop-web-2 is restarted: the containers of db were replaced" in world.view()["missing"]
    assert world.view()["state"] == "working"


@pytest.mark.parametrize(("parallelism", "first"), [(1, 1), (0, 2)])
def test_as_many_at_a_time_as_an_update_would_replace(parallelism: int, first: int) -> None:
    top = {"deploy": {"replicas": 2, "update_config": {"parallelism": parallelism, "monitor": "2s"}}}
    world = deployed(**top)
    world.deploy(shop(db="2", **top))
    for _ in range(50):
        world.look()
        if restarted(world):
            break
        world.pass_time()
    assert len(restarted(world)) == first


def test_one_that_shares_namespaces_is_made_anew() -> None:
    """A restart would look for the container that is gone."""
    sharer = {"image": "good", **SHARES}
    world = deployed(follower=sharer)
    [before] = [one.container.id for one in instances(world.cluster, world.name) if one.service == "web"]
    world.deploy(shop(db="2", follower=sharer))
    world.run()
    [after] = [one.container.id for one in instances(world.cluster, world.name) if one.service == "web"]
    assert restarted(world) == []
    assert after != before
    assert world.view()["state"] == "converged"


def test_one_that_somebody_stopped_stays_stopped() -> None:
    world = deployed()
    [one, _] = [one for one in instances(world.cluster, world.name) if one.service == "web"]
    world.stop(one.container.id)
    world.deploy(shop(db="2"))
    for _ in range(30):
        world.look()
        world.pass_time()
    assert restarted(world) == ["shop-web-2"]
    assert world.cluster.deployments["shop"].follows == {}


def test_it_does_not_disturb_the_dependents_own_update() -> None:
    """A restart in the middle of it would count as a failure of the new version."""
    world = deployed()
    world.deploy(shop(db="2", environment={"V": "2"}))
    world.run()
    assert world.service("web")["rollout"]["state"] == "done"
    assert world.view()["state"] == "converged"
    assert world.cluster.deployments["shop"].follows == {}


@pytest.mark.parametrize("follower", [None, {"image": "good", **SHARES}], ids=["restarted", "made anew"])
def test_a_leader_that_dies_anywhere_leaves_nobody_behind(follower: dict[str, Any] | None) -> None:
    for budget in range(40):
        world = deployed(follower=follower)
        before = starts(world)
        world.deploy(shop(db="2", follower=follower))
        world.budget, world.effects = budget, 0
        try:
            world.run()
        except LeaderDied:
            pass
        world.budget = -1
        world.run()
        assert world.view()["state"] == "converged", budget
        assert not set(before) & set(starts(world)), budget
        if world.effects < budget:
            return
    raise AssertionError("it takes more effects than there are cuts")


def test_the_plan_says_who_follows() -> None:
    world = deployed()
    found = plan(world.cluster, read_app({"services": shop(db="2")}, "shop", {}).app)
    said = {one.name: (one.change, one.why) for one in found.entries if one.kind == "container"}
    assert said["shop-web-1"] == ("restart", "it follows db, which is updated")
    assert said["shop-db-1"][0] == "update"
    nothing = plan(world.cluster, read_app({"services": shop()}, "shop", {}).app)
    assert nothing.unchanged
