"""The leader's hands: real gateways in memory, scripted engines and agents; what fails is told and tried again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cluster_factory import host
from gateway_world import API, IMAGE, Agent, World, refused, response

from drover.daemon.deployer import Deployer
from drover.decide.app_changes import deploy_draft, remove_draft, scale_draft
from drover.decide.app_view import app_view
from drover.decide.apps import instances
from drover.decide.services import Draft
from drover.manifest.app import read_app
from drover.model import records as r
from drover.model.cluster import Cluster

HOSTS = ("h1", "h2", "h3")
DEADLINE_S = 20.0


class Deployed:
    """A cluster with an application, and leaders that come and go."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tasks: list[asyncio.Task[None]] = []
        self.leading = ""

    @property
    def cluster(self) -> Cluster:
        return self.world.shared.cluster

    def commit(self, draft: Draft) -> None:
        self.world.shared.commit(list(draft.changes), dict(draft.expect), None)

    def deploy(self, **services: Any) -> None:
        read = read_app({"services": services, "volumes": {"data": {}}}, "shop", {})
        self.commit(deploy_draft(self.cluster, read.app, {}, {}, time.time()))

    async def lead(self, name: str) -> None:
        """A daemon on a host; whoever was last told to leads."""
        gateway = await self.world.gateway(name)
        mirror = gateway.context.mirror
        deployer = Deployer(
            self.world.shared.client(),
            mirror,
            gateway.handle,
            self.world.links,
            lambda: self.leading == name,
            time.time,
        )
        self.leading = name
        self.tasks.append(asyncio.create_task(deployer.run()))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()

    async def until(self, state: str) -> dict[str, Any]:
        mirror = self.world.mirrors[-1]
        await mirror.reached(self.cluster.revision, DEADLINE_S)
        return await mirror.until(lambda now: self._in(now, state), DEADLINE_S, f"the state {state}")

    def _in(self, cluster: Cluster, state: str) -> dict[str, Any] | None:
        if "shop" not in cluster.apps:
            return {"state": "gone"} if state == "gone" else None
        view = app_view(cluster, "shop")
        return view if view["state"] == state else None


def web(replicas: int = 2, **more: Any) -> dict[str, Any]:
    return {"image": "busybox", "deploy": {"replicas": replicas}, **more}


@pytest.fixture
async def deployed() -> AsyncIterator[Deployed]:
    world = World()
    world.write([change for name in HOSTS for change in host(name, facts=API)])
    world.links.say("h1 h2 h3", "GET", "/images/busybox/json", response({"Id": IMAGE}))
    found = Deployed(world)
    yield found
    await found.stop()
    await world.close()


async def agents(deployed: Deployed) -> list[Agent]:
    return [await deployed.world.agent(name) for name in HOSTS]


async def test_from_nothing_to_running_and_away_again(deployed: Deployed) -> None:
    await agents(deployed)
    await deployed.lead("h1")
    deployed.deploy(web=web(volumes=[{"type": "volume", "source": "data", "target": "/data"}]))
    view = await deployed.until("converged")
    assert [one["name"] for one in view["services"][0]["containers"]] == ["shop-web-1", "shop-web-2"]
    assert "shop_default" in deployed.cluster.network_names
    assert "shop_data" in deployed.cluster.volumes
    assert len(deployed.cluster.addresses) == 2
    deployed.commit(remove_draft(deployed.cluster, "shop", volumes=False))
    await deployed.until("gone")
    assert not deployed.cluster.containers
    assert "shop_data" in deployed.cluster.volumes


async def test_who_follows_a_dependency_is_restarted_when_that_was_replaced(deployed: Deployed) -> None:
    def shop(version: str) -> dict[str, Any]:
        at_once = {"update_config": {"monitor": "1ms"}, "replicas": 1}
        db = {"image": "busybox", "deploy": at_once, "environment": {"V": version}}
        return {"db": db, "web": web(1, depends_on={"db": {"restart": True}})}

    def order() -> tuple[str, int]:
        [one] = [one for one in instances(deployed.cluster, "shop") if one.service == "web"]
        return one.container.order.verb, one.container.order.number

    await agents(deployed)
    await deployed.lead("h1")
    deployed.deploy(**shop("1"))
    await deployed.until("converged")
    _, before = order()
    deployed.deploy(**shop("2"))
    await deployed.until("working")
    await deployed.until("converged")
    assert order() == ("restart", before + 1), "once"


async def test_a_second_network_is_joined_before_the_start(deployed: Deployed) -> None:
    workers = await agents(deployed)
    await deployed.lead("h1")
    read = read_app(
        {"services": {"web": web(1, networks={"a": None, "b": None})}, "networks": {"a": {}, "b": {}}}, "shop", {}
    )
    deployed.commit(deploy_draft(deployed.cluster, read.app, {}, {}, time.time()))
    mirror = deployed.world.mirrors[-1]
    await mirror.until(lambda now: any(one.desired == "running" for one in now.containers.values()), DEADLINE_S, "it")
    await deployed.until("converged")
    performed = [verb for agent in workers for verb, _ in agent.performed]
    assert performed == ["create", "connect", "start"]


