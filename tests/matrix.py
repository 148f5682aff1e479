"""The lab suite on several Docker Engines: `python -m tests.matrix [--only NAME]… [PYTEST ARGUMENTS]`.

Theory of operation. `tools/engines` makes Linux systems with other engines than this machine's. Each row is one run of
the lab suite whose hosts take the engines of the row in turn (`drover.lab.engine.ROOTS_VARIABLE`), so a row of
several is a mixed cluster, and whatever moves between hosts moves between engines.

    row       hosts run
    own       this machine's engine
    trixie    Debian 13's
    forky     Debian testing's
    mixed     h1 this machine's, h2 Debian 13's, h3 Debian testing's

The account at the end says of each row which versions it had and how its run ended; the exit status is 1 if one failed.
"""

from __future__ import annotations

import argparse
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


class Row(NamedTuple):
    name: str
    roots: tuple[str, ...]


class Ended(NamedTuple):
    row: Row
    status: int
    took_s: float


def rows(systems: Sequence[str]) -> list[Row]:
    """One row for each engine alone, and one for all together."""
    alone = [Row(Path(system).name, (system,)) for system in systems]
    return [Row("own", (OWN,)), *alone, Row("mixed", (OWN, *systems))]


def run(row: Row, arguments: Sequence[str]) -> Ended:
    """The lab suite on the row's engines; its output is this process's."""
    print(f"== {row.name}: {' '.join(row.roots)}", flush=True)
    begin = time.monotonic()
    env = {**os.environ, ROOTS_VARIABLE: ":".join(row.roots)}
    status = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "lab", *arguments], env=env, check=False)
    return Ended(row, status.returncode, time.monotonic() - begin)


def account(ended: Sequence[Ended]) -> str:
    lines = (f"{'FAIL' if one.status else 'PASS'}  {one.row.name:<8} {one.took_s / 60:5.1f} min" for one in ended)
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="ROW", help="own, trixie, forky or mixed; all by default")
    options, arguments = parser.parse_known_args()
    tool = Path(__file__).parent.parent / "tools" / "engines"
    systems = subprocess.run([str(tool), *SUITES], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    chosen = [row for row in rows(systems) if not options.only or row.name in options.only]
    ended = [run(row, arguments) for row in chosen]
    print(account(ended))
    return int(any(one.status for one in ended) or not ended)


if __name__ == "__main__":
    raise SystemExit(main())
