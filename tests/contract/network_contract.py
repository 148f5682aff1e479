"""What every network driver must do. A test module derives `NetworkContract` and gives `driver`.

The host under test has the underlay address `UNDERLAY`.
"""

from __future__ import annotations

import uuid

import pytest

from drover.decide.encryption import Tunnel, TunnelPeer
from drover.decide.overlay import RealNetwork, Remote, mac_of
from drover.decide.tables import Tables
from drover.drivers.network.port import NetworkDriver
from drover.errors import NotFound

UNDERLAY = "10.94.0.1"
DEVICE = f"dwt{uuid.uuid4().hex[:6]}"
"""wireguard-go knows its device by name, whatever the network namespace: runs side by side must not share one."""
OTHER, THIRD = "10.94.0.2", "10.94.0.3"


def network(vni: int = 42, **changed: object) -> RealNetwork:
    given = {
        "id": f"net{vni}",
        "vni": vni,
        "subnet": f"10.{vni}.0.0/16",
        "gateway": f"10.{vni}.0.1",
        "host_ip": f"10.{vni}.255.254",
        "underlay": UNDERLAY,
    }
    return RealNetwork(**{**given, **changed})


def remote(ip: str, vtep: str = OTHER, mac: str = "") -> Remote:
    return Remote(ip, mac or mac_of(ip), vtep)


TABLES = Tables(
    networks=(network(),),
    mesh={("tcp", 8080): (("10.42.0.11", 80), ("10.42.0.12", 80)), ("udp", 53): (("10.42.0.11", 53),)},
    bound={("127.0.0.1", "tcp", 9090): (("10.42.0.11", 80),)},
    virtual={("dv42", "10.127.0.1"): ("10.42.0.11", "10.42.0.12")},
    local=frozenset({"10.42.0.11"}),
    alive=frozenset({"10.42.0.11", "10.42.0.12"}),
)
PEER = TunnelPeer("3sqQHct2ulCa5PPubMdR8CRV0Ak9W5WdDlBrXvNbwlo=", OTHER, "10.126.0.2")
OTHER_PEER = TunnelPeer("QVZ41g6Vcdm8Z5PbD9ao7YB9hxG8zTPZqkFZSfXCtRE=", THIRD, "10.126.0.3")
FEWER = Tables(networks=(network(),), mesh={("tcp", 8080): (("10.42.0.12", 80),)})
A, B, C = remote("10.42.0.11"), remote("10.42.0.12"), remote("10.42.0.13", THIRD)


def tunnel(*peers: TunnelPeer, device: str = DEVICE, **changed: object) -> Tunnel:
    given = {"address": "10.126.0.1", "mtu_bytes": 1420, "device": device, "peers": frozenset(peers)}
    return Tunnel(**{**given, **changed})


async def remotes(driver: NetworkDriver, vni: int = 42) -> set[Remote]:
    return set((await driver.seen())[vni].remotes)


