"""Which hosts have an image, and what its name means in the cluster.

A name may mean different images on different hosts (somebody built again). The meaning is the one tagged last; the
hosts that have exactly that one are preferred, and the others get it from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from drover.errors import EngineError, Unavailable
from drover.gateway.call import EngineResponse
from drover.gateway.context import Context, message_of

LOCATE_DEADLINE_S = 3.0


class FoundImage(msgspec.Struct, frozen=True):
    """An image id (`sha256:…`, empty where no image was asked for) and the hosts that have it, this one first."""

    id: str = ""
    hosts: frozenset[str] = frozenset()


class _Metadata(msgspec.Struct, frozen=True, rename="pascal"):
    last_tag_time: str = ""


class _Image(msgspec.Struct, rename="pascal"):
    id: str
    metadata: _Metadata = _Metadata()


async def ask_for_image(ctx: Context, name: str) -> dict[str, EngineResponse]:
    """Every host's answer to `GET /images/NAME/json`; a service of many containers asks for one image many times."""
    target = f"/images/{quote(name, safe='/:@')}/json"
    asked = lambda: ctx.ask_all("GET", target, deadline_s=LOCATE_DEADLINE_S)  # noqa: E731
    return await ctx.shared_answers.read(target, asked)


async def locate_image(ctx: Context, name: str) -> FoundImage:
    """What a name means. Raises `EngineError` 404 in Docker's words if no host has it."""
    if not name:
        return FoundImage()
    return newest(await hosts_with(ctx, name))


async def hosts_with(ctx: Context, name: str) -> dict[str, EngineResponse]:
    """The hosts that have an image, with what they say of it. Raises as `locate_image`."""
    answers = await ask_for_image(ctx, name)
    found = {host: answer for host, answer in answers.items() if answer.status == 200}
    if found:
        return found
    for answer in answers.values():
        raise absent(answer, name)
    raise Unavailable(f"no Docker engine of this cluster answered when asked for the image {name}")


def absent(answer: EngineResponse, name: str) -> EngineError:
    """An engine's answer to an inspection, worded as its answer to a creation: 404, or 400 for a malformed name."""
    message = message_of(answer.body).removeprefix(f"no such image: {name}: ")
    status = 400 if answer.status == 404 and message.startswith("invalid reference") else answer.status
    return EngineError(status, message)


def newest(found: Mapping[str, EngineResponse]) -> FoundImage:
    """The image that was tagged last among what the hosts have; the first host's where that says nothing."""
    if not found:
        return FoundImage()
    images = {host: msgspec.json.decode(answer.body, type=_Image) for host, answer in found.items()}
    chosen = max(images.values(), key=lambda image: image.metadata.last_tag_time)
    return FoundImage(chosen.id, frozenset(host for host, image in images.items() if image.id == chosen.id))
