"""Volumes and containers' own files between two daemons: `POST /volumes/NAME/stream`, both ends of it, and
`POST /containers/ID/own/PART` (only `limit`, `compress` and `last`), which is like it.

    request     query: `epoch`, `snapshot` (empty: a new one), `limit` (bytes per second, 0: none), `compress` (0 or 1)
                `if-changed`, `last` (0 or 1)
                body: what the asking side has (`VolumeDriver.have`), of any length
    answer      200, the driver's stream, chunked; `Drover-Snapshot` is the snapshot's id (empty: nothing has changed),
                `Drover-At` the time of the snapshot, in seconds since the Unix epoch
    errors      before the stream: as the API answers errors
                within it: the connection is cut, which the asking side sees as `Unavailable`

`POST /volume-rounds` with names and epochs of volumes has snapshots taken of all of them (`Round`).

TLS and who may ask are the API's affair. Compression is HTTP's own (deflate): for slow links, as on a fast one it costs
more time than it saves.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import web

from drover.agent.belongings import PARTS, AskedPart, Belongings
from drover.agent.volume_rounds import VolumeRounds
from drover.agent.volumes import Given, Incoming, Round, VolumeKeeper, Wanted
from drover.api.answers import error_of
from drover.api.app import MIRROR_DEADLINE_S, REVISION_HEADER, body_of, json_answer
from drover.daemon.peer_session import CONNECT_DEADLINE_S, PeerSession, url_of
from drover.errors import DeadlineExceeded, DroverError, Invalid, Unavailable
from drover.store.mirror import Mirror
from drover.wire.nesting import MALFORMED

SNAPSHOT_HEADER = "Drover-Snapshot"
AT_HEADER = "Drover-At"
PIECE_BYTES = 1024 * 1024
PASSED_ON = "Drover-Passed-On"
BETWEEN_AGENTS = {PASSED_ON: "1"}
MAX_HAVE_BYTES = 512 * 1024 * 1024
PASS_ON_DEADLINE_S = 50.0
SILENCE_DEADLINE_S = 30.0
"""How long a source may send nothing: a large volume takes a while to be looked through."""


class PeerVolumes:
    """The agent's `VolumeSource`."""

    def __init__(self, mirror: Mirror, client_tls: ssl.SSLContext) -> None:
        self._mirror = mirror
        self._session = PeerSession(client_tls)

    async def close(self) -> None:
        await self._session.close()

    @asynccontextmanager
    async def open(self, host: str, wanted: Wanted, have: bytes) -> AsyncIterator[Incoming]:
        """See `VolumeSource.open`."""
        async with self._stream(host, _path(wanted.volume), _query(wanted), have) as incoming:
            yield incoming

    @asynccontextmanager
    async def open_part(self, host: str, asked: AskedPart, have: bytes) -> AsyncIterator[Incoming]:
        """See `PartSource.open_part`."""
        path = f"/containers/{asked.container}/own/{asked.part}"
        query = {
            "limit": str(asked.limit_bytes_s),
            "compress": str(int(asked.compress)),
            "last": str(int(asked.last)),
        }
        async with self._stream(host, path, query, have) as incoming:
            yield incoming

    async def checkpoint(self, host: str, container: str) -> int:
        """See `PartSource.checkpoint`."""
        count, _ = await self._call(host, "POST", f"/containers/{container}/checkpoint", b"")
        return int(count)

    @asynccontextmanager
    async def _stream(self, host: str, path: str, query: dict[str, str], have: bytes) -> AsyncIterator[Incoming]:
        url = url_of(self._mirror.cluster.hosts[host], path)
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_DEADLINE_S, sock_read=SILENCE_DEADLINE_S)
        try:
            async with self._session().post(url, params=query, data=have, timeout=timeout) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.read())
                async with aclosing(_pieces(response, host)) as pieces:
                    headers = response.headers
                    yield Incoming(headers[SNAPSHOT_HEADER], pieces, float(headers[AT_HEADER]))
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(host, error) from error

    async def round(self, host: str, volumes: Mapping[str, int]) -> Round:
        """See `VolumeSource.round`."""
        answer, _ = await self._call(host, "POST", "/volume-rounds", msgspec.json.encode(dict(volumes)))
        return msgspec.convert(answer, Round)

    async def read(self, host: str, path: str) -> AsyncGenerator[bytes, None]:
        """What another daemon answers to a GET, in pieces. Raises what it refuses with, and `Unavailable` when cut."""
        url = url_of(self._mirror.cluster.hosts[host], path)
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_DEADLINE_S, sock_read=SILENCE_DEADLINE_S)
        try:
            async with self._session().get(url, headers=self._passed_on(), timeout=timeout) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.read())
                async with aclosing(_pieces(response, host)) as pieces:
                    async for piece in pieces:
                        yield piece
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(host, error) from error

    async def pass_on(self, host: str, method: str, path: str, body: bytes) -> Any:
        """Another daemon's answer to a client's call that only it can do. Raises what it refuses with.

        What it committed shows here too by then: the client's next call comes here and must find it. A picture that
        is late does not undo what was done, so it is no failure."""
        answer, revision = await self._call(host, method, path, body, self._passed_on())
        with suppress(DeadlineExceeded):
            await self._mirror.reached(revision, MIRROR_DEADLINE_S)
        return answer

    def _passed_on(self) -> dict[str, str]:
        """With how far this host has seen the store: the client may speak of what it was just shown here."""
        return {PASSED_ON: "1", REVISION_HEADER: str(self._mirror.cluster.revision)}

    async def _call(
        self, host: str, method: str, path: str, body: bytes, headers: Mapping[str, str] = BETWEEN_AGENTS
    ) -> tuple[Any, int]:
        """The answer, and the revision of the store that the other host had seen when it gave it."""
        url = url_of(self._mirror.cluster.hosts[host], path)
        timeout = aiohttp.ClientTimeout(total=PASS_ON_DEADLINE_S, connect=CONNECT_DEADLINE_S)
        try:
            async with self._session().request(method, url, data=body, headers=headers, timeout=timeout) as response:
                answer = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(host, error) from error
        if response.status >= 400:
            raise _refusal(response.status, answer)
        return msgspec.json.decode(answer), int(response.headers.get(REVISION_HEADER, 0))


