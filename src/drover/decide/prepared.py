"""What a host makes ready for the case that another one, which is not heard, turns out to be dead.

Theory of operation. The leader has written down which host is suspect and where its containers would go
(`decide.suspicion`). Those hosts bring image and network, and make the engine's container with the epoch it will have,
as before a move; nothing of it runs or answers. When the lease is over, the placement comes with just that epoch, and
the container has only to be started. When the suspect is heard again, its record goes, and what was made is a stray.
"""

from __future__ import annotations

from collections.abc import Iterable

from drover.model import records as r
from drover.model.cluster import Cluster


def prepared_here(cluster: Cluster, host: str) -> Iterable[tuple[r.Container, int]]:
    """The containers of suspect hosts that would come to `host`, with the epoch they would have."""
    for suspect in cluster.suspects.values():
        for one, target in suspect.targets.items() if suspect.host != host else ():
            container, placement = cluster.containers.get(one), cluster.placements.get(one)
            if target == host and container is not None and placement is not None and placement.host == suspect.host:
                yield container, placement.epoch + 1


def prepared_at(cluster: Cluster, container: str, source: str) -> str:
    """The host where a container of `source` has been made ready; empty if none has."""
    suspect = cluster.suspects.get(source)
    return suspect.targets.get(container, "") if suspect is not None else ""
