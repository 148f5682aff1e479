"""What is followed from picture to picture is what the records say, whatever happened in between."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from drover.decide import names, tables
from drover.decide.overlay import DEFAULT_NETWORK
from drover.decide.wiring import Names, Wiring, follow
from drover.drivers.network.messages import Zone
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put

HOSTS = ("h1", "h2", "h3")
CONTAINERS = tuple("abcdef")
NETWORKS = {"n1": "10.44.0", "n2": "10.45.0", DEFAULT_NETWORK: "10.46.0"}
SERVICES = ("web", "db")
RENAMED = {"a": "web", "b": "One", "c": "two.net-n1", "d": "db"}
MTU_BYTES = 1450
EXAMPLES = int(os.environ.get("DROVER_WIRING_EXAMPLES", "30"))

Command = Callable[[Cluster], list[Change]]


def _host(name: str, port: int) -> Command:
    index = int(name[1])
    record = r.Host(name=name, id=name, index=index, address=f"10.94.0.{index}", api_port=port)
    return lambda _: [put(r.key("hosts", name), record)]


def _network(network: str, vni: int, internal: bool) -> Command:
    prefix = NETWORKS[network]
    record = r.Network(
        id=network,
        name=f"net-{network[:2]}",
        body=json.dumps({"Internal": internal}),
        subnet=f"{prefix}.0/24",
        gateway=f"{prefix}.1",
        vni=vni,
    )
    return lambda _: [put(r.key("networks", network), record)]


def _container(container: str, renamed: bool, service: str, alias: str, mode: str, link: str) -> Command:
    name = RENAMED.get(container, container.upper()) if renamed else f"c-{container}"
    labels = {"drover.service": service, "drover.endpoint_mode": mode} if service else {}
    endpoint = {"Aliases": [alias] if alias else [], "Links": [link] if link else []}
    body = {
        "Labels": labels,
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "8080"}], "53/udp": [{"HostPort": "5353"}]}},
        "NetworkingConfig": {"EndpointsConfig": {"net-n1": endpoint}},
    }
    verb: r.Verb = "stop" if mode == "stop" else "start"
    record = r.Container(id=container, name=name, body=json.dumps(body), order=r.Order(number=2, verb=verb))
    return lambda _: [put(r.key("containers", container), record), put(r.key("names", name), r.Name(id=container))]


def _placement(container: str, host: str) -> Command:
    return lambda _: [put(r.key("placements", container), r.Placement(container=container, host=host))]


def _facts(container: str, host: str, state: str, health: str, number: int) -> Command:
    record = r.ContainerFacts(
        container=container, host=host, state=state, health=health, answer=r.Answer(number=number), started_at=health
    )
    return lambda _: [put(r.key("container_facts", host, container), record)]


def _address(container: str, network: str, last: int) -> Command:
    ip = f"{NETWORKS[network]}.{last}"
    record = r.Address(network=network, ip=ip, container=container)
    return lambda _: [put(r.key("addresses", network, ip), record)]


def _port(container: str, host: str, protocol: str, service: str) -> Command:
    port, inner = (8080, 80) if protocol == "tcp" else (5353, 53)
    record = r.Port(
        host=host,
        protocol=protocol,
        port=port,
        container=container,
        container_port=inner,
        host_ip="" if host == "*" else "127.0.0.1",
        service=f"/{service}" if service and host == "*" else "",
    )
    return lambda _: [put(r.key("ports", host, protocol, str(port)), record)]


def _virtual(service: str, network: str, last: int) -> Command:
    record = r.ServiceAddress(ip=f"10.127.0.{last}", network=network, service=f"/{service}")
    return lambda _: [put(r.key("service_addresses", record.ip), record)]


def _leaves(container: str, phase: r.Phase) -> Command:
    """The record of a move, of a container that wants to run."""
    record = r.Move(source="h1", target="h2", container=container, phase=phase)

    def changes(cluster: Cluster) -> list[Change]:
        known = cluster.containers.get(container)
        wanting = [put(r.key("containers", container), replace(known, desired="running"))] if known else []
        return [*wanting, put(r.key("moves", container), record)]

    return changes


def _move(container: str, target: str, phase: r.Phase) -> Command:
    record = r.Move(source="h2", target=target, container=container, phase=phase)
    return lambda _: [put(r.key("moves", container), record)]


def _suspect(container: str, host: str, target: str) -> Command:
    """A host with a lease that is not heard: its container is made ready elsewhere."""
    alive = r.Alive(host=host, session="s1")
    record = r.Suspect(host=host, session="s1", targets={container: target})
    return lambda _: [put(r.key("alive", host), alive), put(r.key("suspects", host), record)]


def _removal(number: int) -> Command:
    """The removal of one of the records that are there."""
    return lambda cluster: (
        [delete(sorted(cluster.versions)[number % len(cluster.versions)])] if cluster.versions else []
    )


_of = st.sampled_from
_networks = _of(tuple(NETWORKS))
_containers = _of(CONTAINERS)
_services = _of(("", *SERVICES))
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(_leaves, _containers, _of(("copying", "stopping", "handed", "done"))),
    st.builds(_host, _of(HOSTS), st.integers(1, 2)),
    st.builds(_network, _networks, _of((0, 4096, 4097)), st.booleans()),
    st.builds(
        _container,
        _containers,
        st.booleans(),
        _services,
        _of(("", "web", "all")),
        _of(("", "dnsrr", "stop")),
        _of(("", "web", "One:uno")),
    ),
    st.builds(_placement, _containers, _of((*HOSTS, "h9"))),
    st.builds(
        _facts, _containers, _of(HOSTS), _of(("running", "paused", "exited")), _of(("", "unhealthy")), st.integers(1, 2)
    ),
    st.builds(_address, _containers, _networks, st.integers(10, 13)),
    st.builds(_port, _containers, _of(("*", "h1")), _of(("tcp", "udp")), _services),
    st.builds(_virtual, _of(SERVICES), _networks, st.integers(1, 3)),
    st.builds(_move, _containers, _of(HOSTS), _of(("copying", "handed"))),
    st.builds(_suspect, _containers, _of(HOSTS), _of(HOSTS)),
    st.builds(_removal, st.integers(0, 10_000)),
)
START: list[Command] = [
    *(_host(name, 1) for name in HOSTS),
    *(_network(network, 4096 + number, False) for number, network in enumerate(NETWORKS)),
    *(_container(one, False, "web" if one in "abc" else "", "", "", "") for one in CONTAINERS),
    *(_placement(one, HOSTS[number % 3]) for number, one in enumerate(CONTAINERS)),
    *(_facts(one, HOSTS[number % 3], "running", "", 2) for number, one in enumerate(CONTAINERS)),
    *(_address(one, "n1", 20 + number) for number, one in enumerate(CONTAINERS)),
    _port("a", "*", "tcp", "web"),
    _virtual("web", "n1", 1),
]


def _run(cluster: Cluster, commands: list[Command]) -> Cluster:
    changes = [change for command in commands for change in command(cluster)]
    return cluster.apply(cluster.revision + 1, changes)


def _asked(cluster: Cluster) -> list[object]:
    """What `h1` must have, from the records alone."""
    networks = tables.host_networks(cluster, "h1", MTU_BYTES)
    made = tables.tables(cluster, "h1", networks)
    zones = {
        one: tuple(of(cluster, one) for of in (names.names, names.shared, names.links, names.servers))
        for one in networks
    }
    starts = {one: tables.starts(cluster, "h1", one) for one in networks}
    reverse = _reverse(cluster, {network: zone[0] for network, zone in zones.items()})
    return [networks, made.mesh, made.bound, made.virtual, made.local, made.alive, zones, starts, reverse]


def _followed(wiring: Wiring) -> list[object]:
    made = wiring.tables
    zones = {network: (zone.names, zone.shared, zone.links, zone.servers) for network, zone in wiring.zones.items()}
    assert list(made.networks) == list(wiring.networks.values())
    reverse = _reverse(wiring.cluster, {network: zone.names for network, zone in wiring.zones.items()})
    return [
        dict(wiring.networks),
        made.mesh,
        made.bound,
        made.virtual,
        made.local,
        made.alive,
        zones,
        wiring.starts,
        reverse,
    ]


def _reverse(cluster: Cluster, zones: Mapping[str, Names]) -> object:
    """What reverse look-ups of containers' addresses say to which the own name of exactly one leads."""
    found = {}
    for network, rows in zones.items():
        own = {names.own_name(container, cluster.networks[network]) for container in cluster.containers.values()}
        leading = Counter(ip for name in own for ip in rows.get(name, ()))
        pointers = {_forward(ip): name for ip, name in Zone(rows)._pointers.items() if name in own}
        found[network] = {ip: name for ip, name in pointers.items() if leading[ip] == 1 and ip.startswith("10.4")}
    return found


