"""Which addresses are parked while a container is moved, and the packets that wait."""

from __future__ import annotations

import json
import socket
import struct

import pytest
from cluster_factory import cid, host, world

from drover.decide.attached import networks_used
from drover.decide.names import names
from drover.decide.parking import Parked, parked
from drover.decide.services import backends, is_answering
from drover.decide.tables import host_networks
from drover.drivers.network import parking
from drover.model import records as r
from drover.model.cluster import Cluster, put

DB, WEB = cid(1), cid(2)
NET = r.Network(id="n" * 64, name="app", body="{}", subnet="10.44.0.0/16", gateway="10.44.0.1", vni=7)
MAC = r.Network(id="m" * 64, name="lan", body="{}", driver="macvlan", subnet="10.45.0.0/16")
PLACES = {
    "copying": (),
    "stopping": ("h1", "h2"),
    "stopped": ("h1", "h2"),
    "handed": ("h1", "h2"),
    "aborting": ("h1",),
    "done": (),
    "aborted": (),
}


def scene(phase: str, state: str = "exited") -> Cluster:
    """db on its way from h1 to h2, with an address on an overlay network and one on another; web stays on h3."""
    move = r.Move(source="h1", target="h2", container=DB, phase=phase)  # type: ignore[arg-type]
    addresses = [(NET, "10.44.0.2", DB), (MAC, "10.45.0.2", DB), (NET, "10.44.0.3", WEB)]
    records = [put(r.key("networks", one.id), one) for one in (NET, MAC)] + [put(r.key("moves", DB), move)]
    records += [
        put(r.key("addresses", net.id, ip), r.Address(network=net.id, ip=ip, container=one))
        for net, ip, one in addresses
    ]
    facts = {("h1", DB): state, ("h3", WEB): "running"}
    records += [
        put(r.key("container_facts", h, one), r.ContainerFacts(container=one, host=h, state=s))
        for (h, one), s in facts.items()
    ]
    for one, (name, at) in {DB: ("db", "h1"), WEB: ("web", "h3")}.items():
        record = r.Container(id=one, name=name, body="{}", desired="running")
        records += [put(r.key("containers", one), record)]
        records += [put(r.key("placements", one), r.Placement(container=one, host=at))]
    return world(*(host(name) for name in ("h1", "h2", "h3")), records)


@pytest.mark.parametrize("phase", PLACES)
def test_both_hosts_park_from_the_stop_until_the_end(phase: str) -> None:
    cluster = scene(phase)
    held = Parked("dv7", "10.44.0.2")
    expected = {name: {held} if name in PLACES[phase] else set() for name in ("h1", "h2", "h3")}
    if phase == "handed":  # the target holds them all: the source sends on what still comes
        expected["h1"] = {Parked("dv7", "10.44.0.2", passing=True)}
    assert {name: set(parked(cluster, name)) for name in ("h1", "h2", "h3")} == expected


@pytest.mark.parametrize("phase", PLACES)
def test_a_container_between_two_hosts_keeps_its_name(phase: str) -> None:
    cluster = scene(phase)
    between = bool(PLACES[phase])
    assert is_answering(cluster, DB) == between
    assert ("db" in names(cluster, NET.id)) == between


def test_what_stands_still_is_sent_to_only_if_there_is_no_other() -> None:
    cluster = scene("stopping", state="running")
    claims = [one for one in cluster.addresses.values() if one.network == NET.id]
    assert [one.ip for one in backends(cluster, claims)] == ["10.44.0.3"]
    assert [one.ip for one in backends(cluster, claims[:1])] == ["10.44.0.2"]


def packet(payload: bytes = b"", checksum: int = 0, options: bytes = b"") -> bytes:
    """A SYN of 10.44.0.3:40000 to 10.44.0.2:5432."""
    ip_bytes = 20 + len(options)
    ends = socket.inet_aton("10.44.0.3") + socket.inet_aton("10.44.0.2")
    ip = (
        struct.pack("!BBHHHBBH", 0x40 | ip_bytes // 4, 0, ip_bytes + 20 + len(payload), 1, 0, 64, 6, 0) + ends + options
    )
    return ip + struct.pack("!HHIIHHHH", 40000, 5432, 99, 0, 0x5002, 64240, checksum, 0) + payload


def netlink(number: int, data: bytes, port: int = 0) -> bytes:
    """A message as the kernel's queue sends it."""
    attributes = [(parking.A_PACKET, struct.pack("!IHB", number, 0x0800, 0)), (parking.A_PAYLOAD, data)]
    if port:
        attributes.append((parking.A_PHYSICAL_IN, struct.pack("!I", port)))
    return parking._message(parking.PACKET, 0, attributes)


def test_packets_are_read_from_the_queue() -> None:
    read = list(parking.packets(netlink(5, packet(), port=9) + netlink(6, packet(options=bytes(4)))))
    assert [(one.number, one.port, one.address) for one in read] == [(5, 9, "10.44.0.2"), (6, 0, "10.44.0.2")]
    assert read[0].attempt == read[1].attempt
    assert list(parking.packets(netlink(7, b"short"))) == []


@pytest.mark.parametrize("data", [b"", b"odd"])
def test_a_packet_sent_again_has_a_right_checksum(data: bytes) -> None:
    sent = parking.with_checksum(packet(data, checksum=0x1234, options=bytes(4)))
    segment = sent[24:]
    pseudo = sent[12:20] + struct.pack("!BBH", 0, 6, len(segment))
    assert parking._checksum(pseudo + segment) == 0
    assert sent[:24] == packet(data, options=bytes(4))[:24]


def test_rules_name_bridge_and_address_on_both_ways() -> None:
    text = parking.rules([Parked("dv7", "10.44.0.2")])
    match = "-d 10.44.0.2/32 -p tcp --syn -m mark ! --mark 0x44000000/0xff000000 -j NFQUEUE"
    assert f"-A DROVER-PARK-IN -i dv7 {match}" in text
    assert f"-A DROVER-PARK-OUT -o dv7 {match}" in text
    assert "NFQUEUE" not in parking.rules([])
    sent_on = Parked("dv7", "10.44.0.2", passing=True)
    assert parking.rules([sent_on]) == parking.rules([sent_on, Parked("dv7", "10.44.0.2")]) == text


def test_a_hosts_own_container_is_told_from_the_others() -> None:
    assert parked(scene("handed"), "h2", only=DB) == {Parked("dv7", "10.44.0.2")}
    assert parked(scene("handed"), "h2", only=WEB) == frozenset()


@pytest.mark.parametrize("phase", PLACES)
def test_a_host_keeps_a_network_until_nothing_comes_for_what_has_left_it(phase: str) -> None:
    """A packet that is sent on needs the bridge, and the entry that says where to."""
    cluster = scene(phase)
    placed = r.Placement(container=DB, host="h2" if phase in ("handed", "done") else "h1")
    body = json.dumps({"HostConfig": {"NetworkMode": NET.id}})
    record = r.Container(id=DB, name="db", body=body, desired="running")
    changes = [put(r.key("placements", DB), placed), put(r.key("containers", DB), record)]
    cluster = cluster.apply(cluster.revision + 1, changes)
    wanted = host_networks(cluster, "h1", 1450)
    assert (NET.id in wanted) == (phase != "done")
    assert (NET.id in networks_used(cluster, "h1")) == (phase != "done")
    if phase == "handed":
        assert [(one.ip, one.vtep) for one in wanted[NET.id].remotes if one.ip == "10.44.0.2"] == [
            ("10.44.0.2", cluster.hosts["h2"].address)
        ]
