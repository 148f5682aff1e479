"""What resolves on a network."""

from __future__ import annotations

import json

from drover.decide.names import links, names, resolvers, servers, shared
from drover.model.cluster import Change, Cluster, put
from drover.model.records import Address, Container, ContainerFacts, Name, Network, Placement, key

APP = Network(id="a" * 64, name="app", body="{}", subnet="10.44.0.0/16", gateway="10.44.0.1", vni=1)
BACK = Network(id="b" * 64, name="back", body="{}", subnet="10.45.0.0/16", gateway="10.45.0.1", vni=2)


def container(
    name: str, ips: dict[str, str], *, state: str = "running", aliases: tuple[str, ...] = (), **fields: object
) -> list[Change]:
    """The records of one container; `ips` maps network ids to addresses."""
    cid = name.lower().ljust(64, "0")
    body = json.dumps({"NetworkingConfig": {"EndpointsConfig": {"app": {"Aliases": list(aliases)}}}})
    changes = [
        put(key("containers", cid), Container(**{"id": cid, "name": name, "body": body, **fields})),
        put(key("placements", cid), Placement(container=cid, host="h1")),
        put(key("container_facts", "h1", cid), ContainerFacts(container=cid, host="h1", state=state)),
    ]
    return changes + [put(key("addresses", n, ip), Address(network=n, ip=ip, container=cid)) for n, ip in ips.items()]


def cluster_of(*containers: list[Change]) -> Cluster:
    networks = [put(key("networks", network.id), network) for network in (APP, BACK)]
    return Cluster().apply(1, networks + [change for changes in containers for change in changes])


def test_a_container_answers_to_name_alias_and_short_id() -> None:
    cluster = cluster_of(container("web", {APP.id: "10.44.0.2"}, aliases=("www",)))
    assert names(cluster, APP.id) == dict.fromkeys(("web.app", "web", "www", "www.app", "web000000000"), ("10.44.0.2",))


def test_the_first_name_of_each_address_is_the_containers_with_the_network() -> None:
    made = [container(f"web{n}", {APP.id: f"10.44.0.{n}"}, aliases=("web", "web.app")) for n in (1, 2, 3)]
    table = names(cluster_of(*made), APP.id)
    first = {
        ip: next(name for name, ips in table.items() if ip in ips) for ip in ("10.44.0.1", "10.44.0.2", "10.44.0.3")
    }
    assert first == {"10.44.0.1": "web1.app", "10.44.0.2": "web2.app", "10.44.0.3": "web3.app"}


def test_a_shared_alias_has_all_addresses_in_order() -> None:
    made = [container(f"w{n}", {APP.id: f"10.44.0.{n}"}, aliases=("web",)) for n in (10, 9, 11)]
    assert names(cluster_of(*made), APP.id)["web"] == ("10.44.0.9", "10.44.0.10", "10.44.0.11")


def test_only_what_is_known_to_run_has_names() -> None:
    states = ("created", "exited", "dead", "missing", "failed", "restarting")
    made = [container(f"c{n}", {APP.id: f"10.44.0.{n}"}, state=state) for n, state in enumerate(states)]
    assert names(cluster_of(*made), APP.id) == {}


def test_a_paused_container_keeps_its_names() -> None:
    assert "web" in names(cluster_of(container("web", {APP.id: "10.44.0.2"}, state="paused")), APP.id)


def test_unknown_is_not_running() -> None:
    unknown = [c for c in container("web", {APP.id: "10.44.0.2"}) if not c.key.startswith("container_facts")]
    unplaced = [c for c in container("web", {APP.id: "10.44.0.2"}) if not c.key.startswith("placements")]
    assert names(cluster_of(unknown), APP.id) == {}
    assert names(cluster_of(unplaced), APP.id) == {}


def test_a_network_knows_only_its_own() -> None:
    cluster = cluster_of(container("web", {APP.id: "10.44.0.2"}), container("db", {BACK.id: "10.45.0.2"}))
    assert set(names(cluster, BACK.id)) == {"db", "db.back", "db0000000000"}
    assert names(cluster, "gone") == {}


def test_aliases_of_a_network_joined_later() -> None:
    attachments = {BACK.id: '{"Aliases":["store"]}'}
    made = container("db", {APP.id: "10.44.0.2", BACK.id: "10.45.0.2"}, aliases=("sql",), attachments=attachments)
    on_app, on_back = (names(cluster_of(made), network.id) for network in (APP, BACK))
    assert ("sql" in on_app, "store" in on_app) == (True, False)
    assert ("sql" in on_back, "store" in on_back) == (False, True)


def test_endpoint_settings_may_be_null() -> None:
    made = container("db", {BACK.id: "10.45.0.2"}, attachments={BACK.id: "null"}, body='{"NetworkingConfig":null}')
    assert names(cluster_of(made), BACK.id)["db"] == ("10.45.0.2",)


def test_names_are_lower_case() -> None:
    assert names(cluster_of(container("Web", {APP.id: "10.44.0.2"})), APP.id)["web.app"] == ("10.44.0.2",)


def test_an_alias_that_is_the_name_counts_once() -> None:
    cluster = cluster_of(container("web", {APP.id: "10.44.0.2"}, aliases=("web", "web")))
    assert names(cluster, APP.id)["web"] == ("10.44.0.2",)


def test_who_is_on_other_networks_too() -> None:
    both = container("both", {APP.id: "10.44.0.2", BACK.id: "10.45.0.2"})
    one = container("one", {APP.id: "10.44.0.3"})
    cluster = cluster_of(both, one)
    assert shared(cluster, APP.id) == {"10.44.0.2": (BACK.id,)}
    assert shared(cluster, BACK.id) == {"10.45.0.2": (APP.id,)}


def test_a_containers_name_servers_are_its_gateways() -> None:
    lan = Network(id="c" * 64, name="lan", body="{}", driver="macvlan", subnet="192.0.2.0/24", gateway="192.0.2.1")
    both = container("both", {BACK.id: "10.45.0.2", APP.id: "10.44.0.2"})
    cluster = cluster_of(both, container("out", {lan.id: "192.0.2.9"}), [put(key("networks", lan.id), lan)])
    assert resolvers(cluster, both[0].record.id) == ("10.44.0.1", "10.45.0.1")
    assert resolvers(cluster, "out".ljust(64, "0")) == ()


def test_a_containers_own_servers_are_asked_for_names_outside() -> None:
    body = json.dumps({"HostConfig": {"Dns": ["192.0.2.53", "192.0.2.54"]}})
    cluster = cluster_of(container("web", {APP.id: "10.44.0.2"}, body=body), container("db", {APP.id: "10.44.0.3"}))
    assert servers(cluster, APP.id) == {"10.44.0.2": ("192.0.2.53", "192.0.2.54")}
    assert servers(cluster, BACK.id) == {}


def test_links_are_names_that_their_container_alone_uses() -> None:
    body = {"NetworkingConfig": {"EndpointsConfig": {"app": {"Links": ["db:bar", "nobody:x"]}}}}
    cluster = cluster_of(
        [*container("db", {APP.id: "10.44.0.2"}), put(key("names", "db"), Name(id="db".ljust(64, "0")))],
        container("web", {APP.id: "10.44.0.3"}, body=json.dumps(body)),
        container("late", {APP.id: "10.44.0.4"}, attachments={APP.id: json.dumps({"Links": ["db"]})}),
    )
    assert links(cluster, APP.id) == {"10.44.0.3": {"bar": ("10.44.0.2",)}, "10.44.0.4": {"db": ("10.44.0.2",)}}
    assert links(cluster, BACK.id) == {}
