"""The volume port in memory, for tests and the simulation."""

from __future__ import annotations


class FakeVolumes:
    """Remembers which volumes exist; `removed` lists those deleted, in order."""

    def __init__(self) -> None:
        self.present: set[str] = set()
        self.removed: list[str] = []

    async def ensure(self, name: str) -> str:
        self.present.add(name)
        return f"/fake/volumes/{name}"

    async def exists(self, name: str) -> bool:
        return name in self.present

    async def remove(self, name: str) -> None:
        if name in self.present:
            self.present.discard(name)
            self.removed.append(name)
