"""`Order`: hosts in the order of a key, where those of one key are equals that a container's hash decides between.

A host is put in again when its key changes; both that and the way to the first host take the logarithm of their number.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from heapq import merge

from drover.decide.rank import CIRCLE, point

Key = tuple[int, ...]
Ranked = tuple[Key, int, str]
"""A host's key, its distance on the circle from a container, and its name."""


class Order:
    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._equals: dict[Key, list[tuple[int, str]]] = {}
        """The hosts of a key, as they sit on the circle."""
        self._key_of: dict[str, Key] = {}

    def __len__(self) -> int:
        return len(self._key_of)

    def put(self, host: str, key: Key | None) -> None:
        """None: the host is none of them any more."""
        old = self._key_of.get(host)
        if old == key:
            return
        if old is not None:
            self._take(host, old)
        if key is not None:
            self._key_of[host] = key
            if key not in self._equals:
                insort(self._keys, key)
                self._equals[key] = []
            insort(self._equals[key], (point(host), host))

    def _take(self, host: str, key: Key) -> None:
        equals = self._equals[key]
        del self._key_of[host], equals[bisect_left(equals, (point(host), host))]
        if not equals:
            del self._equals[key], self._keys[bisect_left(self._keys, key)]

    def walk(self, container: str) -> Iterator[Ranked]:
        """The hosts in their order, for a container (an id). Not to be changed meanwhile."""
        start = point(container)
        for key in self._keys:
            equals = self._equals[key]
            first = bisect_left(equals, (start, ""))
            for at in range(first - len(equals), first):
                place, host = equals[at]
                yield key, (place - start) % CIRCLE, host


def walked(orders: Iterable[Order], container: str) -> Iterator[str]:
    """The hosts of several orders as if they were one."""
    walks = [order.walk(container) for order in orders]
    ranked = walks[0] if len(walks) == 1 else merge(*walks)
    return (host for _, _, host in ranked)
