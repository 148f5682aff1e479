"""From what people type to containers and networks."""

from __future__ import annotations

import pytest
from cluster_factory import cid, container, host_config, network, three, wanted, without

from drover.decide.resolve import resolve_container, resolve_network
from drover.decide.wanted import Near, family_of, wanted_again
from drover.errors import DroverError, EngineError, Invalid, NotFound

CLUSTER = three(
    container(0x1A, "web", "h1"),
    container(0x1B, "db", "h2"),
    container(0x1BA, "a1", "h3"),
    network("abc1" * 16, "app"),
    network("abc2" * 16, "abd"),
)
"""Ids begin with a1000, b1000 and ab100."""


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("web", "web"),
        ("/web", "web"),
        (cid(0x1A), "web"),
        ("a10", "web"),
        ("a1", "a1"),
        ("b", "db"),
        ("h2/db", "db"),
        ("/h2/db", "db"),
        ("h2/b1", "db"),
    ],
)
def test_resolves(ref: str, name: str) -> None:
    assert resolve_container(CLUSTER, ref).name == name


@pytest.mark.parametrize("ref", ["nobody", "c", "h1/db", "h9/db", "h1/", "/", "WEB", "g"])
def test_no_such_container(ref: str) -> None:
    with pytest.raises(NotFound) as refused:
        resolve_container(CLUSTER, ref)
    assert (refused.value.message, refused.value.status) == (f"No such container: {ref}", 404)


def test_no_name_at_all_is_the_callers_fault() -> None:
    with pytest.raises(Invalid, match='invalid name or ID supplied: ""'):
        resolve_container(CLUSTER, "")


def test_an_ambiguous_prefix_in_dockers_words() -> None:
    with pytest.raises(EngineError) as refused:
        resolve_container(CLUSTER, "a")
    assert (refused.value.message, refused.value.status) == ("multiple IDs found with provided prefix: a", 500)


def test_a_name_whose_record_is_gone_is_nobody() -> None:
    with pytest.raises(NotFound):
        resolve_container(without(CLUSTER, f"containers/{cid(0x1B)}"), "db")


@pytest.mark.parametrize(("ref", "name"), [("app", "app"), ("abc1" * 16, "app"), ("abc2", "abd"), ("abd", "abd")])
def test_resolves_networks(ref: str, name: str) -> None:
    assert resolve_network(CLUSTER, ref).name == name


@pytest.mark.parametrize(
    ("ref", "error", "message"),
    [
        ("nobody", NotFound, "network nobody not found"),
        ("", NotFound, "network  not found"),
        ("abc", Invalid, "network abc is ambiguous (2 matches found based on ID prefix)"),
    ],
)
def test_networks_refused_in_dockers_words(ref: str, error: type[DroverError], message: str) -> None:
    with pytest.raises(error) as refused:
        resolve_network(CLUSTER, ref)
    assert refused.value.message == message


def test_references_to_nobody() -> None:
    assert wanted(CLUSTER, body=host_config(NetworkMode="container:nobody", IpcMode="container:a")).near == ()
    with pytest.raises(Invalid, match="No such container: nobody"):
        wanted(CLUSTER, body=host_config(VolumesFrom=["nobody:ro"]))
    with pytest.raises(Invalid, match="could not get container for nobody: No such container: nobody"):
        wanted(CLUSTER, body=host_config(Links=["nobody:x"]))


def test_a_recorded_container_asks_anew() -> None:
    cluster = CLUSTER.apply(2, container(5, "side", None, host_config(NetworkMode="container:db")))
    again = wanted_again(cluster, cluster.containers[cid(5)])
    assert (again.id, again.name, again.near) == (cid(5), "side", (Near(cid(0x1B), "shares the network of db"),))


@pytest.mark.parametrize(
    ("name", "family"),
    [("web-1", "web"), ("web_12", "web"), ("web3", "web"), ("web", "web"), ("7", "7"), ("a-b", "a-b")],
)
def test_family_of_a_name(name: str, family: str) -> None:
    assert family_of(name, {}) == family


def test_family_of_a_service() -> None:
    labels = {"com.docker.compose.project": "p", "com.docker.compose.service": "web"}
    assert family_of("whatever_1", labels) == "p/web"