def _path(volume: str) -> str:
    return f"/volumes/{quote(volume, safe='')}/stream"


def _query(wanted: Wanted) -> dict[str, str]:
    return {
        "epoch": str(wanted.epoch),
        "snapshot": wanted.snapshot,
        "limit": str(wanted.limit_bytes_s),
        "compress": str(int(wanted.compress)),
        "if-changed": str(int(wanted.if_changed)),
        "last": str(int(wanted.last)),
    }


async def _pieces(response: aiohttp.ClientResponse, host: str) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in response.content.iter_any():
            yield piece
    except (aiohttp.ClientError, OSError) as error:
        raise _unreachable(host, error) from error


def _refusal(status: int, body: bytes) -> DroverError:
    try:
        return error_of(msgspec.json.decode(body, type=dict[str, object]), status)
    except MALFORMED:
        return Unavailable(f"the other host answered with status {status}", hint="does it run the same drover?")


def _unreachable(host: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"volume data from host {host} does not come: {error or type(error).__name__}",
        hint="is the host up? see drover host ls",
    )


def stream_routes(keeper: VolumeKeeper, belongings: Belongings, rounds: VolumeRounds) -> list[web.RouteDef]:
    """The giving side, for the API."""

    async def volume(request: web.Request) -> web.StreamResponse:
        wanted = _wanted(request)
        return await _serve(request, await keeper.give(wanted, await _have(request)), wanted)

    async def part(request: web.Request) -> web.StreamResponse:
        asked = _asked_part(request)
        return await _serve(request, await belongings.give(asked, await _have(request)), asked)

    async def checkpoint(request: web.Request) -> web.StreamResponse:
        return json_answer(await belongings.checkpoint(request.match_info["container"]))

    async def take_round(request: web.Request) -> web.StreamResponse:
        return json_answer(await rounds.take_round(await body_of(request, dict[str, int])))

    return [
        web.post("/volumes/{name}/stream", volume),
        web.post("/containers/{container}/own/{part}", part),
        web.post("/containers/{container}/checkpoint", checkpoint),
        web.post("/volume-rounds", take_round),
    ]


async def _serve(request: web.Request, given: Given, wanted: Wanted | AskedPart) -> web.StreamResponse:
    """Errors before the first byte are raised, for the API to answer."""
    async with aclosing(given.pieces) as pieces:
        first = await anext(pieces, b"")
        headers = {
            SNAPSHOT_HEADER: given.snapshot,
            AT_HEADER: str(given.at),
            "Content-Type": "application/octet-stream",
        }
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        if wanted.compress:
            response.enable_compression(web.ContentCoding.deflate)
        await response.prepare(request)
        try:
            pace = _Pace(wanted.limit_bytes_s)
            if first:
                await response.write(first)
            async for piece in pieces:
                await response.write(piece)
                await pace.sent(len(piece))
            await response.write_eof()
        except (DroverError, ConnectionError):
            _cut(request)
        return response


def _cut(request: web.Request) -> None:
    """Break the connection off: a stream must not look finished that is not."""
    if request.transport is not None:
        request.transport.abort()


def _wanted(request: web.Request) -> Wanted:
    query = request.query
    try:
        return Wanted(
            volume=request.match_info["name"],
            epoch=int(query["epoch"]),
            snapshot=query.get("snapshot", ""),
            limit_bytes_s=int(query.get("limit", "0")),
            compress=query.get("compress", "0") == "1",
            if_changed=query.get("if-changed", "0") == "1",
            last=query.get("last", "0") == "1",
        )
    except (KeyError, ValueError) as error:
        raise Invalid(f"the request for a volume is malformed: {error}", hint="do all hosts run the same drover?")


def _asked_part(request: web.Request) -> AskedPart:
    query, part = request.query, request.match_info["part"]
    if part not in PARTS:
        raise Invalid(f"a container has no part {part!r} of its own", hint="do all hosts run the same drover?")
    try:
        return AskedPart(
            container=request.match_info["container"],
            part=part,
            limit_bytes_s=int(query.get("limit", "0")),
            compress=query.get("compress", "0") == "1",
            last=query.get("last", "0") == "1",
        )
    except ValueError as error:
        raise Invalid(f"the request for a container's files is malformed: {error}") from error


async def _have(request: web.Request) -> bytes:
    """The body, which may be larger than the API otherwise takes: a manifest has a line for each file."""
    have = bytearray()
    async for piece in request.content.iter_chunked(PIECE_BYTES):
        have += piece
        if len(have) > MAX_HAVE_BYTES:
            raise Invalid("the list of what the asking host has is too long")
    return bytes(have)


class _Pace:
    """Keeps a sender to so many bytes per second, on average from its beginning."""

    def __init__(self, limit_bytes_s: int) -> None:
        self._limit_bytes_s = limit_bytes_s
        self._begin = asyncio.get_running_loop().time()
        self._sent_bytes = 0

    async def sent(self, count: int) -> None:
        self._sent_bytes += count
        if self._limit_bytes_s > 0:
            due = self._begin + self._sent_bytes / self._limit_bytes_s
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
