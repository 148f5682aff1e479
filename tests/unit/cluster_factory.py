"""Small clusters for tests of decisions, written as they are talked about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from drover.decide.wanted import Wanted, wanted_of
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.spec import parse_spec

MIB = 2**20
GIB = 2**30
LOST_AT = 1_700_000_000.0
LOST_TEXT = "2023-11-14 22:13:20 UTC"


def cid(number: int) -> str:
    """A container id: the number as 64 hex digits, most significant last so that short prefixes differ."""
    return f"{number:064x}"[::-1]


def host(name: str, **fields: Any) -> list[Change]:
    """A host that is a member, alive, and has 4 cores and 8 GiB. `state`: up, lost, mute (alive without facts),
    silent (its engine does not answer), new (a member that never came), noteless (lost, not noted yet)."""
    state = fields.pop("state", "up")
    facts = {
        "cpus": 4,
        "memory_bytes": 8 * GIB,
        "arch": "x86_64",
        "os": "Debian GNU/Linux 12",
        **fields.pop("facts", {}),
    }
    index = int("".join(c for c in name if c.isdigit()) or 1)
    record = r.Host(**{"name": name, "id": f"id-{name}", "index": index, "address": f"10.94.0.{index}", **fields})
    changes = [put(r.key("hosts", name), record)]
    if state not in ("lost", "new", "noteless"):
        changes.append(put(r.key("alive", name), r.Alive(host=name, session="s1", since=5.0)))
    if state == "lost":
        changes.append(put(r.key("lost", name), r.HostLost(host=name, at=LOST_AT)))
    if state not in ("mute", "new"):
        seen = r.HostFacts(host=name, engine_ok=state != "silent", at=LOST_AT, **facts)
        changes.append(put(r.key("host_facts", name), seen))
    return changes


def container(
    number: int, name: str, on: str | None = "h1", body: Mapping[str, Any] | None = None, **facts: Any
) -> list[Change]:
    """A container placed on `on` (None: nowhere); with `facts`, what its host reported of it."""
    identity = cid(number)
    changes = [
        put(r.key("containers", identity), r.Container(id=identity, name=name, body=json.dumps(body or {}))),
        put(r.key("names", name), r.Name(id=identity)),
    ]
    if on is not None:
        changes.append(
            put(r.key("placements", identity), r.Placement(container=identity, host=on, chosen="it was free"))
        )
    if on is not None and facts:
        seen = r.ContainerFacts(container=identity, host=on, **facts)
        changes.append(put(r.key("container_facts", on, identity), seen))
    return changes


def volume(name: str, on: str) -> list[Change]:
    return [put(r.key("volumes", name), r.Volume(name=name, body="{}", host=on))]


def port_claim(on: str, protocol: str, port: int, number: int) -> list[Change]:
    claim = r.Port(host=on, protocol=protocol, port=port, container=cid(number))
    return [put(r.key("ports", on, protocol, str(port)), claim)]


def network(identity: str, name: str, subnet: str = "", **fields: Any) -> list[Change]:
    record = r.Network(**{"id": identity, "name": name, "body": "{}", "subnet": subnet, **fields})
    return [put(r.key("networks", identity), record), put(r.key("network_names", name), r.Name(id=identity))]


def address(network_id: str, ip: str, number: int) -> list[Change]:
    return [put(r.key("addresses", network_id, ip), r.Address(network=network_id, ip=ip, container=cid(number)))]


def world(*parts: Sequence[Change]) -> Cluster:
    return Cluster().apply(1, [change for part in parts for change in part])


def without(cluster: Cluster, *keys: str) -> Cluster:
    return cluster.apply(cluster.revision + 1, [delete(key) for key in keys])


def three(*parts: Sequence[Change]) -> Cluster:
    """h1, h2 and h3, all up and alike, and what else is given."""
    return world(host("h1"), host("h2"), host("h3"), *parts)


def wanted(
    cluster: Cluster, name: str = "web", body: Mapping[str, Any] | None = None, number: int = 0xFFFF, platform: str = ""
) -> Wanted:
    return wanted_of(cluster, cid(number), name, parse_spec(json.dumps(body or {})), platform)


def env(*entries: str) -> dict[str, Any]:
    return {"Env": list(entries)}


def host_config(**fields: Any) -> dict[str, Any]:
    return {"HostConfig": fields}


def publishing(*ports: str, container_port: str = "80/tcp") -> dict[str, Any]:
    """Ports that the container's engine publishes."""
    bindings = {container_port: [{"HostIp": "", "HostPort": port} for port in ports]}
    return host_config(PortBindings=bindings, NetworkMode="bridge")


def composed(project: str, service: str, number: int = 1, **body: Any) -> dict[str, Any]:
    prefix = "com.docker.compose"
    labels = {f"{prefix}.project": project, f"{prefix}.service": service, f"{prefix}.container-number": str(number)}
    return {"Labels": labels, **body}
