"""Deliberate bugs, each a small change of the source, and the tests that must catch it: `python -m tests.mutants`.

Each is made in a copy of the source, never in the tree itself. What catches it are tests of the ordinary budget: whole
histories of the simulation, and sequences that are cut at every step. `docs/reliability.md` has the list and who caught
what; with names as arguments only those are made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent
SIM = "tests/unit/test_sim_histories.py"
RECOVERY = "tests/unit/test_sim_recovery.py"
MOVES = "tests/unit/test_move_cuts.py"
CUTS = "tests/unit/test_sequence_cuts.py"
INTERRUPTIONS = "tests/unit/test_interruptions.py"
LOST = "tests/unit/test_lost_data.py"
LEASE = "tests/unit/test_session.py"
STALE = "tests/unit/test_stale_decisions.py"
TESTS = (LEASE, STALE, LOST, RECOVERY, SIM, MOVES, CUTS, INTERRUPTIONS)
DEADLINE_S = float(os.environ.get("DROVER_MUTANT_S", "400"))


class Mutant(msgspec.Struct, frozen=True):
    """`old` becomes `new`, once, in `path` (below `src/drover`)."""

    name: str
    path: str
    old: str
    new: str


MUTANTS = (
    Mutant(
        "the fence kills nothing",
        "agent/fence.py",
        '        if self.state == "shut":\n            await self._stop()\n',
        '        if self.state == "shut":\n            pass\n',
    ),
    Mutant(
        "the fence is not asked before a start",
        "agent/fence.py",
        "        if not self.allows():\n            raise Unavailable(",
        "        if False:\n            raise Unavailable(",
    ),
    Mutant(
        "claims pass before the lease is over",
        "decide/recover.py",
        "for name in cluster.hosts if name not in cluster.alive)",
        "for name in cluster.hosts if name not in cluster.alive or name == 'h2' and len(cluster.hosts) > 2)",
    ),
    Mutant(
        "a relocation does not expect that the host is still lost",
        "decide/recover.py",
        '    rests_on += [r.key("alive", old.host), r.key("alive", chosen.host)]\n',
        "    rests_on = []\n",
    ),
    Mutant(
        "a relocation forgets the epoch",
        "decide/recover.py",
        "        epoch=old.epoch + 1,\n",
        "        epoch=old.epoch,\n",
    ),
    Mutant(
        "a promotion forgets the volume's epoch",
        "decide/replicas.py",
        "host=host, epoch=volume.epoch + 1, snapshot=snapshot",
        "host=host, epoch=volume.epoch, snapshot=snapshot",
    ),
    Mutant(
        "the oldest copy is promoted",
        "decide/replicas.py",
        "found[facts.host] = max(",
        "found[facts.host] = min(",
    ),
    Mutant(
        "a copy that broke off counts as complete",
        "drivers/volumes/fake.py",
        '        data = b"".join([piece async for piece in stream])\n',
        '        data = b""\n        try:\n            async for piece in stream:\n                data += piece\n'
        "        except DroverError:\n            self._snapshots[volume].setdefault(snapshot, {})\n"
        "            raise\n",
    ),
    Mutant(
        "an earlier epoch of a container is left running",
        "decide/converge.py",
        "        elif here.epoch < placement.epoch:\n            yield",
        "        elif here.epoch < 0:\n            yield",
    ),
    Mutant(
        "a hand-over forgets the last snapshot",
        "decide/moves.py",
        "snapshot=move.final.get(name, volume.snapshot)",
        "snapshot=volume.snapshot",
    ),
    Mutant(
        "the source's volume is not set aside before the hand-over",
        "agent/moves.py",
        "final = {volume: await self._keeper.set_aside(volume) for volume in move.volumes}",
        "final = {v: (await self._keeper.driver(self._keeper.record(v)).snapshots(v))[-1] for v in move.volumes}",
    ),
    Mutant(
        "the container is not stopped before the hand-over",
        "agent/moves.py",
        "running = await self._stopped(move) if move.container else False",
        "running = True",
    ),
    Mutant(
        "a hand-over does not expect its own record",
        "decide/moves.py",
        "    expect = {change.key: cluster.version(change.key) for change in changes}\n    for host in",
        "    expect: dict[str, int] = {}\n    for host in",
    ),
    Mutant("after an abort the volume is not put back", "agent/moves.py", "await self._keeper.put_back(name)", "pass"),
    Mutant(
        "the engine's restart policy stays on",
        "drivers/engine/translate.py",
        "restarts=not by_agent(cluster, record)",
        "restarts=True",
    ),
    Mutant(
        "the lease counts from the answer, not from the request",
        "agent/session.py",
        "self._fence_from(await lease.renew(), self.self_fence_s)",
        "await lease.renew(); self._fence_from(asyncio.get_running_loop().time() + 2.0, self.self_fence_s)",
    ),
    Mutant(
        "a lease that is over fences nothing",
        "agent/session.py",
        "                    self._fence_from(None, 0.0)\n",
        "                    self._fence_from(asyncio.get_running_loop().time(), self.self_fence_s)\n",
    ),
    Mutant(
        "the networks are joined before strays are gone",
        "agent/fence.py",
        "        return self._view.known and not running_strays(self._mirror.cluster, self._host, self._view.seen())",
        "        return self._view.known",
    ),
    Mutant(
        "a returning host trusts an old picture",
        "agent/fence.py",
        "return held and self._mirror.cluster.revision >= self._session.revision",
        "return held",
    ),
    Mutant(
        "the networks stay joined when the lease ends",
        "agent/fence.py",
        "work = (self._network.join_hosts(False), ",
        "work = (self._network.join_hosts(True), ",
    ),
    Mutant(
        "peers without a lease are heard",
        "decide/overlay.py",
        "if name != host and name in cluster.alive",
        "if name != host",
    ),
    Mutant(
        "the gateway answers before it commits",
        "gateway/commits.py",
        "            revision = await _written_at(ctx, draft)\n",
        "            import asyncio\n"
        "            asyncio.ensure_future(_written_at(ctx, draft))\n            return draft\n",
    ),
    Mutant(
        "a stop overtakes a removal",
        "gateway/orders.py",
        'previous.verb not in ("create", "remove")',
        'previous.verb != "create"',
    ),
    Mutant(
        "an address in use is given again",
        "decide/addresses.py",
        "        if ip not in aside and key not in cluster.addresses and key not in cluster.kept_addresses:\n",
        "        if ip not in aside and key:\n",
    ),
    Mutant(
        "lost data is replaced by an empty volume",
        "agent/volumes.py",
        "        if facts is not None and epoch in (facts.epoch, facts.had):\n            raise Unavailable(",
        "        if False:\n            raise Unavailable(",
    ),
    Mutant(
        "what was listed without a picture is never told",
        "agent/agent.py",
        "        if self.view.known and self._listed_blind:",
        "        if False:",
    ),
    Mutant(
        "a new daemon kills what it does not know",
        "agent/fence.py",
        "        return not self._mirror.cluster.revision\n",
        "        return False\n",
    ),
    Mutant(
        "a conflict is not waited out",
        "agent/act.py",
        "            await self._mirror.overtaken(expect, READ_YOUR_WRITES_S)\n            return\n",
        "            return\n",
    ),
    Mutant(
        "a container with an outdated volume is not made anew",
        "decide/converge.py",
        '    if here.runs or container.desired == "removed":\n        return False\n',
        '    if here.runs or container.desired != "nothing":\n        return False\n',
    ),
)


def source_of(mutant: Mutant) -> str:
    return (ROOT / "src" / "drover" / mutant.path).read_text()


def run(mutant: Mutant) -> str:
    """Make the mutant in a copy, run the tests; the first test that failed, or nothing if it survived."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        path, text = source / "drover" / mutant.path, source_of(mutant)
        if text.count(mutant.old) != 1:
            raise SystemExit(f"{mutant.name}: {mutant.path} has {text.count(mutant.old)} of the text, not one")
        path.write_text(text.replace(mutant.old, mutant.new))
        return _first_failure(source)


def _first_failure(source: Path) -> str:
    paths = [str(source), str(ROOT / "tests" / "unit"), str(ROOT / "tests" / "contract")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:  # no test failed so far: on a busy machine, make it longer
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return failed[0].split(" ", 1)[1].split(" - ")[0] if failed else ""


def main(names: list[str]) -> int:
    survived = 0
    for mutant in MUTANTS:
        if names and mutant.name not in names:
            continue
        begin = time.monotonic()
        caught_by = run(mutant)
        survived += not caught_by
        print(f"| {mutant.name} | `{caught_by or 'SURVIVED'}` | {time.monotonic() - begin:.0f} s |", flush=True)
    return min(survived, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
