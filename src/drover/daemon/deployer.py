"""`Deployer`: has the cluster agree with its manifests while this host leads.

Theory of operation. `decide.app_steps` says what to do next; this carries it out with Docker's own calls to this host's
gateway, hooks and all: a container of a manifest is made on the same road as one of `docker run`.

    the records to write     one conditional commit, before anything is done; a conflict: decided again on the next look
    actions                  concurrent, at most one per object, `AT_ONCE` in all
    an action fails          written down with its sentence (`app_troubles`); the object is left alone for a while
    this host leads no more  what is under way ends; the next leader looks, and goes on from what is there

Nothing is remembered here but what is under way and until when an object is left alone: both may be lost.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import quote, urlencode

import msgspec
import structlog

from drover.decide import app_actions as a
from drover.decide.app_changes import start_draft
from drover.decide.app_steps import AppSteps, steps
from drover.errors import Conflict, DroverError, EngineError
from drover.gateway.call import EngineResponse, Handler, Links
from drover.gateway.context import message_of
from drover.gateway.hooks.inner import PULL_DEADLINE_S, inner_call, pull_target
from drover.model import records as r
from drover.model.apps import HASH_LABEL, SLOT_LABEL, Trouble
from drover.model.cluster import Cluster, put
from drover.model.spec import parse_spec
from drover.store.mirror import Mirror
from drover.store.port import Batch, CommitConflict, Store
from drover.store.waking import woken

log = structlog.get_logger("drover.daemon.deployer")

AT_ONCE = 16
QUIET_S = 0.02
"""How long to let changes gather before looking."""
HOLD_MIN_S = 1.0
HOLD_MAX_S = 30.0
REACH_S = 2.0
NOTE_TRIES = 5
FOLLOWED = frozenset(
    (
        "settings",
        "apps",
        "deployments",
        "containers",
        "container_facts",
        "placements",
        "names",
        "hosts",
        "host_facts",
        "alive",
        "network_names",
        "volumes",
    )
)


class Deployer:
    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        handler: Handler,
        links: Links,
        leads: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        """`handler`: the gateway with its hooks. `now()` is in seconds since the Unix epoch."""
        self._store = store
        self._mirror = mirror
        self._handler = handler
        self._links = links
        self._leads = leads
        self._now = now
        self._wake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._held: dict[str, float] = {}
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Until cancelled; what is under way is then let go of."""
        stop_following = self._mirror.on_batch(self._on_batch)
        try:
            while True:
                again_at = await self.look() if self._leads() and self._mirror.healthy else 0.0
                await woken(self._wake, max(QUIET_S, again_at - self._now()) if again_at else None)
                await asyncio.sleep(QUIET_S)
        finally:
            stop_following()
            await self.close()

    async def close(self) -> None:
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_batch(self, batch: Batch) -> None:
        if any(change.key.split("/", 1)[0] in FOLLOWED for change in batch.changes):
            self._wake.set()

    async def look(self) -> float:
        """One look at every application; returns when to look again without being woken (0: never)."""
        again = []
        for name in list(self._mirror.cluster.apps):
            try:
                again.append(await self._look_at(name))
            except DroverError as error:
                log.warning("an application could not be looked after; tried again", app=name, error=error.message)
                again.append(self._now() + HOLD_MIN_S)
        return min((at for at in again if at), default=0.0)

    async def _look_at(self, name: str) -> float:
        cluster = self._mirror.cluster
        app = cluster.apps.get(name)
        if app is None:
            return 0.0
        found = steps(cluster, app, self._now())
        if found.changes and not await self._written(cluster, app, found):
            return self._now() + QUIET_S
        waits = [at for action in found.actions if (at := self._begin(name, action))]
        return min((at for at in (found.again_at, *waits) if at), default=0.0)

    async def _written(self, cluster: Cluster, app: r.App, found: AppSteps) -> bool:
        keys = [r.key("apps", app.name), r.key("deployments", app.name)]
        try:
            revision = await self._store.commit(list(found.changes), {key: cluster.version(key) for key in keys})
        except CommitConflict:
            return False
        await self._mirror.reached(revision, REACH_S)
        return True

    def _begin(self, app: str, action: a.Action) -> float:
        """Start an action unless its object is busy; the time until which the object is held, if it is."""
        if action.object in self._busy:
            return 0.0
        held = self._held.get(action.object, 0.0)
        if held > self._now():
            return held
        task = asyncio.create_task(self._perform(app, action), name=action.object)
        self._busy[action.object] = task
        return 0.0

    async def _perform(self, app: str, action: a.Action) -> None:
        try:
            async with self._at_once:
                await self._do(action)
            await self._note(app, action, "")
        except DroverError as error:
            log.warning("a step of an application failed; tried again later", object=action.object, why=error.message)
            await self._note(app, action, error.message)
        finally:
            self._busy.pop(action.object, None)
            self._wake.set()

    async def _note(self, app: str, action: a.Action, why: str) -> None:
        """Write down why an action failed and hold its object, or that it did not (`why` empty)."""
        if not why:
            self._held.pop(action.object, None)
        for _ in range(NOTE_TRIES):
            cluster = self._mirror.cluster
            record = cluster.app_troubles.get(app, r.AppTroubles(app=app))
            if app not in cluster.apps or (not why and action.object not in record.troubles):
                return
            changed = _noted(record, action, why, self._now())
            if why:
                tries = changed.troubles[action.object].tries
                self._held[action.object] = self._now() + min(HOLD_MAX_S, HOLD_MIN_S * 2 ** (tries - 1))
            if await self._noted(cluster, changed):
                return
            await asyncio.sleep(QUIET_S)

    async def _noted(self, cluster: Cluster, changed: r.AppTroubles) -> bool:
        """Whether it is written, or need not be tried again: the trouble itself will tell once more."""
        key, app_key = r.key("app_troubles", changed.app), r.key("apps", changed.app)
        expect = {key: cluster.version(key), app_key: cluster.version(app_key)}
        try:
            await self._mirror.reached(await self._store.commit([put(key, changed)], expect), REACH_S)
        except CommitConflict:
            return False
        except DroverError as error:
            log.info("a failure could not be written down", app=changed.app, error=error.message)
        return True

    # -- actions ---------------------------------------------------------------------------------------------------

    async def _do(self, action: a.Action) -> None:
        """Carry out one action. Raises `DroverError` with the reply's own sentence."""
        match action:
            case a.MakeNetwork(network=network):
                await self._call("POST", "/networks/create", network.body, fine=(409,))
            case a.MakeVolume(volume=volume):
                await self._call("POST", "/volumes/create", volume.body)
            case a.Make():
                await self._make(action)
            case a.Join(container=container, network=network, endpoint=endpoint):
                await self._join(container, network, endpoint)
            case a.Start(container=container):
                await self._call("POST", f"/containers/{container}/start", fine=(304,))
            case a.Bring(container=container):
                await self._bring(container)
            case a.Restart(container=container, why=why):
                log.info("a container of an application is restarted", name=action.name, why=why)
                await self._call("POST", f"/containers/{container}/restart", fine=(404,))
            case a.Rename(container=container, to=name):
                await self._call("POST", f"/containers/{container}/rename?{urlencode({'name': name})}")
            case a.Remove(container=container, why=why, volumes=volumes):
                log.info("a container of an application is removed", name=action.name, why=why)
                await self._call("POST", f"/containers/{container}/stop", fine=(304, 404))
                query = urlencode({"force": 1, "v": int(volumes)})
                await self._call("DELETE", f"/containers/{container}?{query}", fine=(404,))
            case a.DropNetwork(name=name):
                await self._call("DELETE", f"/networks/{quote(name, safe='')}", fine=(404,))
            case a.DropVolume(name=name):
                await self._call("DELETE", f"/volumes/{quote(name, safe='')}", fine=(404,))

    async def _bring(self, container: str) -> None:
        """Say that a container of a lost host shall run; recovery does the rest."""
        draft = start_draft(self._mirror.cluster, container)
        if not draft.changes:
            return
        try:
            await self._mirror.reached(await self._store.commit(list(draft.changes), dict(draft.expect)), REACH_S)
        except CommitConflict as conflict:
            raise Conflict(f"the records of container {container[:12]} changed meanwhile") from conflict

    async def _make(self, wanted: a.Make) -> None:
        if wanted.pull == "always":
            await self._pull(wanted.image)
        answer = await self._create(wanted)
        if answer.status == 404 and wanted.pull != "never" and "image" in message_of(answer.body).lower():
            await self._pull(wanted.image)
            answer = await self._create(wanted)
        if answer.status == 409 and self._is_made(wanted):
            return
        made = json.loads(_checked(answer).body)["Id"]
        for network, endpoint in wanted.joins.items():
            await self._join(made, network, endpoint)
        await self._call("POST", f"/containers/{made}/start", fine=(304,))

    async def _create(self, wanted: a.Make) -> EngineResponse:
        query = urlencode({"name": wanted.name, **({"platform": wanted.platform} if wanted.platform else {})})
        target = f"/containers/create?{query}"
        return await inner_call(self._handler, self._links, "POST", target, wanted.body.encode())

    def _is_made(self, wanted: a.Make) -> bool:
        """Whether the name's holder is just what was to be made: another leader was faster."""
        cluster = self._mirror.cluster
        holder = cluster.containers.get(cluster.names.get(wanted.name, r.Name(id="")).id)
        return holder is not None and _identity(parse_spec(holder.body).labels) == _identity(
            parse_spec(wanted.body).labels
        )

    async def _pull(self, image: str) -> None:
        answer = _checked(
            await inner_call(self._handler, self._links, "POST", pull_target(image), deadline_s=PULL_DEADLINE_S)
        )
        failures = [line["error"] for line in _lines(answer.body) if "error" in line]
        if failures:
            raise EngineError(404, f"image {image} is on no host and cannot be pulled: {failures[-1]}")

    async def _join(self, container: str, network: str, endpoint: str) -> None:
        body = json.dumps({"Container": container, "EndpointConfig": json.loads(endpoint)})
        await self._call("POST", f"/networks/{quote(network, safe='')}/connect", body)

    async def _call(self, method: str, target: str, body: str = "", fine: Iterable[int] = ()) -> None:
        _checked(await inner_call(self._handler, self._links, method, target, body.encode()), fine)


def _noted(record: r.AppTroubles, action: a.Action, why: str, now: float) -> r.AppTroubles:
    """The troubles with what came of an action."""
    before = record.troubles.get(action.object)
    others = {name: one for name, one in record.troubles.items() if name != action.object}
    if why:
        version = action.version if isinstance(action, a.Make) else ""
        again = before is not None and before.version == version
        others[action.object] = Trouble(why, (before.tries if before and again else 0) + 1, now, version)
    return msgspec.structs.replace(record, troubles=others)


def _identity(labels: Mapping[str, str]) -> tuple[str | None, str | None]:
    return labels.get(SLOT_LABEL), labels.get(HASH_LABEL)


def _checked(answer: EngineResponse, fine: Iterable[int] = ()) -> EngineResponse:
    """The answer, if it is a success or one of `fine`. Raises `Conflict` or `EngineError` with its sentence."""
    if answer.status < 400 or answer.status in fine:
        return answer
    message = message_of(answer.body)
    raise Conflict(message) if answer.status == 409 else EngineError(answer.status, message)


def _lines(body: bytes) -> Iterable[dict[str, object]]:
    """The objects of a progress stream; what is no JSON is left out."""
    for line in body.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found
