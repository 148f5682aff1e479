"""`FakeNetworks`: the networks and endpoints of a `FakeEngine`, with Docker 20.10's words and status codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from drover.drivers.engine.fake_container import FakeContainer
from drover.drivers.engine.port import ID_LABEL
from drover.drivers.engine.read import fixed_addresses
from drover.errors import EngineError

PREDEFINED = ("bridge", "host", "none")


class FakeNetworks:
    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._by_name: dict[str, tuple[str, dict[str, str]]] = {name: (new_id(), {}) for name in PREDEFINED}

    def predefined(self) -> dict[str, str]:
        return {name: self.id_of(name) for name in PREDEFINED}

    def managed(self) -> dict[str, str]:
        """The cluster's id of each network of ours, to the engine's."""
        return {labels[ID_LABEL]: engine_id for engine_id, labels in self._by_name.values() if ID_LABEL in labels}

    def id_of(self, name: str) -> str:
        """Empty if there is none of that name (the engine finds out at start)."""
        return self._by_name.get(name, ("", {}))[0]

    def name_of(self, ref: str) -> str | None:
        return next((name for name, (engine_id, _) in self._by_name.items() if ref in (name, engine_id)), None)

    def create(self, body: Mapping[str, Any]) -> str:
        name = body["Name"]
        if name in self._by_name:
            raise EngineError(409, f"network with name {name} already exists")
        engine_id = self._new_id()
        self._by_name[name] = engine_id, dict(body.get("Labels") or {})
        return engine_id

    def remove(self, name: str, containers: Iterable[FakeContainer]) -> None:
        """`containers`: all of the engine's. Refused while one of them runs there."""
        if name in PREDEFINED:
            raise EngineError(403, f"{name} is a pre-defined network and cannot be removed")
        if any(container.running and name in container.networks for container in containers):
            what = f"network {name} id {self.id_of(name)} has active endpoints"
            raise EngineError(403, f"error while removing network: {what}")
        del self._by_name[name]

    def settle(self, container: FakeContainer) -> None:
        """At a start: each of its networks must be there; one that was removed is looked for by its id."""
        for name, joined in container.networks.items():
            if name not in self._by_name:
                raise EngineError(404, f"network {name} not found")
            if joined not in ("", self.id_of(name)):
                raise EngineError(404, f"network {joined} not found")
            container.networks[name] = self.id_of(name)

    def connect(self, network: str, container: FakeContainer, endpoint: Mapping[str, Any]) -> str:
        """The network's name."""
        name = self._known(network)
        if name in container.networks:
            raise EngineError(403, f"endpoint with name {container.name} already exists in network {name}")
        container.networks[name] = self.id_of(name)
        container.addresses |= fixed_addresses({name: endpoint})
        return name

    def disconnect(self, network: str, container: FakeContainer) -> str:
        """The network's name."""
        name = self._known(network)
        if name not in container.networks:
            raise EngineError(500, f"container {container.engine_id} is not connected to network {name}")
        del container.networks[name]
        container.addresses.pop(name, None)
        return name

    def _known(self, ref: str) -> str:
        name = self.name_of(ref)
        if name is None:
            raise EngineError(404, f"network {ref} not found")
        return name
