"""What happened in a simulated world, line by line, and the hash of it all: same seed, same hash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import sha256

from drover.model.records import encode
from drover.store.port import Batch

SHOWN = 16


class Trace:
    """`write` gets each line as it comes. Lines begin with virtual time in seconds."""

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self._hash = sha256()
        self._write = write

    def tell(self, what: str) -> None:
        line = f"{asyncio.get_running_loop().time():.6f} {what}"
        self._hash.update(line.encode())
        if self._write is not None:
            self._write(line)

    def batch(self, batch: Batch) -> None:
        """One commit: what it wrote, and what it removed."""
        for change in batch.changes:
            text = encode(change.record).decode() if change.record is not None else "gone"
            self.tell(f"store {batch.revision} {change.key} {text}")

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()[:SHOWN]
