"""The daemon: puts one host's parts together, in an order that a restart at any moment survives.

    0  in a cluster that encrypts: can this host?    if not it ends here, and says so: nothing goes in clear
    1  the store's member, if this host has one      so that a lone host can come up by itself
    2  the mirror                                    keeps trying: without the store the daemon runs, and says so
    3  the founding records                          first start after `drover init` only
    4  session, agent, networks, leadership          each a task; none waits for another
    5  tunnel, API, gateway                          the host answers

On SIGTERM the doors close in the reverse order. Containers stay as they are (P6): while there are any, the lease is
prolonged once, for the next daemon to go on with them; the watchdog fences if none comes. Else the lease is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import secrets
import signal
import ssl
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog
import uvloop
from aiohttp import web

from drover.agent.act import Drivers
from drover.agent.agent import Agent
from drover.agent.fence import Fence
from drover.agent.files import ContainerFiles
from drover.agent.networks import NetworkKeeper
from drover.agent.session import Session
from drover.api.adapters import adapter_routes
from drover.api.addresses import address_routes
from drover.api.apps import app_routes
from drover.api.context import Context
from drover.api.events import event_routes
from drover.api.server import ApiServer
from drover.api.volumes import volume_api_routes
from drover.daemon import heap
from drover.daemon.config import HostConfig, commit_bootstrap
from drover.daemon.deployer import Deployer
from drover.daemon.deputy_link import DeputyLink
from drover.daemon.doctor import doctor_routes
from drover.daemon.evacuation import Evacuator
from drover.daemon.eventhooks import HookRunner
from drover.daemon.eventlog import EventLog
from drover.daemon.images import PeerImages, image_routes
from drover.daemon.leader import Leadership
from drover.daemon.member import StoreMember
from drover.daemon.network_map import network_routes
from drover.daemon.quorum_keeper import Learners, endpoints, keep_quorum
from drover.daemon.rebalancing import Rebalancer
from drover.daemon.recovery import Recoverer
from drover.daemon.shutdown import HostShutdown
from drover.daemon.store_recovery import (
    GENERATION_KEY,
    StoreRecovery,
    forget_an_old_store,
    generation,
    remember_generation,
)
from drover.daemon.suspicion import Suspicions, TcpListener
from drover.daemon.volume_life import LifeRoutes
from drover.daemon.volumes import PeerVolumes, stream_routes
from drover.daemon.watchdog_link import WatchdogLink
from drover.daemon.withdrawal import PeerTables, tables_routes
from drover.decide import health
from drover.decide.default_network import default_network_draft
from drover.decide.grace import expiry
from drover.decide.replicas import successor
from drover.decide.tables import wanted_addresses
from drover.drivers.backups.restic import Restic
from drover.drivers.engine.docker import DockerEngine
from drover.drivers.insides.linux import LinuxInsides
from drover.drivers.network.dns import DNS_PORT, Responder
from drover.drivers.network.linux import LinuxNetwork
from drover.drivers.network.wireguard import Encryption, can_encrypt
from drover.drivers.volumes.catalog import Catalog, host_catalog
from drover.drivers.volumes.pool import mount_pool
from drover.errors import DroverError
from drover.gateway.gateway import Gateway
from drover.gateway.hooks.layer import HookLayer
from drover.gateway.links import EngineLinks
from drover.gateway.server import GatewayServer
from drover.gateway.tunnel import TunnelServer
from drover.store.etcd import EtcdStore
from drover.store.mirror import Mirror
from drover.store.port import Batch, CommitConflict
from drover.trust import apart, tls
from drover.trust.wireguard import private_key

log = structlog.get_logger("drover.daemon")

STORE_PATIENCE_S = 10.0
REACH_S = 2.0
RENEWAL_CHECK_S = 3600.0


class Daemon:
    """One host's daemon. `run` returns after `stop`."""

    def __init__(self, config: HostConfig) -> None:
        self.config = config
        self._stopping = asyncio.Event()
        self._client_tls = tls.client_context(config.tls_dir)
        self._tunnel_tls = tls.server_context(config.tls_dir)
        self._backups = Restic(config.state / "backup.env", config.state / "backup-cache")
        self._read_the_store()
        self._know_the_host()
        self._keep_the_host()
        self._lead()
        self._answer()

    def _read_the_store(self) -> None:
        """Its member, if this host has one, the client, the mirror, and this daemon's lease."""
        config = self.config
        self.member = StoreMember(config, endpoints)
        self.store = EtcdStore(self.member.endpoints, self._client_tls)
        self.mirror = Mirror(self.store)
        self.session = Session(
            config.name, secrets.token_hex(8), self.store, config.lease_ttl_s, time.time, config.self_fence_s
        )

    def _know_the_host(self) -> None:
        """What is on this host, and what other hosts are asked for."""
        config = self.config
        self.engine = DockerEngine(str(config.engine_socket))
        self.network = LinuxNetwork(joined=False, encryption=encryption_of(config))
        self.names = DeputyLink(config.run, Responder(), DNS_PORT)
        self.images = PeerImages(config.name, self.mirror, self.engine, self._client_tls)
        self.volumes = PeerVolumes(self.mirror, self._client_tls)

    def _keep_the_host(self) -> None:
        """The agent with its drivers, the keeper of networks, and the fence."""
        name = self.config.name
        self.keeper = NetworkKeeper(name, self.mirror, self.network, self.names, lambda: self.agent.view.networks)
        self.tables = PeerTables(name, self.mirror, self.keeper.reached, self._client_tls)
        drivers = Drivers(
            self.engine,
            self.network,
            volume_drivers(self.config),
            self.images,
            self.volumes,
            self.volumes,
            LinuxInsides(),
            ContainerFiles(self.config.run / "files"),
            self._backups,
            self.tables,
        )
        self.agent = Agent(name, self.mirror, self.store, drivers, time.time)
        self.fence = Fence(name, self.mirror, self.session, self.agent.view, self.engine, self.network)
        self.fence.on_open.append(self.keeper.verify)
        self.agent.guard(self.fence)
        self.shutdown = HostShutdown(name, self.store, self.mirror, self.session, self.fence, time.time)

    def _lead(self) -> None:
        """What the leader does, in the order of a look."""
        name, store, mirror = self.config.name, self.store, self.mirror
        self.recoverer = Recoverer(store, mirror, time.time, successor)
        self.suspicions = Suspicions(name, store, mirror, TcpListener(self._api_of), self._leads, time.time, successor)
        self.evacuator = Evacuator(store, mirror, time.time)
        self.learners = Learners(time.monotonic)
        self.rebalancer = Rebalancer(store, mirror, time.time)
        self.eventlog = EventLog(store, mirror, time.time)
        duties = [
            self._note_losses,
            self.recoverer.recover,
            self.evacuator.evacuate,
            self.evacuator.heal,
            self._keep_quorum,
            self._keep_networks,
            self.rebalancer.by_itself,
            self.eventlog.write,
        ]
        self.leadership = Leadership(name, store, mirror, self.session, duties)
        self.event_hooks = HookRunner(store, mirror, self._leads, time.time)

    def _answer(self) -> None:
        """The gateway with its hooks, the deployer, which calls it, the tunnel and the API."""
        config, mirror = self.config, self.mirror
        self.links = self._links(self._client_tls)
        self.gateway = Gateway(
            config.name, self.store, mirror, self.links, time.time, lambda: secrets.token_hex(32), self.images.fetch
        )
        self.hooks = HookLayer(mirror, self.links)
        handler = self.hooks.wrap(self.gateway.handle)
        self.server = GatewayServer(handler, self.links)
        self.deployer = Deployer(self.store, mirror, handler, self.links, self._leads, time.time)
        self.tunnel = TunnelServer(str(config.engine_socket), self._tunnel_tls, self._admits)
        self.api = ApiServer(self._api_context(), self._routes(self._backups))

    def _routes(self, backups: Restic) -> list[web.RouteDef]:
        """What the API answers beside its own routes."""
        keeper = self.agent.actor.keeper
        life = LifeRoutes(self.config.name, self.agent.actor, self.volumes, backups)
        streams = stream_routes(keeper, self.agent.actor.belongings, self.agent.actor.rounds)
        on_volumes = [*streams, *volume_api_routes(), *life.routes(), *address_routes()]
        doctor = doctor_routes(self.config.name, self.mirror, self.keeper.doubts, self._client_tls)
        doctor += network_routes(self.keeper.seen, self._client_tls) + tables_routes(self.keeper.reached)
        routes = [
            *image_routes(self.config.name, self.engine),
            *on_volumes,
            *adapter_routes(self.hooks),
            *app_routes(),
            *doctor,
        ]
        routes += [*self.shutdown.routes(), *event_routes(), *self.rebalancer.routes()]
        return routes + StoreRecovery(self.config, self.member, self.store, self.mirror).routes()

    def _leads(self) -> bool:
        return self.leadership.leader == self.config.name

    def _links(self, client_tls: ssl.SSLContext) -> EngineLinks:
        return EngineLinks(
            str(self.config.engine_socket),
            locate=self._locate,
            down=lambda host: health.down_sentence(self.mirror.cluster, host),
            tls=client_tls,
            server_hostname=lambda host: self.mirror.cluster.hosts[host].address,
        )

    def _locate(self, host: str) -> tuple[str, int] | None:
        if host == self.config.name:
            return None
        record = self.mirror.cluster.hosts[host]
        return record.address, record.tunnel_port

    def _api_of(self, host: str) -> tuple[str, int] | None:
        record = self.mirror.cluster.hosts.get(host)
        return None if record is None else (record.address, record.api_port)

    def _admits(self, host: str) -> bool:
        """Whether a host with a certificate of ours is a member. While the picture is old, the certificate counts:
        not knowing a host is no proof that it was removed."""
        return host in self.mirror.cluster.hosts or not self.mirror.healthy

    def _api_context(self) -> Context:
        return Context(
            host=self.config.name,
            cluster_name=self.config.cluster_name,
            store=self.store,
            mirror=self.mirror,
            tls_dir=self.config.tls_dir,
            leader=lambda: self.leadership.leader,
            cut_off=lambda: self.fence.says,
            store_managed=self.config.store_managed,
            store_endpoints=self.config.store_endpoints,
        )

    # -- life ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Until `stop`. Raises what keeps the daemon from starting at all."""
        if self.config.encryption:
            await asyncio.to_thread(can_encrypt, self.config.encryption)
        self.config.run.mkdir(parents=True, exist_ok=True)
        self.config.pid_file.write_text(f"{os.getpid()}\n")
        await forget_an_old_store(self.config, self.member.endpoints, self._client_tls)
        await self.member.start()
        await self._first_picture()
        self.fence.use(WatchdogLink(self.config.run, self.config.engine_socket))
        self.mirror.on_batch(self._on_batch)
        self.eventlog.follow()
        await self.names.begin()
        tasks = [asyncio.create_task(work(), name=work.__qualname__) for work in self._works()]
        try:
            await self._open_doors()
            log.info("the daemon is ready", host=self.config.name, docker=str(self.config.docker_socket))
            await self._until_stopped(tasks)
        finally:
            await self._close(tasks)

    async def _first_picture(self) -> None:
        """The mirror, and on the founding host the first records. Without the store we go on: P6."""
        if not await self.mirror.start(STORE_PATIENCE_S):
            log.warning("the store does not answer: going on without it", endpoints=self.member.endpoints)
            return
        if await commit_bootstrap(self.store, self.config):
            await self.member.founded(self.store)

    def _works(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        return [
            self.session.run,
            self.fence.run,
            self.agent.run,
            self.keeper.run,
            self.names.run,
            self.leadership.run,
            self.suspicions.run,
            self.deployer.run,
            heap.give_back_now_and_then,
            self._follow_members,
            self._renew_certificate,
            self.shutdown.return_to_service,
            self.event_hooks.run,
        ]

    async def _open_doors(self) -> None:
        config = self.config
        await self.tunnel.start(config.address, config.tunnel_port)
        await self.api.start(config.api_socket, config.socket_group, config.address, config.api_port)
        await self.server.listen_unix(config.docker_socket, gid=_group_id(config.socket_group))

    async def _until_stopped(self, tasks: list[asyncio.Task[None]]) -> None:
        stop = asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        for task in done - {stop}:
            task.result()  # a part that ends by itself ended by an error: the daemon ends with it, and is started anew

    async def _close(self, tasks: list[asyncio.Task[None]]) -> None:
        await self.session.announce_rest()
        await self.server.close()
        await self.hooks.close()
        await self.api.stop()
        await self.tunnel.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._leave_lease()
        await self.mirror.stop()
        await self.links.close()
        await self.store.close()
        await self.volumes.close()
        await self.tables.close()
        await self.engine.close()
        await self.network.close()
        await self.member.stop()
        self.config.pid_file.unlink(missing_ok=True)

    async def _leave_lease(self) -> None:
        """The next daemon finds the lease held if something depends on it. A host that is cut off has none to leave."""
        cluster, name = self.mirror.cluster, self.config.name
        if self.shutdown.state == "gone":
            return
        if name not in cluster.hosts or all(placement.host != name for placement in cluster.placements.values()):
            await self.session.end()
        elif self.fence.state == "open":
            await self.session.pause(self.config.restart_pause_s)

    # -- what follows the records --------------------------------------------------------------------------------

    def _on_batch(self, batch: Batch) -> None:
        for change in batch.changes:
            table, _, host = change.key.partition("/")
            if table == "alive" and change.record is None and host != self.config.name:
                sentence = health.down_sentence(self.mirror.cluster, host) or f"host {host} is down"
                self.links.host_lost(host, sentence)

    async def _follow_members(self) -> None:
        await self._follow_store()
        async for batch in self.mirror.subscribe():
            if any(change.key.startswith("members/") or change.key == GENERATION_KEY for change in batch.changes):
                await self._follow_store()

    async def _follow_store(self) -> None:
        remember_generation(self.config.state, generation(self.mirror.cluster))
        await self.member.follow(self.mirror.cluster, self.store)

    async def _note_losses(self) -> None:
        changes = health.loss_notes(self.mirror.cluster, time.time())
        if changes:
            await self.mirror.reached(await self.store.commit(changes), REACH_S)

    async def _keep_networks(self) -> None:
        """The default network, the virtual addresses of services, and the end of addresses that were kept."""
        cluster, now = self.mirror.cluster, time.time()
        for draft in (default_network_draft(cluster, now), wanted_addresses(cluster), expiry(cluster, now)):
            if draft.changes:
                with contextlib.suppress(CommitConflict):  # decided again on the next look
                    await self.store.commit(draft.changes, dict(draft.expect))

    async def _keep_quorum(self) -> None:
        if self.config.store_managed:
            await keep_quorum(self.store, self.mirror, learners=self.learners)

    async def _renew_certificate(self) -> None:
        while True:
            try:
                if await apart.renew_if_due(self.config.tls_dir, time.time()):
                    tls.reload(self._client_tls, self.config.tls_dir)
                    tls.reload(self._tunnel_tls, self.config.tls_dir)
                    self.api.reload_tls()
            except (DroverError, OSError) as error:  # there are thirty days to try again
                log.error("this host's certificate cannot be renewed", error=str(error))
            await asyncio.sleep(RENEWAL_CHECK_S)


def encryption_of(config: HostConfig) -> Encryption | None:
    """How this host encrypts; None in a cluster that does not."""
    return Encryption(config.encryption, private_key(config.tls_dir)) if config.encryption else None


def volume_drivers(config: HostConfig) -> Catalog:
    """What this host offers for volumes, its pool mounted. A pool that cannot be mounted leaves the driver without its
    disk, which it says when it is used: everything else goes on."""
    pool = Path(config.volume_pool) if config.volume_pool else None
    if pool is not None:
        try:
            mount_pool(pool, config.pool_mount)
        except DroverError as error:
            log.error("the volume pool cannot be mounted", pool=str(pool), error=error.message)
    shared = Path(config.shared_volumes) if config.shared_volumes else None
    return host_catalog(config.volumes_dir, config.pool_mount if pool else None, shared)


def _group_id(group: str) -> int:
    """The group's number; -1 (unchanged) where there is no such group."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return -1


async def _main(config: HostConfig) -> None:
    daemon = Daemon(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    await daemon.run()


def run(config: HostConfig) -> None:
    """Run the daemon in this process until SIGTERM or SIGINT."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_main(config))
