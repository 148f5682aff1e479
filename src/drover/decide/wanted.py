"""`Wanted`: one container that asks for a host, its references resolved to container ids.

References that bind a container to another one's host, and what a reference to nobody does (as in the engine):

    reference                       unresolved
    network `container:REF`         nothing now: the engine refuses when it starts
    pid, ipc `container:REF`        nothing now: the engine refuses when it starts
    volumes-from REF                `Invalid`: No such container: REF
    link REF:ALIAS                  `Invalid`: could not get container for REF: No such container: REF
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from drover.decide.resolve import resolve_container
from drover.errors import DroverError, Invalid, NotFound
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import Spec, parse_spec

_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"
_NUMBER = "com.docker.compose.container-number"
_TRAILING_NUMBER = re.compile(r"(?<=.)[-_.]?\d+$")

Slot = tuple[str, str, str]


class Near(msgspec.Struct, frozen=True):
    """Must be on the same host as `container` (an id); `why` says so: `shares the network of db`."""

    container: str
    why: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """`platform` is the create call's, e.g. `linux/arm64`; empty means whatever the host is."""

    id: str
    name: str
    spec: Spec
    platform: str = ""
    near: tuple[Near, ...] = ()

    @property
    def family(self) -> str:
        return family_of(self.name, self.spec.labels)

    @property
    def slot(self) -> Slot | None:
        return slot_of(self.spec.labels)


def wanted_of(cluster: Cluster, container_id: str, name: str, spec: Spec, platform: str = "") -> Wanted:
    """Resolve the spec's references. Raises as the module's table says."""
    return Wanted(id=container_id, name=name, spec=spec, platform=platform, near=_near(cluster, spec))


def wanted_again(cluster: Cluster, container: r.Container) -> Wanted:
    """A container that is already recorded, as asking for a host anew."""
    return wanted_of(cluster, container.id, container.name, parse_spec(container.body), container.platform)


def family_of(name: str, labels: Mapping[str, str]) -> str:
    """What is spread apart first: containers of one Compose service, else those whose names differ in a trailing
    number (`web-1`, `web-2`)."""
    service = labels.get(_SERVICE)
    if service:
        return f"{labels.get(_PROJECT, '')}/{service}"
    return _TRAILING_NUMBER.sub("", name)


def slot_of(labels: Mapping[str, str]) -> Slot | None:
    """Compose's (project, service, number): a new container of the same slot replaces the old one."""
    slot = (labels.get(_PROJECT, ""), labels.get(_SERVICE, ""), labels.get(_NUMBER, ""))
    return slot if all(slot) else None


def _near(cluster: Cluster, spec: Spec) -> tuple[Near, ...]:
    shared = [(spec.network_container, "network"), (spec.pid, "process ids"), (spec.ipc, "shared memory")]
    namespaces = [_shares(cluster, ref, what) for ref, what in shared if ref]
    volumes = [_lender(cluster, ref) for ref in spec.volumes_from]
    links = [_linked(cluster, ref) for ref in spec.links]
    return tuple([near for near in namespaces if near is not None] + volumes + links)


def _shares(cluster: Cluster, ref: str, what: str) -> Near | None:
    try:
        return _near_to(cluster, ref, f"shares the {what} of")
    except DroverError:
        return None


def _lender(cluster: Cluster, ref: str) -> Near:
    try:
        return _near_to(cluster, ref, "uses the volumes of")
    except NotFound as error:
        raise Invalid(error.message) from error


def _linked(cluster: Cluster, ref: str) -> Near:
    try:
        return _near_to(cluster, ref, "is linked to")
    except NotFound as error:
        raise Invalid(f"could not get container for {ref}: {error.message}") from error


def _near_to(cluster: Cluster, ref: str, why: str) -> Near:
    found = resolve_container(cluster, ref)
    return Near(found.id, f"{why} {found.name}")
