"""Restart policies of claim holders: the engine is told `no`, the record and the client have their own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cluster_factory import cid, container, three, volume

from drover.drivers.engine.translate import engine_body
from drover.errors import Invalid
from drover.gateway.restarts import (
    asked_policy,
    needs_own_policy,
    own_policy,
    refuse_policy,
    refuse_untold,
    with_policy,
    without_policy,
)
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import parse_spec

ALWAYS = {"Name": "always", "MaximumRetryCount": 0}
FIXED = {"EndpointsConfig": {"app": {"IPAMConfig": {"IPv4Address": "10.44.0.9"}}}}


def having(body: dict[str, Any]) -> tuple[Cluster, r.Container]:
    cluster = three(volume("data", "h1"), container(1, "db", "h1", {"Image": "app", **body}))
    return cluster, cluster.containers[cid(1)]


def host_config(**fields: Any) -> dict[str, Any]:
    return {"HostConfig": {"RestartPolicy": ALWAYS, **fields}}


@pytest.mark.parametrize(
    ("body", "engines"),
    [
        (host_config(), "always"),
        (host_config(Binds=["data:/data:ro"]), "always"),
        (host_config(Binds=["data:/data"]), "no"),
        ({**host_config(), "NetworkingConfig": FIXED}, "no"),
    ],
)
def test_the_engine_restarts_what_holds_no_claims(body: dict[str, Any], engines: str) -> None:
    cluster, record = having(body)
    told = engine_body(record, epoch=1, containers={}, cluster=cluster)
    assert told["HostConfig"]["RestartPolicy"]["Name"] == engines
    assert needs_own_policy(cluster, record) == (engines == "no")


def test_a_client_reads_its_own_policy_and_everything_else_as_the_engine_wrote_it() -> None:
    _, record = having(host_config(Binds=["data:/data"]))
    engine = b'{"Id":"e1","HostConfig":{"Memory":1.50,"RestartPolicy":{"Name":"no","MaximumRetryCount":0}},"X":[ 1 ]}'
    shown = own_policy(record)(engine)
    assert json.loads(shown)["HostConfig"] == {"Memory": 1.5, "RestartPolicy": ALWAYS}
    assert b"1.50" in shown
    assert own_policy(record)(b'{"message":"gone"}') == b'{"message":"gone"}'


def test_a_container_without_a_policy_needs_no_edit() -> None:
    cluster, record = having({"HostConfig": {"Binds": ["data:/data"]}})
    assert not needs_own_policy(cluster, record)


def test_an_update_is_kept_in_the_record_and_taken_out_of_what_the_engine_hears() -> None:
    _, record = having(host_config(Binds=["data:/data"]))
    body = json.dumps({"Memory": 5, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}})
    policy = asked_policy(body)
    assert policy is not None
    spec = parse_spec(with_policy(record, policy).body)
    assert (spec.restart_policy, spec.restart_max, spec.volume_names) == ("on-failure", 3, ("data",))
    assert json.loads(without_policy(body)) == {"Memory": 5}


@pytest.mark.parametrize("body", ["", "{}", '{"Memory": 5}', '{"RestartPolicy": {"Name": ""}}'])
def test_an_update_of_something_else_changes_no_policy(body: str) -> None:
    assert asked_policy(body) is None


@pytest.mark.parametrize("policy", ["x", 1, [], {"Name": 1}, {"Name": "no", "MaximumRetryCount": "many"}])
def test_what_is_no_policy_at_all_is_the_callers_fault(policy: Any) -> None:
    with pytest.raises(Invalid, match="invalid JSON"):
        asked_policy(json.dumps({"RestartPolicy": policy}))


@pytest.mark.parametrize(
    ("name", "most", "auto_remove", "says"),
    [
        ("nonsense", 0, False, "invalid restart policy 'nonsense'"),
        ("always", 3, False, "maximum retry count cannot be used with restart policy 'always'"),
        ("on-failure", -1, False, "maximum retry count cannot be negative"),
        ("always", 0, True, "can't create 'AutoRemove' container with restart policy"),
    ],
)
def test_a_policy_that_the_engine_is_not_told_is_refused_in_its_words(
    name: str, most: int, auto_remove: bool, says: str
) -> None:
    policy = {"Name": name, "MaximumRetryCount": most}
    with pytest.raises(Invalid, match=says):
        refuse_policy(policy, auto_remove=auto_remove)
    body = {"HostConfig": {"Binds": ["data:/data"], "RestartPolicy": policy, "AutoRemove": auto_remove}}
    with pytest.raises(Invalid, match=says):
        refuse_untold(parse_spec(json.dumps(body)))
    told = {"HostConfig": {**body["HostConfig"], "Binds": []}}
    refuse_untold(parse_spec(json.dumps(told)))  # the engine will say it


@pytest.mark.parametrize(("name", "most"), [("no", 0), ("always", 0), ("unless-stopped", 0), ("on-failure", 5)])
def test_every_policy_of_docker_is_one(name: str, most: int) -> None:
    refuse_policy({"Name": name, "MaximumRetryCount": most})