def _forward(reverse: str) -> str:
    """`9.0.44.10.in-addr.arpa` is 10.44.0.9."""
    return ".".join(reversed(reverse.split(".")[:4]))


START_CLUSTER = Cluster()
for command in START:
    START_CLUSTER = _run(START_CLUSTER, [command])


@settings(max_examples=EXAMPLES)
@given(st.lists(st.lists(COMMANDS, min_size=1, max_size=4), max_size=12))
def test_following_any_history_ends_where_starting_anew_does(history: list[list[Command]]) -> None:
    cluster = START_CLUSTER
    wiring = follow(Wiring(host="h1", mtu_bytes=MTU_BYTES), cluster)
    assert _followed(wiring) == _asked(cluster)
    for commands in history:
        cluster = _run(cluster, commands)
        wiring = follow(wiring, cluster)
        assert _followed(wiring) == _asked(cluster)


def test_what_did_not_change_is_the_same_object() -> None:
    before = follow(Wiring(host="h1", mtu_bytes=MTU_BYTES), START_CLUSTER)
    after = follow(before, _run(START_CLUSTER, [_facts("d", "h1", "running", "", 2), _host("h2", 2)]))
    assert after.tables is before.tables
    assert all(after.networks[one] is real for one, real in before.networks.items())
    assert all(after.zones[one] is zone for one, zone in before.zones.items())
    assert all(after.starts[one] is starts for one, starts in before.starts.items())


