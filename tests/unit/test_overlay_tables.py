"""What a host must have of each network, from records alone."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from drover.decide.overlay import (
    RealNetwork,
    Remote,
    engine_network_body,
    host_address,
    is_overlay,
    mac_of,
    peers,
    realised,
)
from drover.decide.tables import Tables
from drover.model.cluster import Cluster, delete, put
from drover.model.records import Address, Alive, Host, Network, Placement, key

APP = Network(id="n" * 64, name="app", body="{}", subnet="10.44.0.0/16", gateway="10.44.0.1", vni=4096)


def cluster_of(placed: Mapping[str, str], networks: tuple[Network, ...] = (APP,), hosts: int = 3) -> Cluster:
    """Containers by address, each alone: `{"10.44.0.9": "h1"}`; an empty host places it nowhere."""
    changes = [put(key("networks", network.id), network) for network in networks]
    for number in range(1, hosts + 1):
        host = Host(name=f"h{number}", id=f"i{number}", index=number, address=f"10.94.0.{number}")
        changes.append(put(key("hosts", host.name), host))
        changes.append(put(key("alive", host.name), Alive(host=host.name, session="s")))
    for ip, host_name in placed.items():
        claim = Address(network=networks[0].id, ip=ip, container=f"c-{ip}", mac=mac_of(ip))
        changes.append(put(key("addresses", claim.network, ip), claim))
        if host_name:
            placement = Placement(container=claim.container, host=host_name)
            changes.append(put(key("placements", claim.container), placement))
    return Cluster().apply(1, changes)


def entry(ip: str, host: int) -> Remote:
    return Remote(ip, mac_of(ip), f"10.94.0.{host}")


def test_a_host_has_a_network_while_a_container_there_uses_it() -> None:
    cluster = cluster_of({"10.44.0.2": "h1", "10.44.0.3": "h2"})
    assert set(realised(cluster, "h1")) == {APP.id}
    assert realised(cluster, "h3") == {}


def test_everything_about_a_network_follows_from_the_records() -> None:
    net = realised(cluster_of({"10.44.0.2": "h2"}), "h2")[APP.id]
    assert (net.bridge, net.vxlan, net.vni, net.prefix_length) == ("dv4096", "dx4096", 4096, 16)
    assert (net.gateway, net.gateway_mac) == ("10.44.0.1", "02:42:0a:2c:00:01")
    assert (net.host_ip, net.host_mac) == ("10.44.255.253", "02:42:0a:2c:ff:fd")
    assert (net.underlay, net.mtu_bytes, net.port, net.remotes) == ("10.94.0.2", 1450, 4789, frozenset())


def test_device_names_fit_the_kernels_limit() -> None:
    net = realised(cluster_of({"10.44.0.2": "h1"}), "h1")[APP.id]
    largest = RealNetwork(id="x", vni=2**24 - 1, subnet=net.subnet, gateway=net.gateway, host_ip="", underlay="")
    assert max(len(largest.bridge), len(largest.vxlan)) <= 15


def test_entries_are_the_addresses_and_hosts_elsewhere() -> None:
    cluster = cluster_of({"10.44.0.2": "h1", "10.44.0.3": "h2", "10.44.0.4": "h2", "10.44.0.5": ""})
    assert realised(cluster, "h1")[APP.id].remotes == {
        entry("10.44.0.3", 2),
        entry("10.44.0.4", 2),
        entry("10.44.255.253", 2),
    }
    assert realised(cluster, "h2")[APP.id].remotes == {entry("10.44.0.2", 1), entry("10.44.255.254", 1)}


def test_a_claim_with_a_mac_of_its_own_keeps_it() -> None:
    cluster = cluster_of({"10.44.0.2": "h1", "10.44.0.3": "h2"})
    claim = Address(network=APP.id, ip="10.44.0.3", container="c-10.44.0.3", mac="02:00:00:00:00:09")
    cluster = cluster.apply(2, [put(key("addresses", APP.id, claim.ip), claim)])
    assert Remote(claim.ip, claim.mac, "10.94.0.2") in realised(cluster, "h1")[APP.id].remotes


def test_a_move_changes_one_entry_on_the_others() -> None:
    before = cluster_of({"10.44.0.2": "h1", "10.44.0.3": "h1", "10.44.0.4": "h2", "10.44.0.5": "h3"})
    moved = Placement(container="c-10.44.0.2", host="h2", epoch=2)
    after = before.apply(2, [put(key("placements", moved.container), moved)])
    old, new = (realised(one, "h3")[APP.id].remotes for one in (before, after))
    assert old - new == {entry("10.44.0.2", 1)}
    assert new - old == {entry("10.44.0.2", 2)}


def test_a_placement_on_a_host_that_left_gives_no_entry() -> None:
    cluster = cluster_of({"10.44.0.2": "h1", "10.44.0.3": "h9"})
    assert realised(cluster, "h1")[APP.id].remotes == frozenset()


def test_a_host_that_is_no_member_has_nothing() -> None:
    assert realised(cluster_of({"10.44.0.2": "h9"}), "h9") == {}


@given(st.lists(st.tuples(st.integers(2, 60000), st.integers(0, 4)), unique_by=lambda pair: pair[0], max_size=30))
def test_no_host_has_an_entry_for_itself_and_all_agree(pairs: list[tuple[int, int]]) -> None:
    placed = {f"10.44.{n >> 8}.{n & 255}": f"h{host}" if host else "" for n, host in pairs}
    cluster = cluster_of(placed, hosts=4)
    for host in ("h1", "h2", "h3", "h4"):
        here = {ip for ip, where in placed.items() if where == host}
        elsewhere = {ip for ip, where in placed.items() if where not in ("", host)}
        for net in realised(cluster, host).values():
            assert here
            told = {remote.ip for remote in net.remotes}
            assert {ip for ip in told if ip in placed} == elsewhere
            assert net.host_ip not in told
            assert all(remote.vtep != net.underlay for remote in net.remotes)


def test_host_addresses_are_unique_and_never_the_gateway() -> None:
    assert [host_address(APP, index) for index in (1, 2, 255)] == ["10.44.255.254", "10.44.255.253", "10.44.255.0"]
    assert host_address(APP, 256) == ""
    small = Network(id="s", name="s", body="{}", subnet="10.1.0.0/29", gateway="10.1.0.6", vni=1)
    assert [host_address(small, index) for index in (1, 2)] == ["", ""]


def test_networks_that_the_engine_carries_itself() -> None:
    macvlan = Network(id="m", name="lan", body='{"Driver":"macvlan"}', driver="macvlan", subnet="10.44.0.0/16")
    assert not is_overlay(macvlan)
    assert realised(cluster_of({"10.44.0.2": "h1"}, (macvlan,)), "h1") == {}
    body = engine_network_body(macvlan, None)
    assert body == {"Driver": "macvlan", "Name": "lan", "CheckDuplicate": True, "Labels": {"drover.id": "m"}}


def test_the_networks_mtu_option_lowers_but_never_raises() -> None:
    def mtu(option: str) -> int:
        body = json.dumps({"Options": {"com.docker.network.driver.mtu": option}})
        network = Network(id="n", name="n", body=body, subnet=APP.subnet, gateway=APP.gateway, vni=7)
        return realised(cluster_of({"10.44.0.2": "h1"}, (network,)), "h1", mtu_bytes=1400)["n"].mtu_bytes

    assert [mtu(option) for option in ("1300", "9000", "", "many", "0")] == [1300, 1400, 1400, 1400, 1400]


def test_the_engines_body_keeps_what_the_client_asked_and_uses_our_bridge() -> None:
    asked = {
        "Name": "app",
        "Driver": "overlay",
        "Scope": "swarm",
        "Internal": True,
        "Attachable": True,
        "Labels": {"tier": "db"},
        "Options": {"com.docker.network.bridge.enable_icc": "true"},
        "IPAM": {
            "Driver": "default",
            "Config": [
                {"Subnet": APP.subnet, "IPRange": "10.44.8.0/24", "AuxiliaryAddresses": {"router": "10.44.0.7"}}
            ],
        },
    }
    network = Network(id=APP.id, name="app", body=json.dumps(asked), subnet=APP.subnet, gateway=APP.gateway, vni=4096)
    real = realised(cluster_of({"10.44.0.2": "h1"}, (network,)), "h1")[network.id]
    assert engine_network_body(network, real) == {
        "Name": "app",
        "CheckDuplicate": True,
        "Driver": "bridge",
        "Internal": True,
        "Attachable": True,
        "EnableIPv6": False,
        "Labels": {"tier": "db", "drover.id": APP.id},
        "Options": {
            "com.docker.network.bridge.enable_icc": "true",
            "com.docker.network.bridge.name": "dv4096",
            "com.docker.network.driver.mtu": "1450",
        },
        "IPAM": {
            "Driver": "default",
            "Config": [
                {
                    "Subnet": "10.44.0.0/16",
                    "Gateway": "10.44.0.1",
                    "IPRange": "10.44.8.0/24",
                    "AuxiliaryAddresses": {"router": "10.44.0.7", "drover-host": "10.44.255.254"},
                }
            ],
        },
    }


def test_a_body_of_nulls_is_an_empty_one() -> None:
    body = '{"Name":"app","Options":null,"Labels":null,"IPAM":{"Config":null}}'
    network = Network(id=APP.id, name="app", body=body, subnet=APP.subnet, gateway=APP.gateway, vni=4096)
    real = realised(cluster_of({"10.44.0.2": "h1"}, (network,)), "h1")[network.id]
    made = engine_network_body(network, real)
    assert made["Labels"] == {"drover.id": APP.id}
    assert made["IPAM"]["Config"][0]["Subnet"] == "10.44.0.0/16"


def test_peers_are_the_other_members_whose_lease_is_held() -> None:
    cluster = cluster_of({})
    assert peers(cluster, "h2") == {"10.94.0.1", "10.94.0.3"}
    assert peers(cluster.apply(2, [delete(key("alive", "h3"))]), "h2") == {"10.94.0.1"}


def test_connections_are_forgotten_when_the_backend_ends_not_when_it_is_told_to() -> None:
    table = Tables(virtual={("dv1", "10.127.0.1"): ("10.44.0.2", "10.44.0.3")}, alive=frozenset({"10.44.0.2"}))
    before = frozenset({"10.44.0.2", "10.44.0.4"})
    told = msgspec.structs.replace(table, alive=frozenset({"10.44.0.2", "10.44.0.3", "10.44.0.4"}))
    assert told.ended(before) == (frozenset(), {"10.44.0.4"})
    assert table.ended(before) == ({"10.44.0.4"}, frozenset())


def test_the_connections_of_a_backend_that_is_one_again_stay() -> None:
    table = Tables(mesh={("tcp", 80): (("10.44.0.4", 80),)})
    assert table.ended(frozenset({"10.44.0.4"})) == (frozenset(), frozenset())
