"""Taking Drover's networks off a machine that leaves: the engine's, then the kernel's.

what                                               if it cannot be removed
the engine's networks with the label `drover.id`   those that containers still use stay, without their bridge
bridges, VXLAN devices, both nftables tables,      said as an error
the rules in DOCKER-USER
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from drover.drivers.engine.docker import DockerEngine
from drover.drivers.network.linux import LinuxNetwork
from drover.errors import DroverError


def purge_networks(engine_socket: Path) -> None:
    """Remove them all. Raises what the kernel refuses; an engine that does not answer is passed over."""
    asyncio.run(_purge(engine_socket))


async def _purge(engine_socket: Path) -> None:
    engine, kernel = DockerEngine(str(engine_socket)), LinuxNetwork()
    try:
        with contextlib.suppress(DroverError):
            for engine_id in (await engine.networks()).values():
                with contextlib.suppress(DroverError):
                    await engine.remove_network(engine_id)
        await kernel.purge()
    finally:
        await engine.close()
        await kernel.close()
