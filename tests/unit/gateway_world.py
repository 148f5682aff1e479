"""A gateway among scripted engines and scripted agents, in memory.

`World` holds one `MemoryCluster`; each `gateway()` has a mirror of its own, as in each daemon. `ScriptedLinks` answers
questions to engines from `answers` (by host, method and path without version and query); `Agent` answers orders as a
host's agent does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from drover.decide.health import down_sentence
from drover.decide.removal import container_removal
from drover.errors import EngineError, Invalid, Unavailable
from drover.gateway.call import Call, EngineResponse, Headers, Outcome, Relay, Reply
from drover.gateway.gateway import Gateway
from drover.model import records as r
from drover.model.cluster import Change, put
from drover.store.memory import MemoryCluster
from drover.store.mirror import Mirror

IMAGE = "sha256:" + "1" * 64
API = {"api_version": "1.41", "min_api_version": "1.12"}
NOW = 1_700_000_100.0

Answerer = Callable[[str, Mapping[str, list[str]], bytes], EngineResponse]


def engine_id(cluster_id: str) -> str:
    """The id that the scripted engines give to a container or network."""
    return cluster_id[::-1]


def response(value: Any, status: int = 200) -> EngineResponse:
    return EngineResponse(status=status, body=json.dumps(value, separators=(",", ":")).encode() + b"\n")


def refused(status: int, message: str) -> EngineResponse:
    return response({"message": message}, status)


class ScriptedLinks:
    """`Links`: `answers[host, method, path]` is a response or makes one; anything else is 404. `asked` has it all."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str, str], EngineResponse | Answerer] = {}
        self.streams: dict[str, asyncio.Queue[bytes | None]] = {}
        self.histories: dict[str, list[bytes]] = {}
        self._events: dict[str, asyncio.Event] = {}
        self.silent: set[str] = set()
        self.asked: list[tuple[str, str, str]] = []

    def say(self, hosts: str, method: str, path: str, answer: EngineResponse | Answerer) -> None:
        """`hosts`: names with blanks between."""
        for host in hosts.split():
            self.answers[host, method, path] = answer

    async def request(
        self,
        host: str,
        method: str,
        target: str,
        *,
        body: bytes = b"",
        headers: Headers = (),
        deadline_s: float = 30.0,
    ) -> EngineResponse:
        self.asked.append((host, method, target))
        await asyncio.sleep(0)
        if host in self.silent:
            raise Unavailable(f"host {host} is silent")
        path, query = split(target)
        answer = self.answers.get((host, method, path), refused(404, "page not found"))
        return answer if isinstance(answer, EngineResponse) else answer(host, query, body)

    async def opened(self, host: str) -> None:
        """Returns once somebody reads the host's stream."""
        await self._opened(host).wait()

    def _opened(self, host: str) -> asyncio.Event:
        return self._events.setdefault(host, asyncio.Event())

    async def stream(self, host: str, method: str, target: str) -> AsyncIterator[bytes]:
        self.asked.append((host, method, target))
        if host in self.silent:
            raise Unavailable(f"host {host} is silent")
        _, query = split(target)
        if "until" in query:
            for line in self.histories.get(host, []):
                yield line
            return
        queue = self.streams.setdefault(host, asyncio.Queue())
        self._opened(host).set()
        while (piece := await queue.get()) is not None:
            yield piece
        raise EngineError(500, "cut")


def split(target: str) -> tuple[str, dict[str, list[str]]]:
    """The decoded path without version, and the query."""
    parts = urlsplit(target)
    path = unquote(parts.path)
    if path.startswith("/v1."):
        path = "/" + path.split("/", 2)[2]
    return path, parse_qs(parts.query, keep_blank_values=True)


class World:
    """Some hosts, one store, one set of scripted engines."""

    def __init__(self) -> None:
        self.shared = MemoryCluster()
        self.links = ScriptedLinks()
        self.mirrors: list[Mirror] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.ids = 0

    def write(self, changes: list[Change]) -> None:
        self.shared.commit(changes, {}, None)

    def new_id(self) -> str:
        self.ids += 1
        return f"{self.ids:x}".ljust(4, "c") * 16

    async def gateway(self, host: str = "h1") -> Gateway:
        mirror = await self.mirror()
        return Gateway(host, self.shared.client(), mirror, self.links, lambda: NOW, self.new_id)

    async def mirror(self) -> Mirror:
        mirror = Mirror(self.shared.client())
        await mirror.start()
        self.mirrors.append(mirror)
        return mirror

    async def agent(self, host: str, *script: Callable[[r.Container], r.Answer | None]) -> Agent:
        agent = Agent(host, self, *script)
        self.tasks.append(asyncio.create_task(agent.run(await self.mirror())))
        return agent

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for mirror in self.mirrors:
            await mirror.stop()


