"""Published ports: what a start claims, what refuses it, and what each host's kernel is told."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from drover.decide.default_network import default_network_draft, is_on_default
from drover.decide.doctor import record_doubts
from drover.decide.names import names
from drover.decide.overlay import DEFAULT_NETWORK, realised
from drover.decide.ports import FIRST_ANY, port_claims, published
from drover.decide.removal import container_removal
from drover.decide.services import address_changes, service_of, virtual_addresses
from drover.decide.tables import host_networks, networks_everywhere, tables
from drover.drivers.network import services as kernel
from drover.errors import EngineError, Invalid
from drover.model import records as r
from drover.model.cluster import Cluster, delete, put


def world() -> Cluster:
    """Three hosts and the default network, 10.128.0.0/20."""
    hosts = [
        put(r.key("hosts", f"h{n}"), r.Host(name=f"h{n}", id=str(n), index=n, address=f"192.0.2.{n}"))
        for n in (1, 2, 3)
    ]
    cluster = Cluster().apply(1, hosts)
    return cluster.apply(2, default_network_draft(cluster, 1.0).changes)


def with_container(
    cluster: Cluster,
    name: str,
    host: str,
    bindings: dict[str, list[dict[str, str]]] | None = None,
    *,
    state: str = "running",
    health: str = "",
    labels: dict[str, str] | None = None,
    publish_all: bool = False,
) -> Cluster:
    """With a container on the default network that has the next address."""
    body: dict[str, Any] = {
        "Image": "web",
        "Labels": labels or {},
        "HostConfig": {"PortBindings": bindings or {}, "PublishAllPorts": publish_all},
    }
    ip = f"10.128.0.{len(cluster.addresses) + 2}"
    facts = r.ContainerFacts(
        container=name, host=host, state=state, health=health, engine_id="e", answer=r.Answer(number=1)
    )
    record = r.Container(id=name, name=name, body=msgspec.json.encode(body).decode())
    changes = [
        put(r.key("containers", name), record),
        put(r.key("names", name), r.Name(id=name)),
        put(r.key("placements", name), r.Placement(container=name, host=host)),
        put(r.key("container_facts", host, name), facts),
        put(r.key("addresses", DEFAULT_NETWORK, ip), r.Address(network=DEFAULT_NETWORK, ip=ip, container=name)),
    ]
    return cluster.apply(cluster.revision + 1, changes)


def started(cluster: Cluster, name: str, *exposed: tuple[int, str]) -> Cluster:
    return cluster.apply(cluster.revision + 1, port_claims(cluster, cluster.containers[name], exposed).changes)


def on(port: str, ip: str = "") -> list[dict[str, str]]:
    return [{"HostIp": ip, "HostPort": port}]


def test_a_port_is_claimed_for_every_host() -> None:
    cluster = started(with_container(world(), "web", "h1", {"80/tcp": on("8080")}), "web")
    claim = cluster.ports["*/tcp/8080"]
    assert (claim.container, claim.container_port, claim.host_ip) == ("web", 80, "")
    again = port_claims(cluster, cluster.containers["web"])
    assert again.expect == {"ports/*/tcp/8080": cluster.version("ports/*/tcp/8080")}
    assert [one.port for one in published(cluster, cluster.containers["web"])] == [8080]


def test_the_second_is_refused_in_dockers_words_with_the_holders_name() -> None:
    cluster = started(with_container(world(), "web", "h1", {"80/tcp": on("8080")}), "web")
    cluster = with_container(cluster, "two", "h2", {"80/tcp": on("8080")})
    with pytest.raises(
        EngineError, match=r"Bind for 0\.0\.0\.0:8080 failed: port is already allocated .*web"
    ) as refused:
        started(cluster, "two")
    assert refused.value.status == 500


def test_a_stopped_holder_loses_its_port_to_who_starts() -> None:
    cluster = started(with_container(world(), "web", "h1", {"80/tcp": on("8080")}), "web")
    over = r.ContainerFacts(container="web", host="h1", state="exited", engine_id="e", answer=r.Answer(number=1))
    cluster = cluster.apply(9, [put(r.key("container_facts", "h1", "web"), over)])
    cluster = started(with_container(cluster, "two", "h2", {"80/tcp": on("8080")}), "two")
    assert cluster.ports["*/tcp/8080"].container == "two"
    with pytest.raises(EngineError):
        started(cluster, "web")


def test_ranges_and_any_port_take_the_first_free_one_and_keep_it() -> None:
    cluster = started(with_container(world(), "a", "h1", {"80/tcp": on("7000-7001"), "90/udp": on("")}), "a")
    cluster = started(with_container(cluster, "b", "h1", {"80/tcp": on("7000-7001"), "90/udp": on("0")}), "b")
    assert {one.port for one in published(cluster, cluster.containers["a"])} == {7000, FIRST_ANY}
    assert {one.port for one in published(cluster, cluster.containers["b"])} == {7001, FIRST_ANY + 1}
    assert started(cluster, "b").ports == cluster.ports
    with pytest.raises(EngineError, match="7000-7001 failed"):
        started(with_container(cluster, "c", "h3", {"80/tcp": on("7000-7001")}), "c")


def test_publish_all_takes_what_is_exposed_and_not_bound() -> None:
    cluster = with_container(world(), "a", "h1", {"80/tcp": on("8080")}, publish_all=True)
    cluster = started(cluster, "a", (80, "tcp"), (53, "udp"))
    assert [(one.container_port, one.port) for one in published(cluster, cluster.containers["a"])] == [
        (53, FIRST_ANY),
        (80, 8080),
    ]


def test_one_address_of_a_host_is_answered_there_only() -> None:
    cluster = started(with_container(world(), "web", "h2", {"80/tcp": on("9090", "127.0.0.1")}), "web")
    assert list(cluster.ports) == ["h2/tcp/9090"]
    here = tables(cluster, "h2", host_networks(cluster, "h2", 1450))
    assert here.bound == {("127.0.0.1", "tcp", 9090): (("10.128.0.2", 80),)}
    assert tables(cluster, "h1", host_networks(cluster, "h1", 1450)).bound == {}
    for address in ("2001:db8::1", "::"):
        with pytest.raises(Invalid, match="only on IPv4"):
            started(with_container(world(), "six", "h1", {"80/tcp": on("1", address)}), "six")


def test_the_label_leaves_publishing_to_the_engine() -> None:
    labels = {"drover.publish": "host"}
    cluster = with_container(world(), "web", "h1", {"80/tcp": on("8080")}, labels=labels)
    assert port_claims(cluster, cluster.containers["web"]).changes == ()


def test_containers_of_one_service_share_a_port_and_inherit_it() -> None:
    labels = {"drover.service": "back"}
    cluster = world()
    for name, host in (("b1", "h1"), ("b2", "h2")):
        cluster = started(with_container(cluster, name, host, {"80/tcp": on("8888")}, labels=labels), name)
    assert cluster.ports["*/tcp/8888"].container == "b1"
    assert [one.port for one in published(cluster, cluster.containers["b2"])] == [8888]
    mesh = tables(cluster, "h3", host_networks(cluster, "h3", 1450)).mesh
    assert mesh == {("tcp", 8888): (("10.128.0.2", 80), ("10.128.0.3", 80))}
    changes, _ = container_removal(cluster, "b1", 0.0)
    assert cluster.apply(99, changes).ports["*/tcp/8888"].container == "b2"


def test_every_host_has_the_networks_that_ports_lead_to() -> None:
    cluster = world()
    assert networks_everywhere(cluster) == {DEFAULT_NETWORK}
    assert realised(cluster, "h3") == {}
    real = host_networks(cluster, "h3", 1450)[DEFAULT_NETWORK]
    assert {remote.ip for remote in real.remotes} == {"10.128.15.254", "10.128.15.253"}


@pytest.mark.parametrize(
    ("labels", "service"),
    [
        ({}, ""),
        ({"drover.service": "web"}, "/web"),
        ({"com.docker.compose.project": "app", "com.docker.compose.service": "web"}, "app/web"),
    ],
)
def test_services_by_label(labels: dict[str, str], service: str) -> None:
    assert service_of(labels) == service


def serving(*healths: str, labels: Mapping[str, str] = MappingProxyType({})) -> Cluster:
    """Containers of service `back`, one per health, on hosts in turn, with their virtual address."""
    cluster = world()
    for number, health in enumerate(healths, 1):
        own = {"drover.service": "back", **labels}
        cluster = with_container(cluster, f"b{number}", f"h{number}", labels=own, health=health)
    return cluster.apply(50, address_changes(cluster, [DEFAULT_NETWORK]).changes)


def test_a_service_has_one_address_until_its_last_container_goes() -> None:
    cluster = serving("", "")
    assert virtual_addresses(cluster, DEFAULT_NETWORK) == {"/back": "10.127.0.1"}
    assert address_changes(cluster, [DEFAULT_NETWORK]).changes == ()
    for name in ("b1", "b2"):
        cluster = cluster.apply(cluster.revision + 1, container_removal(cluster, name, 0.0)[0])
    cluster = cluster.apply(99, address_changes(cluster, [DEFAULT_NETWORK]).changes)
    assert cluster.service_addresses == {}


def test_names_of_a_service() -> None:
    found = names(serving("", ""), DEFAULT_NETWORK)
    assert found["back"] == found["back.drover"] == ("10.127.0.1",)
    assert found["tasks.back"] == ("10.128.0.2", "10.128.0.3")


def test_round_robin_by_dns_on_request() -> None:
    cluster = serving("", "", labels={"drover.endpoint_mode": "dnsrr"})
    assert cluster.service_addresses == {}
    assert names(cluster, DEFAULT_NETWORK)["back"] == ("10.128.0.2", "10.128.0.3")


@pytest.mark.parametrize(
    ("healths", "backends"),
    [
        (("healthy", "unhealthy", ""), ("10.128.0.2", "10.128.0.4")),
        (("starting", "unhealthy"), ("10.128.0.2", "10.128.0.3")),
        (("healthy", "starting"), ("10.128.0.2",)),
    ],
)
def test_only_healthy_backends_while_there_are_any(healths: tuple[str, ...], backends: tuple[str, ...]) -> None:
    cluster = serving(*healths)
    balanced = tables(cluster, "h1", host_networks(cluster, "h1", 1450))
    assert balanced.virtual == {("dv4095", "10.127.0.1"): backends}
    assert "10.128.0.3" in balanced.alive


def test_a_container_that_is_told_to_stop_gets_no_more() -> None:
    cluster = serving("", "")
    told = msgspec.structs.replace(cluster.containers["b1"], order=r.Order(number=2, verb="stop"))
    cluster = cluster.apply(60, [put(r.key("containers", "b1"), told)])
    assert tables(cluster, "h1", host_networks(cluster, "h1", 1450)).virtual["dv4095", "10.127.0.1"] == ("10.128.0.3",)


def image(cluster: Cluster, host: str = "h1") -> kernel.Image:
    return kernel.render(tables(cluster, host, host_networks(cluster, host, 1450)))


def test_the_kernels_words() -> None:
    cluster = serving("", "")
    cluster = started(with_container(cluster, "web", "h1", {"53/udp": on("5353")}), "web")
    seen = image(cluster)
    assert seen.chains["p_udp_5353"] == ("meta l4proto 17 dnat to 10.128.0.4:53",)
    turns = "dnat to numgen inc mod 2 map { 0 : 10.128.0.2, 1 : 10.128.0.3 }"
    assert seen.chains["v_dv4095_10_127_0_1"] == (turns,)
    assert seen.elements["mesh"] == {"17 . 5353 : goto p_udp_5353"}
    assert seen.elements["local"] == {"10.128.0.2", "10.128.0.4"}
    assert kernel.differences(seen, seen) == []
    assert kernel.differences(seen, kernel.NOTHING) == ["the table ip drover is missing"]


def test_a_change_writes_what_differs_and_no_more() -> None:
    before = image(serving("", ""))
    after = image(serving("", "", ""))
    change = kernel.script(before, after)
    assert "flush chain ip drover v_dv4095_10_127_0_1" in change
    assert "delete table" not in change
    assert "add element ip drover several { 10.128.0.4 }" in change
    assert len(change.splitlines()) == 3
    assert kernel.script(after, after) == ""
    assert kernel.script(kernel.NOTHING, after).startswith("add table ip drover\ndelete table ip drover\n")


def test_what_goes_is_taken_out_of_the_maps_before_its_chain() -> None:
    cluster = with_container(world(), "web", "h1", {"80/tcp": on("8080")})
    lines = kernel.script(image(started(cluster, "web")), image(cluster)).splitlines()
    assert lines.index("delete element ip drover mesh { 6 . 8080 }") < lines.index("delete chain ip drover p_tcp_8080")


def test_a_listing_is_read_back() -> None:
    listing = (
        "table ip drover {\n\tmap mesh {\n\t\ttype inet_proto . inet_service : verdict\n"
        "\t\telements = { 6 . 80 : goto p_tcp_80,\n\t\t\t     6 . 81 : goto p_tcp_81 }\n\t}\n\n"
        "\tchain leaving {\n\t\ttype nat hook output priority -105; policy accept;\n\t\tip daddr @own return\n\t}\n}\n"
    )
    seen = kernel.parse(listing)
    assert seen.elements["mesh"] == {"6 . 80 : goto p_tcp_80", "6 . 81 : goto p_tcp_81"}
    assert seen.chains == {"leaving": ("ip daddr @own return",)}


def test_the_records_doctor() -> None:
    cluster = started(with_container(world(), "web", "h1", {"80/tcp": on("8080")}), "web")
    assert record_doubts(cluster) == []
    assert is_on_default(cluster, "web")
    gone = cluster.apply(70, [delete(r.key("containers", "web"))])
    assert record_doubts(gone) == [
        "address 10.128.0.2 is claimed by container web, which is gone",
        "port 8080/tcp is claimed by container web, which is gone",
    ]
