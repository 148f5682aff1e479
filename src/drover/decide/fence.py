"""What a host must stop before others may take over what it holds: pure, from the records and what its engine shows.

Theory of operation. A host that cannot renew its lease stops what is exclusive before the lease ends (fencing, see
`docs/adr/0004-fencing.md`). What is exclusive:

    a container                                         when its host is cut off
    that may write a named volume of the cluster        is killed: two writers would part the data
    with a fixed address (`--ip`, `network connect`)    is killed: somebody relies on that very address
    that uses the volumes of such a container           is killed with it
    of ours that no record asks for                     is killed: nobody knows what it holds
    any other                                           runs on, and reaches only this host's containers
    networks                                            their VXLAN devices go down: no address answers beyond the host

A container that is killed here has the engine's restart policy `no`: the agent starts it again, by its own policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from drover.decide.resolve import resolve_container
from drover.errors import DroverError
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import Spec, parse_spec


class Target(msgspec.Struct, frozen=True):
    """An engine container to kill: its engine id, and the process id of its first process (0: not known to run)."""

    engine_id: str
    pid: int = 0


def holds_claims(cluster: Cluster, container: r.Container) -> bool:
    """Whether a container must not run on two hosts at once, by the module's table."""
    spec = parse_spec(container.body)
    return _writes(cluster, spec) or _fixed(container, spec) or _uses_volumes_of_such(cluster, container, spec)


def _writes(cluster: Cluster, spec: Spec) -> bool:
    return any(use.name in cluster.volumes and not use.read_only for use in spec.volumes)


def _fixed(container: r.Container, spec: Spec) -> bool:
    asked = any(endpoint.ipv4 for endpoint in spec.networks.values())
    return asked or any(_fixed_address(text) for text in container.attachments.values())


def _fixed_address(endpoint_text: str) -> bool:
    endpoint = msgspec.json.decode(endpoint_text or "{}", type=dict[str, Any] | None) or {}
    return bool((endpoint.get("IPAMConfig") or {}).get("IPv4Address"))


def _uses_volumes_of_such(cluster: Cluster, container: r.Container, spec: Spec) -> bool:
    others = (_found(cluster, ref) for ref in spec.volumes_from)
    return any(one.id != container.id and holds_claims(cluster, one) for one in others if one is not None)


def _found(cluster: Cluster, ref: str) -> r.Container | None:
    try:
        return resolve_container(cluster, ref)
    except DroverError:
        return None


def targets(cluster: Cluster, here: Mapping[str, Target], strays: Iterable[Target] = ()) -> tuple[Target, ...]:
    """What to kill of an engine's containers: `here` by cluster id, `strays` are second copies (always)."""
    held = [
        target
        for container, target in here.items()
        if container not in cluster.containers or holds_claims(cluster, cluster.containers[container])
    ]
    return tuple(sorted((*held, *strays), key=lambda target: target.engine_id))
