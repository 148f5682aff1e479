"""What people do in a simulated cluster: Docker calls to some host's gateway, and Drover's own.

An answer is an acknowledgement (P4): at that instant the records say what was asked for, and they go on saying so until
somebody asks otherwise. A call to a daemon that dies meanwhile is a connection that breaks: nothing is known, and the
client repeats it once, elsewhere (every command can be repeated without harm).

    kind                                        call
    create                                      POST /containers/create, and start
    start, stop, restart, remove, rename        the call of that name; `remove` with force
    connect, disconnect                         POST /networks/NET/connect, disconnect
    network-create, network-remove              POST /networks/create, DELETE /networks/NET
    volume-create, volume-remove                POST /volumes/create, DELETE /volumes/NAME
    move, move-volume, cancel, drain, undrain   as `drover` asks the daemon's API
    idle, busy                                  whoever has the volume stops writing it, or writes it again
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from drover.api.app import commit
from drover.api.context import Context
from drover.api.membership import Decision, decide_scheduling
from drover.decide import moves
from drover.decide.resolve import resolve_container
from drover.errors import DroverError, Invalid
from drover.gateway.call import Call, Reply
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.sim.draw import CALLS
from drover.sim.history import Event
from drover.sim.host import SimHost
from drover.sim.parts import TAG
from drover.sim.world import World

BROKEN = 0
"""The status of a call whose connection broke."""
AGAIN_S = 1.0
DESIRED: dict[str, r.Desired] = {"start": "running", "restart": "running", "stop": "stopped"}
KINDS = frozenset(CALLS)


class Clients:
    """`pending`: calls under way, by number: what, and since when."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._numbers = count(1)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._touched: Counter[str] = Counter()
        self._under_way: Counter[str] = Counter()
        self._wanted: dict[str, r.Desired | None] = {}
        self.pending: dict[int, tuple[str, float]] = {}
        self.answers: Counter[str] = Counter()

    def begin(self, event: Event) -> None:
        self._world.eye.trace.tell(f"call {event.kind} {event.what} {event.other} at {event.host}")
        task = asyncio.create_task(self._do(event))
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()):
            self._world.eye.fault(f"a call failed in a way nobody foresaw: {error!r}")

    async def _do(self, event: Event) -> None:
        number = next(self._numbers)
        self.pending[number] = f"{event.kind} {event.what}", asyncio.get_running_loop().time()
        try:
            await self._call(event)
        finally:
            del self.pending[number]

    async def _call(self, event: Event) -> None:
        ledger = self._world.eye.ledger
        match event.kind:
            case "create":
                await self._create(event)
            case "start" | "stop" | "restart":
                await self._order(event)
            case "remove":
                await self._remove(event)
            case "rename":
                await self._rename(event)
            case "idle":
                ledger.idle.add(event.what)
            case "busy":
                ledger.idle.discard(event.what)
            case "move" | "move-volume" | "cancel" | "drain" | "undrain":
                await self._own(event)
            case _:
                await self._plain(event)

    # -- containers --------------------------------------------------------------------------------------------------

    def _id(self, name: str) -> str | None:
        found = self._world.cluster.names.get(name)
        return None if found is None else found.id

    async def _create(self, event: Event) -> None:
        status, answer = await self._ask(
            event, "POST", f"/containers/create?name={event.what}", create_body(event.body)
        )
        if status != 201:
            return
        identity = answer["Id"]
        self._expect(identity in self._world.cluster.containers or self._touched[identity], "create", identity)
        self._wanted.setdefault(identity, None)
        if event.body.get("start"):
            await self._ordered(event, "start", identity)

    async def _order(self, event: Event) -> None:
        identity = self._id(event.what)
        if identity is not None:
            await self._ordered(event, event.kind, identity)

    async def _ordered(self, event: Event, verb: str, identity: str) -> None:
        with self._asking(identity) as alone:
            status, _ = await self._ask(event, "POST", f"/containers/{identity}/{verb}")
            record = self._world.cluster.containers.get(identity)
            gone = record is None or "removed" in (record.desired, self._wanted.get(identity))
            if record is not None and not gone and status in (204, 304) and alone():
                self._expect(record.desired == DESIRED[verb], verb, identity)
                self._wanted[identity] = DESIRED[verb]

    @contextmanager
    def _asking(self, identity: str) -> Iterator[Callable[[], bool]]:
        """Somebody asks for something about a container: what it is wanted to be is not sure until the answer, nor then
        if anybody else asked meanwhile. Gives the function that says whether nobody did."""
        self._touched[identity] += 1
        self._under_way[identity] += 1
        mine, others = self._touched[identity], self._under_way[identity] > 1
        if self._wanted.get(identity) != "removed":
            self._wanted[identity] = None
        try:
            yield lambda: self._touched[identity] == mine and not others
        finally:
            self._under_way[identity] -= 1

    async def _remove(self, event: Event) -> None:
        identity = self._id(event.what)
        if identity is None:
            return
        with self._asking(identity):
            self._wanted[identity] = "removed"
            status, _ = await self._ask(event, "DELETE", f"/containers/{identity}?force=1")
        if status == 204:
            self._expect(identity not in self._world.cluster.containers, "remove", identity)

    async def _rename(self, event: Event) -> None:
        identity = self._id(event.what)
        if identity is None:
            return
        with self._asking(identity) as alone:
            status, _ = await self._ask(event, "POST", f"/containers/{identity}/rename?name={event.other}")
            if status == 204 and alone() and identity in self._world.cluster.containers:
                self._expect(self._id(event.other) == identity, "rename", identity)

    def broken(self) -> list[str]:
        """P4 at the end: what was acknowledged and is not there."""
        containers = self._world.cluster.containers
        gone = [one for one, wanted in self._wanted.items() if wanted != "removed" and one not in containers]
        other = [
            f"{containers[one].name} should be {wanted} and is {containers[one].desired}"
            for one, wanted in self._wanted.items()
            if wanted not in (None, "removed") and one in containers and containers[one].desired != wanted
            if not self._came_along(one)
        ]
        return [
            *(f"P4: container {one[:12]} was acknowledged and is gone" for one in gone),
            *(f"P4: {o}" for o in other),
        ]

    def _came_along(self, identity: str) -> bool:
        """Whether it had finished, and went along with a volume: it is not run a second time."""
        placement = self._world.cluster.placements.get(identity)
        return placement is not None and placement.chosen.startswith("it uses a volume that went")

    def _expect(self, holds: object, what: str, about: str) -> None:
        if not holds:
            self._world.eye.fault(f"P4: `{what}` of {about[:12]} was acknowledged, and the records do not say so")

    # -- networks, volumes, moves ------------------------------------------------------------------------------------

    async def _plain(self, event: Event) -> None:
        ip = {"IPAMConfig": {"IPv4Address": event.body["ip"]}} if event.body.get("ip") else {}
        network = f"/networks/{event.other}/{event.kind}"
        method, target, body = {
            "connect": ("POST", network, {"Container": event.what, "EndpointConfig": ip}),
            "disconnect": ("POST", network, {"Container": event.what, "Force": True}),
            "network-create": ("POST", "/networks/create", {"Name": event.what}),
            "network-remove": ("DELETE", f"/networks/{event.what}", None),
            "volume-create": ("POST", "/volumes/create", {"Name": event.what}),
            "volume-remove": ("DELETE", f"/volumes/{event.what}", None),
        }[event.kind]
        await self._ask(event, method, target, body)

    async def _own(self, event: Event) -> None:
        host = self._world.hosts[event.host]
        decide = self._decision(event, host)
        if decide is None or not host.serves:
            return
        context = Context(host=host.name, cluster_name="sim", store=host.store, mirror=host.mirror, tls_dir=Path())
        done = await self._connected(host, commit(context, decide))
        self._told(event, done if isinstance(done, DroverError) else "done")

    def _decision(self, event: Event, host: SimHost) -> Callable[[Cluster], Decision] | None:
        identity = self._id(event.what)
        asked = moves.Asked(target=event.other)

        def decide(cluster: Cluster) -> Decision:
            if event.kind in ("drain", "undrain"):
                return decide_scheduling(cluster, event.what, "drain" if event.kind == "drain" else "active")
            if event.kind == "cancel":
                made = moves.cancelled(cluster, identity or "", "it was cancelled")
            elif event.kind == "move":
                made = moves.begin_container(cluster, resolve_container(cluster, identity or ""), asked, host.now())
            else:
                made = moves.begin_volume(cluster, event.what, asked, host.now())
            return Decision(made.changes, made.expect)

        known = event.kind not in ("move", "cancel") or identity in self._world.cluster.containers
        return decide if known else None

    # -- the wire ----------------------------------------------------------------------------------------------------

    async def _ask(self, event: Event, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """Status and decoded answer; repeated once at another host if the connection broke or nothing is sure."""
        status, answer = await self._once(event.host, method, target, body)
        if status == BROKEN or status >= 500:
            await asyncio.sleep(AGAIN_S)
            status, answer = await self._once(self._another(event.host), method, target, body)
        self._told(event, f"{status} {answer.get('message', '') if isinstance(answer, dict) else ''}")
        return status, answer

    def _told(self, event: Event, what: object) -> None:
        self.answers[f"{event.kind} {str(what).split(' ', 1)[0]}"] += 1
        self._world.eye.trace.tell(f"answer {event.kind} {event.what} at {event.host}: {what}")

    def _another(self, host: str) -> str:
        names = list(self._world.hosts)
        return names[(names.index(host) + 1) % len(names)]

    async def _once(self, name: str, method: str, target: str, body: object) -> tuple[int, Any]:
        host = self._world.hosts[name]
        if not host.serves:
            return BROKEN, {}
        reply = await self._connected(host, host.gateway.handle(make_call(method, target, body)))
        if not isinstance(reply, Reply):
            return BROKEN, {}
        return reply.status, json.loads(reply.body) if reply.body else {}

    async def _connected(self, host: SimHost, work: Any) -> Any:
        """What comes of `work` in that host's daemon: its result, its `DroverError`; None if the daemon died."""
        task = asyncio.ensure_future(work)
        host.calls[task] = None
        try:
            await asyncio.wait([task])
        finally:
            host.calls.pop(task, None)
        await host.running.passed()
        if task.cancelled():
            return None
        error = task.exception()
        if error is not None and not isinstance(error, DroverError):
            raise error
        return error or task.result()


def create_body(asked: dict[str, Any]) -> dict[str, Any]:
    """A create call's body of what an event asks for."""
    mode = ":ro" if asked.get("read_only") else ""
    network, ip = asked.get("network") or "app", asked.get("ip")
    host: dict[str, Any] = {
        "Binds": [f"{name}:/{name}{mode}" for name in asked.get("volumes", ())],
        "NetworkMode": network,
    }
    if asked.get("restart"):
        host["RestartPolicy"] = {"Name": asked["restart"]}
    endpoint = {"IPAMConfig": {"IPv4Address": ip}} if ip else {}
    return {
        "Image": TAG,
        "Cmd": ["sleep", str(asked.get("run_s") or "infinity")],
        "HostConfig": host,
        "NetworkingConfig": {"EndpointsConfig": {network: endpoint}},
    }


def make_call(method: str, target: str, body: object = None) -> Call:
    """A call as the wire side makes it."""
    parts = urlsplit(target)
    data = b"" if body is None else msgspec.json.encode(body)

    async def read(limit_bytes: int) -> bytes:
        if len(data) > limit_bytes:
            raise Invalid("the body is too large")
        return data

    return Call(
        method=method,
        path=unquote(parts.path),
        version="",
        target=target,
        query_string=parts.query,
        headers=((b"Content-Type", b"application/json"),),
        read_body=read,
    )