async def test_a_missing_image_is_pulled(deployed: Deployed) -> None:
    await agents(deployed)
    links = deployed.world.links
    links.say("h1 h2 h3", "GET", "/images/busybox/json", refused(404, "no such image: busybox: No such image"))

    pulled: list[object] = []

    def pull(*_: Any) -> Any:
        pulled.append(None)
        links.say("h1 h2 h3", "GET", "/images/busybox/json", response({"Id": IMAGE}))
        return response({"status": "Pull complete"})

    links.say("h1 h2 h3", "POST", "/images/create", pull)
    await deployed.lead("h1")
    deployed.deploy(web=web(1))
    await deployed.until("converged")
    assert len(pulled) == 1
    assert [deployed.cluster.facts_of(one).state for one in deployed.cluster.containers] == ["running"]  # type: ignore[union-attr]


async def test_what_cannot_be_made_is_told_and_tried_again(deployed: Deployed) -> None:
    await agents(deployed)
    links = deployed.world.links
    links.say("h1 h2 h3", "GET", "/images/busybox/json", refused(404, "no such image: busybox: No such image"))
    links.say("h1 h2 h3", "POST", "/images/create", response({"error": "pull access denied"}))
    await deployed.lead("h1")
    deployed.deploy(web=web(1))
    mirror = deployed.world.mirrors[-1]
    await mirror.until(lambda now: now.app_troubles.get("shop") and now.app_troubles["shop"].troubles, DEADLINE_S, "it")
    missing = app_view(deployed.cluster, "shop")["missing"]
    assert missing == [
        "shop-web-1 cannot be made: image busybox is on no host and cannot be pulled: pull access denied"
    ]
    links.say("h1 h2 h3", "GET", "/images/busybox/json", response({"Id": IMAGE}))
    await mirror.until(lambda now: not now.app_troubles["shop"].troubles, DEADLINE_S, "no trouble any more")
    await deployed.until("converged")


async def test_no_room_is_told_with_a_reason_for_each_host(deployed: Deployed) -> None:
    await agents(deployed)
    await deployed.lead("h1")
    deployed.deploy(web=web(1, mem_limit="64g"))
    mirror = deployed.world.mirrors[-1]
    await mirror.until(lambda now: now.app_troubles.get("shop") and now.app_troubles["shop"].troubles, DEADLINE_S, "it")
    assert "no host can take shop-web-1: h1: 64 GiB of memory asked" in app_view(deployed.cluster, "shop")["missing"][0]


async def test_the_next_leader_goes_on(deployed: Deployed) -> None:
    workers = await agents(deployed)
    for worker in workers:
        worker.hold.add("start")
    await deployed.lead("h1")
    deployed.deploy(web=web(3))
    mirror = deployed.world.mirrors[-1]
    await mirror.until(lambda now: len(now.containers) == 3, DEADLINE_S, "three containers")
    await deployed.stop()
    for worker in workers:
        worker.hold.clear()
    await deployed.lead("h2")
    view = await deployed.until("converged")
    assert view["services"][0]["good"] == 3
    assert len(deployed.cluster.containers) == 3


async def test_two_that_believe_to_lead_make_no_more_than_asked(deployed: Deployed) -> None:
    await agents(deployed)
    world = deployed.world
    deployed.deploy(web=web(4))
    for name in HOSTS:
        gateway = await world.gateway(name)
        both = Deployer(
            world.shared.client(), gateway.context.mirror, gateway.handle, world.links, lambda: True, time.time
        )
        deployed.tasks.append(asyncio.create_task(both.run()))
    await deployed.until("converged")
    assert sorted(one.name for one in deployed.cluster.containers.values()) == [f"shop-web-{n}" for n in range(1, 5)]


async def test_a_scaled_service(deployed: Deployed) -> None:
    await agents(deployed)
    await deployed.lead("h1")
    deployed.deploy(web=web(1))
    await deployed.until("converged")
    deployed.commit(scale_draft(deployed.cluster, "shop", "web", 3))
    view = await deployed.until("converged")
    assert view["services"][0]["wanted"] == view["services"][0]["good"] == 3


async def test_a_host_that_does_not_lead_does_nothing(deployed: Deployed) -> None:
    await agents(deployed)
    await deployed.lead("h1")
    deployed.leading = "h9"
    deployed.deploy(web=web(1))
    await asyncio.sleep(0.2)
    assert not deployed.cluster.containers
    assert isinstance(deployed.cluster.apps["shop"], r.App)
