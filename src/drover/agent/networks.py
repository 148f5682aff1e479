"""`NetworkKeeper`: keeps this host's part of every cluster network equal to the records.

When an address moves, each host rewrites one forwarding entry on the same store revision. Names follow the facts:
a container is resolvable while it runs. Nothing is undone when the daemon stops: traffic goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from drover.decide import names, overlay
from drover.drivers.network.port import NetworkDriver
from drover.errors import DroverError
from drover.model.cluster import Cluster
from drover.store.mirror import Mirror
from drover.store.port import Batch
from drover.store.waking import woken

log = structlog.get_logger()

FOLLOWED = frozenset(("addresses", "placements", "hosts", "networks", "containers", "container_facts", "network_facts"))
VERIFY_S = 30.0
RETRY_S = 1.0
Names = Mapping[str, tuple[str, ...]]


class Responder(Protocol):
    """The name server of this host (`drivers.network.dns`)."""

    async def serve(self, network: str, gateway: str, names: Names, shared: Names | None = None) -> None:
        """Answer on the gateway address (`10.44.0.1/16`: who may ask) with these names; again when they change."""
        ...

    async def stop(self, network: str) -> None: ...


class NetworkKeeper:
    def __init__(
        self,
        host: str,
        mirror: Mirror,
        driver: NetworkDriver,
        responder: Responder,
        present: Callable[[], Mapping[str, str]],
    ) -> None:
        """`present()` are the networks that the agent has made on this host (id to engine id)."""
        self._host = host
        self._mirror = mirror
        self._driver = driver
        self._responder = responder
        self._present = present
        self._wake = asyncio.Event()
        self._served: dict[str, tuple[Names, Names]] = {}
        self._peers: frozenset[str] = frozenset()
        self._mtu_bytes = 0

    async def run(self) -> None:
        """Follow the records for ever; every VERIFY_S read the kernel's tables too, and repair."""
        self._mirror.on_batch(self._on_batch)
        verified_at = float("-inf")
        loop = asyncio.get_running_loop()
        while True:
            verify = loop.time() - verified_at >= VERIFY_S
            delay = RETRY_S
            try:
                await self._follow(verify)
                verified_at = loop.time() if verify else verified_at
                delay = VERIFY_S
            except DroverError as error:
                log.warning("a network could not be brought up to date", error=error.message)
                verified_at = float("-inf")
            await woken(self._wake, delay)

    def _on_batch(self, batch: Batch) -> None:
        if any(change.key.split("/", 1)[0] in FOLLOWED for change in batch.changes):
            self._wake.set()

    async def mtu_bytes(self) -> int:
        """The largest packet a cluster network carries on this host."""
        if not self._mtu_bytes:
            self._mtu_bytes = await self._driver.mtu_bytes(self._mirror.cluster.hosts[self._host].address)
        return self._mtu_bytes

    async def _follow(self, verify: bool) -> None:
        cluster = self._mirror.cluster
        if self._host not in cluster.hosts:
            return
        peers = overlay.peers(cluster, self._host)
        if peers != self._peers or verify:
            await self._driver.set_peers(peers)
            self._peers = peers
        wanted = overlay.realised(cluster, self._host, mtu_bytes=await self.mtu_bytes())
        for network, real in wanted.items():
            if network in self._present():
                await self._keep(cluster, network, real, verify)
        for network in set(self._served) - set(wanted):
            await self._responder.stop(network)
            del self._served[network]

    async def _keep(self, cluster: Cluster, network: str, real: overlay.RealNetwork, verify: bool) -> None:
        if verify:
            await self._driver.realise(real)
        await self._driver.set_remotes(real, real.remotes, verify=verify)
        tables = names.names(cluster, network), names.shared(cluster, network)
        if self._served.get(network) != tables:
            await self._responder.serve(network, real.gateway_interface, *tables)
            self._served[network] = tables
