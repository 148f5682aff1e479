"""The volume port: where a named volume's data lives on this host.

The agent makes the engine's volume a bind of the path a driver gives (Docker's built-in `local` driver with
`type=none,o=bind,device=PATH`). The path exists only while this host may write the volume, so an engine that starts a
container on its own on a host that lost the claim finds no path and refuses: that is the last fence.
"""

from __future__ import annotations

from typing import Protocol


class VolumeDriver(Protocol):
    async def ensure(self, name: str) -> str:
        """Make the volume's directory if it does not exist; returns its absolute path."""
        ...

    async def exists(self, name: str) -> bool: ...

    async def remove(self, name: str) -> None:
        """Delete the data. Nothing there is success: the call can be repeated."""
        ...
