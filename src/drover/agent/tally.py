"""`Tally`: what has travelled of a move and how fast, for whoever waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from drover.agent.report import Reporter
from drover.decide.sentences import size
from drover.model import records as r

PROGRESS_EVERY_S = 0.5


class Tally:
    """Reported at most twice a second."""

    def __init__(self, host: str, key: str, move: r.Move, reporter: Reporter) -> None:
        self._key = r.key("move_facts", host, key)
        self._reporter = reporter
        self._loop = asyncio.get_running_loop()
        self._facts = r.MoveFacts(host=host, number=move.number)
        known = reporter.known(self._key)
        if isinstance(known, r.MoveFacts) and known.number == move.number:
            self._facts = known
        self._round_begin = self._loop.time()
        self._round_bytes = 0
        self._size_bytes: Callable[[], int] = int
        self._reported_at = float("-inf")
        self._last = False
        self._number = 0

    def begin_round(self, size_bytes: Callable[[], int]) -> None:
        """`size_bytes()` is all there is to copy in the first round."""
        number = self._number = self._number + 1
        self._round_begin, self._round_bytes = self._loop.time(), 0
        self._size_bytes = size_bytes if number == 1 else int
        self._facts = msgspec.structs.replace(self._facts, rounds=number)
        self.report(f"copying, round {number}")

    def begin_last(self) -> None:
        self._round_begin, self._last = self._loop.time(), True

    def add(self, moved_bytes: int) -> None:
        self._round_bytes += moved_bytes
        last_bytes = self._facts.last_bytes + (moved_bytes if self._last else 0)
        total_bytes = self._facts.moved_bytes + moved_bytes
        self._facts = msgspec.structs.replace(self._facts, moved_bytes=total_bytes, last_bytes=last_bytes)
        if self._loop.time() - self._reported_at >= PROGRESS_EVERY_S:
            self.report(f"copying, round {self._facts.rounds}: {size(total_bytes)} so far")

    def report(self, message: str) -> None:
        self._reported_at = self._loop.time()
        took_s = max(self._reported_at - self._round_begin, 1e-3)
        rate_bytes_s = self._round_bytes / took_s
        left_bytes = self._size_bytes() - self._round_bytes
        left_s = left_bytes / rate_bytes_s if left_bytes > 0 and rate_bytes_s else -1.0
        self._facts = msgspec.structs.replace(
            self._facts, rate_bytes_s=round(rate_bytes_s), left_s=round(left_s, 1), message=message
        )
        self._reporter.report(self._key, self._facts)
