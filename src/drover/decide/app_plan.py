"""`plan(cluster, wanted)`: what a deployment would change, where, and why, before anything does.

Theory of operation. The same pure functions that act later are asked now: which slots there are, what a container is
made of, and a `Board` for each container that would be made, one after the other. Which hosts have an image is not
known here: it only ever decides between equals.

    change      when
    create      network, volume or container that is not there
    update      container of another version: in the order that update_config says
    remove      container whose service or slot is no more
    restart     container that is kept, and follows a dependency that is updated (`followers`); update, if it shares
                the dependency's namespaces or volumes
    keep        all else
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from drover.decide.app_actions import Make, make
from drover.decide.app_changes import same
from drover.decide.apps import Instance, by_service, instances, wanted_slots
from drover.decide.board import Board
from drover.decide.kept_views import kept
from drover.decide.wanted import wanted_of
from drover.errors import DroverError
from drover.model.apps import HASH_LABEL, NUMBER_LABEL, SLOT_LABEL, Resource, Service
from drover.model.cluster import Change, Cluster, put
from drover.model.records import App, Name, Network, key
from drover.model.spec import parse_spec

OWN_LABELS = (HASH_LABEL, SLOT_LABEL, NUMBER_LABEL)


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change. `host` and `why`: where a container would go; `impossible`: that it cannot."""

    change: str
    kind: str
    name: str
    host: str = ""
    why: str = ""
    impossible: bool = False


class Plan(msgspec.Struct, frozen=True):
    """`unchanged`: a deployment would do nothing."""

    name: str
    unchanged: bool
    entries: tuple[Entry, ...] = ()


def plan(cluster: Cluster, wanted: App) -> Plan:
    current = cluster.apps.get(wanted.name)
    grouped = by_service(instances(cluster, wanted.name))
    entries = [*_resources(cluster, wanted), *_gone(wanted, grouped)]
    scene = cluster.apply(cluster.revision, _as_if_made(cluster, wanted))
    board = Board(kept(cluster))
    made = {
        name: _service(scene, board, wanted, name, service, grouped.get(name, {}))
        for name, service in wanted.services.items()
    }
    updated = {name for name, many in made.items() if any(one.change == "update" for one in many)}
    for name, many in made.items():
        entries += [_followed(wanted.services[name], one, updated) for one in many]
    unchanged = current is not None and same(current, wanted) and all(one.change == "keep" for one in entries)
    return Plan(wanted.name, unchanged, tuple(entries))


def _resources(cluster: Cluster, wanted: App) -> Iterable[Entry]:
    for one in wanted.networks:
        there = cluster.network_names.get(one.name)
        yield _resource("network", one, there is not None, cluster.networks[there.id].body if there else "")
    for one in wanted.volumes:
        volume = cluster.volumes.get(one.name)
        yield _resource("volume", one, volume is not None, volume.body if volume else "")


def _resource(kind: str, wanted: Resource, is_there: bool, body: str) -> Entry:
    if is_there and wanted.body and _differs(body, wanted.body):
        why = f"it is there with other settings, and stays as it is: remove it first (`docker {kind} rm {wanted.name}`)"
        return Entry(change="keep", kind=kind, name=wanted.name, why=why)
    if is_there:
        return Entry(change="keep", kind=kind, name=wanted.name)
    if not wanted.body:
        return Entry(change="create", kind=kind, name=wanted.name, why="external, and not there", impossible=True)
    return Entry(change="create", kind=kind, name=wanted.name)


def _differs(body: str, wanted: str) -> bool:
    """Whether two create calls ask for different things; what is empty is the same as absent."""
    return _asked(body) != _asked(wanted)


def _asked(body: str) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(body or "{}")
    return {name: value for name, value in found.items() if value and name not in ("Labels", "CheckDuplicate")}


def _gone(wanted: App, grouped: dict[str, dict[str, list[Instance]]]) -> Iterable[Entry]:
    for name, slots in grouped.items():
        if name not in wanted.services:
            for many in slots.values():
                for one in many:
                    why = f"the manifest has no service {name}"
                    yield Entry(change="remove", kind="container", name=one.container.name, host=one.host, why=why)


