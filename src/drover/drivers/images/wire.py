"""Thin archives between two daemons: the call `POST /images/thin`, both ends of it.

    request     JSON `{"image": "sha256:…", "chains": ["sha256:…", …]}`: the image, and the chain ids the asker has
    answer      200, a tar archive, chunked; `Drover-Total-Bytes` (about how much comes), `Drover-Present-Layers`
    errors      before the archive: those of the engine, as the API answers errors (404: it does not have the image)
                within it: the connection is cut, which the asking side sees as `Unavailable`

TLS, who may ask and how large a request may be (75 bytes per layer) are the API's and the session's affair.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager

import aiohttp
import msgspec
from aiohttp import web

from drover.drivers.images.move import Offer, Source
from drover.errors import DroverError, Invalid, NotFound, Unavailable
from drover.wire.nesting import MALFORMED

PATH = "/images/thin"
TOTAL_HEADER = "Drover-Total-Bytes"
PRESENT_HEADER = "Drover-Present-Layers"
PIECE_BYTES = 256 * 1024
CONNECT_DEADLINE_S = 5.0
SILENCE_DEADLINE_S = 60.0
"""How long a source may send nothing: an engine needs a while to begin with a large image."""


class ThinRequest(msgspec.Struct, frozen=True):
    image: str
    chains: list[str] = []


async def serve_thin(request: web.Request, source: Source) -> web.StreamResponse:
    """The handler of `PATH`. Errors before the first byte are raised, for the API to answer."""
    asked = await _asked(request)
    async with source.offer(asked.image, frozenset(asked.chains)) as offer:
        response = web.StreamResponse(headers=_headers(offer))
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            async for piece in offer.pieces:
                await response.write(piece)
            await response.write_eof()
        except (DroverError, ConnectionError):
            _cut(request)
        return response


async def _asked(request: web.Request) -> ThinRequest:
    try:
        return msgspec.json.decode(await request.read(), type=ThinRequest)
    except MALFORMED as error:
        raise Invalid(f"the request for an image is malformed: {error}", hint="do all hosts run the same drover?")


def _headers(offer: Offer) -> dict[str, str]:
    return {
        "Content-Type": "application/x-tar",
        TOTAL_HEADER: str(offer.total_bytes),
        PRESENT_HEADER: str(offer.present_layers),
    }


def _cut(request: web.Request) -> None:
    """Break the connection off: an archive must not look finished that is not."""
    if request.transport is not None:
        request.transport.abort()


class RemoteSource:
    """The images of another host, asked from its daemon at `base_url` (`https://10.0.0.2:4740`)."""

    def __init__(self, host: str, session: aiohttp.ClientSession, base_url: str) -> None:
        self.host = host
        self._session = session
        self._url = base_url.rstrip("/") + PATH

    @asynccontextmanager
    async def offer(self, image: str, chains: Collection[str]) -> AsyncIterator[Offer]:
        """Raises `NotFound` if the host does not have the image, `Unavailable` if it cannot give it now."""
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_DEADLINE_S, sock_read=SILENCE_DEADLINE_S)
        body = msgspec.json.encode(ThinRequest(image, sorted(chains)))
        try:
            async with self._session.post(self._url, data=body, timeout=timeout) as response:
                if response.status != 200:
                    raise self._refused(response.status, await response.text(), image)
                total_bytes = int(response.headers.get(TOTAL_HEADER, 0))
                present = int(response.headers.get(PRESENT_HEADER, 0))
                async with aclosing(self._pieces(response)) as pieces:
                    yield Offer(total_bytes, present, pieces)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in response.content.iter_chunked(PIECE_BYTES):
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    def _refused(self, status: int, text: str, image: str) -> DroverError:
        if status == 404:
            return NotFound(f"host {self.host} does not have image {image[:19]}")
        return Unavailable(f"host {self.host} does not give image {image[:19]}: {_sentence(text)}")

    def _unreachable(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"image data from host {self.host} does not come: {error or type(error).__name__}",
            hint="is the host up? see drover host ls",
        )


def _sentence(text: str) -> str:
    """The `error` of an API answer, or the text itself."""
    try:
        return str(msgspec.json.decode(text)["error"])
    except (*MALFORMED, KeyError, TypeError):
        return text.strip()[:200]
