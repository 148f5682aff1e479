"""The state of a host, and what the leader notes about lost ones."""

from __future__ import annotations

import pytest
from cluster_factory import LOST_AT, LOST_TEXT, container, host, wanted, without, world

from drover.decide.health import down_sentence, host_state, loss_notes
from drover.decide.sentences import cores, count, size
from drover.model import records as r
from drover.model.cluster import Change, delete, put

STATES: list[tuple[list[Change], str, float, str | None]] = [
    (host("h1"), "ready", 5.0, None),
    (host("h1", scheduling="drain"), "draining", 0.0, None),
    (host("h1", state="mute"), "unknown", 5.0, None),
    (host("h1", state="new"), "unknown", 0.0, "host h1 has not joined completely: its daemon never reported"),
    (host("h1", state="lost"), "down", LOST_AT, f"host h1 is down since {LOST_TEXT}"),
    (host("h1", state="noteless"), "down", 0.0, "host h1 is down"),
    (host("h1", state="silent"), "down", LOST_AT, f"host h1 is up, but its engine does not answer since {LOST_TEXT}"),
    ([], "down", 0.0, "host h1 is not a member of this cluster"),
]


@pytest.mark.parametrize(("records", "state", "since", "down"), STATES)
def test_host_state(records: list[Change], state: str, since: float, down: str | None) -> None:
    cluster = world(records)
    health = host_state(cluster, "h1")
    assert (health.state, health.since) == (state, since)
    assert down_sentence(cluster, "h1") == down


def test_a_note_is_written_once_and_taken_back_when_the_host_is_back() -> None:
    cluster = world(host("h1"), host("h2", state="noteless"), host("h3", state="new"))
    noted = loss_notes(cluster, 9.0)
    assert noted == [put("lost/h2", r.HostLost(host="h2", at=9.0))]
    cluster = cluster.apply(2, noted)
    assert loss_notes(cluster, 10.0) == []
    assert loss_notes(cluster.apply(3, host("h2")), 11.0) == [delete("lost/h2")]
    assert loss_notes(without(cluster, "hosts/h2"), 11.0) == [delete("lost/h2")]


def test_a_host_that_comes_back_is_used_again() -> None:
    lost = world(host("h1", state="lost"), container(1, "a", "h1"))
    assert host_state(lost.apply(2, host("h1")), "h1").state == "ready"
    assert wanted(lost).near == ()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (512 * 2**20, "512 MiB"), (3 * 2**60, "3072 PiB")],
)
def test_size(number: int, text: str) -> None:
    assert size(number) == text


def test_cores_and_counts() -> None:
    assert [cores(n) for n in (0, 250_000_000, 1_000_000_000, 2_000_000_000)] == [
        "0 CPUs",
        "0.25 CPUs",
        "1 CPU",
        "2 CPUs",
    ]
    assert [count(n, "host") for n in (0, 1, 2)] == ["0 hosts", "1 host", "2 hosts"]
