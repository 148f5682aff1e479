"""Subnets, VXLAN numbers and addresses."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from typing import Any

import pytest
from cluster_factory import address, cid, container, host, network, world
from hypothesis import given
from hypothesis import strategies as st

from drover.decide.addresses import (
    FIRST_VNI,
    LAST_VNI,
    Ipam,
    Pool,
    choose_address,
    choose_subnet,
    free_addresses,
    host_room,
    next_vni,
    parse_ipam,
    subnet_for,
)
from drover.errors import Conflict, DroverError, Forbidden, Invalid
from drover.model.cluster import Change, Cluster

SMALL = (Pool("10.0.0.0/28", 30), Pool("10.1.0.0/30", 30))


def ipam(**config: Any) -> str:
    return json.dumps({"IPAM": {"Driver": "default", "Config": [config]}})


def app(*parts: list[Change], subnet: str = "10.44.0.0/24", gateway: str = "10.44.0.1", body: str = "{}") -> Cluster:
    return world(network("n1", "app", subnet, gateway=gateway, body=body), *parts)


def choose(cluster: Cluster, ip: str | None = None, number: int = 0xFF) -> str:
    return choose_address(cluster, cluster.networks["n1"], ip, cid(number))


def test_subnets_in_order() -> None:
    cluster = world(host("h1"))
    assert choose_subnet(cluster, "app") == ("10.128.0.0/20", "10.128.0.1")
    cluster = cluster.apply(2, network("n1", "app", "10.128.0.0/20"))
    cluster = cluster.apply(3, [*network("n2", "big", "10.128.17.0/24"), *network("n3", "none")])
    assert choose_subnet(cluster, "next") == ("10.128.32.0/20", "10.128.32.1")


def test_a_piece_with_a_hosts_own_address_is_skipped() -> None:
    cluster = world(host("h1", address="10.128.0.5"), host("h2", address="named.example"))
    assert choose_subnet(cluster, "app") == ("10.128.16.0/20", "10.128.16.1")


def test_a_wide_network_covers_a_pool_and_the_next_is_used() -> None:
    cluster = world(network("n1", "wide", "10.0.0.0/16"))
    assert choose_subnet(cluster, "app", SMALL) == ("10.1.0.0/30", "10.1.0.1")


def test_pools_used_up() -> None:
    cluster = world(network("n1", "wide", "10.0.0.0/8"))
    with pytest.raises(Conflict) as refused:
        choose_subnet(cluster, "app", SMALL)
    assert refused.value.message == (
        "no subnet is left for network app: all of 10.0.0.0/28 (in pieces of /30) and 10.1.0.0/30 (in pieces of /30) "
        "is used"
    )


SUBNETS: list[tuple[dict[str, Any], tuple[str, str]]] = [
    ({"Subnet": "10.44.0.0/16"}, ("10.44.0.0/16", "10.44.0.1")),
    ({"Subnet": "10.44.0.7/16", "Gateway": "10.44.9.9"}, ("10.44.0.0/16", "10.44.9.9")),
    ({"Subnet": "10.44.0.0/24", "AuxiliaryAddresses": {"r": "10.44.0.1"}}, ("10.44.0.0/24", "10.44.0.2")),
    ({}, ("10.128.0.0/20", "10.128.0.1")),
]


@pytest.mark.parametrize(("config", "expected"), SUBNETS)
def test_subnet_as_asked(config: dict[str, Any], expected: tuple[str, str]) -> None:
    assert subnet_for(world(), "app", ipam(**config)) == expected


WRONG: list[tuple[dict[str, Any], type[DroverError], str]] = [
    ({"Subnet": "10.44.0.0/99"}, Invalid, "invalid CIDR address: 10.44.0.0/99"),
    ({"Subnet": "10.44.0.0/24", "Gateway": "10.45.0.1"}, Invalid, "no matching subnet for gateway 10.45.0.1"),
    ({"Subnet": "10.44.0.0/24", "Gateway": "x"}, Invalid, "invalid IPv4 address: x"),
    ({"Subnet": "fd00::/64"}, Invalid, "network app cannot have IPv6"),
    ({"Subnet": "10.44.0.0/32"}, Invalid, "too small"),
    ({"Subnet": "10.9.1.0/24"}, Forbidden, "Pool overlaps with other one on this address space"),
]


@pytest.mark.parametrize(("config", "error", "says"), WRONG)
def test_subnets_refused(config: dict[str, Any], error: type[DroverError], says: str) -> None:
    with pytest.raises(error, match=says):
        subnet_for(world(network("n0", "none"), network("n9", "old", "10.9.0.0/16")), "app", ipam(**config))


@pytest.mark.parametrize("body", ["", "{}", '{"IPAM": null}', '{"IPAM": {"Config": null}}', '{"IPAM": {"Config": []}}'])
def test_a_body_without_addresses(body: str) -> None:
    assert parse_ipam(body) == Ipam()


def test_a_malformed_body() -> None:
    with pytest.raises(Invalid, match="malformed"):
        parse_ipam('{"IPAM": 7}')


def test_vxlan_numbers() -> None:
    assert next_vni(world()) == FIRST_VNI
    assert next_vni(world(network("n1", "a", vni=FIRST_VNI + 7), network("n2", "b"))) == FIRST_VNI + 8
    assert next_vni(world(network("n1", "a", vni=LAST_VNI), network("n2", "b", vni=FIRST_VNI))) == FIRST_VNI + 1


@pytest.mark.parametrize(
    ("prefix", "room"), [(16, 255), (22, 255), (24, 63), (28, 3), (29, 1), (30, 0), (31, 0), (32, 0)]
)
def test_room_for_hosts(prefix: int, room: int) -> None:
    assert host_room(IPv4Network((0, prefix))) == room


def test_the_lowest_free_address() -> None:
    cluster = app(address("n1", "10.44.0.2", 1), address("n1", "10.44.0.4", 2), address("n2", "10.44.0.3", 3))
    assert choose(cluster) == "10.44.0.3"
    assert list(islice(free_addresses(cluster, cluster.networks["n1"]), 3)) == ["10.44.0.3", "10.44.0.5", "10.44.0.6"]


def test_addresses_set_aside_and_the_range() -> None:
    body = ipam(IPRange="10.44.0.128/30", AuxiliaryAddresses={"router": "10.44.0.129"})
    cluster = app(body=body, gateway="10.44.0.128")
    assert list(free_addresses(cluster, cluster.networks["n1"])) == ["10.44.0.130", "10.44.0.131"]
    assert choose(cluster, "10.44.0.9") == "10.44.0.9"


def test_used_up() -> None:
    cluster = app(address("n1", "10.44.0.2", 1), subnet="10.44.0.0/30")
    with pytest.raises(Conflict, match=r"network app has no free address left in 10\.44\.0\.0/30"):
        choose(cluster)
    ranged = app(address("n1", "10.44.0.8", 1), body=ipam(IPRange="10.44.0.8/32"))
    with pytest.raises(Conflict, match=r"no free address left in 10\.44\.0\.8/32"):
        choose(ranged)


ASKED: list[tuple[str, type[DroverError], str]] = [
    ("10.45.0.9", Invalid, "address 10.45.0.9 is outside the subnet 10.44.0.0/24 of network app"),
    ("10.44.0", Invalid, "invalid IPv4 address: 10.44.0"),
    ("10.44.0.9", Conflict, "address 10.44.0.9 of network app is taken by web"),
    ("10.44.0.10", Conflict, f"address 10.44.0.10 of network app is taken by {cid(7)[:12]}"),
    ("10.44.0.1", Conflict, "address 10.44.0.1 of network app is its gateway"),
    ("10.44.0.5", Conflict, "address 10.44.0.5 of network app is set aside as the auxiliary address router"),
    ("10.44.0.0", Conflict, "address 10.44.0.0 of network app is the network's own or its broadcast address"),
    ("10.44.0.255", Conflict, "address 10.44.0.255 of network app is the network's own or its broadcast address"),
    (
        "10.44.0.192",
        Conflict,
        "address 10.44.0.192 of network app is in the range kept for hosts (10.44.0.192 to the end)",
    ),
]


@pytest.mark.parametrize(("ip", "error", "says"), ASKED)
def test_an_address_that_cannot_be_had(ip: str, error: type[DroverError], says: str) -> None:
    body = ipam(AuxiliaryAddresses={"router": "10.44.0.5"})
    claims = [address("n1", "10.44.0.9", 1), address("n1", "10.44.0.10", 7)]
    with pytest.raises(error) as refused:
        choose(app(container(1, "web"), *claims, body=body), ip)
    assert refused.value.message == says


def test_asking_for_ones_own_address_again() -> None:
    assert choose(app(address("n1", "10.44.0.9", 1)), "10.44.0.9", number=1) == "10.44.0.9"


def test_the_last_address_below_the_hosts() -> None:
    assert choose(app(), "10.44.0.191") == "10.44.0.191"


def test_a_network_without_addresses() -> None:
    with pytest.raises(Invalid, match="network app has no subnet"):
        choose(app(subnet=""))


@given(st.integers(24, 30), st.lists(st.one_of(st.none(), st.integers(0, 255)), max_size=40))
def test_no_address_is_given_twice_or_from_what_is_set_aside(prefix: int, asks: list[int | None]) -> None:
    subnet = IPv4Network(("10.44.0.0", prefix))
    cluster = app(subnet=str(subnet))
    given_out: list[str] = []
    for number, ask in enumerate(asks, 1):
        try:
            ip = choose(cluster, None if ask is None else f"10.44.0.{ask}", number)
        except (Conflict, Invalid):
            continue
        given_out.append(ip)
        cluster = cluster.apply(cluster.revision + 1, address("n1", ip, number))
    last = subnet.broadcast_address - host_room(subnet) - 1
    assert len(given_out) == len(set(given_out))
    assert all(IPv4Address("10.44.0.2") <= IPv4Address(ip) <= last for ip in given_out)


@given(st.lists(st.integers(16, 24), max_size=12))
def test_subnets_never_overlap(prefixes: list[int]) -> None:
    cluster = world()
    for number, prefix in enumerate(prefixes):
        subnet, gateway = choose_subnet(cluster, "x", (Pool("10.128.0.0/12", prefix),))
        assert IPv4Address(gateway) in IPv4Network(subnet)
        assert not any(IPv4Network(subnet).overlaps(IPv4Network(n.subnet)) for n in cluster.networks.values())
        cluster = cluster.apply(number + 1, network(f"n{number}", f"net{number}", subnet))
