"""Rolling updates: one after the other, gated by how the new containers do, from any leader at any point."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from app_world import LeaderDied, World, web

from drover.decide.app_changes import rollback_draft
from drover.decide.apps import instances
from drover.errors import Conflict

ORDERS = ("stop-first", "start-first")


def version(image: str = "good", env: str = "2", **update: Any) -> dict[str, Any]:
    """The service `web` in another version."""
    return {"web": {**web(image, update_config=update), "environment": {"V": env}}}


def deployed(**update: Any) -> World:
    world = World()
    world.deploy(version(env="1", **update))
    world.run()
    assert world.view()["state"] == "converged"
    return world


def env_of(world: World) -> set[str]:
    return {one.container.body.split('"Env":["V=')[1][0] for one in instances(world.cluster, world.name)}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("image", ["good", "checked"])
def test_every_container_is_replaced_under_its_own_name(order: str, image: str) -> None:
    world = deployed(order=order)
    assert world.deploy(version(image, order=order))
    world.run()
    assert world.view()["state"] == "converged"
    assert world.names() == ["shop-web-1", "shop-web-2", "shop-web-3"]
    assert env_of(world) == {"2"}
    assert world.service("web")["rollout"]["state"] == "done"


def test_the_same_manifest_again_changes_nothing() -> None:
    world = deployed()
    before = world.made
    assert not world.deploy(version(env="1"))
    assert not world.look()
    assert world.made == before


def least_good(world: World) -> int:
    """How many did well at the worst moment of what follows."""
    least = world.good("web")
    for _ in range(200):
        busy = world.look()
        least = min(least, world.good("web"))
        if not busy and world.view()["state"] != "working":
            return least
        world.pass_time()
        least = min(least, world.good("web"))
    raise AssertionError("not settled")


@pytest.mark.parametrize(
    ("order", "parallelism", "least"), [("stop-first", 1, 2), ("stop-first", 2, 1), ("start-first", 1, 3)]
)
def test_as_many_as_promised_do_well_all_the_time(order: str, parallelism: int, least: int) -> None:
    world = deployed(order=order, parallelism=parallelism)
    world.deploy(version("checked", order=order, parallelism=parallelism))
    assert least_good(world) == least


def test_parallelism_0_is_all_at_once() -> None:
    world = deployed(parallelism=0)
    world.deploy(version(parallelism=0))
    world.look()
    assert world.look()
    assert world.names() == []


def test_the_next_one_waits_for_delay_and_monitor() -> None:
    world = deployed()
    world.deploy(version(delay="30s"))
    replaced_at = []
    for _ in range(200):
        before = world.made
        world.look()
        replaced_at += [world.now] * (world.made - before)
        world.pass_time()
    assert len(replaced_at) == 3
    assert all(later - earlier >= 30 for earlier, later in pairwise(replaced_at))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("image", ["crash", "sick", "refused", "broken"])
def test_a_version_that_fails_is_taken_back(order: str, image: str) -> None:
    world = deployed(order=order, failure_action="rollback")
    world.deploy(version(image, order=order, failure_action="rollback"))
    world.run()
    assert world.images() == ["good"] * 3
    assert world.names() == ["shop-web-1", "shop-web-2", "shop-web-3"]
    assert env_of(world) == {"1"}
    assert world.service("web")["rollout"]["state"] == "reverted"
    assert world.view()["state"] == "failed"
    assert "runs the version before" in world.view()["failures"][0]


@pytest.mark.parametrize("image", ["crash", "sick"])
def test_start_first_never_loses_a_good_one_to_a_bad_version(image: str) -> None:
    world = deployed(order="start-first", failure_action="rollback")
    world.deploy(version(image, order="start-first", failure_action="rollback"))
    # What crashes a second after its start counted as good for that second, and its predecessor went; no more than it.
    assert least_good(world) >= (3 if image == "sick" else 2)


def test_a_failure_halts_the_rest() -> None:
    world = deployed(failure_action="pause")
    world.deploy(version("sick", failure_action="pause"))
    world.run()
    assert world.images() == ["good", "good", "sick"]
    assert world.view()["state"] == "failed"
    assert world.view()["failures"][0].startswith("the update of web stands still: 1 container of web failed")


def test_failures_may_be_passed_over() -> None:
    world = deployed(failure_action="continue")
    world.deploy(version("sick", failure_action="continue"))
    for _ in range(60):
        world.look()
        world.pass_time()
    assert world.images() == ["sick"] * 3
    assert world.service("web")["rollout"]["state"] == "done"


def test_so_many_failures_are_tolerated() -> None:
    world = deployed(max_failure_ratio=0.5, failure_action="rollback")
    world.deploy(version("sick", max_failure_ratio=0.5, failure_action="rollback"))
    world.run()
    rollout = world.service("web")["rollout"]
    assert rollout["state"] == "reverted"
    assert rollout["why"].startswith("2 containers of web failed")


def test_deploying_again_begins_a_halted_rollout_anew() -> None:
    world = deployed()
    world.deploy(version("sick"))
    world.run()
    assert world.deploy(version("sick"))
    assert "web" not in world.cluster.deployments["shop"].rollouts
    world.deploy(version("good", env="3"))
    world.run()
    assert env_of(world) == {"3"}


def test_a_failed_version_is_never_what_the_next_failure_goes_back_to() -> None:
    world = deployed()
    world.deploy(version("sick", failure_action="rollback"))
    world.run()
    world.deploy(version("sick", env="3", failure_action="rollback"))
    world.run()
    assert env_of(world) == {"1"}


def test_a_container_that_restarts_while_it_is_watched_counts_as_failed() -> None:
    world = deployed()
    world.deploy(version())
    while not world.cluster.deployments.get("shop") or not world.service("web")["rollout"].get("good_at"):
        world.look()
    slot = next(iter(world.service("web")["rollout"]["good_at"]))
    identity = world.cluster.names[f"shop-web-{slot}"].id
    world.facts(identity, started_at="later")
    world.look()
    assert "was started again" in world.service("web")["rollout"]["why"]


def test_people_can_go_back_and_forth() -> None:
    world = deployed()
    world.deploy(version())
    world.run()
    for expected in ("1", "2"):
        world.write(*rollback_draft(world.cluster, "shop", world.now).changes)
        world.run()
        assert env_of(world) == {expected}


def test_there_is_nothing_before_the_first_version() -> None:
    world = World()
    world.deploy(version())
    with pytest.raises(Conflict, match="no version before"):
        rollback_draft(world.cluster, "shop", world.now)


def test_a_fixed_address_makes_it_stop_first() -> None:
    world = World()
    service = web(replicas=1, update_config={"order": "start-first"}) | {"x-drover": {"addresses": ["10.1.0.5"]}}
    world.deploy({"web": service})
    world.run()
    world.deploy({"web": service | {"environment": {"V": "2"}}})
    assert any("start-first is not honoured" in text for text in world.view()["warnings"])
    while world.look():
        assert len(world.names()) <= 1
        world.pass_time()


# -- the leader dies at every point ------------------------------------------------------------------------------------


def effects_of(order: str, image: str) -> int:
    world = deployed(order=order, failure_action="rollback")
    before = world.effects
    world.deploy(version(image, order=order, failure_action="rollback"))
    world.run()
    return world.effects - before


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("image", ["good", "sick", "crash"])
def test_cut_at_every_step_it_goes_on_or_goes_back(order: str, image: str) -> None:
    for cut in range(effects_of(order, image)):
        world = deployed(order=order, failure_action="rollback")
        world.deploy(version(image, order=order, failure_action="rollback"))
        world.budget = cut
        with pytest.raises(LeaderDied):
            world.run()
        world.budget = -1
        world.pass_time(3)
        world.run()
        assert world.names() == ["shop-web-1", "shop-web-2", "shop-web-3"], cut
        assert env_of(world) == ({"2"} if image == "good" else {"1"}), cut


def test_cut_at_every_step_of_the_first_deployment() -> None:
    services = {"web": web("checked"), "db": web("good", 1) | {"networks": {"default": None, "back": None}}}
    top = {"networks": {"back": {}}, "volumes": {"data": {}}}
    whole = World()
    whole.deploy(services, **top)
    whole.run()
    for cut in range(whole.effects):
        world = World()
        world.deploy(services, **top)
        world.budget = cut
        with pytest.raises(LeaderDied):
            world.run()
        world.budget = -1
        world.run()
        assert world.view()["state"] == "converged"
        assert world.names() == whole.names()
        assert all(
            "shop_default" in record.attachments or "-web-" in record.name
            for record in world.cluster.containers.values()
        )
