"""Whether there is space for volumes on a host, by what it last said (`VolumeSpace`)."""

from __future__ import annotations

from drover.decide.sentences import size
from drover.model.cluster import Cluster

MIN_HEADROOM_BYTES = 64 * 1024 * 1024
HEADROOM_SHARE = 50
"""A fiftieth."""


def headroom_bytes(total_bytes: int) -> int:
    """What is kept free of copies on a disk of that size."""
    return max(MIN_HEADROOM_BYTES, total_bytes // HEADROOM_SHARE)


def is_full(cluster: Cluster, host: str, driver: str) -> bool:
    """Whether a driver's disk has less than its headroom left. One that is not known of is not full."""
    space = cluster.volume_space.get(f"{host}/{driver}")
    return space is not None and bool(space.total_bytes) and space.free_bytes < headroom_bytes(space.total_bytes)


def no_room(cluster: Cluster, host: str, driver: str, needed_bytes: int) -> str:
    """Why so many bytes more do not fit, as the rest of a sentence that begins with the host; empty if they do."""
    space = cluster.volume_space.get(f"{host}/{driver}")
    if space is None or not space.total_bytes:
        return ""
    left_bytes = space.free_bytes - headroom_bytes(space.total_bytes)
    if needed_bytes <= max(0, left_bytes):
        return ""
    return f"has {size(max(0, left_bytes))} left for the driver {driver}, and {size(needed_bytes)} are needed"
