"""`Endpoints`: what an engine's container has of networks, made equal to the records.

    when                        does
    a container was made        leaves the engine's own bridge, if it is on none of the networks of its create call any
                                more (an engine makes no container without one); joins those it had joined later
    before it is started        its fixed addresses become those it claims: a claim may have changed since
                                (`decide.grace.inherited`); it joins anew what was made anew: somebody had removed the
                                network by hand, and an engine finds a stopped container's networks by their ids
    `connect` and `disconnect`  as ordered, with the claimed address

An engine's container that does not run has no address in use, so changing one is nobody's loss.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from drover.agent.view import View
from drover.decide.attached import left_all, network_id, networks_of
from drover.decide.claims import addresses_of
from drover.drivers.engine.port import Engine, SeenContainer
from drover.drivers.engine.translate import engine_body
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import parse_spec
from drover.store.mirror import Mirror

NO_NETWORK = "bridge"
"""Where an engine puts a container that is to be on none."""


class Endpoints:
    def __init__(self, mirror: Mirror, view: View, engine: Engine) -> None:
        self._mirror = mirror
        self._view = view
        self._engine = engine

    @property
    def _cluster(self) -> Cluster:
        return self._mirror.cluster

    async def complete(self, record: r.Container) -> None:
        """After the engine's container was made."""
        if left_all(self._cluster, record):
            await self._engine.disconnect(NO_NETWORK, self._view.containers[record.id].engine_id, False)
        for network, endpoint in record.attachments.items():
            if network in networks_of(self._cluster, record, parse_spec(record.body)):
                await self.connect(record, network, json.loads(endpoint))

    async def connect(self, record: r.Container, network: str, endpoint: Mapping[str, object]) -> None:
        """Join a network, given by cluster id or an engine's name."""
        settings = endpoint_settings(self._cluster, record.id, network, endpoint)
        await self._engine.connect(self._name(network), self._view.containers[record.id].engine_id, settings)

    async def disconnect(self, record: r.Container, network: str, force: bool) -> None:
        await self._engine.disconnect(self._name(network), self._view.containers[record.id].engine_id, force)

    async def settle(self, record: r.Container) -> None:
        """Before a start: the addresses that the engine has fixed become those that the container claims, and its
        networks those that are there."""
        seen: SeenContainer | None = self._view.containers[record.id]
        if seen is None or seen.state in ("running", "paused") or not self._wrong(record, seen):
            return
        seen = await self._look(seen.engine_id)
        if seen is None:
            return
        for network in self._wrong(record, seen):
            if self._name(network) in seen.networks:
                await self.disconnect(record, network, False)
            await self.connect(record, network, self._asked(record, network, seen.epoch))
        await self._look(seen.engine_id)

    def _wrong(self, record: r.Container, seen: SeenContainer) -> list[str]:
        """The networks (ids) on which the engine's container has another address than is claimed, and those that were
        made anew since it joined."""
        claims = addresses_of(self._cluster, record.id)
        elsewhere = [one.network for one in claims if seen.addresses.get(self._name(one.network)) != one.ip]
        joined = networks_of(self._cluster, record, parse_spec(record.body))
        return [*elsewhere, *(one for one in joined if one not in elsewhere and self._made_anew(one, seen))]

    def _made_anew(self, network: str, seen: SeenContainer) -> bool:
        bound, now = seen.networks.get(self._name(network), ""), self._view.networks.get(network, "")
        return bool(bound and now) and bound != now

    def _asked(self, record: r.Container, network: str, epoch: int) -> Mapping[str, Any]:
        """The settings of an endpoint, as the connect or create call gives them."""
        if network in record.attachments:
            return dict(json.loads(record.attachments[network]))
        body = engine_body(record, epoch=epoch, containers={}, cluster=self._cluster)
        endpoints = (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
        return endpoints.get(self._name(network)) or {}

    async def _look(self, engine_id: str) -> SeenContainer | None:
        seen = await self._engine.container(engine_id)
        if seen is not None:
            self._view.learn(seen)
        return seen

    def _name(self, ref: str) -> str:
        """The engine's name for a network given by cluster id or name."""
        network = network_id(self._cluster, ref)
        return ref if network is None else self._cluster.networks[network].name


def endpoint_settings(cluster: Cluster, container: str, network: str, asked: Mapping[str, object]) -> dict[str, object]:
    """The endpoint settings of a connect call, with the address that the container claims on the network."""
    claims = [claim for claim in addresses_of(cluster, container) if claim.network == network]
    if not claims:
        return dict(asked)
    ipam = asked.get("IPAMConfig") or {}
    fixed = {**ipam, "IPv4Address": claims[0].ip} if isinstance(ipam, dict) else {"IPv4Address": claims[0].ip}
    return {**asked, "IPAMConfig": fixed}
