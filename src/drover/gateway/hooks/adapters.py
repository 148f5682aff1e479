"""The way to adapters: one POST over HTTP, bounded in time and size, that follows nothing.

| situation | what the caller gets |
|---|---|
| an answer, whatever its status | `HookAnswer` |
| no connection, TLS refuses, cut, not HTTP | `AdapterError` (502) naming the adapter and the reason |
| no whole answer within `deadline_s`, connecting included | `AdapterSlow` (504) |
| more than `limit_bytes` | `AdapterError` (502), and the connection is closed |
| a redirect | an answer with its status, which is a failure |

Connections are kept for one second only: servers that close idle ones (gunicorn's after two, Node's after five) must
not be asked on one that is just closing, because a hook that may have run is never sent again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Protocol

import aiohttp

from drover.gateway.hooks.config import Adapter
from drover.gateway.hooks.protocol import AdapterError, AdapterSlow, HookAnswer

IDLE_S = 1.0
CONNECTIONS_LIMIT = 256
RETIRE_S = 650.0
"""How long the sessions of a replaced configuration stay open: calls that began under it go on with it."""
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}


class Managed(Protocol):
    """The adapters that the cluster runs; `managed.ManagedAdapters`."""

    async def url(self, adapter: Adapter) -> str: ...

    def trouble(self, adapter: Adapter) -> str: ...

    def suspect(self, adapter: Adapter) -> None: ...


class AdapterClient:
    """Asks adapters. `managed` knows where those are that the cluster runs; None: it runs none."""

    def __init__(self) -> None:
        self.managed: Managed | None = None
        self._sessions: dict[_Way, aiohttp.ClientSession] = {}
        self._retired: list[aiohttp.ClientSession] = []
        self._closing: set[asyncio.Task[None]] = set()

    async def ask(self, adapter: Adapter, body: bytes) -> HookAnswer:
        """One exchange. Raises `AdapterError`."""
        try:
            async with asyncio.timeout(adapter.deadline_s):
                return await self._ask(adapter, body)
        except TimeoutError as error:
            self._suspect(adapter)
            why = self.managed.trouble(adapter) if self.managed is not None else ""
            sentence = f"adapter {adapter.name} did not answer within {adapter.deadline_s:g} s"
            raise AdapterSlow(f"{sentence}: {why}" if why else sentence) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._suspect(adapter)
            reason = str(error) or type(error).__name__
            raise AdapterError(f"adapter {adapter.name} cannot be asked: {reason}") from error

    async def _ask(self, adapter: Adapter, body: bytes) -> HookAnswer:
        url = await self._url(adapter)
        async with self._session(adapter).post(url, data=body, headers=_HEADERS, allow_redirects=False) as response:
            content_type = response.headers.get("Content-Type", "")
            return HookAnswer(response.status, content_type, await _bounded(adapter, response))

    def _suspect(self, adapter: Adapter) -> None:
        if self.managed is not None:
            self.managed.suspect(adapter)

    async def _url(self, adapter: Adapter) -> str:
        if adapter.image and self.managed is not None:
            return await self.managed.url(adapter)
        return f"http://localhost{adapter.path}" if adapter.url.startswith("unix:") else adapter.url

    def _session(self, adapter: Adapter) -> aiohttp.ClientSession:
        way = _way(adapter)
        session = self._sessions.get(way)
        if session is None:
            session = self._sessions[way] = aiohttp.ClientSession(
                connector=_connector(adapter),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
            )
        return session

    def keep_only(self, adapters: Iterable[Adapter]) -> None:
        """A new configuration: the sessions of others are closed when no call can need them any more; and those with
        TLS files, which may have been renewed, are made anew."""
        kept = {_way(adapter) for adapter in adapters if not (adapter.ca or adapter.certificate)}
        for way in self._sessions.keys() - kept:
            session = self._sessions.pop(way)
            self._retired.append(session)
            asyncio.get_running_loop().call_later(RETIRE_S, self._close_retired, session)

    def _close_retired(self, session: aiohttp.ClientSession) -> None:
        if session in self._retired:
            self._retired.remove(session)
            task = asyncio.get_running_loop().create_task(session.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        sessions = [*self._sessions.values(), *self._retired]
        self._sessions.clear()
        self._retired.clear()
        for session in sessions:
            await session.close()


_Way = tuple[str, str, str, str]


def _way(adapter: Adapter) -> _Way:
    """What makes a session: adapters that agree in these share one."""
    return adapter.url, adapter.ca, adapter.certificate, adapter.key


async def _bounded(adapter: Adapter, response: aiohttp.ClientResponse) -> bytes:
    if (response.content_length or 0) > adapter.limit_bytes:
        raise _too_large(adapter)
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > adapter.limit_bytes:
            raise _too_large(adapter)
    return bytes(body)


def _too_large(adapter: Adapter) -> AdapterError:
    return AdapterError(
        f"adapter {adapter.name} answered with more than {adapter.limit_bytes} bytes",
        hint="set the adapter's `limit_bytes` if that is meant",
    )


def _connector(adapter: Adapter) -> aiohttp.BaseConnector:
    if adapter.url.startswith("unix:"):
        path = adapter.url.removeprefix("unix://")
        return aiohttp.UnixConnector(path, keepalive_timeout=IDLE_S, limit=CONNECTIONS_LIMIT)
    tls: ssl.SSLContext | bool = _tls(adapter) if adapter.url.startswith("https:") else True
    return aiohttp.TCPConnector(ssl=tls, keepalive_timeout=IDLE_S, limit=CONNECTIONS_LIMIT)


def _tls(adapter: Adapter) -> ssl.SSLContext:
    """The client's side of TLS, with the files as they are on this host now. Raises `OSError`."""
    context = ssl.create_default_context(cafile=adapter.ca or None)
    if adapter.certificate:
        context.load_cert_chain(adapter.certificate, adapter.key)
    return context
