"""Which API versions the cluster speaks: those that all its engines speak.

client asks for        answer
no version             served
min <= version <= max  served
above                  400 `client version … is too new. Maximum supported API version is …`
below                  400 `client version … is too old. Minimum supported API version is …, please upgrade …`
"""

from __future__ import annotations

from functools import lru_cache

from drover.decide.health import down_sentence
from drover.errors import Invalid
from drover.model.cluster import Cluster

Version = tuple[int, ...]


@lru_cache(maxsize=256)
def version_of(text: str) -> Version:
    """As engines compare: what is no number counts as 0, and zeros at the end count nothing (1.41.0 is 1.41)."""
    parts = [int(part) if part.isdecimal() else 0 for part in text.split(".")]
    while parts and not parts[-1]:
        del parts[-1]
    return tuple(parts)


def shared_versions(cluster: Cluster) -> tuple[str, str]:
    """(minimum, maximum) of the versions that every engine that answers speaks; empty texts while none is known."""
    facts = [f for name, f in cluster.host_facts.items() if f.api_version and down_sentence(cluster, name) is None]
    lowest = max((f.min_api_version for f in facts if f.min_api_version), key=version_of, default="")
    return lowest, min((f.api_version for f in facts), key=version_of, default="")


class SpokenVersions:
    """`shared_versions` of the latest picture, worked out once for it: every call asks."""

    def __init__(self) -> None:
        self._cluster: Cluster | None = None
        self._shared = ("", "")

    def of(self, cluster: Cluster) -> tuple[str, str]:
        if cluster is not self._cluster:
            self._cluster, self._shared = cluster, shared_versions(cluster)
        return self._shared


def refuse_version(shared: tuple[str, str], version: str) -> None:
    """Raise Docker's `Invalid` for a version that an engine of the cluster does not speak."""
    lowest, highest = shared
    if not version or not highest:
        return
    if version_of(version) > version_of(highest):
        raise Invalid(f"client version {version} is too new. Maximum supported API version is {highest}")
    if version_of(version) < version_of(lowest):
        raise Invalid(
            f"client version {version} is too old. Minimum supported API version is {lowest}, "
            "please upgrade your client to a newer version"
        )
