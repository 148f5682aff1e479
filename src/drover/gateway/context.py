"""What every handler works with: the picture of the cluster, the ways to the engines, the maps, and replies.

question                            answer
which record does REF mean          `container`, `network` (Docker's own 404s)
which engine answers for a record   `engine_of`: (host, engine id), or the reason why none can
which hosts can be asked now        `usable`: this host first
who answers for the whole cluster   `front`: this host's engine, else another's
what do all engines say             `ask_all`: concurrently; a host that is silent is left out
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import structlog

from drover.decide.health import down_sentence
from drover.decide.resolve import resolve_container, resolve_network
from drover.errors import Conflict, EngineError, Invalid, NotFound, Unavailable
from drover.gateway.call import Call, EngineResponse, Fetch, Headers, Links, Outcome, Reply
from drover.gateway.execmap import ExecMap
from drover.gateway.ids import IdMap
from drover.gateway.repeats import Repeats
from drover.gateway.shared import SharedReads
from drover.gateway.versions import SpokenVersions
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.store.mirror import Mirror
from drover.store.port import Store
from drover.wire.nesting import MALFORMED, refuse_deep

T = TypeVar("T")
ASK_DEADLINE_S = 5.0
JSON_HEADERS: Headers = ((b"Content-Type", b"application/json"),)

log = structlog.get_logger("drover.gateway")


class Context:
    """`clock` gives seconds since the Unix epoch, `new_id` 64 hex digits. `host` is this host's name.
    `fetch` brings its engine images from others, where images are real."""

    def __init__(
        self,
        host: str,
        store: Store,
        mirror: Mirror,
        links: Links,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        fetch: Fetch | None = None,
    ) -> None:
        self.host = host
        self.store = store
        self.mirror = mirror
        self.links = links
        self.clock = clock
        self.new_id = new_id
        self.fetch = fetch
        self.ids = IdMap()
        self._versions = SpokenVersions()
        self.execs = ExecMap()
        self.shared: SharedReads[Outcome] = SharedReads()
        self.shared_answers: SharedReads[dict[str, EngineResponse]] = SharedReads()
        """As `shared`, of what all engines say."""
        self.repeats = Repeats()
        self.choosing = asyncio.Lock()
        self._usable: tuple[Cluster | None, list[str]] = (None, [])
        self.ids.rebuild(mirror.cluster)
        mirror.on_batch(self.ids.observe)

    @property
    def cluster(self) -> Cluster:
        return self.mirror.cluster

    @property
    def shared_versions(self) -> tuple[str, str]:
        """(minimum, maximum) API version that all engines speak; empty texts while none is known."""
        return self._versions.of(self.cluster)

    def container(self, ref: str) -> r.Container:
        return resolve_container(self.cluster, ref)

    def network(self, ref: str) -> r.Network:
        return resolve_network(self.cluster, ref)

    def engine_of(self, container: r.Container) -> tuple[str, str]:
        """(host, engine id). Raises `Unavailable` with which host and since when, or `NotFound`/`Conflict` while no
        engine has made it."""
        host = self.host_of(container)
        facts = self.cluster.facts_of(container.id)
        if facts is None or not facts.engine_id:
            raise _not_made(container, host, facts)
        return host, facts.engine_id

    def host_of(self, container: r.Container) -> str:
        """The host that has it, if its engine can be asked now; else `Unavailable` says why not."""
        host = self.cluster.host_of(container.id)
        if host is None:
            raise Unavailable(f"container {container.name} is placed on no host")
        if down := down_sentence(self.cluster, host):
            raise Unavailable(f"container {container.name} cannot be reached: {down}")
        return host

    def usable(self) -> list[str]:
        """The hosts whose engines can be asked now, this host first."""
        cluster, known = self._usable
        if cluster is not self.cluster:
            known = self._find_usable()
            self._usable = self.cluster, known
        return list(known)

    def _find_usable(self) -> list[str]:
        able = [name for name in sorted(self.cluster.hosts) if down_sentence(self.cluster, name) is None]
        return sorted(able, key=lambda name: name != self.host)

    def front(self) -> str:
        """The host whose engine answers what any engine may answer. Raises `Unavailable` if there is none."""
        able = self.usable()
        if not able:
            raise Unavailable("no Docker engine of this cluster answers", hint="drover host ls")
        return able[0]

    async def ask(
        self,
        host: str,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Headers = (),
        deadline_s: float = ASK_DEADLINE_S,
    ) -> EngineResponse | None:
        """One engine's answer, whatever its status; None if the host is silent."""
        try:
            return await self.links.request(host, method, target, body=body, headers=headers, deadline_s=deadline_s)
        except Unavailable as error:
            log.info("an engine did not answer; it is left out", host=host, target=target, why=error.message)
            return None

    async def ask_all(
        self,
        method: str,
        target: str,
        hosts: Iterable[str] | None = None,
        body: bytes = b"",
        headers: Headers = (),
        deadline_s: float = ASK_DEADLINE_S,
    ) -> dict[str, EngineResponse]:
        """Every host's answer, in the order of `hosts` (default: all usable); silent hosts are left out."""
        names = list(self.usable() if hosts is None else hosts)
        asked = [self.ask(name, method, target, body, headers, deadline_s) for name in names]
        answers = await asyncio.gather(*asked)
        return {name: answer for name, answer in zip(names, answers, strict=True) if answer is not None}


