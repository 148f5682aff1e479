"""`Suspicions`: while this host leads, it notices at once when another host's daemon is not heard any more.

Theory of operation. One plain TCP connection to each daemon's API port, on which nothing is said: the kernels keep it.

    what happens to the host                the connection                             then
    its daemon ends, or is killed           is closed                                  another one is refused: suspect
    its power or its cable goes             ends after the keep-alive's two seconds    another one fails: suspect
    its daemon is busy, stopped or hangs    stays: the kernel answers                  nothing; the lease tells
    its daemon closes it (it never hears)   is closed                                  another one is made

A daemon that was not heard yet in its session is no suspect: it is starting. After a suspicion the connection is tried
again and again; the first success ends the suspicion. What follows from one is decided in `decide.suspicion`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

import structlog

from drover.decide.recover import Successor, no_replica
from drover.decide.suspicion import Suspicion, cleared, suspected
from drover.errors import DroverError
from drover.model.cluster import Cluster
from drover.store.mirror import Mirror
from drover.store.port import Batch, CommitConflict, Store
from drover.store.waking import woken

log = structlog.get_logger("drover.daemon.suspicion")

CONNECT_S = 0.5
AGAIN_S = 0.5
SURE_S = 0.1
"""How long after the end of a connection the next one is tried: a daemon may have closed just this one."""
ROUND_S = 5.0
REACH_S = 2.0
SILENT_S = 1
"""The keep-alive's idle time, and the time it waits for an answer: the shortest that a kernel knows."""


class Heard(Protocol):
    async def ended(self) -> None:
        """Return when the connection ends, however it does."""
        ...

    def close(self) -> None: ...


class Listen(Protocol):
    async def __call__(self, host: str) -> Heard:
        """Raises `ConnectionRefusedError` where nobody listens, another `OSError` where nobody answers."""
        ...


class Suspicions:
    def __init__(
        self,
        host: str,
        store: Store,
        mirror: Mirror,
        listen: Listen,
        leads: Callable[[], bool],
        now: Callable[[], float],
        successor: Successor = no_replica,
    ) -> None:
        """`now()` is in seconds since the Unix epoch."""
        self._host = host
        self._store = store
        self._mirror = mirror
        self._listen = listen
        self._leads = leads
        self._now = now
        self._successor = successor
        self._wake = asyncio.Event()
        self._heard: set[str] = set()
        self._watching: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        stop_following = self._mirror.on_batch(self._on_batch)
        try:
            while True:
                await self._follow()
                await woken(self._wake, ROUND_S)
        finally:
            stop_following()
            await self._let_go(set())

    def _on_batch(self, batch: Batch) -> None:
        if any(change.key.startswith(("alive/", "hosts/", "settings/leader")) for change in batch.changes):
            self._wake.set()

    async def _follow(self) -> None:
        """Listen to all other hosts that have a lease, while this one leads."""
        alive = self._mirror.cluster.alive if self._leads() else {}
        wanted = {(name, one.session) for name, one in alive.items() if name != self._host}
        await self._let_go(wanted)
        for host, session in sorted(wanted - self._watching.keys()):
            self._watching[host, session] = asyncio.create_task(self._watch(host), name=f"listening to {host}")
        if self._leads() and self._mirror.healthy:
            await self._clear()

    async def _let_go(self, wanted: set[tuple[str, str]]) -> None:
        over = [self._watching.pop(one) for one in sorted(self._watching.keys() - wanted)]
        for task in over:
            task.cancel()
        await asyncio.gather(*over, return_exceptions=True)

    async def _watch(self, host: str) -> None:
        heard = False
        while True:
            try:
                connection = await self._listen(host)
            except OSError as error:
                if heard:
                    await self._suspect(host, isinstance(error, ConnectionRefusedError))
                await asyncio.sleep(AGAIN_S)
                continue
            heard = True
            try:
                self._heard.add(host)
                await self._clear()
                await connection.ended()
            finally:
                self._heard.discard(host)
                connection.close()
            await asyncio.sleep(SURE_S)

    async def _clear(self) -> None:
        """Who led before may have suspected this host: that it leads says that it lives."""
        await self._write(lambda now: cleared(now, {*self._heard, self._host}))

    async def _suspect(self, host: str, closed: bool) -> None:
        await self._write(lambda now: suspected(now, host, closed, self._now(), self._successor))

    async def _write(self, decide: Callable[[Cluster], Suspicion]) -> None:
        """One conditional commit, if there is anything to write; what fails is decided again on the next occasion."""
        found = decide(self._mirror.cluster)
        if not found.changes:
            return
        try:
            revision = await self._store.commit(list(found.changes), found.expect)
            await self._mirror.reached(revision, REACH_S)
        except CommitConflict:
            log.info("a suspicion is decided again: the records changed meanwhile")
            return
        except DroverError as error:
            log.warning("a suspicion could not be written down", error=error.message)
            return
        for change in found.changes:
            log.warning("a host is suspect" if change.record else "a host is suspect no more", record=change.key)


class TcpListener:
    """`Listen` by TCP. `locate` gives a host's address and port."""

    def __init__(self, locate: Callable[[str], tuple[str, int] | None]) -> None:
        self._locate = locate

    async def __call__(self, host: str) -> Heard:
        where = self._locate(host)
        if where is None:
            raise OSError(f"host {host} has no address")
        family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
                made.setsockopt(socket.IPPROTO_TCP, option, SILENT_S)
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().sock_connect(made, where)
        except BaseException:
            made.close()
            raise
        return _TcpHeard(made)


class _TcpHeard:
    def __init__(self, made: socket.socket) -> None:
        self._socket = made

    async def ended(self) -> None:
        try:
            while await asyncio.get_running_loop().sock_recv(self._socket, 64):
                pass  # a daemon says nothing here; whatever comes says that it lives
        except OSError:
            return

    def close(self) -> None:
        self._socket.close()
