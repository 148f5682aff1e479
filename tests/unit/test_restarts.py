"""Who starts a container again, when and how often: Docker's own policy, and the rules that only Drover knows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cluster_factory import cid, three

from drover.agent.view import View
from drover.decide.apps import Instance, verdict
from drover.decide.restarts import (
    Restarts,
    by_agent,
    counted,
    due_at,
    exited,
    remembered,
    started_again,
    wants_restart,
)
from drover.drivers.engine.port import SeenContainer
from drover.drivers.engine.translate import engine_body
from drover.errors import Invalid
from drover.gateway.restarts import needs_own_policy, refuse_untold
from drover.manifest.app import read_app
from drover.model import records as r
from drover.model.spec import Spec, parse_spec

NO = {"Name": "no", "MaximumRetryCount": 0}


def spec(policy: str = "unless-stopped", most: int = 0, **rules: Any) -> Spec:
    labels = {f"drover.restart.{name}": str(value) for name, value in rules.items()}
    restart = {"Name": policy, "MaximumRetryCount": most}
    return parse_spec(json.dumps({"Labels": labels, "HostConfig": {"RestartPolicy": restart}}))


def of_manifest(**policy: Any) -> Spec:
    service = {"image": "web", "deploy": {"restart_policy": policy}}
    return parse_spec(read_app({"services": {"web": service}}, "shop", {}).app.services["web"].body)


def crashes(wanted: Spec, at: list[float]) -> list[bool]:
    """Whether it is started again after each crash; every start takes place when it is due, if that is later."""
    done, again = Restarts(), []
    for now in at:
        done = exited(done, now)
        again.append(wants_restart(wanted, 1, counted(wanted, done)))
        if again[-1]:
            done = started_again(done, max(now, due_at(wanted, done)), remembered(wanted))
    return again


def test_a_delay_of_its_own_is_the_same_each_time() -> None:
    wanted, done, pauses = of_manifest(condition="any", delay="5s"), Restarts(), []
    for now in (10.0, 20.0, 30.0):
        done = exited(done, now)
        pauses.append(due_at(wanted, done) - now)
        done = started_again(done, due_at(wanted, done))
    assert pauses == [5.0, 5.0, 5.0]


def test_without_one_the_delay_is_dockers_and_grows() -> None:
    wanted, done, pauses = spec(), Restarts(), []
    for now in (100.0, 101.0, 102.0):
        done = exited(done, now)
        pauses.append(round(due_at(wanted, done) - now, 3))
        done = started_again(done, due_at(wanted, done))
    assert pauses == [0.1, 0.2, 0.4]


def test_attempts_end_for_a_policy_that_docker_gives_no_limit() -> None:
    assert crashes(of_manifest(condition="any", max_attempts=2), [1, 2, 3, 4]) == [True, True, False, False]
    assert crashes(of_manifest(condition="on-failure", max_attempts=2), [1, 2, 3, 4]) == [True, True, False, False]
    assert crashes(of_manifest(condition="any", delay="1s"), [1, 2, 3, 4]) == [True] * 4


def test_a_restart_counts_for_as_long_as_the_window_says() -> None:
    wanted = of_manifest(condition="any", max_attempts=2, window="60s")
    assert crashes(wanted, [0, 10, 20]) == [True, True, False]
    assert crashes(wanted, [0, 70, 140, 210]) == [True] * 4
    assert crashes(wanted, [0, 30, 70, 80]) == [True, True, True, False], "the restart at 0 s counts no more at 70 s"


def test_what_was_left_alone_stays_so_when_its_window_has_passed() -> None:
    """The window is asked about when the process ends: there is no later moment at which it starts by itself."""
    wanted = of_manifest(condition="any", max_attempts=1, window="60s")
    done = started_again(exited(Restarts(), 0.0), 0.0, remembered(wanted))
    ended = exited(done, 10.0)
    assert counted(wanted, ended) == 1
    assert not wants_restart(wanted, 1, counted(wanted, ended))


def test_no_more_starts_are_remembered_than_the_limit_needs() -> None:
    wanted, done = of_manifest(condition="any", max_attempts=3, window="60s"), Restarts()
    for now in range(10):
        done = started_again(done, float(now), remembered(wanted))
    assert (done.starts, done.count) == ((7.0, 8.0, 9.0), 10)


@pytest.mark.parametrize(
    ("policy", "labels"),
    [
        ({"condition": "on-failure", "max_attempts": 3}, {}),
        ({"condition": "any", "window": "60s"}, {}),
        ({"condition": "none", "delay": "5s", "max_attempts": 2}, {}),
        ({"condition": "any"}, {}),
        ({"delay": "500ms"}, {"delay": "0.5"}),
        ({"condition": "on-failure", "max_attempts": 3, "window": "1m"}, {"attempts": "3", "window": "60"}),
    ],
)
def test_only_what_docker_has_no_word_for_takes_restarts_from_the_engine(
    policy: dict[str, Any], labels: dict[str, str]
) -> None:
    found = of_manifest(**policy).labels
    rules = {name.removeprefix("drover.restart."): one for name, one in found.items() if "drover.restart." in name}
    assert rules == labels
    record = r.Container(id=cid(1), name="web", body=json.dumps({"Labels": dict(found)}))
    assert by_agent(three(), record) == bool(labels)


def test_the_engine_is_told_no_and_the_client_reads_its_own() -> None:
    body = {
        "Labels": {"drover.restart.delay": "5"},
        "HostConfig": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}},
    }
    record = r.Container(id=cid(1), name="web", body=json.dumps(body))
    assert engine_body(record, epoch=1, containers={}, cluster=three())["HostConfig"]["RestartPolicy"] == NO
    assert needs_own_policy(three(), record)


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
@pytest.mark.parametrize("name", ["delay", "attempts", "window"])
def test_a_label_that_is_no_number_is_refused(name: str, text: str) -> None:
    with pytest.raises(Invalid, match=f"drover.restart.{name}={text}"):
        spec(**{name: text})


def test_so_many_attempts_that_their_starts_cannot_be_remembered_are_refused_with_a_window() -> None:
    assert spec(attempts=5000).restart_rules.attempts == 5000
    with pytest.raises(Invalid, match="attempts=5000"):
        spec(attempts=5000, window=60)
    with pytest.raises(Invalid, match=r"attempts=1\.5"):
        spec(attempts=1.5)


def test_a_policy_that_the_engine_would_refuse_is_refused_before_the_agent_must_carry_it_out() -> None:
    with pytest.raises(Invalid, match="invalid restart policy"):
        refuse_untold(spec("sometimes", delay=5))


def test_an_application_says_when_a_container_has_spent_its_attempts() -> None:
    """Its host reports how many restarts count: the leader knows then that nothing changes by itself."""
    wanted = spec(attempts=2)
    record = r.Container(id=cid(1), name="web", body="{}", desired="running")
    cluster = three()
    for restarts, final in ((1, False), (2, True)):
        facts = r.ContainerFacts(
            container=cid(1), host="h1", engine_id="e1", state="exited", exit_code=3, restarts=restarts
        )
        found = verdict(cluster, Instance(record, wanted, facts, "h1"))
        assert (found.outcome, found.final) == ("bad", final)


def seen(state: str, finished_at: str = "") -> SeenContainer:
    return SeenContainer(id=cid(1), engine_id="e1", name="web", state=state, epoch=1, finished_at=finished_at)


def test_a_process_that_ended_before_anybody_saw_it_run_has_ended_again() -> None:
    """Else a container that crashes at once would be started again without a pause."""
    clock = [10.0]
    view = View(lambda: clock[0])
    view.learn(seen("exited", "first"))
    clock[0] = 20.0
    view.learn(seen("exited", "second"))
    assert view.restarts[cid(1)].ended_at == 20.0
    view.learn(seen("exited", "second"))
    assert view.restarts[cid(1)].step == 1
