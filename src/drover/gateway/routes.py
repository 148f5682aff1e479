"""The route table: method and path to an endpoint's name and its handler. The first match wins.

A template's `{name}` matches anything, slashes too (image names have them), as in the engine's own router; the parts
after it are what tells routes apart. Endpoint names are what hooks and logs call them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import lru_cache

import msgspec

from drover.gateway import (
    attachments,
    containers,
    create,
    events,
    execs,
    images,
    lifecycle,
    listing,
    networks,
    prune,
    swarm,
    system,
    volumes,
)
from drover.gateway.call import Call, Outcome
from drover.gateway.context import Context

ContextHandler = Callable[[Context, Call], Awaitable[Outcome]]

_PART = re.compile(r"\{([a-z]+)\}")


class Route(msgspec.Struct, frozen=True):
    method: str
    template: str
    endpoint: str
    handler: ContextHandler


_SYSTEM = (
    Route("GET", "/_ping", "system.ping", system.ping),
    Route("HEAD", "/_ping", "system.ping", system.ping),
    Route("GET", "/version", "system.version", system.version),
    Route("GET", "/info", "system.info", system.info),
    Route("GET", "/system/df", "system.df", system.disk_usage),
    Route("GET", "/events", "system.events", events.events),
    Route("POST", "/auth", "system.auth", system.relay_front),
    Route("POST", "/session", "system.session", system.relay_front_raw),
    Route("POST", "/grpc", "system.grpc", system.relay_front_raw),
)

_CONTAINERS = (
    Route("GET", "/containers/json", "container.list", listing.list_containers),
    Route("POST", "/containers/create", "container.create", create.create),
    Route("POST", "/containers/prune", "container.prune", prune.prune_containers),
    Route("GET", "/containers/{name}/json", "container.inspect", containers.inspect),
    Route("GET", "/containers/{name}/top", "container.top", containers.relay),
    Route("GET", "/containers/{name}/logs", "container.logs", containers.relay),
    Route("GET", "/containers/{name}/changes", "container.changes", containers.relay),
    Route("GET", "/containers/{name}/stats", "container.stats", containers.relay_lines),
    Route("GET", "/containers/{name}/export", "container.export", containers.relay),
    Route("GET", "/containers/{name}/attach/ws", "container.attach.ws", containers.relay),
    Route("GET", "/containers/{name}/archive", "container.archive.get", containers.archive),
    Route("HEAD", "/containers/{name}/archive", "container.archive.head", containers.archive),
    Route("PUT", "/containers/{name}/archive", "container.archive.put", containers.archive),
    Route("POST", "/containers/{name}/exec", "exec.create", execs.create),
    Route("POST", "/containers/{name}/start", "container.start", lifecycle.start),
    Route("POST", "/containers/{name}/stop", "container.stop", lifecycle.stop),
    Route("POST", "/containers/{name}/restart", "container.restart", lifecycle.restart),
    Route("POST", "/containers/{name}/kill", "container.kill", lifecycle.kill),
    Route("POST", "/containers/{name}/pause", "container.pause", containers.relay),
    Route("POST", "/containers/{name}/unpause", "container.unpause", containers.relay),
    Route("POST", "/containers/{name}/wait", "container.wait", containers.wait),
    Route("POST", "/containers/{name}/resize", "container.resize", containers.relay),
    Route("POST", "/containers/{name}/attach", "container.attach", containers.relay),
    Route("POST", "/containers/{name}/rename", "container.rename", lifecycle.rename),
    Route("POST", "/containers/{name}/update", "container.update", lifecycle.update),
    Route("DELETE", "/containers/{name}", "container.remove", lifecycle.remove),
    Route("POST", "/exec/{id}/start", "exec.start", execs.start),
    Route("POST", "/exec/{id}/resize", "exec.resize", execs.relay),
    Route("GET", "/exec/{id}/json", "exec.inspect", execs.relay),
    Route("POST", "/commit", "container.commit", containers.commit),
)

_IMAGES = (
    Route("GET", "/images/json", "image.list", images.list_images),
    Route("GET", "/images/search", "image.search", system.relay_front),
    Route("GET", "/images/get", "image.save", images.save_many),
    Route("POST", "/images/load", "image.load", system.relay_front_raw),
    Route("POST", "/images/create", "image.create", system.relay_front_raw),
    Route("POST", "/images/prune", "image.prune", images.prune),
    Route("GET", "/images/{name}/json", "image.inspect", images.relay_to_holder),
    Route("GET", "/images/{name}/history", "image.history", images.relay_to_holder),
    Route("GET", "/images/{name}/get", "image.save", images.stream_to_holder),
    Route("POST", "/images/{name}/push", "image.push", images.stream_to_holder),
    Route("POST", "/images/{name}/tag", "image.tag", images.tag),
    Route("DELETE", "/images/{name}", "image.remove", images.remove),
    Route("GET", "/distribution/{name}/json", "image.distribution", system.relay_front),
    Route("POST", "/build", "image.build", images.build),
    Route("POST", "/build/prune", "image.build.prune", images.prune_builds),
    Route("POST", "/build/cancel", "image.build.cancel", system.relay_front),
)

_NETWORKS = (
    Route("GET", "/networks", "network.list", networks.list_networks),
    Route("GET", "/networks/", "network.list", networks.list_networks),
    Route("POST", "/networks/create", "network.create", networks.create),
    Route("POST", "/networks/prune", "network.prune", networks.prune),
    Route("GET", "/networks/{name}", "network.inspect", networks.inspect),
    Route("POST", "/networks/{name}/connect", "network.connect", attachments.connect),
    Route("POST", "/networks/{name}/disconnect", "network.disconnect", attachments.disconnect),
    Route("DELETE", "/networks/{name}", "network.remove", networks.remove),
)

_VOLUMES = (
    Route("GET", "/volumes", "volume.list", volumes.list_volumes),
    Route("POST", "/volumes/create", "volume.create", volumes.create),
    Route("POST", "/volumes/prune", "volume.prune", volumes.prune),
    Route("GET", "/volumes/{name}", "volume.inspect", volumes.inspect),
    Route("PUT", "/volumes/{name}", "volume.update", system.relay_front_raw),  # Swarm's cluster volumes only
    Route("DELETE", "/volumes/{name}", "volume.remove", volumes.remove),
)

_SWARM_OBJECTS = ("nodes", "services", "tasks", "secrets", "configs", "plugins")

_SWARM = (
    *(Route("POST", f"/swarm/{verb}", f"swarm.{verb}", swarm.refuse) for verb in ("init", "join")),
    *(Route("POST", f"/swarm/{verb}", f"swarm.{verb}", system.relay_front_raw) for verb in ("leave", "update")),
    Route("GET", "/swarm", "swarm.inspect", system.relay_front),
    Route("GET", "/swarm/unlockkey", "swarm.unlockkey", system.relay_front),
    Route("POST", "/swarm/unlock", "swarm.unlock", system.relay_front),
    *(Route("GET", f"/{kind}", f"{kind}.list", system.relay_front) for kind in _SWARM_OBJECTS),
    *(
        Route(method, f"/{kind}/{{rest}}", f"{kind}.any", system.relay_front_raw)
        for kind in _SWARM_OBJECTS
        for method in ("GET", "POST", "DELETE")
    ),
)

_OPTIONS = Route("OPTIONS", "/{rest}", "system.options", system.relay_front_raw)
"""Engines answer it for any path."""

ROUTES = (*_SYSTEM, *_CONTAINERS, *_IMAGES, *_NETWORKS, *_VOLUMES, *_SWARM)


def _first_part(path: str) -> str:
    return path[1:].partition("/")[0]


def _by_start() -> dict[tuple[str, str], list[Route]]:
    """The table by method and first part of the path, which no template leaves open."""
    found: dict[tuple[str, str], list[Route]] = {}
    for route in ROUTES:
        found.setdefault((route.method, _first_part(route.template)), []).append(route)
    return found


_BY_START = _by_start()


@lru_cache(maxsize=512)
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(_PART.sub(r"(?P<\1>.+)", template))


def find_route(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The first route for a method and a decoded path without version, and the path's named parts."""
    if method == _OPTIONS.method:
        return _OPTIONS, {"rest": path[1:]}
    for route in _BY_START.get((method, _first_part(path)), ()):
        if match := _pattern(route.template).fullmatch(path):
            return route, match.groupdict()
    return None
