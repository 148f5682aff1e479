"""What the traces of a fault prove, from made-up ones."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from bench.faults import evidence
from bench.faults.__main__ import results, table, verdicts
from bench.faults.play import Result


def test_writers_that_follow_each_other_are_no_double_writers() -> None:
    found = evidence.writes("1.0 1.0 a\n2.0 2.0 a\n3.0 3.0 b\n4.0 4.0 b\n", 0.0)
    assert evidence.double_writes(found) == []


def test_a_write_after_the_next_writer_began_is_one() -> None:
    found = evidence.writes("1.0 1.0 a\n3.0 3.0 b\n3.4 3.5 a\n4.0 4.0 b\n", 0.0)
    assert evidence.double_writes(found) == [evidence.Write(3.5, "a", 3.4)]


def test_a_write_that_began_before_the_next_writer_and_ended_after_it_is_one() -> None:
    """Its process may have been frozen in between."""
    found = evidence.writes("1.0 1.0 a\n3.0 3.0 b\n2.0 9.0 a\n", 0.0)
    assert [one.at_s for one in evidence.double_writes(found)] == [9.0]


def test_lines_that_were_cut_and_earlier_rounds_do_not_count() -> None:
    assert evidence.writes("1.0 1.0 a\n9.0 9.0 b\n9.5 9.5\nx y z\n", 5.0) == [evidence.Write(9.0, "b", 9.0)]


def test_an_answer_by_the_former_holder_is_a_duplicate_only_if_it_was_asked_after_the_next_one_answered() -> None:
    asked_before = evidence.heard(["1.0 1.1 a\n4.0 4.1 b\n", "3.9 4.2 a\n"], 0.0)
    assert evidence.duplicates(asked_before) == []
    asked_after = evidence.heard(["1.0 1.1 a\n4.0 4.1 b\n", "4.2 4.3 a\n"], 0.0)
    assert [one.instance for one in evidence.duplicates(asked_after)] == ["a"]


def test_recovery_is_until_another_instance_answers() -> None:
    found = evidence.heard(["1.0 1.1 a\n5.1 5.2 a\n8.0 9.5 b\n"], 0.0)
    assert evidence.recovery_s(found, 5.0) == pytest.approx(4.5)
    assert evidence.recovery_s(found[:2], 5.0) is None


def test_the_loss_is_what_the_journal_lacks_of_what_was_written_before_the_fault() -> None:
    found = evidence.writes("1.0 1.0 a\n2.0 2.1 a\n3.0 3.1 a\n9.0 9.0 b\n", 0.0)
    assert evidence.lost_s(found, "1.0\n2.0\n9.0\n", 5.0) == pytest.approx(1.0)
    assert evidence.lost_s(found, "1.0\n2.0\n3.0\n9.0\n", 5.0) == 0.0
    assert evidence.lost_s(found, "9.0\n", 5.0) == float("inf")
    assert evidence.lost_s([], "", 5.0) is None


def test_percentiles_are_figures_that_were_measured() -> None:
    assert evidence.line([3.0, 1.0, 2.0]) == "1.0 / 2.0 / 3.0 / 3.0"
    assert evidence.line([]) == "-"


def test_a_round_that_was_played_again_replaces_the_one_that_broke_off(tmp_path: Path) -> None:
    broken = Result(side="drover", fault="power", number=0, error="no")
    played = Result(side="drover", fault="power", number=0, recovery_s={"db": 5.0, "web": 4.5})
    file = tmp_path / "results.jsonl"
    file.write_bytes(b"\n".join(map(msgspec.json.encode, (broken, played))))
    assert results(file) == [played]
    shown = table(results(file)).splitlines()
    assert shown[1].split()[:3] == ["power", "drover", "1"]
    assert "5.0 / 5.0 / 5.0 / 5.0" in shown[1]


def test_silence_is_the_longest_time_between_answers_that_ended_after_the_fault() -> None:
    found = evidence.heard(["1.0 1.0 a\n4.0 4.0 a\n4.5 4.5 a\n6.0 6.5 b\n7.0 7.0 b\n"], 0.0)
    assert evidence.silence_s(found, 4.6) == pytest.approx(2.0)
    assert evidence.silence_s(found, 1.5) == pytest.approx(3.0)
    assert evidence.silence_s(found[:1], 0.5) == 0.0


def test_each_budget_that_was_played_is_judged() -> None:
    ours = [
        Result(side="drover", fault="power", number=n, recovery_s={"db": at}) for n, at in enumerate((5.0, 5.5, 9.0))
    ]
    peer = [Result(side="swarm-tuned", fault="power", number=0, recovery_s={"db": 3.0})]
    handed = [Result(side="drover", fault="shutdown", number=0, silence_s={"db": 2.5})]
    said = verdicts([*ours, *peer, *handed]).splitlines()
    assert [line.split()[0] for line in said] == ["met", "MISSED", "MISSED", "met"]
    assert "5.5 s (<= 6 s)" in said[0]
    assert "1.8x (<= 1.5x)" in said[2]
    assert verdicts([]) == ""
