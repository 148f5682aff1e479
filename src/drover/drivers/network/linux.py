"""The network port on the Linux kernel of the namespace this process runs in.

Theory of operation. All kernel work is done by one worker thread: calls come in order, and none holds up the event
loop. The driver remembers, for each network, the devices' indexes and the addresses it wrote, so that a change
costs the messages of its difference and no look at the kernel. Whatever makes that memory doubtful drops it: a new
or changed device, a refusal, `verify`. The next `set_remotes` then reads the kernel first.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from drover.decide.encryption import VXLAN_OVERHEAD_BYTES, Tunnel
from drover.decide.overlay import VXLAN_PORT, RealNetwork, Remote
from drover.decide.parking import Parked
from drover.decide.tables import Tables
from drover.drivers.network import bridge_ports, flows, forwarding, links, parking, services, wireguard
from drover.drivers.network import filter as packet_filter
from drover.drivers.network.forwarding import Devices, NeighbourSocket, Refusal
from drover.drivers.network.netlink import IPRoute, NetlinkError
from drover.drivers.network.parked import Parking
from drover.drivers.network.port import SeenNetwork, Traffic
from drover.drivers.network.wireguard import Encryption
from drover.errors import DroverError, Forbidden, MissingTool, NotFound

T = TypeVar("T")


class LinuxNetwork:
    """The kernel of the network namespace that `LinuxNetwork` was first used in."""

    def __init__(self, joined: bool = True, encryption: Encryption | None = None) -> None:
        """Unless `joined`, new VXLAN devices stay down, and those that are there are left alone, until `join_hosts`.
        `encryption`: how this host encrypts, if it was set up to."""
        self._joined = joined
        self._encryption = encryption
        self._tunnel: Tunnel | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
        self._ip: IPRoute | None = None
        self._neighbours: NeighbourSocket | None = None
        self._devices: dict[int, Devices] = {}
        self._written: dict[int, tuple[frozenset[Remote], frozenset[str]]] = {}
        self._tables: Tables | None = None
        self._leaving: frozenset[str] = frozenset()
        self._image: services.Image | None = None
        self._parking = Parking(self._run, lambda: links.vxlan_indexes(self._route()))

    async def mtu_bytes(self, underlay: str) -> int:
        mtu = await self._run(lambda: links.mtu_of(self._route(), underlay))
        if mtu is None:
            raise NotFound(
                f"No network interface of this host has the address {underlay}.",
                hint="Join with an address of this host that the other hosts can reach.",
            )
        return mtu - VXLAN_OVERHEAD_BYTES

    async def realise(self, net: RealNetwork) -> None:
        await self._run(lambda: self._realise(net))

    async def set_remotes(self, net: RealNetwork, entries: Iterable[Remote], *, verify: bool = False) -> None:
        wanted = frozenset(entries)
        remotes, flood = self._written.get(net.vni, (None, None))
        if verify or remotes is not wanted or flood != net.flood:
            await self._run(lambda: self._set_remotes(net, wanted, verify))

    async def set_tunnel(self, tunnel: Tunnel | None, *, verify: bool = False) -> None:
        if tunnel != self._tunnel or verify:
            await self._run(lambda: self._set_tunnel(tunnel))

    async def set_peers(self, addresses: Iterable[str], port: int = VXLAN_PORT, *, through: str = "") -> None:
        script = packet_filter.peers_script(addresses, port, through)
        await self._run(lambda: packet_filter.apply(script))

    async def set_services(self, tables: Tables, *, verify: bool = False) -> None:
        await self._run(lambda: self._set_services(tables, verify))

    async def let_turn(self, vni: int) -> None:
        await self._run(lambda: self._let_turn(vni))

    @property
    def held_connections(self) -> int:
        """How many new connections wait."""
        return self._parking.held

    async def park(self, parked: Iterable[Parked]) -> None:
        await self._parking.hold(frozenset(parked))

    async def let_in(self, parked: Iterable[Parked]) -> None:
        await self._parking.release(frozenset(parked))

    async def doubts(self, tables: Tables, tunnel: Tunnel | None = None) -> list[str]:
        found = await self._run(lambda: wireguard.differences(self._route(), tunnel)) if tunnel else []
        return found + await self._run(lambda: _doubts(tables))

    async def join_hosts(self, joined: bool) -> None:
        await self._run(lambda: self._join_hosts(joined))

    async def remove(self, vni: int) -> None:
        await self._run(lambda: self._remove(vni))

    async def seen(self) -> Mapping[int, SeenNetwork]:
        return await self._run(self._seen)

    async def purge(self) -> None:
        for vni in await self.seen():
            await self.remove(vni)
        await self.set_tunnel(None, verify=True)
        await self._run(self._purge_filters)

    async def close(self) -> None:
        self._parking.close()
        await self._run(self._close)
        self._worker.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        """Do kernel work in the worker thread; the kernel's refusals become Drover's errors."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work)
        except NetlinkError as error:
            raise _refusal(error.code, str(error)) from error
        except OSError as error:
            raise _refusal(error.errno or 0, str(error)) from error

    def _route(self) -> IPRoute:
        self._ip = self._ip or IPRoute()
        return self._ip

    def _socket(self) -> NeighbourSocket:
        self._neighbours = self._neighbours or NeighbourSocket()
        return self._neighbours

    def _realise(self, net: RealNetwork) -> None:
        devices, doubtful = links.realise(self._route(), net, self._joined)
        if doubtful or self._devices.get(net.vni) != devices:
            self._written.pop(net.vni, None)
        self._devices[net.vni] = devices

    def _set_tunnel(self, tunnel: Tunnel | None) -> None:
        device, self._tunnel = (tunnel or self._tunnel or Tunnel(address="", mtu_bytes=0)).device, None
        if tunnel is None:
            wireguard.remove(self._route(), device)
        elif self._encryption is None:
            raise MissingTool(
                "This host was not set up to encrypt, and its cluster does: it carries no traffic to other hosts.",
                hint="drover leave --purge, then join anew.",
            )
        else:
            wireguard.set_up(self._route(), tunnel, self._encryption)
        self._tunnel = tunnel

    def _set_remotes(self, net: RealNetwork, wanted: frozenset[Remote], verify: bool) -> None:
        devices = self._devices.get(net.vni)
        if devices is None:
            raise NotFound(f"Network {net.id} is not realised on this host.", hint="Realise it first.")
        written = self._written.pop(net.vni, None)
        if written is None or verify:
            changes = forwarding.difference(self._socket().read(devices), forwarding.table_of(wanted, net.flood))
        else:
            changes = forwarding.changes(written[0], wanted) + forwarding.flood_changes(written[1], net.flood)
        _check(net, self._socket().apply(devices, changes))
        self._written[net.vni] = wanted, net.flood

    def _set_services(self, tables: Tables, verify: bool) -> None:
        wanted = services.render(tables)
        known, self._image = self._image, None
        before = services.read() if known is None or verify else known
        try:
            packet_filter.apply(services.script(before, wanted))
        except DroverError:
            # Somebody else took away what the difference builds on: all of it anew, still in one transaction.
            packet_filter.apply(services.script(services.NOTHING, wanted))
        self._image = wanted
        ended, self._leaving = tables.ended(self._leaving | (self._tables.addresses() if self._tables else frozenset()))
        self._tables = tables
        flows.forget(ended)
        if verify or known is None:
            links.set_sysctls(services.SETTINGS)
            services.accept_redirected()

    def _let_turn(self, vni: int) -> None:
        devices = self._devices.get(vni)
        if devices is not None:
            links.let_turn(self._route(), bridge_ports.read(self._socket(), devices.bridge))

    def _purge_filters(self) -> None:
        self._tables = self._image = None
        services.refuse_redirected()
        parking.remove_rules()
        packet_filter.apply(packet_filter.purge_script())

    def _join_hosts(self, joined: bool) -> None:
        self._joined = joined
        if links.set_vxlans(self._route(), up=joined):
            self._written.clear()

    def _remove(self, vni: int) -> None:
        self._devices.pop(vni, None)
        self._written.pop(vni, None)
        links.remove(self._route(), vni)

    def _seen(self) -> dict[int, SeenNetwork]:
        ip = self._route()
        return {vni: self._seen_network(ip, vni, bridge) for vni, bridge in links.bridges(ip)}

    def _seen_network(self, ip: IPRoute, vni: int, bridge: links.Link) -> SeenNetwork:
        vxlan = links.find(ip, f"dx{vni}")
        joined = vxlan is not None and vxlan.master == bridge.index
        table = self._socket().read(Devices(bridge.index, vxlan.index)) if vxlan else {}
        return SeenNetwork(
            id=bridge.ifalias.removeprefix(links.ALIAS),
            vni=vni,
            complete=joined and bridge.up and vxlan is not None and vxlan.up,
            mtu_bytes=bridge.mtu,
            remotes=forwarding.remotes_of(table),
            flood=forwarding.flood_of(table),
            traffic=vxlan.traffic if vxlan else Traffic(),
        )

    def _close(self) -> None:
        for part in (self._ip, self._neighbours):
            if part is not None:
                part.close()
        self._ip = self._neighbours = None


def _doubts(tables: Tables) -> list[str]:
    found = services.differences(services.render(tables), services.read())
    return found if services.accepts_redirected() else [*found, "Docker's chain DOCKER-USER lacks Drover's rules"]


def _check(net: RealNetwork, refused: list[Refusal]) -> None:
    """Raise for the first of the kernel's refusals, with how many there were."""
    if not refused:
        return
    change, code = refused[0]
    if code == errno.ENODEV:
        raise NotFound(f"The devices of network {net.id} are gone.", hint="Realise it again.")
    words = f"{len(refused)} entries of network {net.id}, the first {change.entry} {change.key}"
    raise _refusal(code, f"{words}: {os.strerror(code)}")


def _refusal(code: int, words: str) -> DroverError:
    if code in (errno.EPERM, errno.EACCES):
        return Forbidden("This process may not change the network.", hint="Run drover daemon as root.")
    if code in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
        return MissingTool(f"The kernel lacks bridge or VXLAN support: {words}", hint="modprobe bridge vxlan")
    return DroverError(f"The kernel refused a network change: {words}", hint="See `ip -d link` and the kernel log.")
