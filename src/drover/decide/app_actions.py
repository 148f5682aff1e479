"""What the leader does about an application, as values; each is a Docker call or a few, and each can be repeated.

    action       call
    MakeNetwork  POST /networks/create
    MakeVolume   POST /volumes/create
    Make         POST /containers/create, connect to the other networks, start
    Join         POST /networks/X/connect
    Start        POST /containers/X/start
    Bring        none: its host is lost, and recovery starts it elsewhere once the records say that it shall run
    Restart      POST /containers/X/restart
    Rename       POST /containers/X/rename
    Remove       POST /containers/X/stop, DELETE /containers/X
    DropNetwork  DELETE /networks/X
    DropVolume   DELETE /volumes/X

`object` is what an action is about: at most one action per object is under way, and one that failed is left alone for a
while.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from drover.model.apps import (
    HASH_LABEL,
    NUMBER_LABEL,
    SLOT_LABEL,
    Resource,
    Service,
)
from drover.model.records import App
from drover.model.spec import CONSTRAINT_LABEL


class Action(msgspec.Struct, frozen=True, kw_only=True):
    @property
    def object(self) -> str:
        raise TypeError("an action has an object")


class MakeNetwork(Action, frozen=True):
    network: Resource

    @property
    def object(self) -> str:
        return f"network/{self.network.name}"


class MakeVolume(Action, frozen=True):
    volume: Resource

    @property
    def object(self) -> str:
        return f"volume/{self.volume.name}"


class ContainerAction(Action, frozen=True):
    """`name` is the container's."""

    name: str

    @property
    def object(self) -> str:
        return f"container/{self.name}"


class Make(ContainerAction, frozen=True):
    """`joins`: network to the JSON text of the endpoint there. `version`: the service's hash."""

    body: str
    image: str
    joins: Mapping[str, str] = {}
    platform: str = ""
    pull: str = "missing"
    version: str = ""


class Join(ContainerAction, frozen=True):
    container: str
    network: str
    endpoint: str


class Start(ContainerAction, frozen=True):
    container: str


class Bring(ContainerAction, frozen=True):
    container: str


class Restart(ContainerAction, frozen=True):
    container: str
    why: str


class Rename(ContainerAction, frozen=True):
    container: str
    to: str


class Remove(ContainerAction, frozen=True):
    """`volumes`: its anonymous volumes go with it."""

    container: str
    why: str
    volumes: bool = False


class DropNetwork(Action, frozen=True):
    name: str

    @property
    def object(self) -> str:
        return f"network/{self.name}"


class DropVolume(Action, frozen=True):
    name: str

    @property
    def object(self) -> str:
        return f"volume/{self.name}"


def container_name(app: str, key: str, service: Service, slot: str) -> str:
    """The name of a slot's container."""
    return service.name or f"{app}-{key}-{slot}"


def make(app: App, key: str, service: Service, slot: str, *, beside: bool = False, number: int = 0) -> Make:
    """The container of a slot. `beside`: another of the slot still runs under its name. `number`: Compose's."""
    name = container_name(app.name, key, service, slot) + (f".{service.hash[:8]}" if beside else "")
    body: dict[str, Any] = msgspec.json.decode(service.body)
    labels = body.setdefault("Labels", {})
    labels |= {SLOT_LABEL: slot, HASH_LABEL: service.hash, NUMBER_LABEL: str(number or slot)}
    if service.mode.startswith("global"):
        constraints = [*filter(None, [labels.get(CONSTRAINT_LABEL)]), f"host=={slot}"]
        labels |= {CONSTRAINT_LABEL: ";".join(constraints), "drover.reschedule": "off"}
    for network, endpoint in (body.get("NetworkingConfig") or {}).get("EndpointsConfig", {}).items():
        endpoint |= _fixed(service, network, slot)
    return Make(
        name=name,
        body=msgspec.json.encode(body).decode(),
        image=body.get("Image", ""),
        joins={network: _joined(service, network, text, slot) for network, text in service.joins.items()},
        platform=service.platform,
        pull=service.pull,
        version=service.hash,
    )


def _joined(service: Service, network: str, text: str, slot: str) -> str:
    return msgspec.json.encode(msgspec.json.decode(text) | _fixed(service, network, slot)).decode()


def _fixed(service: Service, network: str, slot: str) -> dict[str, Any]:
    """The endpoint settings of a slot's fixed address; none where it has none."""
    addresses = service.addresses.get(network, ())
    index = int(slot) - 1 if slot.isdigit() else len(addresses)
    return {"IPAMConfig": {"IPv4Address": addresses[index]}} if index < len(addresses) else {}
