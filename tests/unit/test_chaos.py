"""The judgement of chaos: what it draws is repeatable, and each check finds what it is for."""

from __future__ import annotations

from tests.chaos import checks, drawing
from tests.chaos.checks import Ack, Stamp

HOSTS = ("h1", "h2", "h3")


def test_a_round_is_the_same_for_the_same_seed_and_number() -> None:
    drawn = [drawing.draw(7, number, HOSTS, ("bank",)) for number in range(60)]
    assert drawn == [drawing.draw(7, number, HOSTS, ("bank",)) for number in range(60)]
    assert drawn != [drawing.draw(8, number, HOSTS, ("bank",)) for number in range(60)]
    assert {one.fault for one in drawn} == set(drawing.FAULTS)
    assert all((one.peer != "") == (one.fault == "pair") and one.peer != one.host for one in drawn)
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
