"""The address claims of a cluster by network: what the overlay and the names both start from.

A picture shares the tables that did not change with the one before it, so grouping 5,000 claims again is needed only
when one of them changed: the last grouping is kept, and known by the identity of its table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drover.model.cluster import Cluster
from drover.model.records import Address

Claims = Mapping[str, Sequence[Address]]
_last: list[tuple[Mapping[str, Address], Claims]] = []


def claims_by_network(cluster: Cluster) -> Claims:
    """Network id to the claims of its addresses, in no particular order. Not to be changed by the caller."""
    table = cluster.addresses
    for known, claims in _last:
        if known is table:
            return claims
    grouped: dict[str, list[Address]] = {}
    for claim in table.values():
        grouped.setdefault(claim.network, []).append(claim)
    _last[:] = [(table, grouped)]
    return grouped
