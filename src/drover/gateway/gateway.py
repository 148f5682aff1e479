"""`Gateway`: the Docker API of the cluster, as one function from a `Call` to a `Reply` or a `Relay`.

Theory of operation. The route table names the endpoint and its handler; the handler works on a `Context`. What goes
wrong becomes what Docker's clients expect:

    raised                        status                     body
    nothing was read yet          503                        {"message": why}
    no route                      404                        {"message": "page not found"}
    any DroverError               the error's own            {"message": its sentence}
    anything else (a fault here)  500, logged with its trace {"message": …}
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from drover.errors import DroverError, Unavailable
from drover.gateway.call import Call, Fetch, Links, Outcome
from drover.gateway.context import Context, log, message_reply
from drover.gateway.routes import find_route
from drover.gateway.versions import refuse_version
from drover.store.mirror import Mirror
from drover.store.port import Store

WITHOUT_RECORDS = ("system.ping", "system.version", "system.auth", "system.session", "system.grpc")
"""Calls that a daemon answers which has no picture of the cluster yet: not knowing a container is not its absence."""


class Gateway:
    """`host`: this host's name. `clock`: seconds since the Unix epoch. `new_id`: 64 hex digits, never the same.
    `fetch`: brings this host's engine an image of another; without it, a build knows its own host's images only."""

    def __init__(
        self,
        host: str,
        store: Store,
        mirror: Mirror,
        links: Links,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        fetch: Fetch | None = None,
    ) -> None:
        self.context = Context(host, store, mirror, links, clock, new_id, fetch)

    async def handle(self, call: Call) -> Outcome:
        """Answer one call; never raises but when it is cancelled."""
        try:
            return await self._handle(call)
        except DroverError as error:
            return message_reply(error.status, error.message)
        except Exception as error:
            log.exception("a handler failed", method=call.method, path=call.path)
            return message_reply(500, f"the gateway failed at {call.method} {call.path}: {error!r}")

    async def _handle(self, call: Call) -> Outcome:
        refuse_version(self.context.shared_versions, call.version)
        found = find_route(call.method, call.path)
        if found is None:
            return message_reply(404, "page not found")
        route, params = found
        if not self.context.cluster.revision and route.endpoint not in WITHOUT_RECORDS:
            trouble = self.context.mirror.trouble
            raise Unavailable(f"this host has not read the cluster's records yet: {trouble}", hint="try again")
        return await route.handler(self.context, msgspec.structs.replace(call, params=params))


def endpoint_of(call: Call) -> str:
    """The endpoint's name, e.g. `container.create`; empty if there is no such call."""
    found = find_route(call.method, call.path)
    return "" if found is None else found[0].endpoint
