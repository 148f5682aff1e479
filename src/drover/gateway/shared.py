"""`SharedReads`: many clients that ask the same at once are answered together, and none gets an answer from before it
asked.

Theory of operation. `docker ps` by five hundred clients is one question asked five hundred times, and each asks every
host. Up to `AT_ONCE` of the same question run on their own. Who comes then waits for the *next* one, which begins when
one of those ends, and which all who came meanwhile share. So an answer always begins after its question was asked: a
client that removed a container never sees it in the list that it asks for afterwards.

    asked while …                    is answered by
    fewer than AT_ONCE run           its own reading
    AT_ONCE run, nobody waits        a new shared reading, which begins when one of them ends
    AT_ONCE run, some wait           the reading they wait for
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

AT_ONCE = 4


class SharedReads(Generic[T]):
    """Readings by question. A reading that fails fails for all who share it."""

    def __init__(self) -> None:
        self._running: dict[Hashable, int] = {}
        self._next: dict[Hashable, asyncio.Task[T]] = {}
        self._free: dict[Hashable, asyncio.Event] = {}

    async def read(self, question: Hashable, reading: Callable[[], Awaitable[T]]) -> T:
        """The result of `reading`, or of one that somebody else began after this was asked."""
        if self._running.get(question, 0) < AT_ONCE and question not in self._next:
            return await self._run(question, reading)
        shared = self._next.get(question)
        if shared is None:
            shared = self._next[question] = asyncio.create_task(self._in_turn(question, reading))
        # One client that leaves does not take the answer from the others.
        return await asyncio.shield(shared)

    async def _in_turn(self, question: Hashable, reading: Callable[[], Awaitable[T]]) -> T:
        while self._running.get(question, 0) >= AT_ONCE:
            free = self._free.setdefault(question, asyncio.Event())
            free.clear()
            await free.wait()
        # From here on it reads: who comes later must not share it.
        del self._next[question]
        return await self._run(question, reading)

    async def _run(self, question: Hashable, reading: Callable[[], Awaitable[T]]) -> T:
        self._running[question] = self._running.get(question, 0) + 1
        try:
            return await reading()
        finally:
            self._running[question] -= 1
            if not self._running[question]:
                del self._running[question]
            if question in self._free:
                self._free[question].set()
                if question not in self._next:
                    del self._free[question]
