"""A client's body becomes an engine's: what is rewritten, and that nothing else is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drover.drivers.engine.translate import FixedAddress, Translation, engine_body, fixed_endpoint, translated
from drover.model import records as r
from drover.model.cluster import Cluster, put

WEB, DB, NET = "a1" * 32, "b2" * 32, "c3" * 32
ENGINE_DB = "d4" * 32


def translation(**fields: Any) -> Translation:
    return Translation(id=WEB, epoch=3, **fields)


def host_config(before: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = translated({"HostConfig": before}, translation(**fields))["HostConfig"]
    return found


def test_labels_are_added_and_ours_win() -> None:
    body = {"Labels": {"a": "b", "drover.id": "forged", "drover.epoch": "99"}}
    assert translated(body, translation())["Labels"] == {"a": "b", "drover.id": WEB, "drover.epoch": "3"}
    assert translated({"Labels": None}, translation())["Labels"] == {"drover.id": WEB, "drover.epoch": "3"}
    assert body["Labels"]["drover.id"] == "forged"


@pytest.mark.parametrize("host", [{}, None, {"NetworkMode": "bridge"}, {"NetworkMode": "none"}, {"NetworkMode": None}])
def test_the_hostname_comes_from_the_cluster_id(host: dict[str, Any] | None) -> None:
    assert translated({"HostConfig": host, "Hostname": ""}, translation())["Hostname"] == WEB[:12]


@pytest.mark.parametrize("host", [{"NetworkMode": "host"}, {"NetworkMode": f"container:{DB}"}, {"UTSMode": "host"}])
def test_no_hostname_where_it_is_shared(host: dict[str, Any]) -> None:
    assert "Hostname" not in translated({"HostConfig": host}, translation())


def test_a_hostname_that_was_asked_for_stays() -> None:
    assert translated({"Hostname": "mail"}, translation())["Hostname"] == "mail"


def test_scheduling_entries_leave_the_environment() -> None:
    env = ["A=1", "constraint:storage==ssd", "affinity:container!=web", "B="]
    assert translated({"Env": env}, translation())["Env"] == ["A=1", "B="]


def test_an_image_named_by_digest_is_asked_for_by_id() -> None:
    assert translated({"Image": "app@sha256:1"}, translation(image_id="sha256:2"))["Image"] == "sha256:2"
    assert translated({"Image": "app@sha256:1"}, translation())["Image"] == "app@sha256:1"
    assert translated({"Image": "app:1"}, translation(image_id="sha256:2"))["Image"] == "app:1"


@pytest.mark.parametrize("field", ["NetworkMode", "PidMode", "IpcMode"])
@pytest.mark.parametrize(
    ("ref", "wanted"), [(DB, ENGINE_DB), (DB[:12], ENGINE_DB), ("db", "db"), ("nobody", "nobody"), ("", "")]
)
def test_modes_that_name_a_container(field: str, ref: str, wanted: str) -> None:
    containers = {DB: ENGINE_DB, WEB: "e5" * 32, "db": "db"}
    assert host_config({field: f"container:{ref}"}, containers=containers) == {field: f"container:{wanted}"}


def test_a_name_counts_before_the_beginning_of_an_id() -> None:
    containers = {DB: ENGINE_DB, DB[:4]: DB[:4]}
    assert host_config({"PidMode": f"container:{DB[:4]}"}, containers=containers) == {"PidMode": f"container:{DB[:4]}"}


def test_an_ambiguous_beginning_stays() -> None:
    containers = {DB: ENGINE_DB, "b2" + "00" * 31: "f" * 64}
    assert host_config({"PidMode": "container:b2"}, containers=containers) == {"PidMode": "container:b2"}


def test_volumes_from_and_links() -> None:
    before = {"VolumesFrom": [f"{DB}:ro", DB, "db:rw"], "Links": [f"{DB}:database", DB[:12], "db:d", "db"]}
    assert host_config(before, containers={DB: ENGINE_DB, "db": "db"}) == {
        "VolumesFrom": [f"{ENGINE_DB}:ro", ENGINE_DB, "db:rw"],
        "Links": [f"{ENGINE_DB}:database", f"{ENGINE_DB}:{DB[:12]}", "db:d", "db"],
    }


def test_networks_by_id_become_names() -> None:
    body = {
        "HostConfig": {"NetworkMode": NET},
        "NetworkingConfig": {"EndpointsConfig": {NET: {"Aliases": ["w"], "Links": [f"{DB}:db"]}, "plain": None}},
    }
    result = translated(body, translation(networks={NET: "back"}, containers={DB: ENGINE_DB}))
    assert result["HostConfig"] == {"NetworkMode": "back"}
    assert result["NetworkingConfig"] == {
        "EndpointsConfig": {"back": {"Aliases": ["w"], "Links": [f"{ENGINE_DB}:db"]}, "plain": None}
    }


def test_fixed_addresses_keep_what_else_was_asked() -> None:
    endpoints = {"back": {"Aliases": ["w"], "IPAMConfig": {"LinkLocalIPs": ["169.254.1.1"]}}, "front": None}
    addresses = {"back": FixedAddress("10.0.0.2", "02:42:0a:00:00:02"), "front": FixedAddress("10.1.0.2")}
    result = translated({"NetworkingConfig": {"EndpointsConfig": endpoints}}, translation(addresses=addresses))
    assert result["NetworkingConfig"]["EndpointsConfig"] == {
        "back": {
            "Aliases": ["w"],
            "IPAMConfig": {"LinkLocalIPs": ["169.254.1.1"], "IPv4Address": "10.0.0.2"},
            "MacAddress": "02:42:0a:00:00:02",
        },
        "front": {"IPAMConfig": {"IPv4Address": "10.1.0.2"}},
    }


def test_an_endpoint_of_its_own_for_the_network_mode() -> None:
    addresses = {"back": FixedAddress("10.0.0.2")}
    result = translated({"HostConfig": {"NetworkMode": "back"}}, translation(addresses=addresses))
    assert result["NetworkingConfig"] == {"EndpointsConfig": {"back": fixed_endpoint({}, addresses["back"])}}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
REWRITTEN = {"Labels", "Hostname", "Image", "Env", "HostConfig", "NetworkingConfig"}
OTHERS = st.dictionaries(st.text(max_size=8).filter(lambda key: key not in REWRITTEN), JSON, max_size=5)


@settings(max_examples=50)
@given(fields=OTHERS, host=OTHERS.map(lambda found: {f"X{key}": value for key, value in found.items()}))
def test_unknown_fields_survive(fields: dict[str, Any], host: dict[str, Any]) -> None:
    body = json.loads(json.dumps({**fields, "HostConfig": host}))
    result = translated(body, translation(containers={DB: ENGINE_DB}, networks={NET: "back"}))
    assert result.get("HostConfig") == body["HostConfig"]
    assert {key: result[key] for key in fields} == {key: body[key] for key in fields}
    assert set(result) <= set(body) | {"Labels", "Hostname"}


# -- from the cluster --------------------------------------------------------------------------------------------------


def cluster(record: r.Container) -> Cluster:
    """Two containers, and two networks on which the first has addresses."""
    records = [
        (r.key("containers", WEB), record),
        (r.key("names", "db"), r.Name(id=DB)),
        (r.key("networks", NET), r.Network(id=NET, name="back", body="{}", subnet="10.0.0.0/24", vni=5)),
        (r.key("networks", "other"), r.Network(id="other", name="later", body="{}", subnet="10.9.0.0/24", vni=6)),
        (r.key("addresses", NET, "10.0.0.9"), r.Address(network=NET, ip="10.0.0.9", container=WEB)),
        (r.key("addresses", NET, "10.0.0.8"), r.Address(network=NET, ip="10.0.0.8", container=DB)),
        (r.key("addresses", "other", "10.9.0.9"), r.Address(network="other", ip="10.9.0.9", container=WEB)),
        (r.key("addresses", "gone", "10.8.0.9"), r.Address(network="gone", ip="10.8.0.9", container=WEB)),
    ]
    return Cluster().apply(1, [put(key, value) for key, value in records])


def test_everything_from_the_cluster() -> None:
    body = {"Image": "app:1", "HostConfig": {"NetworkMode": NET, "PidMode": f"container:{DB}", "Links": ["db:x"]}}
    record = r.Container(id=WEB, name="web", body=json.dumps(body), image_id="sha256:1")
    assert engine_body(record, epoch=7, containers={DB: ENGINE_DB}, cluster=cluster(record)) == {
        "Image": "app:1",
        "Hostname": WEB[:12],
        "Labels": {"drover.id": WEB, "drover.epoch": "7"},
        "HostConfig": {"NetworkMode": "back", "PidMode": f"container:{ENGINE_DB}", "Links": ["db:x"]},
        "NetworkingConfig": {
            "EndpointsConfig": {"back": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}, "MacAddress": "02:42:0a:00:00:09"}}
        },
    }


@pytest.mark.parametrize(("asked", "claimed", "given"), [("02:00:00:00:00:01", "", None), ("", "02:11", "02:11")])
def test_mac_addresses(asked: str, claimed: str, given: str | None) -> None:
    """The claim's counts; one asked for the whole container is left to the body's own field."""
    body = {"HostConfig": {"NetworkMode": "back"}, "MacAddress": asked}
    record = r.Container(id=WEB, name="web", body=json.dumps(body))
    claim = r.Address(network=NET, ip="10.0.0.9", container=WEB, mac=claimed)
    known = cluster(record).apply(2, [put(r.key("addresses", NET, "10.0.0.9"), claim)])
    result = engine_body(record, epoch=1, containers={}, cluster=known)
    assert result["NetworkingConfig"]["EndpointsConfig"]["back"].get("MacAddress") == given


def test_an_empty_body() -> None:
    record = r.Container(id=WEB, name="web", body="")
    assert engine_body(record, epoch=1, containers={}, cluster=Cluster()) == {
        "Labels": {"drover.id": WEB, "drover.epoch": "1"},
        "Hostname": WEB[:12],
    }


def test_the_networks_gateways_answer_names_unless_the_client_chose_servers() -> None:
    network = r.Network(id=NET, name="app", body="{}", subnet="10.128.0.0/20", gateway="10.128.0.1", vni=1)
    cluster = Cluster().apply(
        1, [put(r.key("networks", NET), network), put(r.key("network_names", "app"), r.Name(id=NET))]
    )

    claim = r.Address(network=NET, ip="10.128.0.2", container=WEB)

    def dns(**host: Any) -> Any:
        joined = host["NetworkMode"] != "bridge"
        known = cluster.apply(2, [put(r.key("addresses", NET, claim.ip), claim)]) if joined else cluster
        record = r.Container(id=WEB, name="web", body=json.dumps({"Image": "busybox", "HostConfig": host}))
        return engine_body(record, epoch=1, containers={}, cluster=known)["HostConfig"].get("Dns")

    assert dns(NetworkMode="app") == ["10.128.0.1"]
    assert dns(NetworkMode=NET, Dns=[]) == ["10.128.0.1"]
    assert dns(NetworkMode="app", Dns=["1.1.1.1"]) == ["10.128.0.1"]
    assert dns(NetworkMode="bridge") is None
