"""`remembered(*tables)`: a decision about some tables is made once, and again only when one of them changed.

Theory of operation. A picture shares the tables that did not change with the one before it (`model.cluster`), so the
identity of the tables says whether an answer still holds: comparing them costs nothing, and a host that looks ten
times a second at pictures in which only facts of volumes changed does not go through all containers each time. The last
answer is kept for each argument (a host's name); it must not be changed by who gets it.

A function that reads a table it does not name would give answers of the past: `tests/unit/test_remembered.py` plays
each on pictures that tell what was read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from operator import is_
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from drover.model.cluster import Cluster

P = ParamSpec("P")
T = TypeVar("T")
MANY = 1_000
ALL: list[tuple[Callable[..., Any], frozenset[str]]] = []
"""Every function that is remembered, as it was written, and the tables it reads."""


def remembered(*tables: str) -> Callable[[Callable[Concatenate[Cluster, P], T]], Callable[Concatenate[Cluster, P], T]]:
    """For a pure function of a picture, and of hashable arguments, that reads only these tables."""

    def decorate(function: Callable[Concatenate[Cluster, P], T]) -> Callable[Concatenate[Cluster, P], T]:
        ALL.append((function, frozenset(tables)))
        last: dict[Any, tuple[list[Any], T]] = {}

        @wraps(function)
        def asked(cluster: Cluster, *args: P.args, **kwargs: P.kwargs) -> T:
            now = [*map(cluster.tables.get, tables)]
            key = (*args, *kwargs.values()) if kwargs else args
            known = last.get(key)
            if known is not None and all(map(is_, known[0], now)):
                return known[1]
            answer = function(cluster, *args, **kwargs)
            if len(last) >= MANY:
                last.clear()
            last[key] = now, answer
            return answer

        return cast(Callable[Concatenate[Cluster, P], T], asked)

    return decorate
