"""`Withdrawer`: waits until nobody sends to a container that is about to end (`decide.withdrawal`).

    a sender                          is waited for
    says that its tables are so far   no more
    cannot be asked                   asked again every RETRY_S
    loses its lease                   no more: it is cut off
    none of these                     until the deadline; then the order is performed all the same (P5), and the log
                                      says who was missing

Afterwards connections that are open have a moment to end. Whatever happens here, the order is performed.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from drover.agent.view import View
from drover.decide.withdrawal import Withdrawal, withdrawal
from drover.drivers.insides.port import Insides
from drover.errors import DroverError
from drover.model.records import Order
from drover.store.mirror import Mirror

log = structlog.get_logger()

RETRY_S = 0.1
LOOK_S = 0.02


class Senders(Protocol):
    """The hosts' tables of services and ports."""

    async def reached(self, host: str, revision: int) -> None:
        """Return once a host's tables are at a revision, however long that takes. Raises `DroverError` if it cannot be
        asked."""
        ...


class Withdrawer:
    def __init__(self, host: str, mirror: Mirror, view: View, insides: Insides, senders: Senders | None) -> None:
        """`senders` None: nobody is asked."""
        self._host = host
        self._mirror = mirror
        self._view = view
        self._insides = insides
        self._senders = senders

    async def withdraw(self, container: str, order: Order) -> None:
        """Return when the order may be performed."""
        wanted = withdrawal(self._mirror.cluster, self._host, container, order)
        if wanted is not None and self._senders is not None:
            await self._forgotten(self._senders, container, wanted)
            await self._quiet(container, wanted.linger_s)

    async def _forgotten(self, senders: Senders, container: str, wanted: Withdrawal) -> None:
        """Until all senders' tables are without it, or the deadline."""
        asked = {
            host: asyncio.create_task(self._asked(senders, host, wanted.revision))
            for host in sorted(wanted.senders | {self._host})
        }
        try:
            await asyncio.wait(asked.values(), timeout=wanted.deadline_s)
            missing = [host for host, task in asked.items() if not task.done()]
        finally:
            for task in asked.values():
                task.cancel()
        if missing:
            log.warning("a container ends while hosts may still send to it", container=container, hosts=missing)

    async def _asked(self, senders: Senders, host: str, revision: int) -> None:
        while host in self._mirror.cluster.alive or host == self._host:
            try:
                await senders.reached(host, revision)
            except DroverError:
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _quiet(self, container: str, linger_s: float) -> None:
        """Until none of its connections is open, or `linger_s` have passed."""
        loop = asyncio.get_running_loop()
        end = loop.time() + linger_s
        while loop.time() < end:
            seen = self._view.containers.get(container)
            if seen is None or not seen.pid or not await self._insides.serving(seen.pid):
                return
            await asyncio.sleep(LOOK_S)
