"""The lab suite on several Docker Engines: `python -m tests.matrix [--only NAME]… [--again] [PYTEST ARGUMENTS]`.

Theory of operation. `tools/engines` makes Linux systems with other engines than this machine's. Each row is one run of
the lab suite whose hosts take the engines of the row in turn (`drover.lab.engine.ROOTS_VARIABLE`), so a row of
several is a mixed cluster, and whatever moves between hosts moves between engines.

    row       hosts run
    own       this machine's engine
    trixie    Debian 13's
    forky     Debian testing's
    mixed     h1 this machine's, h2 Debian 13's, h3 Debian testing's

A row is two runs, as in `make test`: what bears company two at a time, then what wants the machine for itself. A row
takes as long as the lab suite, so what has passed on this commit is noted in RECORD, and not run again without --again.
The account at the end says of each row which versions it had and how its run ended; the exit status is 1 if one failed,
or if an engine is none of PROMISED.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from drover.lab.engine import ROOTS_VARIABLE

SUITES = ("trixie", "forky")
OWN = "-"
PROMISED = ("20.10", "26.1", "28.5")
RECORD = Path("out/matrix.json")
NOTHING_TO_RUN = 5
"""pytest's status when its arguments leave no test."""
RUNS = (
    ("lab and not alone", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"),
    ("lab and alone",),
)


class Row(NamedTuple):
    name: str
    roots: tuple[str, ...]


class Ended(NamedTuple):
    """How a row's runs ended (0: all passed), on which engines and which commit."""

    name: str
    versions: list[str]
    status: int
    took_s: float
    commit: str
    arguments: list[str]


def rows(systems: Sequence[str]) -> list[Row]:
    """One row for each engine alone, and one for all together."""
    alone = [Row(Path(system).name, (system,)) for system in systems]
    return [Row("own", (OWN,)), *alone, Row("mixed", (OWN, *systems))]


def version(root: str) -> str:
    """What a system's engine says of itself, without its build."""
    argv = ["dockerd", "--version"] if root == OWN else ["chroot", root, "dockerd", "--version"]
    said = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout
    return said.removeprefix("Docker version ").partition(",")[0].partition("+")[0].strip()


def run(row: Row, arguments: Sequence[str], commit: str) -> Ended:
    """The lab suite on the row's engines; its output is this process's."""
    versions = [version(root) for root in row.roots]
    print(f"== {row.name}: {', '.join(versions)}", flush=True)
    begin, status = time.monotonic(), 0
    env = {**os.environ, ROOTS_VARIABLE: ":".join(row.roots)}
    for marks, *how in RUNS:
        argv = [sys.executable, "-m", "pytest", "-q", "-m", marks, *how, *arguments]
        done = subprocess.run(argv, env=env, check=False).returncode
        status = status or (0 if done == NOTHING_TO_RUN and arguments else done)
    return Ended(row.name, versions, status, time.monotonic() - begin, commit, list(arguments))


def unpromised(ended: Sequence[Ended]) -> list[str]:
    """The engines that are none of those the matrix is for."""
    found = sorted({one for row in ended for one in row.versions})
    return [one for one in found if not any(one.startswith(f"{promised}.") for promised in PROMISED)]


def account(ended: Sequence[Ended]) -> str:
    lines = [
        f"{'FAIL' if one.status else 'PASS'}  {one.name:<8} {one.took_s / 60:5.1f} min  {', '.join(one.versions)}"
        for one in ended
    ]
    return "\n".join([*lines, *(f"FAIL  {one} is none of {', '.join(PROMISED)}" for one in unpromised(ended))])


def passed(record: Path, commit: str, arguments: Sequence[str]) -> list[Ended]:
    """The rows that passed on this commit with these arguments; none if the tree had changes."""
    if not record.exists() or commit.endswith("-dirty"):
        return []
    found = [Ended(*one) for one in json.loads(record.read_text())]
    return [one for one in found if (one.commit, one.arguments, one.status) == (commit, list(arguments), 0)]


def _commit() -> str:
    argv = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False).stdout.strip() or "-dirty"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="ROW", help="own, trixie, forky or mixed; all by default")
    parser.add_argument("--again", action="store_true", help="also what has passed on this commit")
    options, arguments = parser.parse_known_args()
    tool = Path(__file__).parent.parent / "tools" / "engines"
    systems = subprocess.run([str(tool), *SUITES], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    commit = _commit()
    ended = [] if options.again else passed(RECORD, commit, arguments)
    done = {one.name for one in ended}
    for row in rows(systems):
        if row.name not in done and (not options.only or row.name in options.only):
            ended.append(run(row, arguments, commit))
            RECORD.parent.mkdir(exist_ok=True)
            RECORD.write_text(json.dumps(ended))
    print(account(ended))
    return int(any(one.status for one in ended) or bool(unpromised(ended)) or not ended)


if __name__ == "__main__":
    raise SystemExit(main())