class Agent:
    """Answers every order about containers on its host: as the first function of the script that has an answer says,
    else with success. `hold`: orders of these verbs get no answer."""

    def __init__(self, host: str, world: World, *script: Callable[[r.Container], r.Answer | None]) -> None:
        self.host = host
        self.world = world
        self.script = script
        self.hold: set[str] = set()
        self.performed: list[tuple[str, str]] = []

    async def run(self, mirror: Mirror) -> None:
        while True:
            pending = await mirror.until(lambda now: self._pending(now), 60.0, "an order")
            self._perform(pending)
            await mirror.reached(self.world.shared.cluster.revision, 5.0)

    def _pending(self, now: Any) -> r.Container | None:
        for container in now.containers.values():
            facts = now.facts_of(container.id)
            number = facts.answer.number if facts else 0
            ours = now.host_of(container.id) == self.host and container.order.verb not in self.hold
            if ours and container.order.number > number:
                return container
        return None

    def _perform(self, container: r.Container) -> None:
        self.performed.append((container.order.verb, container.name))
        answer = next((found for one in self.script if (found := one(container))), None)
        if container.order.verb == "remove" and answer is None:
            self.world.shared.commit(*container_removal(self.world.shared.cluster, container.id, NOW), None)
            return
        self.world.write([self.facts(container, answer)])

    def facts(self, container: r.Container, answer: r.Answer | None) -> Change:
        made = answer is None or container.order.verb != "create"
        default = SUCCESS.get(container.order.verb, r.Answer(status=204))
        answer = msgspec.structs.replace(answer or default, number=container.order.number)
        state = STATES.get(container.order.verb, "exited")
        if container.order.verb in ("connect", "disconnect", "update", "rename"):
            seen = self.world.shared.cluster.facts_of(container.id)
            state = seen.state if seen else state
        facts = r.ContainerFacts(
            container=container.id,
            host=self.host,
            engine_id=engine_id(container.id) if made else "",
            state=state if made else "failed",
            answer=answer,
        )
        return put(r.key("container_facts", self.host, container.id), facts)


STATES = {"start": "running", "restart": "running", "create": "created"}
SUCCESS = {
    "create": r.Answer(status=201, body='{"Id":"' + "f" * 64 + '","Warnings":["slow disk"]}\n'),
    "update": r.Answer(status=200, body='{"Warnings":null}\n'),
    "connect": r.Answer(status=200),
    "disconnect": r.Answer(status=200),
}


def make_call(method: str, target: str, body: Any = None, headers: Headers = ()) -> Call:
    """A call as the wire side makes it. `body`: bytes as they are, anything else as JSON."""
    parts = urlsplit(target)
    path, version = unquote(parts.path), ""
    if path.startswith("/v1."):
        version, _, rest = path[2:].partition("/")
        path = "/" + rest
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()

    async def read(limit_bytes: int) -> bytes:
        if len(data) > limit_bytes:
            raise Invalid("the body is too large")
        return data

    return Call(
        method=method,
        path=path,
        version=version,
        target=target,
        query_string=parts.query,
        headers=headers or ((b"Content-Type", b"application/json"),),
        read_body=read,
    )


async def ask(gateway: Gateway, method: str, target: str, body: Any = None) -> tuple[int, Any]:
    """Status and decoded body of a call that the gateway answers itself."""
    outcome = await gateway.handle(make_call(method, target, body))
    assert isinstance(outcome, Reply), outcome
    assert outcome.stream is None
    return outcome.status, json.loads(outcome.body) if outcome.body else None


async def relayed(gateway: Gateway, method: str, target: str, body: Any = None) -> Relay:
    """The relay that a call becomes."""
    outcome: Outcome = await gateway.handle(make_call(method, target, body))
    assert isinstance(outcome, Relay), outcome
    return outcome


def drop_host(world: World, host: str) -> None:
    """The host's lease expires."""
    world.write([Change(r.key("alive", host), None), put(r.key("lost", host), r.HostLost(host=host, at=NOW))])
    assert down_sentence(world.shared.cluster, host) is not None
