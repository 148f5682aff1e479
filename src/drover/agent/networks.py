"""`NetworkKeeper`: keeps this host's part of every cluster network equal to the records.

When an address moves, each host rewrites one forwarding entry on the same store revision. Names, published ports and
virtual addresses follow the facts: a container is resolvable, and sent to, while it runs. Nothing is undone when the
daemon stops: traffic goes on, and the next daemon starts from what the kernel has.

    each pass, on a change                  peers, tunnel, networks, entries, names, tables, parked, in this order: only
                                            what is another object than in the pass before (`decide.wiring`)
    every VERIFY_S, and after a failure     the same, reading the kernel first; networks nobody needs go
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from drover.decide import encryption, overlay, tables
from drover.decide.attached import networks_used
from drover.decide.doctor import record_doubts
from drover.decide.parking import Parked, parked
from drover.decide.tables import Tables
from drover.decide.wiring import Starts, Wiring, Zone, follow
from drover.drivers.network.port import NetworkDriver, SeenNetwork
from drover.errors import DroverError
from drover.model.cluster import Cluster
from drover.store.mirror import Mirror
from drover.store.port import Batch
from drover.store.waking import woken

log = structlog.get_logger()

FOLLOWED = frozenset(("addresses", "placements", "hosts", "networks", "containers", "container_facts"))
FOLLOWED |= {"network_facts", "ports", "service_addresses", "alive", "suspects", "moves"}
VERIFY_S = 30.0
RETRY_S = 1.0
MANY = 500
"""With more addresses than this, what changed is followed in a thread: after a start, or when a host comes, thousands
take seconds, and the lease must be renewed meanwhile."""


class Responder(Protocol):
    """The name server of this host (`daemon.deputy_link`, over `drivers.network.dns`)."""

    async def serve(self, network: str, gateway: str, zone: Zone) -> None:
        """Answer on the gateway address (`10.44.0.1/16`: who may ask) with this zone; again when it changes."""
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
        self._wiring = Wiring(host=host, mtu_bytes=0)
        self._served: dict[str, Zone] = {}
        self._kept: set[str] = set()
        self._tables: Tables | None = None
        self._started: Mapping[str, Starts] = {}
        self._peers: frozenset[str] = frozenset()
        self._parks = False
        self._mtu_bytes = 0
        self._verified_at = float("-inf")
        self._reached = 0
        self._advanced = asyncio.Event()

    def verify(self) -> None:
        """Read the kernel's tables soon: they may have changed with the devices."""
        self._verified_at = float("-inf")
        self._wake.set()

    async def run(self) -> None:
        """Follow the records for ever; every VERIFY_S read the kernel's tables too, and repair."""
        self._mirror.on_batch(self._on_batch)
        loop = asyncio.get_running_loop()
        while True:
            verify = loop.time() - self._verified_at >= VERIFY_S
            delay = RETRY_S
            try:
                self._verified_at = loop.time() if verify else self._verified_at
                await self.follow(verify)
                delay = VERIFY_S
            except DroverError as error:
                log.warning("a network could not be brought up to date", error=error.message)
                self._verified_at = float("-inf")
            await woken(self._wake, delay)

    def _on_batch(self, batch: Batch) -> None:
        if any(change.key.split("/", 1)[0] in FOLLOWED for change in batch.changes):
            self._wake.set()

    async def mtu_bytes(self) -> int:
        """The largest packet a cluster network carries on this host."""
        return encryption.carried_bytes(self._mirror.cluster, await self._clear_bytes())

    async def _clear_bytes(self) -> int:
        """The largest packet that a network would carry without encryption."""
        if not self._mtu_bytes:
            self._mtu_bytes = await self._driver.mtu_bytes(self._mirror.cluster.hosts[self._host].address)
        return self._mtu_bytes

    async def follow(self, verify: bool) -> None:
        """Bring the kernel and the name server up to the mirror's picture; with `verify` the kernel is read first."""
        cluster = self._mirror.cluster
        if self._host not in cluster.hosts:
            return
        before = parked(cluster, self._host)
        peers = overlay.peers(cluster, self._host)
        if peers != self._peers or verify:
            await self._driver.set_peers(peers, through=encryption.through(cluster))
            self._peers = peers
        tunnel = encryption.tunnel(cluster, self._host, await self._clear_bytes())
        if tunnel is not None:
            await self._driver.set_tunnel(tunnel, verify=verify)
        wiring = await self._followed(cluster)
        for network, real in wiring.networks.items():
            await self._keep(network, real, wiring.zones[network], verify)
        await self._balance(wiring.tables, verify)
        await self._turn(wiring)
        await self._park(before, verify)
        for network in sorted(set(self._served) - set(wiring.networks)):
            await self._responder.stop(network)
            del self._served[network]
        if verify or self._kept - set(wiring.networks):
            await self._sweep()
        self._reached = cluster.revision
        self._advanced.set()

    async def reached(self, revision: int) -> None:
        """Return once this host has all that the records asked for at a revision or later, however long that takes.

        Whoever asks may see further than this host's picture yet: then the change's own batch wakes the keeper."""
        while self._reached < revision:
            if self._mirror.cluster.revision >= revision:
                self._wake.set()
            self._advanced.clear()
            await woken(self._advanced, RETRY_S)

    async def _followed(self, cluster: Cluster) -> Wiring:
        """What this host must have at a picture; remembered, because the next picture differs little."""
        mtu_bytes = await self.mtu_bytes()
        before = self._wiring if self._wiring.mtu_bytes == mtu_bytes else Wiring(host=self._host, mtu_bytes=mtu_bytes)
        many = len(cluster.addresses) > MANY
        self._wiring = await asyncio.to_thread(follow, before, cluster) if many else follow(before, cluster)
        return self._wiring

    async def _keep(self, network: str, real: overlay.RealNetwork, zone: Zone, verify: bool) -> None:
        if verify or network not in self._kept:
            await self._driver.realise(real)
            self._kept.add(network)
        await self._driver.set_remotes(real, real.remotes, verify=verify)
        if self._served.get(network) is not zone:
            await self._responder.serve(network, real.gateway_interface, zone)
            self._served[network] = zone

    async def _balance(self, wanted: Tables, verify: bool) -> None:
        if wanted is not self._tables or verify:
            await self._driver.set_services(wanted, verify=verify)
            self._tables = wanted

    async def _park(self, before: frozenset[Parked], verify: bool) -> None:
        """Let go only what was free already when this pass began: the entries are right for that. A mover parks by
        itself, as it cannot wait for a pass (`agent.moves`)."""
        held = before | parked(self._mirror.cluster, self._host)
        if held or self._parks or verify:
            await self._driver.park(held)
        self._parks = bool(held)

    async def _turn(self, wiring: Wiring) -> None:
        """A container that started has a new port on its bridge."""
        for network, starts in wiring.starts.items():
            if starts and starts != self._started.get(network):
                await self._driver.let_turn(wiring.networks[network].vni)
        self._started = wiring.starts

    async def _sweep(self) -> None:
        """Remove networks that nothing here needs any more; those that the engine still has are the agent's."""
        for vni, seen in (await self._driver.seen()).items():
            wanted = (await self._followed(self._mirror.cluster)).networks
            if seen.id not in wanted and seen.id not in self._present():
                await self._driver.remove(vni)
                self._kept.discard(seen.id)
        self._kept &= (await self._followed(self._mirror.cluster)).networks.keys()

    async def seen(self, network: str) -> SeenNetwork | None:
        """A network (an id) as this host's kernel has it; None if it has nothing of it."""
        return next((one for one in (await self._driver.seen()).values() if one.id == network), None)

    async def doubts(self) -> list[str]:
        """What this host's kernel has otherwise than the records ask, as sentences; empty if all is right. What they
        ask is decided anew here, not followed."""
        cluster = self._mirror.cluster
        wanted = tables.host_networks(cluster, self._host, await self.mtu_bytes())
        seen = {one.id: one for one in (await self._driver.seen()).values()}
        found = [line for network, real in wanted.items() for line in _doubts(cluster, real, seen.get(network))]
        extra = [one for one in seen if one not in wanted and one not in self._present()]
        found += [f"network {one[:12]} is still in the kernel, and nothing here needs it" for one in extra]
        needed = networks_used(cluster, self._host) & set(wanted)
        missing = [cluster.networks[one].name for one in needed if one not in self._present()]
        found += [f"the engine lacks network {name}" for name in missing]
        tunnel = encryption.tunnel(cluster, self._host, await self._clear_bytes())
        found += await self._driver.doubts(tables.tables(cluster, self._host, wanted), tunnel)
        return found + record_doubts(cluster)


def _doubts(cluster: Cluster, real: overlay.RealNetwork, seen: SeenNetwork | None) -> list[str]:
    """How one network's devices and entries differ from what they should be."""
    name = cluster.networks[real.id].name
    if seen is None:
        return [f"network {name} has no bridge {real.bridge}"]
    found = [] if seen.complete else [f"network {name}: {real.bridge} and {real.vxlan} are not both up and joined"]
    found += [f"network {name} does not flood to {vtep}" for vtep in real.flood - seen.flood]
    found += [f"network {name} floods to {vtep}, which is wrong" for vtep in seen.flood - real.flood]
    found += [f"network {name} lacks the entry for {one.ip} on {one.vtep}" for one in real.remotes - seen.remotes]
    return found + [
        f"network {name} has an entry for {one.ip} on {one.vtep}, which is wrong" for one in seen.remotes - real.remotes
    ]
