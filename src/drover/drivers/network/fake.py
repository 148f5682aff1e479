"""The network port in memory, for tests and the simulation: same answers and errors as `linux`, no kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from drover.decide.encryption import Tunnel
from drover.decide.overlay import DEFAULT_MTU_BYTES, VXLAN_PORT, RealNetwork, Remote
from drover.decide.parking import Parked
from drover.decide.tables import Tables
from drover.drivers.network.port import SeenNetwork
from drover.errors import MissingTool, NotFound


class FakeNetwork:
    """`realised` maps VNIs to networks, `remotes` to their entries; `peers` is None while no filter is set.

    `tables` are the last that were set, `turning` the networks whose bridges send frames back. `underlay` is the one
    address that this host has, any if empty; `encrypts`: whether it can have a tunnel. Tests may damage all of
    them by hand.
    """

    def __init__(self, underlay: str = "") -> None:
        self.underlay = underlay
        self.realised: dict[int, RealNetwork] = {}
        self.remotes: dict[int, frozenset[Remote]] = {}
        self.flood: dict[int, frozenset[str]] = {}
        self.peers: frozenset[str] | None = None
        self.through = ""
        self.tunnel: Tunnel | None = None
        self.encrypts = True
        self.tables: Tables | None = None
        self.turning: set[int] = set()
        self.joined = True
        self.parked: frozenset[Parked] = frozenset()
        self.let: frozenset[Parked] = frozenset()

    async def join_hosts(self, joined: bool) -> None:
        self.joined = joined

    async def mtu_bytes(self, underlay: str) -> int:
        if self.underlay not in ("", underlay):
            raise NotFound(f"No network interface of this host has the address {underlay}.")
        return DEFAULT_MTU_BYTES

    async def realise(self, net: RealNetwork) -> None:
        self.realised[net.vni] = net
        self.remotes.setdefault(net.vni, frozenset())

    async def set_remotes(self, net: RealNetwork, entries: Iterable[Remote], *, verify: bool = False) -> None:
        if net.vni not in self.realised:
            raise NotFound(f"Network {net.id} is not realised on this host.", hint="Realise it first.")
        self.remotes[net.vni] = frozenset(entries)
        self.flood[net.vni] = net.flood

    async def set_tunnel(self, tunnel: Tunnel | None, *, verify: bool = False) -> None:
        if tunnel is not None and not self.encrypts:
            raise MissingTool("This host was not set up to encrypt.")
        self.tunnel = tunnel

    async def set_peers(self, addresses: Iterable[str], port: int = VXLAN_PORT, *, through: str = "") -> None:
        self.peers, self.through = frozenset(addresses), through

    async def set_services(self, tables: Tables, *, verify: bool = False) -> None:
        self.tables = tables

    async def let_turn(self, vni: int) -> None:
        self.turning.add(vni)

    async def doubts(self, tables: Tables, tunnel: Tunnel | None = None) -> list[str]:
        found = [] if self.tunnel == tunnel else ["the tunnel differs"]
        return found if self.tables == tables else [*found, "the tables differ"]

    async def park(self, parked: Iterable[Parked]) -> None:
        wanted = frozenset(parked)
        self.let = self.let & wanted
        self.parked = wanted - self.let

    async def let_in(self, parked: Iterable[Parked]) -> None:
        self.let |= self.parked & frozenset(parked)
        self.parked -= self.let

    async def remove(self, vni: int) -> None:
        self.turning.discard(vni)
        self.realised.pop(vni, None)
        self.remotes.pop(vni, None)
        self.flood.pop(vni, None)

    async def seen(self) -> Mapping[int, SeenNetwork]:
        return {
            vni: SeenNetwork(
                id=net.id,
                vni=vni,
                complete=self.joined,
                mtu_bytes=net.mtu_bytes,
                remotes=self.remotes[vni],
                flood=self.flood.get(vni, frozenset()),
            )
            for vni, net in self.realised.items()
        }

    async def purge(self) -> None:
        self.realised.clear()
        self.remotes.clear()
        self.flood.clear()
        self.peers = self.tables = self.tunnel = None
        self.parked = frozenset()
        self.turning.clear()

    async def close(self) -> None:
        return
