"""Which calls an expression matches; the table of `docs/adapters.md`."""

from __future__ import annotations

import pytest

from drover.gateway.hooks.config import Adapter, Endpoint, HooksConfig
from drover.gateway.hooks.match import Matcher
from drover.gateway.targets import read_target


def matches(expression: str, method: str, target: str) -> bool:
    adapter = Adapter(name="a", url="http://a")
    matcher = Matcher(HooksConfig((Endpoint(expression, ("a",)),), {"a": adapter}))
    read = read_target(target)
    return bool(matcher.find(method, read.path, read.version))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("POST /v1.16/containers/create", True),
        ("POST /v1*/containers/create", True),
        ("POST /*/containers/create", True),
        ("POST /*/*/create", True),
        ("* /*/containers/create", True),
        ("POST /v[12]/containers/create", False),
        ("POST /v[12].16/containers/create", True),
        ("POST /v[!2].16/containers/create", True),
        ("POST /v?.16/containers/create", True),
        ("* *", True),
        ("* /*", True),
        ("P*T /*/containers/*", True),
        ("GET /*/containers/create", False),
        ("POST /*/containers/creat", False),
        ("OST /*/containers/create", False),
        ("post /*/containers/create", False),
        ("POST /*/Containers/create", False),
        ("POST /containers/create", False),
    ],
)
def test_powerstrips_table_for_a_versioned_call(expression: str, expected: bool):
    assert matches(expression, "POST", "/v1.16/containers/create") is expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("POST /*/containers/create", True),
        ("POST /v1*/containers/create", True),
        ("POST /v[0-9]*/containers/create", True),
        ("POST /v1.16/containers/create", True),
        ("* /*/containers/create", True),
        ("POST /*/*/create", True),
        ("POST /containers/create", True),
        ("* *", True),
        ("POST /*/volumes/create", False),
        ("POST /volumes/containers/create", False),
    ],
)
def test_a_version_part_matches_calls_without_version_too(expression: str, expected: bool):
    assert matches(expression, "POST", "/containers/create") is expected


@pytest.mark.parametrize(
    "target",
    [
        "/v1.41/containers/create?name=x",
        "/v1.41//containers/create",
        "//v1.41///containers//create",
        "/v1.41/container%73/create",
        "/v1.41/containers%2Fcreate",
        "/%76%31.41/containers/create",
        "/v1.24/containers/create",
        "/v9.99.9/containers/create",
        "/containers/create",
        "//containers/%63reate?x=%2F",
    ],
)
def test_no_way_of_writing_a_path_escapes(target: str):
    assert matches("POST /*/containers/create", "POST", target)


def test_a_star_crosses_slashes():
    assert matches("POST /*/containers/*/start", "POST", "/v1.41/containers/a/b/c/start")


def test_the_query_is_not_matched():
    assert not matches("GET *all=1*", "GET", "/v1.41/containers/json?all=1")


def test_all_matching_expressions_count_in_file_order():
    adapters = {name: Adapter(name=name, url=f"http://{name}") for name in "abc"}
    endpoints = (
        Endpoint("GET /*/z", ("c",), ("a",)),
        Endpoint("POST /*", ("b",), ("b",)),
        Endpoint("* *", ("a", "b"), ("c", "c")),
    )
    found = Matcher(HooksConfig(endpoints, adapters)).find("GET", "/z", "1.41")
    assert [adapter.name for adapter in found.pre] == ["c", "a", "b"]
    assert [adapter.name for adapter in found.post] == ["a", "c", "c"]