class NetworkContract:
    async def test_services_become_exactly_those_wanted(self, driver: NetworkDriver) -> None:
        assert await driver.doubts(TABLES) != []
        for wanted in (TABLES, FEWER, Tables(), TABLES, TABLES):
            await driver.set_services(wanted)
            assert await driver.doubts(wanted) == []
        assert await driver.doubts(FEWER) != []
        await driver.set_services(FEWER, verify=True)
        assert await driver.doubts(FEWER) == []

    async def test_a_purge_takes_the_services_away(self, driver: NetworkDriver) -> None:
        await driver.set_services(TABLES)
        await driver.purge()
        assert await driver.doubts(TABLES) != []
        await driver.set_services(TABLES)
        assert await driver.doubts(TABLES) == []

    async def test_nothing_is_seen_at_first(self, driver: NetworkDriver) -> None:
        assert dict(await driver.seen()) == {}

    async def test_a_realised_network_is_seen_whole(self, driver: NetworkDriver) -> None:
        await driver.realise(network(mtu_bytes=1400))
        seen = (await driver.seen())[42]
        assert (seen.id, seen.vni, seen.complete, seen.mtu_bytes) == ("net42", 42, True, 1400)
        assert seen.remotes == frozenset()

    async def test_realising_again_changes_nothing_and_keeps_entries(self, driver: NetworkDriver) -> None:
        await driver.realise(network())
        await driver.set_remotes(network(), [A, B])
        before = dict(await driver.seen())
        await driver.realise(network())
        assert dict(await driver.seen()) == before
        assert before[42].remotes == {A, B}

    async def test_a_changed_mtu_is_followed(self, driver: NetworkDriver) -> None:
        await driver.realise(network())
        await driver.realise(network(mtu_bytes=1300))
        seen = (await driver.seen())[42]
        assert (seen.mtu_bytes, seen.complete) == (1300, True)

    async def test_entries_become_exactly_those_wanted(self, driver: NetworkDriver) -> None:
        await driver.realise(network())
        for wanted in ([A], [A, B, C], [C], [], [B, A]):
            await driver.set_remotes(network(), wanted)
            assert await remotes(driver) == set(wanted)

    async def test_a_host_without_a_lease_is_cut_off_and_joined_again_with_all_entries(
        self, driver: NetworkDriver
    ) -> None:
        await driver.realise(network())
        await driver.set_remotes(network(), [A, B])
        await driver.join_hosts(False)
        assert not (await driver.seen())[42].complete
        await driver.realise(network())
        assert not (await driver.seen())[42].complete
        await driver.realise(network(43))
        assert not (await driver.seen())[43].complete
        await driver.join_hosts(True)
        await driver.set_remotes(network(), [A, C])
        assert await remotes(driver) == {A, C}
        assert all(seen.complete for seen in (await driver.seen()).values())

    async def test_an_address_moves_to_another_host_with_its_mac(self, driver: NetworkDriver) -> None:
        await driver.realise(network())
        await driver.set_remotes(network(), [A, B])
        moved = Remote(A.ip, A.mac, THIRD)
        await driver.set_remotes(network(), [moved, B])
        assert await remotes(driver) == {moved, B}

    async def test_an_address_gets_another_mac(self, driver: NetworkDriver) -> None:
        await driver.realise(network())
        await driver.set_remotes(network(), [A])
        other = remote(A.ip, mac="02:00:00:00:00:07")
        await driver.set_remotes(network(), [other])
        assert await remotes(driver) == {other}

    async def test_an_address_that_shares_its_mac_keeps_its_entries(self, driver: NetworkDriver) -> None:
        twin = remote("10.42.0.99", mac=A.mac)
        await driver.realise(network())
        await driver.set_remotes(network(), [A, twin])
        await driver.set_remotes(network(), [A])
        assert await remotes(driver) == {A}

    async def test_verify_leaves_right_entries_alone(self, driver: NetworkDriver) -> None:
        await driver.realise(network())
        await driver.set_remotes(network(), [A, C], verify=True)
        await driver.set_remotes(network(), [A, C], verify=True)
        assert await remotes(driver) == {A, C}

    async def test_thousands_of_entries(self, driver: NetworkDriver) -> None:
        many = [remote(f"10.42.{n // 200 + 1}.{n % 200 + 1}") for n in range(2000)]
        await driver.realise(network())
        await driver.set_remotes(network(), many)
        assert await remotes(driver) == set(many)
        await driver.set_remotes(network(), many[1:])
        assert await remotes(driver) == set(many[1:])

    async def test_entries_of_an_unknown_network_are_refused(self, driver: NetworkDriver) -> None:
        with pytest.raises(NotFound):
            await driver.set_remotes(network(), [A])

    async def test_networks_are_independent(self, driver: NetworkDriver) -> None:
        first, second = network(42), network(43)
        await driver.realise(first)
        await driver.realise(second)
        await driver.set_remotes(first, [A])
        await driver.set_remotes(second, [remote("10.43.0.11", THIRD)])
        await driver.remove(42)
        assert set(await driver.seen()) == {43}
        assert await remotes(driver, 43) == {remote("10.43.0.11", THIRD)}

    async def test_a_network_without_a_host_address(self, driver: NetworkDriver) -> None:
        await driver.realise(network(subnet="10.42.0.0/30", host_ip=""))
        assert (await driver.seen())[42].complete

    async def test_removal_forgets_entries_and_can_be_repeated(self, driver: NetworkDriver) -> None:
        await driver.realise(network())
        await driver.set_remotes(network(), [A])
        await driver.remove(42)
        await driver.remove(42)
        assert dict(await driver.seen()) == {}
        with pytest.raises(NotFound):
            await driver.set_remotes(network(), [A])
        await driver.realise(network())
        assert await remotes(driver) == set()

    async def test_peers_can_be_set_and_cleared_again_and_again(self, driver: NetworkDriver) -> None:
        await driver.realise(network())
        for peers in ([OTHER], [OTHER, THIRD], [], [THIRD]):
            await driver.set_peers(peers)
        assert (await driver.seen())[42].complete

    async def test_purge_leaves_nothing(self, driver: NetworkDriver) -> None:
        await driver.realise(network(42))
        await driver.realise(network(43))
        await driver.set_peers([OTHER])
        await driver.purge()
        await driver.purge()
        assert dict(await driver.seen()) == {}

    async def test_the_underlay_says_how_large_packets_may_be(self, driver: NetworkDriver) -> None:
        assert await driver.mtu_bytes(UNDERLAY) == 1450
        with pytest.raises(NotFound):
            await driver.mtu_bytes("192.0.2.77")

    async def test_the_tunnel_comes_changes_and_goes(self, driver: NetworkDriver) -> None:
        one, two = tunnel(PEER), tunnel(PEER, OTHER_PEER)
        assert await driver.doubts(Tables(), one) != []
        for wanted in (one, two, one, one):
            await driver.set_tunnel(wanted)
            await driver.set_services(Tables())
            assert await driver.doubts(Tables(), wanted) == []
        assert await driver.doubts(Tables(), two) != []
        await driver.set_tunnel(two, verify=True)
        assert await driver.doubts(Tables(), two) == []
        await driver.purge()
        assert await driver.doubts(Tables(), two) != []

    async def test_a_network_through_the_tunnel(self, driver: NetworkDriver) -> None:
        wanted = tunnel(PEER)
        await driver.set_tunnel(wanted)
        await driver.set_peers([PEER.address], through=wanted.device)
        encrypted = network(underlay=wanted.address, through=wanted.device, mtu_bytes=1370)
        await driver.realise(encrypted)
        await driver.set_remotes(encrypted, [remote("10.42.0.11", PEER.address)])
        assert (await driver.seen())[42].complete
        assert await remotes(driver) == {remote("10.42.0.11", PEER.address)}

    async def test_broadcasts_go_to_exactly_the_hosts_wanted(self, driver: NetworkDriver) -> None:
        await driver.realise(network())
        for hosts in ({OTHER}, {OTHER, THIRD}, {THIRD}, set(), {OTHER, THIRD}):
            wanted = network(flood=frozenset(hosts))
            await driver.set_remotes(wanted, [A])
            seen = (await driver.seen())[42]
            assert (seen.flood, seen.remotes) == (hosts, {A})
        await driver.set_remotes(network(flood=frozenset({THIRD})), [A], verify=True)
        assert (await driver.seen())[42].flood == {THIRD}
