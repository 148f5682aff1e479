"""`make bench`: measure the budgets; all groups, or those that are named.

    python -m bench [--quick] [--strict] [--out DIR] [NAME…]

A measurement is not a test: missed budgets are printed as missed and the exit status is 0. With --strict it is 1 if
one is missed, or if a group could not be measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench import (
    calls,
    clients,
    daemon,
    deploy,
    hooks,
    house,
    images,
    labup,
    many,
    moves,
    overlay,
    placing,
    recorded,
    replication,
    run,
    streams,
)
from bench.bed import FULL, QUICK, Bed
from bench.budgets import lacking
from bench.frame import Report, Row
from drover.lab.processes import exit_on_sigterm

ROOT = Path(__file__).resolve().parents[1]
GROUPS: Mapping[str, Callable[[Bed], Iterator[Row]]] = {
    "labup": labup.rows,
    "calls": calls.rows,
    "run": run.rows,
    "streams": streams.rows,
    "images": images.rows,
    "house": house.rows,
    "hooks": hooks.rows,
    "daemon": daemon.rows,
    "clients": clients.rows,
    "placing": placing.rows,
    "overlay": overlay.rows,
    "many": many.rows,
    "deploy": deploy.rows,
    "moves": moves.rows,
    "replication": replication.rows,
    "recorded": recorded.rows,
}


def main() -> int:
    arguments = _arguments()
    exit_on_sigterm()
    bed = Bed(QUICK if arguments.quick else FULL, _say)
    bed.close()  # what an interrupted run has left
    report = Report(arguments.out, arguments.quick, _say)
    try:
        for name in arguments.groups or GROUPS:
            _say(f"{name}:")
            report.measure(name, GROUPS[name](bed))
        if rest := lacking([(block.group, block.rows) for block in report.blocks]):
            report.measure("without a figure", rest)
    finally:
        bed.close()
    _say(f"\n{report.text()}\nwritten to {arguments.out}/report.json, report.txt and report.svg")
    return 1 if arguments.strict and not report.all_kept else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Drover's budgets.")
    parser.add_argument("groups", nargs="*", metavar="NAME", help=f"of {', '.join(GROUPS)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: all groups in five minutes")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a budget is missed")
    parser.add_argument("--out", type=Path, default=ROOT / "out/bench", help="where the report goes")
    arguments = parser.parse_args()
    for name in arguments.groups:
        if name not in GROUPS:
            parser.error(f"there is no group {name}; there are {', '.join(GROUPS)}")
    return arguments


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