def _as_if_made(cluster: Cluster, wanted: App) -> list[Change]:
    """The networks that would be made: placing asks for them by name."""
    missing = [one for one in wanted.networks if one.body and one.name not in cluster.network_names]
    return [
        change
        for one in missing
        for change in (
            put(key("networks", one.name), Network(id=one.name, name=one.name, body=one.body)),
            put(key("network_names", one.name), Name(id=one.name)),
        )
    ]


def _service(
    cluster: Cluster, board: Board, app: App, name: str, service: Service, have: dict[str, list[Instance]]
) -> list[Entry]:
    if service.schedule is not None:
        why = f"runs at {service.schedule.cron} ({service.schedule.timezone})"
        return [Entry(change="keep", kind="job", name=f"{app.name}-{name}", why=why)]
    slots = wanted_slots(cluster, service, have)
    entries = [_slot(cluster, board, app, name, service, slot, have.get(slot, [])) for slot in slots]
    over = [one for slot, many in have.items() if slot not in slots for one in many]
    why = f"{name} has fewer containers then"
    entries += [
        Entry(change="remove", kind="container", name=one.container.name, host=one.host, why=why) for one in over
    ]
    return entries


def _followed(service: Service, entry: Entry, updated: set[str]) -> Entry:
    """The entry of a container that is kept, where it follows a service that is updated."""
    followed = [one for one in service.depends_on if one.restart and one.service in updated]
    if not followed or entry.change != "keep" or entry.kind != "container" or service.is_job:
        return entry
    change = "update" if any(one.shares for one in followed) else "restart"
    why = f"it follows {', '.join(one.service for one in followed)}, which is updated"
    return msgspec.structs.replace(entry, change=change, why=why)


def _slot(
    cluster: Cluster, board: Board, app: App, name: str, service: Service, slot: str, many: list[Instance]
) -> Entry:
    wanted = make(app, name, service, slot)
    fresh = next((one for one in many if one.hash == service.hash), None)
    if fresh is not None:
        return Entry(change="keep", kind="container", name=fresh.container.name, host=fresh.host)
    change, why = ("update", f"{_differences(many[-1], wanted)}; {service.update.order}; ") if many else ("create", "")
    try:
        host, reason = _placed(cluster, board, wanted)
    except DroverError as error:
        return Entry(change=change, kind="container", name=wanted.name, why=error.message, impossible=True)
    return Entry(change=change, kind="container", name=wanted.name, host=host, why=why + reason)


def _differences(old: Instance, wanted: Make) -> str:
    """What of the create call is another than that of the container that is there: `changed: Image a:1 -> a:2, Env`."""
    before, after = _flat(old.container.body), _flat(wanted.body)
    changed = [name for name in dict.fromkeys((*after, *before)) if before.get(name) != after.get(name)]
    told = [f"Image {before.get(name)} -> {after.get(name)}" if name == "Image" else name for name in changed]
    return f"changed: {', '.join(told)}" if told else "it was made otherwise"


def _flat(body: str) -> dict[str, Any]:
    """The call's keys, those of HostConfig among them, without what is empty and what Drover itself writes."""
    found: dict[str, Any] = msgspec.json.decode(body or "{}")
    found |= found.pop("HostConfig", None) or {}
    labels = found.get("Labels") or {}
    found["Labels"] = {name: value for name, value in labels.items() if name not in OWN_LABELS}
    return {name: value for name, value in found.items() if value}


def _placed(cluster: Cluster, board: Board, wanted: Make) -> tuple[str, str]:
    spec = parse_spec(wanted.body)
    asked = wanted_of(cluster, wanted.name, wanted.name, spec, wanted.platform)
    chosen = board.place(cluster, asked, bring_volumes=True)
    board.put(chosen.host, wanted.name, wanted.name, spec)
    return chosen.host, chosen.why
