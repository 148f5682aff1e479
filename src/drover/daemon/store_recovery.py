"""Founding the store anew from this host's copy, after most of its members are gone for good.

    method and path            answer
    GET /store/recovery        {possible, refusal, hint, members: [{host, reached, index, leads}]}; `?lost=h2&lost=h3`
    POST /store/recovery       the same, after it was done; refused as GET says

Steps: this host's member is stopped; started once so that it is the only member of its own data (etcd's
`--force-new-cluster`, which keeps every record and its revision); stopped; started as ever. Then the store's generation
grows: a host that returns with the old store's data hears of it before its member starts, and throws that data away.
Cut short at any point, the daemon's next start runs the same member, and the command can be repeated.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
from aiohttp import web

from drover.api.app import json_answer
from drover.daemon.config import HostConfig
from drover.daemon.member import StoreMember
from drover.decide.store_recovery import Seen, Verdict, verdict
from drover.errors import Conflict, DroverError
from drover.model import records as r
from drover.model.cluster import Cluster, put
from drover.store.etcd import EtcdStore
from drover.store.etcd_members import member_status
from drover.store.mirror import Mirror

log = structlog.get_logger("drover.daemon.store_recovery")

GENERATION_KEY = r.key("settings", "store_generation")
GENERATION_FILE = "store_generation"
ASK_S = 1.0
FOUNDED_DEADLINE_S = 60.0
RETRY_S = 0.5


class StoreRecovery:
    def __init__(self, config: HostConfig, member: StoreMember, store: EtcdStore, mirror: Mirror) -> None:
        self._config = config
        self._member = member
        self._store = store
        self._mirror = mirror
        self._lock = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/store/recovery", self._get), web.post("/store/recovery", self._post)]

    async def _get(self, request: web.Request) -> web.Response:
        found, decided = await self._look(request.query.getall("lost", []))
        return json_answer(_view(found, decided))

    async def _post(self, request: web.Request) -> web.Response:
        async with self._lock:
            found, decided = await self._look(request.query.getall("lost", []))
            if decided.refusal:
                raise Conflict(decided.refusal, hint=decided.hint)
            await self.refound()
        return json_answer(_view(found, decided))

    async def refound(self) -> None:
        """The steps of the module's description. Raises what keeps them from being done: repeat."""
        log.warning("the store is founded anew from this host's copy", host=self._config.name)
        await self._member.refound(self._store)
        async with asyncio.timeout(FOUNDED_DEADLINE_S):
            while True:
                try:
                    return await self._next_generation()
                except DroverError as error:
                    log.info("the new store is not ready yet", why=error.message)
                    await asyncio.sleep(RETRY_S)

    async def _next_generation(self) -> None:
        cluster = await self._store.snapshot()
        number = str(generation(cluster) + 1)
        await self._store.commit(
            [put(GENERATION_KEY, r.Setting(value=number))], {GENERATION_KEY: cluster.version(GENERATION_KEY)}
        )
        remember_generation(self._config.state, int(number))

    async def _look(self, lost: Sequence[str]) -> tuple[dict[str, Seen], Verdict]:
        voters = self._voters()
        asked = await asyncio.gather(*(self._ask(name, url) for name, url in voters.items()))
        found = {one.host: one for one in asked}
        return found, verdict(self._config.name, list(voters), found, lost)

    def _voters(self) -> dict[str, str]:
        """Names to client URLs; where the records were never seen, the endpoints of the last time, by address."""
        rows = [row for row in self._mirror.cluster.members.values() if row.state == "voter"]
        if rows:
            return {row.host: row.client_url for row in rows}
        by_address = {urlsplit(url).hostname or url: url for url in self._member.endpoints}
        return {self._config.name if at == self._config.address else at: url for at, url in by_address.items()}

    async def _ask(self, name: str, url: str) -> Seen:
        try:
            async with asyncio.timeout(ASK_S):
                status = await member_status(self._store.http, url)
        except (DroverError, TimeoutError):
            return Seen(name, reached=False)
        return Seen(name, reached=True, index=status.raft_index, leads=status.leader_id not in ("", "0"))


def _view(found: dict[str, Seen], decided: Verdict) -> dict[str, Any]:
    members = [msgspec.to_builtins(one) for one in found.values()]
    return {"possible": not decided.refusal, "refusal": decided.refusal, "hint": decided.hint, "members": members}


def generation(cluster: Cluster) -> int:
    """How often the store was founded anew."""
    setting = cluster.rows("settings", r.Setting).get("store_generation")
    return int(setting.value) if setting is not None else 0


def remember_generation(state: Path, number: int) -> None:
    """For the daemon's next start; it never goes back."""
    if number > remembered_generation(state):
        (state / GENERATION_FILE).write_text(f"{number}\n")


def remembered_generation(state: Path) -> int:
    try:
        return int((state / GENERATION_FILE).read_text())
    except (OSError, ValueError):
        return 0


async def forget_an_old_store(config: HostConfig, endpoints: Sequence[str], client_tls: ssl.SSLContext) -> bool:
    """Before this host's member starts: if another host knows of a store that was founded anew since, this host's copy
    is of the one before, and goes. Whether it did."""
    others = {urlsplit(url).hostname or "" for url in endpoints} - {config.address, ""}
    if not others or not config.store_managed or not config.etcd_dir.exists():
        return False
    newest = max(await asyncio.gather(*(_generation_at(one, config.api_port, client_tls) for one in others)))
    if newest <= remembered_generation(config.state):
        return False
    log.warning("the store was founded anew while this host was away: its old copy goes", generation=newest)
    await asyncio.to_thread(shutil.rmtree, config.etcd_dir, ignore_errors=True)
    return True


async def _generation_at(address: str, port: int, client_tls: ssl.SSLContext) -> int:
    """What a host's daemon says; 0 if it says nothing."""
    host = f"[{address}]" if ":" in address else address
    timeout = aiohttp.ClientTimeout(total=ASK_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"https://{host}:{port}/healthz", ssl=client_tls, server_hostname=address) as answer,
        ):
            return int((await answer.json()).get("store_generation", 0))
    except (OSError, aiohttp.ClientError, TimeoutError, ValueError):
        return 0
