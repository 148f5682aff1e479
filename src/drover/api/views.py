"""Records to JSON, for listings: pure functions of a `Cluster`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from drover import __version__
from drover.decide.evacuate import Evacuation, evacuation
from drover.decide.health import host_state
from drover.model.cluster import Cluster
from drover.model.records import Host, HostFacts, Token
from drover.trust import token


def host_view(cluster: Cluster, host: Host) -> dict[str, Any]:
    """A host's record, its state with its sentence, its engine and what it carries."""
    health = host_state(cluster, host.name)
    member = cluster.members.get(host.name)
    return {
        **msgspec.to_builtins(host),
        "labels": dict(host.labels),
        "taints": dict(host.taints),
        "scheduling": host.scheduling,
        "state": health.state,
        "state_since": health.since,
        "message": f"host {host.name} {health.says}",
        "engine": engine_view(cluster.host_facts.get(host.name)),
        "store_member": member.state if member else "",
        "containers": sum(placement.host == host.name for placement in cluster.placements.values()),
        "volumes": sum(volume.host == host.name for volume in cluster.volumes.values()),
    }


def hosts_view(cluster: Cluster) -> list[dict[str, Any]]:
    return [host_view(cluster, host) for _, host in sorted(cluster.hosts.items())]


def engine_view(facts: HostFacts | None) -> dict[str, Any]:
    """What a host reported of its engine; empty if it reported nothing (unknown)."""
    if facts is None:
        return {}
    return {
        "ok": facts.engine_ok,
        "version": facts.engine_version,
        "api_version": facts.api_version,
        "cpus": facts.cpus,
        "memory_bytes": facts.memory_bytes,
        "message": facts.message,
        "at": facts.at,
    }


def evacuation_view(cluster: Cluster, host: str, now: float) -> dict[str, Any]:
    """What is still on a host that is being emptied, and what each thing waits for."""
    found = evacuation(cluster, host, now) if host in cluster.hosts else Evacuation()
    return {"in_progress": found.in_progress, "items": [msgspec.to_builtins(item) for item in found.items]}


def token_view(record: Token, now: float) -> dict[str, Any]:
    """A token without its secret's hash."""
    return {
        "id": record.id,
        "state": token.state(record, now),
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "reusable": record.reusable,
        "used_by": list(record.used_by),
    }


def tokens_view(cluster: Cluster, now: float) -> list[dict[str, Any]]:
    return [token_view(record, now) for record in sorted(cluster.tokens.values(), key=lambda t: -t.created_at)]


def status_view(cluster: Cluster, host: str) -> dict[str, Any]:
    """The part of `GET /status` that the records say."""
    states = Counter(host_state(cluster, name).state for name in cluster.hosts)
    facts = (cluster.facts_of(cid) for cid in cluster.containers)
    return {
        "host": host,
        "version": __version__,
        "engine": engine_view(cluster.host_facts.get(host)),
        "members": [
            {"host": member.host, "state": member.state, "client_url": member.client_url}
            for _, member in sorted(cluster.members.items())
        ],
        "hosts": dict(states),
        "containers": dict(Counter(seen.state if seen else "unknown" for seen in facts)),
    }