def test_a_change_of_one_service_leaves_the_others_values_alone() -> None:
    before = follow(Wiring(host="h1", mtu_bytes=MTU_BYTES), START_CLUSTER)
    after = follow(before, _run(START_CLUSTER, [_facts("b", "h2", "exited", "", 2)]))
    assert after.tables.mesh["tcp", 8080] == (("10.44.0.20", 80), ("10.44.0.22", 80))
    assert after.zones["n1"].names["tasks.web"] == ("10.44.0.20", "10.44.0.22")
    assert after.zones["n1"].names["c-d"] is before.zones["n1"].names["c-d"]
    assert after.networks["n1"] is before.networks["n1"]


def test_a_network_is_made_before_the_container_that_moves_here() -> None:
    alone = _run(START_CLUSTER, [_address("f", "n2", 10)])
    before = follow(Wiring(host="h1", mtu_bytes=MTU_BYTES), alone)
    coming = follow(before, _run(alone, [_move("f", "h1", "copying")]))
    gone = follow(coming, _run(alone, [_move("f", "h1", "aborted")]))
    assert ["n2" in one.networks for one in (before, coming, gone)] == [False, True, False]
    assert [entry.ip for entry in coming.networks["n2"].remotes if entry.ip.endswith(".10")] == ["10.45.0.10"]


def test_a_network_is_made_before_the_container_that_a_suspect_host_may_lose_to_this_one() -> None:
    alone = _run(START_CLUSTER, [_address("f", "n2", 10)])
    before = follow(Wiring(host="h1", mtu_bytes=MTU_BYTES), alone)
    ready = follow(before, _run(alone, [_suspect("f", "h3", "h1")]))
    heard = follow(ready, _run(alone, [lambda _: [delete(r.key("suspects", "h3"))]]))
    assert ["n2" in one.networks for one in (before, ready, heard)] == [False, True, False]


def test_a_host_that_is_no_member_has_nothing() -> None:
    wiring = follow(Wiring(host="h9", mtu_bytes=MTU_BYTES), START_CLUSTER)
    assert (wiring.networks, wiring.zones, wiring.tables.networks) == ({}, {}, ())
