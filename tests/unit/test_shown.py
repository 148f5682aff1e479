"""What clients read of containers whose network and ports Drover carries, and what links become."""

from __future__ import annotations

import json
from typing import Any

from test_ports import on, started, with_container, world

from drover.decide.overlay import DEFAULT_NETWORK
from drover.drivers.engine.linking import Linked, host_lines, variables
from drover.drivers.engine.translate import engine_body
from drover.gateway.shown import inspected, listed, needs_showing
from drover.model.cluster import Cluster, delete

BRIDGE = "b1" * 32
ENDPOINT = {
    "IPAMConfig": {"IPv4Address": "10.128.0.2"},
    "Links": None,
    "Aliases": ["abc"],
    "NetworkID": DEFAULT_NETWORK,
    "EndpointID": "e1",
    "Gateway": "10.128.0.1",
    "IPAddress": "10.128.0.2",
    "IPPrefixLen": 20,
    "IPv6Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "MacAddress": "02:42:0a:80:00:02",
}
DB = Linked(id="d" * 64, name="db", ip="10.128.0.9", env=["A=1", "PATH=/bin"], exposed=[(5432, "tcp")])


def web() -> Cluster:
    bindings = {"80/tcp": on("8080"), "81/tcp": on("9090", "127.0.0.1")}
    return started(with_container(world(), "web", "h1", bindings), "web")


def engine_says(running: bool) -> bytes:
    return json.dumps(
        {
            "Id": "x",
            "State": {"Running": running},
            "HostConfig": {
                "NetworkMode": "drover",
                "PortBindings": None,
                "Dns": ["10.128.0.1"],
                "Links": None,
                "CpuShares": 3,
            },
            "NetworkSettings": {
                "Ports": {"80/tcp": None, "82/tcp": None},
                "IPAddress": "",
                "Networks": {"drover": ENDPOINT},
            },
            "Note": "<&>",
        }
    ).encode()


def inspect(running: bool) -> dict[str, Any]:
    cluster = web()
    found: dict[str, Any] = json.loads(inspected(cluster, cluster.containers["web"], BRIDGE)(engine_says(running)))
    return found


def test_inspect_shows_what_was_asked() -> None:
    shown = inspect(True)
    assert shown["HostConfig"]["PortBindings"] == {"80/tcp": on("8080"), "81/tcp": on("9090", "127.0.0.1")}
    assert shown["HostConfig"]["NetworkMode"] == "default"
    assert shown["HostConfig"]["Dns"] is None
    assert shown["HostConfig"]["CpuShares"] == 3
    assert shown["Note"] == "<&>"


def test_inspect_shows_the_default_network_as_bridge() -> None:
    settings = inspect(True)["NetworkSettings"]
    assert list(settings["Networks"]) == ["bridge"]
    assert settings["Networks"]["bridge"]["NetworkID"] == BRIDGE
    assert settings["Networks"]["bridge"]["IPAMConfig"] is None
    assert (settings["IPAddress"], settings["MacAddress"]) == ("10.128.0.2", "02:42:0a:80:00:02")


def test_ports_are_shown_while_it_runs() -> None:
    assert inspect(True)["NetworkSettings"]["Ports"] == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}],
        "81/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9090"}],
        "82/tcp": None,
    }
    assert inspect(False)["NetworkSettings"]["Ports"] == {"80/tcp": None, "82/tcp": None}


def test_a_list_shows_the_same() -> None:
    cluster = web()
    element = {
        "Id": "x",
        "State": "running",
        "Ports": [{"PrivatePort": 80, "Type": "tcp"}, {"PrivatePort": 82, "Type": "tcp"}],
        "HostConfig": {"NetworkMode": "drover"},
        "NetworkSettings": {"Networks": {"drover": ENDPOINT}},
    }
    shown = json.loads(listed(cluster, cluster.containers["web"], BRIDGE, json.dumps(element).encode()))
    assert shown["HostConfig"]["NetworkMode"] == "default"
    assert list(shown["NetworkSettings"]["Networks"]) == ["bridge"]
    assert {(one["PrivatePort"], one.get("PublicPort"), one.get("IP")) for one in shown["Ports"]} == {
        (80, 8080, "0.0.0.0"),
        (81, 9090, "127.0.0.1"),
        (82, None, None),
    }


def test_only_what_drover_carries_is_touched() -> None:
    assert needs_showing(web(), web().containers["web"])
    elsewhere = web().apply(60, [delete(f"addresses/{DEFAULT_NETWORK}/10.128.0.2")])
    assert not needs_showing(elsewhere, elsewhere.containers["web"])


def test_the_engine_is_told_another_network_and_no_bindings() -> None:
    cluster = web()
    body = engine_body(cluster.containers["web"], epoch=1, containers={}, cluster=cluster)
    assert body["HostConfig"]["NetworkMode"] == "drover"
    assert not {"PortBindings", "PublishAllPorts"} & body["HostConfig"].keys()
    assert body["NetworkingConfig"]["EndpointsConfig"]["drover"]["IPAMConfig"] == {"IPv4Address": "10.128.0.2"}


def test_the_engine_publishes_where_it_is_asked_to() -> None:
    cluster = with_container(world(), "web", "h1", {"80/tcp": on("8080")}, labels={"drover.publish": "host"})
    body = engine_body(cluster.containers["web"], epoch=1, containers={}, cluster=cluster)
    assert body["HostConfig"]["PortBindings"] == {"80/tcp": on("8080")}


def test_links_become_environment_and_hosts() -> None:
    assert host_lines(["db:store"], {"db": DB}) == ["store:10.128.0.9", "db:10.128.0.9", f"{'d' * 12}:10.128.0.9"]
    assert variables("web", ["db:my-store"], {"db": DB}) == [
        "MY_STORE_PORT=tcp://10.128.0.9:5432",
        "MY_STORE_PORT_5432_TCP=tcp://10.128.0.9:5432",
        "MY_STORE_PORT_5432_TCP_ADDR=10.128.0.9",
        "MY_STORE_PORT_5432_TCP_PORT=5432",
        "MY_STORE_PORT_5432_TCP_PROTO=tcp",
        "MY_STORE_NAME=/web/my-store",
        "MY_STORE_ENV_A=1",
    ]
