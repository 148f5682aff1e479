"""Values that are not honoured though their keys are, and what to know about some that are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drover.manifest.rollouts import constraint, mode_of
from drover.manifest.values import mapping

PULLS = ("always", "missing", "if_not_present", "never")
MOUNTS = ("volume", "bind", "tmpfs")


def doubts(name: str, service: Mapping[str, Any], fixed: bool) -> Iterator[str]:
    """One sentence per value of a service that has no effect. `fixed`: its addresses are."""
    where = f"services.{name}"
    deploy = mapping(service.get("deploy"), f"{where}.deploy")
    placement = mapping(deploy.get("placement"), f"{where}.deploy.placement")
    if service.get("pull_policy") and service["pull_policy"] not in PULLS:
        yield f"{where}.pull_policy: {service['pull_policy']} is not honoured: images are pulled where they are missing"
    for text in placement.get("constraints") or ():
        if not constraint(str(text)):
            yield f"{where}.deploy.placement.constraints: {text} is not honoured: every host can lead, none is special"
    for mount in service.get("volumes") or ():
        if mount.get("type") not in MOUNTS:
            yield f"{where}.volumes: {mount.get('target')} is not honoured: there are no mounts of type {mount['type']}"
    yield from _ports(where, service)
    yield from _order(where, service, deploy, fixed)
    if service.get("container_name") and mode_of(service, where) == "global":
        yield f"{where}.container_name is not honoured: a global service has a container on each host"


def _ports(where: str, service: Mapping[str, Any]) -> Iterator[str]:
    modes = {port.get("mode") or "ingress" for port in service.get("ports") or ()}
    if len(modes) > 1:
        yield f"{where}.ports: mode ingress is not honoured: some are of mode host, and then all of the service are"


def _order(where: str, service: Mapping[str, Any], deploy: Mapping[str, Any], fixed: bool) -> Iterator[str]:
    """A new container cannot stand beside the old one that has its address, its host's port or its name."""
    why = "its addresses are fixed" if fixed else "its ports are its host's own"
    alone = fixed or any(port.get("mode") == "host" for port in service.get("ports") or ())
    for section in ("update_config", "rollback_config"):
        order = mapping(deploy.get(section), where).get("order")
        if order == "start-first" and alone:
            yield f"{where}.deploy.{section}.order: start-first is not honoured: {why}, so the old one stops first"


def notes(name: str, service: Mapping[str, Any]) -> Iterator[str]:
    """What is honoured, and may be otherwise than somebody with one host expects."""
    for mount in service.get("volumes") or ():
        if mount.get("type") == "bind":
            yield f"service {name}: {mount.get('source')} is a path of whichever host its container runs on"
