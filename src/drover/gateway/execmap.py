"""On which host each exec instance is: remembered when the gateway sees it made, oldest forgotten first."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

REMEMBERED = 10_000


class _Created(msgspec.Struct, rename="pascal"):
    id: str


class ExecMap:
    """Exec ids to hosts; the oldest are forgotten."""

    def __init__(self) -> None:
        self._hosts: OrderedDict[str, str] = OrderedDict()

    def remember(self, exec_id: str, host: str) -> None:
        self._hosts[exec_id] = host
        if len(self._hosts) > REMEMBERED:
            self._hosts.popitem(last=False)

    def learn(self, host: str, status: int, body: bytes) -> None:
        """Read the answer to an exec's creation."""
        if status == 201:
            self.remember(msgspec.json.decode(body, type=_Created).id, host)

    def host(self, exec_id: str) -> str | None:
        return self._hosts.get(exec_id)
