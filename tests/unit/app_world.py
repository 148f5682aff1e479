"""Applications in a toy world: the production decisions, Docker calls that always work at once, and a clock by hand.

What a container does is said by its image: `good`, `checked` (healthy after a look), `sick` (unhealthy after a look),
`crash` (ends with 3 after a look), `task` (ends with 0), `broken` (ends with 1), `refused` (cannot be made). The leader
may die between any two effects: `World.budget` is how many it has left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from cluster_factory import cid, three

from drover.decide import app_actions as a
from drover.decide.app_changes import deploy_draft, file_ids, start_draft
from drover.decide.app_steps import steps
from drover.decide.app_view import app_view
from drover.decide.apps import instances, verdict
from drover.manifest.app import read_app
from drover.model import records as r
from drover.model.apps import Trouble
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.spec import parse_spec

FIRST_LOOK = {
    "good": {"state": "running"},
    "checked": {"state": "running", "health": "starting"},
    "sick": {"state": "running", "health": "starting"},
    "crash": {"state": "running"},
    "task": {"state": "running"},
    "broken": {"state": "running"},
}
SECOND_LOOK = {
    "checked": {"health": "healthy"},
    "sick": {"health": "unhealthy"},
    "crash": {"state": "exited", "exit_code": 3},
    "task": {"state": "exited", "exit_code": 0},
    "broken": {"state": "exited", "exit_code": 1},
}


class LeaderDied(Exception):
    """Its budget is spent."""


class World:
    def __init__(self, name: str = "shop") -> None:
        self.name = name
        self.now = 1_700_000_000.0
        self.cluster: Cluster = three()
        self.budget = -1
        self.effects = 0
        self.made = 0
        self.log: list[str] = []
        self.ids = 0

    # -- people ------------------------------------------------------------------------------------------------------

    def deploy(self, services: Mapping[str, Any], **top: Any) -> bool:
        """Deploy a canonical manifest; whether it changed anything."""
        contents = {
            (table, key): one.get("content", "")
            for table in ("configs", "secrets")
            for key, one in top.get(table, {}).items()
        }
        ids = file_ids(self.cluster, self.name, contents, self._fresh)
        read = read_app({"services": services, **top}, self.name, ids)
        draft = deploy_draft(self.cluster, read.app, contents, ids, self.now)
        self.write(*draft.changes)
        return bool(draft.changes)

    def _fresh(self) -> str:
        self.ids += 1
        return f"file{self.ids}"

    def write(self, *changes: Change) -> None:
        self.cluster = self.cluster.apply(self.cluster.revision + 1, changes)

    # -- the leader --------------------------------------------------------------------------------------------------

    def look(self) -> bool:
        """One look of a leader; whether there was anything to do."""
        found = steps(self.cluster, self.cluster.apps[self.name], self.now)
        if found.changes:
            self._effect("records")
            self.write(*found.changes)
        for action in found.actions:
            self._do(action)
        return bool(found.changes or found.actions)

    def _effect(self, what: str) -> None:
        if self.budget == 0:
            raise LeaderDied
        self.budget -= 1
        self.effects += 1
        self.log.append(what)

    def _do(self, action: a.Action) -> None:
        self._effect(f"{type(action).__name__} {action.object}")
        match action:
            case a.MakeNetwork(network=one):
                network = r.Network(id=one.name, name=one.name, body=one.body)
                self.write(
                    put(r.key("networks", one.name), network),
                    put(r.key("network_names", one.name), r.Name(id=one.name)),
                )
            case a.MakeVolume(volume=one):
                self.write(put(r.key("volumes", one.name), r.Volume(name=one.name, body=one.body)))
            case a.Make():
                self._make(action)
            case a.Join(container=container, network=network):
                self._attach(container, network)
            case a.Start(container=container):
                self._start(container)
            case a.Bring(container=container):
                self.write(*start_draft(self.cluster, container).changes)
            case a.Restart(container=container):
                self._start(container)
            case a.Rename(container=container, to=name):
                record = self.cluster.containers[container]
                self.write(
                    delete(r.key("names", record.name)),
                    put(r.key("names", name), r.Name(id=container)),
                    put(r.key("containers", container), msgspec.structs.replace(record, name=name)),
                )
            case a.Remove(container=container):
                self.remove(container)
            case a.DropNetwork(name=name):
                self.write(delete(r.key("networks", name)), delete(r.key("network_names", name)))
            case a.DropVolume(name=name):
                self.write(delete(r.key("volumes", name)))

    def _make(self, wanted: a.Make) -> None:
        assert wanted.name not in self.cluster.names, f"{wanted.name} is taken"
        if wanted.image == "refused":
            return self._refused(wanted)
        self.made += 1
        identity = cid(self.made)
        host = json.loads(wanted.body)["Labels"].get("drover.app.slot", "")
        host = host if host in self.cluster.hosts else f"h{self.made % 3 + 1}"
        record = r.Container(id=identity, name=wanted.name, body=wanted.body, created_at=self.now + self.made / 1e6)
        self.write(
            put(r.key("containers", identity), record),
            put(r.key("names", wanted.name), r.Name(id=identity)),
            put(r.key("placements", identity), r.Placement(container=identity, host=host)),
        )
        self.facts(identity, state="created", engine_id=identity)
        for network in wanted.joins:
            self._effect(f"joined {wanted.name}")
            self._attach(identity, network)
        self._effect(f"started {wanted.name}")
        self._start(identity)
        return None

    def _refused(self, wanted: a.Make) -> None:
        record = self.cluster.app_troubles.get(self.name, r.AppTroubles(app=self.name))
        before = record.troubles.get(wanted.object, Trouble("", 0))
        trouble = Trouble("no host has the image", before.tries + 1, self.now, wanted.version)
        self.write(
            put(
                r.key("app_troubles", self.name),
                msgspec.structs.replace(record, troubles={**record.troubles, wanted.object: trouble}),
            )
        )

    def _attach(self, container: str, network: str) -> None:
        record = self.cluster.containers[container]
        joined = {**record.attachments, self.cluster.network_names[network].id: "{}"}
        self.write(put(r.key("containers", container), msgspec.structs.replace(record, attachments=joined)))

    def _start(self, container: str) -> None:
        record = self.cluster.containers[container]
        order = r.Order(number=record.order.number + 1, verb="start")
        self.write(put(r.key("containers", container), msgspec.structs.replace(record, desired="running", order=order)))
        self.facts(container, started_at=f"start at {self.now}", **FIRST_LOOK[parse_spec(record.body).image])

    # -- engines -----------------------------------------------------------------------------------------------------

    def facts(self, container: str, **changed: Any) -> None:
        host = self.cluster.placements[container].host
        before = self.cluster.facts_of(container) or r.ContainerFacts(container=container, host=host)
        self.write(put(r.key("container_facts", host, container), msgspec.structs.replace(before, **changed)))

    def remove(self, container: str) -> None:
        record, host = self.cluster.containers[container], self.cluster.placements[container].host
        keys = [r.key("containers", container), r.key("placements", container), r.key("names", record.name)]
        self.write(*map(delete, [*keys, r.key("container_facts", host, container)]))

    def stop(self, container: str) -> None:
        """Somebody stops it."""
        record = self.cluster.containers[container]
        self.write(put(r.key("containers", container), msgspec.structs.replace(record, desired="stopped")))
        self.facts(container, state="exited", exit_code=0)

    def pass_time(self, seconds: float = 1.0) -> None:
        """Time goes on, and what runs shows what it does."""
        self.now += seconds
        for one in instances(self.cluster, self.name):
            if one.state == "running" and (change := SECOND_LOOK.get(one.spec.image)):
                self.facts(one.container.id, **change)

    # -- what tests ask ----------------------------------------------------------------------------------------------

    def run(self, looks: int = 200) -> None:
        """Look and let time pass until nothing is left to do, at most so often."""
        for _ in range(looks):
            if not self.look() and self.view()["state"] in ("converged", "failed"):
                return
            self.pass_time()
        raise AssertionError(f"not settled: {self.view()}")

    def view(self) -> dict[str, Any]:
        return app_view(self.cluster, self.name)

    def service(self, name: str) -> dict[str, Any]:
        return next(one for one in self.view()["services"] if one["name"] == name)

    def names(self) -> list[str]:
        return sorted(one.container.name for one in instances(self.cluster, self.name))

    def images(self) -> list[str]:
        return sorted(one.spec.image for one in instances(self.cluster, self.name))

    def good(self, service: str) -> int:
        """How many of a service's containers do well now."""
        found = [one for one in instances(self.cluster, self.name) if one.service == service]
        return sum(verdict(self.cluster, one).outcome == "good" for one in found)


def web(image: str = "good", replicas: int = 3, **deploy: Any) -> dict[str, Any]:
    return {"image": image, "networks": {"default": None}, "deploy": {"replicas": replicas, **deploy}}
