"""`StoreMember`: this host's part of the store, if it has one.

at start          data directory present     run the member again
                  bootstrap.json present     found a new store with this one member
while running     a `members` record for us  join the store with the record's initial cluster
                  our record is gone         stop, and delete the data: never come back as the old member
always            the members' addresses are kept in config.json, to find the store after a restart
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from drover.daemon.config import HostConfig, load_bootstrap, save_config
from drover.daemon.etcd_process import EtcdConfig, EtcdProcess, MemberTls, url
from drover.errors import Conflict, DeadlineExceeded, DroverError
from drover.model import records as r
from drover.model.cluster import Cluster, put
from drover.store.etcd import EtcdStore
from drover.store.etcd_members import member_status
from drover.store.port import CommitConflict
from drover.trust.files import write_private

REFOUND_DEADLINE_S, REFOUND_POLL_S = 30.0, 0.2

log = structlog.get_logger("drover.daemon.member")


class Identity(msgspec.Struct, frozen=True):
    """Which member of the store this host's data belongs to; empty where that is not known yet."""

    initial_cluster: str = ""
    member_id: str = ""


class StoreMember:
    def __init__(self, config: HostConfig, endpoints_of: Callable[[Cluster], list[str]]) -> None:
        self._config = config
        self._endpoints_of = endpoints_of
        self._process: EtcdProcess | None = None
        self.endpoints: list[str] = self._first_endpoints()

    def _first_endpoints(self) -> list[str]:
        own = [url(self._config.address, self._config.store_client_port)]
        known = list(self._config.store_endpoints)
        return own + [e for e in known if e not in own] if self._config.etcd_dir.exists() else known or own

    async def start(self) -> None:
        """Run the member that this host has, or found the store if this host founds the cluster."""
        if not self._config.store_managed:
            return
        founding = load_bootstrap(self._config.state_dir) is not None
        if founding or self._config.etcd_dir.exists():
            await self._run({}, "new" if founding else "existing")

    async def _run(self, initial_cluster: dict[str, str], state: str) -> None:
        tls = self._config.tls_dir
        config = EtcdConfig(
            name=self._config.name,
            address=self._config.address,
            data_dir=self._config.etcd_dir,
            log_file=self._config.state / "etcd.log",
            tls=MemberTls(ca=tls / "ca.crt", certificate=tls / "host.crt", key=tls / "host.key"),
            initial_cluster=initial_cluster,
            state="new" if state == "new" else "existing",
            client_port=self._config.store_client_port,
            peer_port=self._config.store_peer_port,
            cluster_token=self._config.cluster_name,
        )
        self._process = EtcdProcess(config)
        await self._process.start()

    async def founded(self, store: EtcdStore) -> None:
        """The founding member's record: the first voter."""
        member = r.Member(
            host=self._config.name,
            peer_url=url(self._config.address, self._config.store_peer_port),
            client_url=url(self._config.address, self._config.store_client_port),
            state="voter",
            host_id=self._config.id,
        )
        key = r.key("members", self._config.name)
        try:
            await store.commit([put(key, member)], expect={key: 0})
        except CommitConflict:
            log.info("the founding member has its record already")

    async def follow(self, cluster: Cluster, store: EtcdStore) -> None:
        """Do what the `members` records say of this host, and remember where the store is."""
        if not self._config.store_managed:
            return
        await self._follow_record(cluster.members.get(self._config.name), bool(cluster.members))
        self._remember(self._endpoints_of(cluster), store)

    async def _follow_record(self, mine: r.Member | None, members_known: bool) -> None:
        if mine is not None and mine.host_id not in ("", self._config.id):
            return
        if self._process is not None and members_known and self._is_over(mine):
            await self._process.wipe()
            self._process = None
            self._identity_file.unlink(missing_ok=True)
        if mine is not None:
            write_private(self._identity_file, msgspec.json.encode(Identity(mine.initial_cluster, mine.member_id)))
            if self._process is None:
                await self._run(_initial(mine.initial_cluster), "existing")

    def _is_over(self, mine: r.Member | None) -> bool:
        """Whether the data we have belongs to a member that is no longer wanted."""
        if mine is None:
            return True
        known = self._identity()
        if known.member_id and mine.member_id:
            return known.member_id != mine.member_id
        return not known.member_id and known.initial_cluster not in ("", mine.initial_cluster)

    @property
    def _identity_file(self) -> Path:
        return self._config.state / "member.json"

    def _identity(self) -> Identity:
        try:
            return msgspec.json.decode(self._identity_file.read_bytes(), type=Identity)
        except (OSError, msgspec.DecodeError):
            return Identity()

    def _remember(self, endpoints: list[str], store: EtcdStore) -> None:
        if not endpoints or endpoints == self.endpoints:
            return
        own = url(self._config.address, self._config.store_client_port)
        self.endpoints = sorted(endpoints, key=lambda endpoint: endpoint != own)
        store.http.endpoints = list(self.endpoints)
        self._config = msgspec.structs.replace(self._config, store_endpoints=tuple(self.endpoints))
        save_config(self._config)

    async def refound(self, store: EtcdStore) -> None:
        """Make this member the only one of a store with its data. Raises `Conflict` if this host has no member, and
        `DeadlineExceeded` if etcd does not come up so: its log says why."""
        if self._process is None:
            raise Conflict("this host has no member of the store", hint="run it on a host that has one")
        config = self._process.config
        await self._process.stop()
        alone = EtcdProcess(msgspec.structs.replace(config, force_new=True, initial_cluster={}, state="existing"))
        await alone.start()
        try:
            await _leads_itself(store, config.client_url)
        finally:
            await alone.stop()
        self._process = EtcdProcess(msgspec.structs.replace(config, initial_cluster={}, state="existing"))
        await self._process.start()

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()


async def _leads_itself(store: EtcdStore, url: str) -> None:
    """Until the member at the URL has elected itself."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + REFOUND_DEADLINE_S
    while loop.time() < give_up:
        try:
            if (await member_status(store.http, url)).leader_id not in ("", "0"):
                return
        except DroverError as error:
            log.info("the member is not ready yet", why=error.message)
        await asyncio.sleep(REFOUND_POLL_S)
    raise DeadlineExceeded(f"the store's member did not come up alone within {REFOUND_DEADLINE_S:g} s")


def _initial(text: str) -> dict[str, str]:
    """`h1=https://…,h2=https://…` as a mapping."""
    return dict(part.split("=", 1) for part in text.split(",") if part)
