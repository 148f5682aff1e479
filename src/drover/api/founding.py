"""The records a cluster begins with, and the keys of its settings."""

from __future__ import annotations

from drover.decide.encryption import ENCRYPTION_KEY, WIREGUARD
from drover.model.cluster import Change, Cluster, put
from drover.model.records import Host, Setting, key

CLUSTER_NAME_KEY = key("settings", "cluster_name")
NEXT_INDEX_KEY = key("settings", "next_index")


def founding_changes(host: Host, cluster_name: str, *, encrypted: bool = False) -> tuple[Change, ...]:
    """The first commit of a cluster: its first host, its name, the index its next host will get, and whether it
    encrypts."""
    return (
        put(key("hosts", host.name), host),
        put(CLUSTER_NAME_KEY, Setting(value=cluster_name)),
        put(NEXT_INDEX_KEY, Setting(value=str(host.index + 1))),
        *([put(ENCRYPTION_KEY, Setting(value=WIREGUARD))] if encrypted else []),
    )


def setting(cluster: Cluster, name: str, default: str = "") -> str:
    record = cluster.rows("settings", Setting).get(name)
    return default if record is None else record.value
