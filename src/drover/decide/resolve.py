"""From what people type to records: a name, an id, a unique id prefix, or `host/name`.

Order as in the engine: the full id, then the name, then an id prefix. Refusals use Docker's own words and status.
"""

from __future__ import annotations

from collections.abc import Mapping

from drover.errors import EngineError, Invalid, NotFound
from drover.model import records as r
from drover.model.cluster import Cluster

_HEX = frozenset("0123456789abcdef")


def resolve_container(cluster: Cluster, ref: str) -> r.Container:
    """The container meant by `ref`. Raises `NotFound`, for a prefix of several ids `EngineError` (status 500), for no
    name at all `Invalid`, with the engine's own message."""
    if not ref:
        raise Invalid('invalid name or ID supplied: ""')
    bare = ref.removeprefix("/")
    found = _container(cluster, bare) or _container_on_host(cluster, bare)
    if found is None:
        raise NotFound(f"No such container: {ref}")
    return found


def resolve_network(cluster: Cluster, ref: str) -> r.Network:
    """The cluster network meant by `ref`. Raises `NotFound` (`network X not found`) or `Invalid` for a prefix of
    several ids, as the engine does."""
    named = cluster.network_names.get(ref)
    found = cluster.networks.get(ref) or (cluster.networks.get(named.id) if named else None)
    if found is not None:
        return found
    matches = _with_prefix(cluster.networks, ref)
    if len(matches) > 1:
        raise Invalid(f"network {ref} is ambiguous ({len(matches)} matches found based on ID prefix)")
    if not matches:
        raise NotFound(f"network {ref} not found")
    return cluster.networks[matches[0]]


def _container(cluster: Cluster, ref: str) -> r.Container | None:
    named = cluster.names.get(ref)
    found = cluster.containers.get(ref) or (cluster.containers.get(named.id) if named else None)
    if found is not None:
        return found
    matches = _with_prefix(cluster.containers, ref)
    if len(matches) > 1:
        raise EngineError(500, f"multiple IDs found with provided prefix: {ref}")
    return cluster.containers[matches[0]] if matches else None


def _container_on_host(cluster: Cluster, ref: str) -> r.Container | None:
    """`host/name`, as lists show it; only if that host has it."""
    host, _, rest = ref.partition("/")
    found = _container(cluster, rest) if rest and host in cluster.hosts else None
    return found if found is not None and cluster.host_of(found.id) == host else None


def _with_prefix(table: Mapping[str, r.Record], prefix: str) -> list[str]:
    if not prefix or not _HEX.issuperset(prefix):
        return []
    return [identity for identity in table if identity.startswith(prefix)]
