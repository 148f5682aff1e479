"""The judgement of chaos: what it draws is repeatable, and each check finds what it is for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.chaos import account, checks, drawing
from tests.chaos.__main__ import Outcome, recorded
from tests.chaos.checks import Ack, Stamp

HOSTS = ("h1", "h2", "h3")


def test_a_round_is_the_same_for_the_same_seed_and_number() -> None:
    drawn = [drawing.draw(7, number, HOSTS, ("bank",)) for number in range(120)]
    assert drawn == [drawing.draw(7, number, HOSTS, ("bank",)) for number in range(120)]
    assert drawn != [drawing.draw(8, number, HOSTS, ("bank",)) for number in range(120)]
    assert {one.fault for one in drawn} == set(drawing.FAULTS)
    assert all((one.peer != "") == (one.fault in drawing.WITH_PEER) and one.peer != one.host for one in drawn)
    assert all(one.moved for one in drawn if one.fault == "none")


def test_a_line_that_was_cut_short_is_no_line() -> None:
    assert checks.acks(["1 10.5", "2"]) == [Ack(1, 10.5)]
    assert checks.stamps(["1 h1 1 5.25", "2 h1 1", "3 h2 2 7"]) == [Stamp(1, "h1", 1, 5.25)]


def test_what_is_lost_must_be_newer_than_the_copy_that_was_on_display() -> None:
    missing = checks.lost([Ack(1, 10.0), Ack(2, 11.0), Ack(3, 12.0)], frozenset({1}), frozenset({3}))
    assert missing == [Ack(2, 11.0)]
    assert checks.beyond_the_lag("bank", missing, 12.0, 1.0) == []
    assert "1.0 s old at a lag of 0.2 s" in checks.beyond_the_lag("bank", missing, 12.0, 0.2)[0]
    assert "without a host's loss" in checks.beyond_the_lag("bank", missing, 12.0, None)[0]
    assert checks.beyond_the_lag("bank", [], 12.0, None) == []


def test_the_bank_adds_up_and_counts_each_transfer_once() -> None:
    assert checks.balance(1000, 1000, [1, 2]) == []
    assert len(checks.balance(999, 1000, [1, 1])) == 2


def test_two_writers_are_found_by_their_stamps() -> None:
    good = [Stamp(1, "h1", 1, 5.0), Stamp(2, "h1", 1, 5.1), Stamp(3, "h2", 2, 6.0)]
    assert checks.writers(good) == []
    assert checks.writers([*good, Stamp(4, "h1", 1, 6.1)]) != []
    assert checks.writers([*good, Stamp(4, "h3", 2, 6.1)]) != []
    assert checks.writers([*good, Stamp(4, "h2", 2, 5.9)]) != []


def test_an_address_that_changed_and_a_container_that_runs_twice_are_named() -> None:
    assert checks.holders({"bank": "10.1.0.2 02:42"}, {"bank": "10.1.0.2 02:42"}) == []
    assert checks.holders({"bank": "10.1.0.2 02:42"}, {}) == ["P2: bank had 10.1.0.2 02:42 and has None"]
    assert checks.engines({"bank": ["h1"], "list": []}) == ["P1: list runs on no host"]
    assert checks.engines({"bank": ["h1", "h2"]}) == ["P1: bank runs on ['h1', 'h2']"]


def test_a_history_that_lost_an_entry_is_named_also_if_nobody_was_told_of_it() -> None:
    assert checks.kept(frozenset({1, 2}), frozenset({1, 2, 3}), frozenset()) == []
    assert checks.kept(frozenset({1, 2}), frozenset({1}), frozenset({2})) == []
    assert checks.kept(frozenset({1, 2, 3}), frozenset({1}), frozenset({3})) == [
        "P3: 1 entries of the history are gone, 2 the first"
    ]


def test_store_engines_and_disks_must_name_the_same_host_and_epoch() -> None:
    store = {"bank": ("h2", 4)}
    assert checks.agreement(store, {"bank": ["h2"]}, {"bank": [("h2", 4)]}) == []
    assert "runs on ['h1']" in checks.agreement(store, {"bank": ["h1"]}, {"bank": [("h2", 4)]})[0]
    assert "runs on no host" in checks.agreement(store, {}, {"bank": [("h2", 4)]})[0]
    for disks in ([], [("h2", 3)], [("h1", 4)], [("h1", 3), ("h2", 4)]):
        assert "at epoch 4, and disks have" in checks.agreement(store, {"bank": ["h2"]}, {"bank": disks})[0]


def test_addresses_are_read_from_the_kernels_table() -> None:
    trie = """Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 10.127.0.0/24 2 0 2
        |-- 10.127.0.5
           /32 host LOCAL
        |-- 10.127.0.255
           /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
"""
    assert checks.local_addresses(trie) == frozenset({"10.127.0.5"})


def test_rounds_add_up_over_sittings_and_are_told_in_the_docs(tmp_path: Path) -> None:
    file = tmp_path / "chaos.jsonl"
    drawn = [drawing.draw(7, number, HOSTS, ("bank",)) for number in (1, 2, 2)]
    played = [
        Outcome(drawn[0], [], {"bank": 3}, 20.0, 12.0, seed=7, oldest_lost_s=1.5, looks=100),
        Outcome(drawn[1], ["P1: two"], seed=7),
        Outcome(drawn[2], [], took_s=30.0, whole_s=20.0, seed=7, looks=50),
    ]
    file.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in played))
    found = recorded(file)
    assert [one.round.number for one in found] == [1, 2]
    page = account.written(f"a\n{account.BEGIN}\nbefore\n{account.END}\nb\n", found)
    assert "2 rounds, of seeds 7; 150 looks" in page
    assert "| all | 2 | " in page
    assert "| 0 | 3 | 1.5 s | 16 s, 20 s |" in page
    assert "before" not in page
    broken = account.text([played[1]])
    assert "P1: two" in broken
    with pytest.raises(ValueError, match="the page has no"):
        account.written("nothing", found)
