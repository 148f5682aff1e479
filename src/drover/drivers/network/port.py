"""The network port: what the agent needs of its host's kernel to carry cluster networks.

Theory of operation. `drover.decide.overlay.realised` says what a host must have; the agent hands it over piece by
piece. Every method can be repeated without harm and repairs whatever differs from what is asked, so the order of
starts (host, engine, daemon) does not matter. Two implementations pass one contract suite
(`tests/contract/network_contract.py`): `linux` (the kernel of the namespace it runs in) and `fake` (in memory).

    in a cluster that encrypts, first        set_tunnel
    before the engine's network is made      realise, set_remotes
    when an address moves                    set_remotes, on every host that uses the network
    when a host joins or leaves              set_peers
    when a backend comes or goes             set_services
    when a container starts                  let_turn
    while a container is moved               park
    after the engine's network is removed    remove
    when this host's lease is over, or back  join_hosts
    when a host leaves the cluster           purge

Nothing is undone when the daemon stops: traffic goes on without it (P6). Methods raise `Forbidden` without the right
to change the kernel's network, `MissingTool` where the kernel or machine lacks something, and `DroverError` with the
kernel's own words for any other refusal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from drover.decide.encryption import Tunnel
from drover.decide.overlay import RealNetwork, Remote
from drover.decide.parking import Parked
from drover.decide.tables import Tables


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What a network's VXLAN device has carried since it was made."""

    received_bytes: int = 0
    sent_bytes: int = 0
    dropped_packets: int = 0


class SeenNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """One network of ours as the kernel has it. `complete`: bridge and VXLAN device are both there, up and joined."""

    id: str
    vni: int
    complete: bool
    mtu_bytes: int = 0
    remotes: frozenset[Remote] = frozenset()
    flood: frozenset[str] = frozenset()
    traffic: Traffic = Traffic()


class NetworkDriver(Protocol):
    async def mtu_bytes(self, underlay: str) -> int:
        """The largest packet a network can carry: the MTU of the interface with this address, less VXLAN's 50.

        Raises `NotFound` if no interface has the address.
        """
        ...

    async def realise(self, net: RealNetwork) -> None:
        """Make or repair the bridge, its VXLAN port, addresses, route and settings. Remote entries are untouched,
        except where a device had to be made anew: follow with `set_remotes`."""
        ...

    async def set_remotes(self, net: RealNetwork, entries: Iterable[Remote], *, verify: bool = False) -> None:
        """Make the network's static entries exactly `entries`, and its broadcasts go to exactly the hosts of
        `net.flood`; only differences are written.

        What was written before is remembered; with `verify` the kernel's tables are read first (5,000 addresses:
        a fifth of a second), which also repairs what somebody else changed. Raises `NotFound` before `realise`.
        """
        ...

    async def set_tunnel(self, tunnel: Tunnel | None, *, verify: bool = False) -> None:
        """Have the encrypted tunnel with exactly these peers; None: have none. Nothing is written if nothing changed
        since, unless `verify` says to look. Raises `MissingTool` where this host cannot encrypt."""
        ...

    async def set_peers(self, addresses: Iterable[str], port: int = 4789, *, through: str = "") -> None:
        """Accept VXLAN on UDP `port` from these addresses only, in one step. With `through`, by that device only, and
        none leaves by another one."""
        ...

    async def set_services(self, tables: Tables, *, verify: bool = False) -> None:
        """Make published ports and virtual addresses exactly these, in one transaction that no connection notices.

        Connections to backends that have ended are forgotten. With `verify` the kernel's own state is read first, and
        whatever somebody else changed is repaired.
        """
        ...

    async def let_turn(self, vni: int) -> None:
        """Let frames leave a network's bridge by the port they came in by: a container may be its own backend."""
        ...

    async def doubts(self, tables: Tables, tunnel: Tunnel | None = None) -> list[str]:
        """What the kernel has otherwise than `set_services` and `set_tunnel` would leave it; one phrase each."""
        ...

    async def join_hosts(self, joined: bool) -> None:
        """Join this host's networks with the other hosts', or (false) cut them off: containers here then reach only
        each other. Holds for networks realised later, too. What was written before must be written anew after it."""
        ...

    async def park(self, parked: Iterable[Parked]) -> None:
        """Hold back new connections to exactly these addresses; what was held for others is let go, with the entries
        as they are now. Raises `MissingTool` where that cannot be done."""
        ...

    async def let_in(self, parked: Iterable[Parked]) -> None:
        """Let go of these now, and hold back no more for them until `park` has been asked without them once."""
        ...

    async def remove(self, vni: int) -> None:
        """Remove the network's devices, with their addresses, routes and entries. No error if there are none."""
        ...

    async def seen(self) -> Mapping[int, SeenNetwork]:
        """VNI to what is there now, read from the kernel."""
        ...

    async def purge(self) -> None:
        """Remove everything of ours: all networks, the tunnel and the filter."""
        ...

    async def close(self) -> None:
        """Release sockets. What was made stays."""
        ...