def _not_made(container: r.Container, host: str, facts: r.ContainerFacts | None) -> NotFound | Conflict:
    progress = f": {facts.progress}" if facts is not None and facts.progress else ""
    if container.order.verb == "create":
        return NotFound(f"No such container: {container.name} (host {host} has not made it yet{progress})")
    return Conflict(f"container {container.name} is being made on host {host}{progress}")


def target_of(call: Call, path: str, query: str | None = None) -> str:
    """A request target with the call's version: `path` is decoded; `query` None keeps the client's verbatim."""
    version = f"/v{call.version}" if call.version else ""
    query = call.query_string if query is None else query
    return f"{version}{quote(path, safe='/:@~+,;=!$&*()')}" + (f"?{query}" if query else "")


def query_of(**values: str) -> str:
    """A query string of the values that are not empty."""
    return urlencode({name: value for name, value in values.items() if value})


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status=status, body=msgspec.json.encode(value) + b"\n")


def message_reply(status: int, message: str) -> Reply:
    return json_reply({"message": message}, status)


def engine_reply(ctx: Context, answer: EngineResponse) -> Reply:
    """An engine's answer as it is, with cluster ids."""
    return Reply(status=answer.status, body=ctx.ids.to_cluster(answer.body))


def message_of(body: bytes) -> str:
    """The sentence in an engine's `{"message": …}`, or the text itself."""
    try:
        return msgspec.json.decode(body, type=_Message).message
    except MALFORMED:
        return body.decode("utf-8", "replace").strip()


class _Message(msgspec.Struct):
    message: str


def succeeded(answers: Mapping[str, EngineResponse]) -> dict[str, EngineResponse]:
    """The answers with a good status. If there is none, raises the first refusal as the engine put it, or
    `Unavailable` if nobody answered at all."""
    good = {host: answer for host, answer in answers.items() if answer.status < 400}
    if good:
        return good
    for answer in answers.values():
        raise EngineError(answer.status, message_of(answer.body))
    raise Unavailable("no Docker engine of this cluster answered", hint="drover host ls")


async def json_text(call: Call) -> str:
    """The request's body as the text of one JSON object. Raises `Invalid` as the engine would."""
    content_type = call.header("content-type")
    if content_type and content_type.partition(";")[0].strip() != "application/json":
        raise Invalid(f"Content-Type specified ({content_type}) must be 'application/json'")
    body = await call.json_body()
    if not body.strip():
        raise Invalid("invalid JSON: got EOF while reading request body")
    decoded(body, dict[str, Any])
    return body.decode()


def decoded(body: bytes | str, kind: type[T]) -> T:
    """The JSON text as `kind`. Raises `Invalid` that says what is wrong with it."""
    refuse_deep(body)
    try:
        return msgspec.json.decode(body, type=kind)
    except MALFORMED as error:
        raise Invalid(f"invalid JSON: {error}") from error
