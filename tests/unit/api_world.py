"""A cluster of one host with its API on a Unix socket and a TLS port, on a store in memory."""

from __future__ import annotations

import asyncio
import http.client
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from drover.api.answers import exchange
from drover.api.context import Context
from drover.api.founding import founding_changes
from drover.api.membership import JoinRequest
from drover.api.server import ApiServer
from drover.cli.client import Client
from drover.cli.enrol import Machine
from drover.model.cluster import Change, Cluster, put
from drover.model.records import Alive, Host, HostFacts, Placement, key
from drover.store.memory import MemoryCluster, MemoryStore
from drover.store.mirror import Mirror
from drover.trust import certificates, tls, token


class World:
    """`port`: the TLS port. `client`: over the Unix socket. `now`: what the API's clock shows; may be set."""

    def __init__(self, directory: Path, routes: Sequence[web.RouteDef] = ()) -> None:
        self.directory = directory
        self.tls_dir = directory / "h1" / "tls"
        self.now = time.time()
        self.store: MemoryStore = MemoryCluster().client()
        self.mirror = Mirror(self.store)
        self.server = ApiServer(self.context(), routes)
        self.port = 0

    def context(self) -> Context:
        return Context(
            host="h1",
            cluster_name="test",
            store=self.store,
            mirror=self.mirror,
            tls_dir=self.tls_dir,
            leader=lambda: "h1",
            clock=lambda: self.now,
        )

    @property
    def cluster(self) -> Cluster:
        return self.mirror.cluster

    @property
    def socket(self) -> Path:
        return self.directory / "drover.sock"

    def found(self) -> Host:
        """The CA and the first host's files and record."""
        authority = certificates.new_authority("test", self.now)
        csr = certificates.request(certificates.host_key(self.tls_dir), "h1")
        issued = certificates.issue(authority, csr, "h1", "127.0.0.1", self.now)
        certificates.install(self.tls_dir, authority, issued)
        return Host(name="h1", id=certificates.key_id(csr), index=1, address="127.0.0.1", api_port=4740)

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call over the Unix socket."""
        return await asyncio.to_thread(Client(f"unix://{self.socket}").call, method, path, body)

    async def call_tls(self, method: str, path: str, tls_dir: Path | None = None, body: Any = None) -> Any:
        """One call over TLS, with the certificate in `tls_dir` or without any."""
        context = tls.client_context(tls_dir) if tls_dir else tls.joining_context(self.ca_certificate)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        return await asyncio.to_thread(exchange, connection, method, path, body)

    async def commit(self, *changes: Change) -> None:
        await self.mirror.reached(await self.store.commit(changes), 5)

    async def token(self, ttl_s: float = 60.0, reusable: bool = False) -> token.Parsed:
        made = await self.call("POST", "/tokens", {"ttl_s": ttl_s, "reusable": reusable})
        return token.parse(made["token"])

    @property
    def ca_certificate(self) -> bytes:
        return (self.tls_dir / "ca.crt").read_bytes()

    def wish(self, parsed: token.Parsed, name: str = "h2", **changed: Any) -> JoinRequest:
        """A join request of a host with a key of its own."""
        csr = certificates.request(certificates.host_key(self.directory / name / "tls"), name).decode()
        told: dict[str, Any] = {"address": f"192.0.2.{name[1:]}", "now": self.now, "csr": csr} | changed
        return JoinRequest(token_id=parsed.id, secret=parsed.secret, name=name, **told)

    def machine(self, name: str) -> Machine:
        return Machine(
            name=name,
            address=f"192.0.2.{name[1:]}",
            engine="unix:///var/run/docker.sock",
            state_dir=str(self.directory / name),
            run_dir=str(self.directory / name / "run"),
            labels={"zone": "a"},
            no_service=True,
            docker_context=False,
        )


@asynccontextmanager
async def world(directory: Path, routes: Sequence[web.RouteDef] = ()) -> AsyncIterator[World]:
    made = World(directory, routes)
    host = made.found()
    await made.store.commit(founding_changes(host, "test"))
    assert await made.mirror.start()
    await made.server.start(made.socket, "", "127.0.0.1", 0)
    made.port = made.server.port
    try:
        yield made
    finally:
        await made.server.stop()
        await made.mirror.stop()


def alive(name: str) -> tuple[Change, ...]:
    """What a living host with an engine writes."""
    facts = HostFacts(host=name, engine_version="20.10.24", cpus=2, memory_bytes=4 << 30)
    return put(key("alive", name), Alive(host=name, session="s")), put(key("host_facts", name), facts)


def placed(host: str) -> Change:
    cid = secrets.token_hex(32)
    return put(key("placements", cid), Placement(container=cid, host=host))
