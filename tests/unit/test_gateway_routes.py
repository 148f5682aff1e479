"""Every call has a route and a handler; versions; the shape of refusals."""

from __future__ import annotations

import pytest
from cluster_factory import host
from gateway_world import World, ask, make_call

from drover.gateway.gateway import endpoint_of
from drover.gateway.routes import ROUTES, find_route
from drover.gateway.versions import shared_versions, version_of

CALLS = {
    "container.inspect": ("GET", "/containers/h1/web/json"),
    "container.remove": ("DELETE", "/containers/web"),
    "container.create": ("POST", "/containers/create"),
    "container.prune": ("POST", "/containers/prune"),
    "container.attach.ws": ("GET", "/containers/web/attach/ws"),
    "system.options": ("OPTIONS", "/anything/at/all"),
    "volume.update": ("PUT", "/volumes/data"),
    "container.archive.head": ("HEAD", "/containers/web/archive"),
    "image.inspect": ("GET", "/images/reg.example:5000/a/b:1/json"),
    "image.remove": ("DELETE", "/images/a/b@sha256:1"),
    "image.save": ("GET", "/images/get"),
    "image.push": ("POST", "/images/a/b/push"),
    "network.list": ("GET", "/networks/"),
    "network.inspect": ("GET", "/networks/app"),
    "volume.inspect": ("GET", "/volumes/data"),
    "exec.start": ("POST", "/exec/1/start"),
    "nodes.any": ("GET", "/nodes/x"),
    "plugins.any": ("POST", "/plugins/a/b/enable"),
    "swarm.init": ("POST", "/swarm/init"),
    "image.distribution": ("GET", "/distribution/a/b/json"),
}


@pytest.mark.parametrize("endpoint", CALLS)
def test_calls_find_their_endpoint(endpoint: str) -> None:
    method, path = CALLS[endpoint]
    assert endpoint_of(make_call(method, path)) == endpoint


def test_no_route_hides_another() -> None:
    for route in ROUTES:
        path = route.template.replace("{name}", "x").replace("{id}", "x").replace("{rest}", "x")
        found = find_route(route.method, path)
        assert found is not None
        assert found[0] is route, path


async def test_unknown_calls_and_versions() -> None:
    world = World()
    world.write(
        [
            *host("h1", facts={"api_version": "1.51", "min_api_version": "1.24"}),
            *host("h2", facts={"api_version": "1.41", "min_api_version": "1.12"}),
            *host("h3", state="lost", facts={"api_version": "1.30", "min_api_version": "1.30"}),
        ]
    )
    gateway = await world.gateway()
    assert shared_versions(world.shared.cluster) == ("1.24", "1.41")
    assert version_of("1.41.0") == version_of("1.41") < version_of("1.41.1") < version_of("1.100")
    assert version_of("..") == version_of("0.0") == ()
    assert await ask(gateway, "GET", "/v1.41/nope") == (404, {"message": "page not found"})
    too_new = "client version 1.99 is too new. Maximum supported API version is 1.41"
    assert await ask(gateway, "GET", "/v1.99/info") == (400, {"message": too_new})
    status, answer = await ask(gateway, "GET", "/v1.5/info")
    assert (status, answer["message"][:40]) == (400, "client version 1.5 is too old. Minimum s")
    await world.close()


async def test_a_fault_of_a_handler_is_told_and_logged() -> None:
    world = World()
    gateway = await world.gateway()
    world.write(host("h1"))
    world.links.answers["h1", "GET", "/images/json"] = lambda *_: 1 / 0  # type: ignore[assignment,return-value]
    await gateway.context.mirror.reached(world.shared.cluster.revision, 5.0)
    status, answer = await ask(gateway, "GET", "/images/json")
    assert (status, "ZeroDivisionError" in answer["message"]) == (500, True)
    await world.close()
