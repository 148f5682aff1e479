"""What is read from a create body."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.errors import Invalid
from drover.model.expression import Expression
from drover.model.spec import (
    Endpoint,
    PublishedPort,
    Spec,
    VolumeUse,
    parse_spec,
    spec_of,
    strip_scheduling_env,
)


def host_config(**fields: Any) -> dict[str, Any]:
    return {"HostConfig": fields}


READ: list[tuple[dict[str, Any], str, Any]] = [
    ({"Image": "redis:7"}, "image", "redis:7"),
    ({"Hostname": "db"}, "hostname", "db"),
    ({"MacAddress": "02:42:0a:00:00:01"}, "mac", "02:42:0a:00:00:01"),
    ({"Labels": {"a": "b"}}, "labels", {"a": "b"}),
    (host_config(Memory=100), "memory_bytes", 100),
    (host_config(Memory=100, MemoryReservation=50), "memory_bytes", 50),
    (host_config(Memory=-1), "memory_bytes", 0),
    (host_config(NanoCpus=1_500_000_000), "cpus", 1.5),
    (host_config(PublishAllPorts=True), "publish_all", True),
    (host_config(PortBindings={"80/tcp": None, "81/tcp": []}), "ports", ()),
    (host_config(PortBindings={"80": [None]}), "ports", (PublishedPort(80),)),
    (
        host_config(PortBindings={"53/UDP": [{"HostIp": "127.0.0.1", "HostPort": "5353"}]}),
        "ports",
        (PublishedPort(53, "udp", "127.0.0.1", 5353, 5353),),
    ),
    (
        host_config(PortBindings={"80/tcp": [{"HostPort": "8000-8010"}]}),
        "ports",
        (PublishedPort(80, "tcp", "", 8000, 8010),),
    ),
    (host_config(PortBindings={"80/tcp": [{"HostPort": "0"}]}), "ports", (PublishedPort(80),)),
    ({"ExposedPorts": {"80/tcp": {}, "53/udp": None}}, "exposed", ((80, "tcp"), (53, "udp"))),
    (
        host_config(Binds=["data:/d:z,ro", "/src:/d", "x:/y"]),
        "volumes",
        (VolumeUse("data", "/d", True), VolumeUse("x", "/y")),
    ),
    (host_config(Binds=["data:/d", "/src:/dst:ro", "/plain"]), "binds", ("/src", "/plain")),
    (
        host_config(
            Mounts=[
                {"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": {"DriverConfig": {"Name": "nfs"}}},
                {"Type": "volume", "Source": "w", "Target": "/w", "ReadOnly": True, "VolumeOptions": {}},
                {"Type": "tmpfs", "Target": "/t"},
            ]
        ),
        "volumes",
        (VolumeUse("v", "/v", driver="nfs"), VolumeUse("w", "/w", True)),
    ),
    (host_config(Mounts=[{"Type": "bind", "Source": "/src", "Target": "/d"}]), "binds", ("/src",)),
    ({"Volumes": {"/a": {}}, **host_config(Mounts=[{"Type": "volume", "Target": "/b"}])}, "anonymous", ("/a", "/b")),
    (host_config(VolumesFrom=["db:ro", "web"]), "volumes_from", ("db", "web")),
    (host_config(Links=["/db:/web/alias", "cache"]), "links", ("/db", "cache")),
    (host_config(NetworkMode=""), "network_mode", "default"),
    (host_config(NetworkMode="host"), "network_mode", "host"),
    (host_config(NetworkMode="container:db"), "network_container", "db"),
    (host_config(NetworkMode="container:db"), "network_refs", ()),
    (host_config(NetworkMode="app"), "network_refs", ("app",)),
    ({"NetworkingConfig": {"EndpointsConfig": {"a": None, "b": {}}}}, "network_refs", ("a", "b")),
    (
        {
            "NetworkingConfig": {
                "EndpointsConfig": {
                    "a": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}, "Aliases": ["x"], "MacAddress": "m"}
                }
            }
        },
        "networks",
        {"a": Endpoint("10.0.0.9", ("x",), "m")},
    ),
    ({"NetworkingConfig": {"EndpointsConfig": {"a": {"IPAMConfig": {}}}}}, "networks", {"a": Endpoint()}),
    (host_config(PidMode="container:db", IpcMode="container:web"), "pid", "db"),
    (host_config(PidMode="host", IpcMode="container:web"), "ipc", "web"),
    (host_config(AutoRemove=True), "auto_remove", True),
    (host_config(RestartPolicy={"Name": ""}), "restart_policy", "no"),
    (host_config(RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 3}), "restart_max", 3),
    ({"Env": ["A=b", "constraint:storage==ssd"]}, "constraints", (Expression("storage", "ssd"),)),
    (
        {"Labels": {"drover.constraint": "a==b; c!=d,"}},
        "constraints",
        (Expression("a", "b"), Expression("c", "d", False)),
    ),
    ({"Env": ["affinity:container!=web"]}, "affinities", (Expression("container", "web", False),)),
    ({"Labels": {"drover.affinity": "image==~redis*"}}, "affinities", (Expression("image", "redis*", soft=True),)),
    (host_config(Binds=["v:/a", "v:/b"]), "volume_names", ("v",)),
]


@pytest.mark.parametrize(("body", "field", "expected"), READ)
def test_field_of_a_body(body: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(spec_of(body), field) == expected
    assert getattr(parse_spec(json.dumps(body)), field) == expected


WRONG: list[tuple[str, str]] = [
    ('{"HostConfig": {"Memory": "1g"}}', "HostConfig.Memory"),
    ('{"Env": "A=b"}', "Env"),
    ("[]", "wrong type"),
    ("{", "is not JSON"),
    ('{"ExposedPorts": {"80/http": {}}}', "tcp, udp, sctp"),
    ('{"ExposedPorts": {"http": {}}}', 'invalid port specification: "http"'),
    ('{"HostConfig": {"PortBindings": {"80": [{"HostPort": "70000"}]}}}', 'invalid port specification: "70000"'),
    ('{"HostConfig": {"PortBindings": {"80": [{"HostPort": "90-80"}]}}}', "ends before it starts"),
    ('{"Env": ["constraint:storage=ssd"]}', "must be KEY==VALUE"),
    ('{"Env": ["affinity:container=="]}', "must be KEY==VALUE"),
    ('{"Labels": {"drover.constraint": "a==/(/"}}', "malformed regular expression"),
]


@pytest.mark.parametrize(("text", "says"), WRONG)
def test_a_malformed_body_is_refused_with_a_sentence(text: str, says: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_spec(text)
    assert says in refused.value.message


def test_spec_of_refuses_wrong_types_too() -> None:
    with pytest.raises(Invalid, match="Image"):
        spec_of({"Image": 7})


@pytest.mark.parametrize(
    "text", ["", "null", "{}", '{"HostConfig": null, "NetworkingConfig": null}', '{"Unknown": [1]}']
)
def test_nothing_asked(text: str) -> None:
    assert parse_spec(text) == Spec()


def test_every_field_may_be_null() -> None:
    host = dict.fromkeys(
        (
            "Memory",
            "NanoCpus",
            "PortBindings",
            "Binds",
            "Mounts",
            "VolumesFrom",
            "Links",
            "NetworkMode",
            "RestartPolicy",
        )
    )
    fields = dict.fromkeys(("Image", "Env", "Labels", "Volumes", "ExposedPorts", "NetworkingConfig"))
    assert spec_of({**fields, "HostConfig": host}) == Spec()


def test_scheduling_entries_are_stripped_and_the_rest_keeps_its_order() -> None:
    body = {"Image": "x", "Env": ["B=1", "constraint:a==b", "A=2", "affinity:container==c", "constraintless=1"]}
    assert strip_scheduling_env(body) == {"Image": "x", "Env": ["B=1", "A=2", "constraintless=1"]}
    assert body["Env"][1] == "constraint:a==b"


@pytest.mark.parametrize("body", [{}, {"Env": None}, {"Env": "odd"}])
def test_a_body_without_env_list_is_left_alone(body: dict[str, Any]) -> None:
    assert strip_scheduling_env(body) == body


TEXTS = st.sampled_from(["", "80", "80/tcp", "a:b", "/a:/b", "container:x", "constraint:a==b", "affinity:x", "0-1"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 10) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["Image", "Env", "Labels", "Volumes", "ExposedPorts", "NetworkingConfig"]
HOST_FIELDS = ["Memory", "NanoCpus", "PortBindings", "Binds", "Mounts", "VolumesFrom", "Links", "NetworkMode"]


def outcome_of(read: Callable[[], Spec]) -> Spec | str:
    try:
        return read()
    except Invalid as refused:
        return refused.message


@given(st.dictionaries(st.sampled_from(FIELDS), JSON), st.dictionaries(st.sampled_from(HOST_FIELDS), JSON))
def test_any_body_gives_a_spec_or_a_sentence(fields: dict[str, Any], host: dict[str, Any]) -> None:
    body = {**fields, "HostConfig": host}
    outcome = outcome_of(lambda: spec_of(body))
    assert outcome
    assert outcome == outcome_of(lambda: parse_spec(json.dumps(body)))
