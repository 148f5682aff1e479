"""`make conformance`: docker-py's integration suite on a bare engine, a one-host and a three-host cluster.

    python -m tests.conformance [--hosts 1,3] [--bare FILE.xml] [--out DIR]

Exits 1 if a test that passes on the bare engine fails on a cluster and is not in exceptions.txt.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.conformance import suite

from drover.lab import Lab
from drover.lab.processes import exit_on_sigterm


def main() -> int:
    arguments = _arguments()
    exit_on_sigterm()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    python = suite.prepare(out)
    bare = suite.outcomes(arguments.bare) if arguments.bare else _bare(python, out)
    print(f"bare engine: {_counts(bare)}")
    return max(_cluster(python, out, bare, int(count)) for count in arguments.hosts.split(","))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", default="1,3")
    parser.add_argument("--bare", type=Path, help="the report of an earlier run on a bare engine")
    parser.add_argument("--out", type=Path, default=suite.ROOT / "out/conformance")
    return parser.parse_args()


def _bare(python: Path, out: Path) -> dict[str, str]:
    lab = Lab.create("conf0", hosts=1, cluster=False, images=("busybox",))
    try:
        return suite.run(python, lab.host("h1").docker_socket, out, "bare")
    finally:
        lab.destroy()


def _cluster(python: Path, out: Path, bare: dict[str, str], hosts: int) -> int:
    lab = Lab.create(f"conf{hosts}", hosts=hosts, images=("busybox",))
    try:
        socket = lab.host("h1").gateway_socket
        found = suite.run(python, socket, out, f"hosts{hosts}")
        different = suite.differences(bare, found)
        if different:
            # Some tests are flaky on a bare engine, too: what differs is run once more, alone.
            again = suite.run(python, socket, out, f"hosts{hosts}-again", map(suite.path_of, different))
            different = [ident for ident in different if again.get(ident) != suite.PASSED]
    finally:
        lab.destroy()
    return _judge(hosts, found, different)


def _judge(hosts: int, found: dict[str, str], different: list[str]) -> int:
    known = suite.exceptions()
    unexplained = [ident for ident in different if suite.excepted(ident, known) is None]
    print(f"{hosts} host(s): {_counts(found)}; {len(different)} differ, {len(unexplained)} of them unexplained")
    for ident in different:
        print(f"  {ident}: {suite.excepted(ident, known) or 'UNEXPLAINED'}")
    return 1 if unexplained else 0


def _counts(outcomes: dict[str, str]) -> str:
    kinds = sorted(set(outcomes.values()))
    return ", ".join(f"{sum(o == kind for o in outcomes.values())} {kind}" for kind in kinds)


sys.exit(main())
