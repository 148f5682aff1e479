"""What `drover why` is told."""

from __future__ import annotations

import msgspec
import pytest
from cluster_factory import LOST_TEXT, cid, container, host, world

from drover.decide.why import explain
from drover.errors import NotFound
from drover.model import records as r
from drover.model.cluster import put


def test_a_running_container_and_its_reasons() -> None:
    seen = {"state": "running", "started_at": "2026-01-31T12:00:00Z", "health": "healthy", "answer": r.Answer(number=1)}
    placement = r.Placement(
        container=cid(1), host="h1", epoch=2, chosen="h1 is best", reasons={"h2": "is full"}, at=60.0
    )
    cluster = world(host("h1"), container(1, "db", "h1", **seen), [put(r.key("placements", cid(1)), placement)])
    assert explain(cluster, "db") == {
        "container": "db",
        "id": cid(1),
        "desired": "created",
        "order": {"number": 1, "verb": "create", "answered": True},
        "host": "h1",
        "host_state": "ready",
        "host_says": "host h1 is ready",
        "epoch": 2,
        "placed_at": "1970-01-01 00:01:00 UTC",
        "chosen": "h1 is best",
        "reasons": {"h2": "is full"},
        "obstacle": "",
        "state": "running",
        "since": "2026-01-31T12:00:00Z",
        "exit_code": 0,
        "health": "healthy",
        "error": "",
        "progress": "",
    }


def test_a_finished_container_on_a_lost_host() -> None:
    seen = {"state": "exited", "exit_code": 137, "started_at": "earlier", "finished_at": "later"}
    told = explain(world(host("h1", state="lost"), container(1, "db", "h1", **seen)), cid(1)[:5])
    assert (told["state"], told["since"], told["exit_code"]) == ("exited", "later", 137)
    assert told["host_says"] == f"host h1 is down since {LOST_TEXT}"
    assert told["order"]["answered"] is False


def test_what_keeps_a_container_on_a_lost_host_is_said() -> None:
    record = r.Container(id=cid(1), name="db", body='{"Env": ["constraint:host==h1"]}', desired="running")
    lost = [*container(1, "db", "h1", state="running"), put(r.key("containers", cid(1)), record)]
    told = explain(world(host("h1", state="lost"), host("h2"), lost), "db")
    assert told["obstacle"].startswith("no host can take db: h1: is down since")


def test_unknown_is_not_missing() -> None:
    told = explain(world(host("h1"), container(1, "db", "h1")), "db")
    assert (told["state"], told["placed_at"], told["since"]) == ("unknown", "", "")


def test_a_container_that_is_nowhere() -> None:
    told = explain(world(host("h1"), container(1, "db", None)), "db")
    assert (told["host"], told["chosen"], told["reasons"]) == ("", "it is not placed on any host yet", {})
    assert msgspec.json.decode(msgspec.json.encode(told)) == told


def test_nobody() -> None:
    with pytest.raises(NotFound, match="No such container: db"):
        explain(world(), "db")
