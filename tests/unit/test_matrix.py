"""`make matrix`: which rows there are, what is told of them, and that what has passed is not run again."""

from __future__ import annotations

import json
from pathlib import Path

from tests import matrix
from tests.matrix import Ended, account, passed, rows, unpromised

MIXED = Ended("mixed", ["20.10.24", "26.1.5", "28.5.2"], 0, 1200.0, "c1", [])


def test_each_engine_alone_and_all_in_one_cluster() -> None:
    found = rows(["/x/trixie", "/x/forky"])
    assert [one.name for one in found] == ["own", "trixie", "forky", "mixed"]
    assert found[-1].roots == (matrix.OWN, "/x/trixie", "/x/forky")


def test_the_account_names_versions_and_an_engine_that_nobody_promised() -> None:
    assert account([MIXED]) == "PASS  mixed     20.0 min  20.10.24, 26.1.5, 28.5.2"
    newer = MIXED._replace(versions=["20.10.24", "26.1.5", "29.0.0"], status=1)
    assert unpromised([newer]) == ["29.0.0"]
    assert account([newer]).startswith("FAIL  mixed")
    assert "29.0.0 is none of" in account([newer])


def test_only_what_passed_on_this_commit_with_these_arguments_counts(tmp_path: Path) -> None:
    record = tmp_path / "matrix.json"
    assert passed(record, "c1", []) == []
    record.write_text(json.dumps([MIXED, MIXED._replace(name="own", status=1)]))
    assert [one.name for one in passed(record, "c1", [])] == ["mixed"]
    assert passed(record, "c2", []) == []
    assert passed(record, "c1", ["-k", "x"]) == []
    assert passed(record, "c1-dirty", []) == []
