"""`make faults`: hosts fail under load, on Drover and on Swarm in the same run, and a checker looks at every trace.

    python -m bench.faults [--rounds N] [--faults power,network,…] [--sides drover,swarm,swarm-tuned] [--out DIR]

Each round's result is a line of results.jsonl; a run that was interrupted goes on where it stopped, with the same
--out. Exit status 1 if Drover had a double writer, a duplicate holder, or a round that could not be played.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench.bed import remove_lab
from bench.faults.evidence import columns, line, percentile
from bench.faults.play import BREAK, Result, make_whole, play
from bench.faults.sides import DroverSide, Side, SwarmSide
from drover.lab.processes import exit_on_sigterm

ROOT = Path(__file__).resolve().parents[2]
ON_SWARM = ("power", "network", "freeze", "agent", "engine")
LABS = ("faults", "faultsw")
TRIES = 2
MEDIAN_S = {"power": 6.0, "network": 6.0, "store": 9.0}
"""Recovery at the median; 3 s more where the host of the store's leader dies."""
TAIL_S = 2.0
"""How much more the 95th percentile may be."""
OVER_SWARM = 1.5
NO_PEER = ("store",)
"""Swarm's one manager is spared on its side: nothing to compare with."""
HANDED_OVER_S = 3.0


def main() -> int:
    arguments = _arguments()
    exit_on_sigterm()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "results.jsonl"
    try:
        for name in arguments.sides:
            _play_side(name, arguments, file)
    finally:
        for lab in LABS:
            remove_lab(lab)
        found = results(file)
        print(f"\n{table(found)}\n\n{verdicts(found)}\n\nwritten to {file}", flush=True)
    ours = [one for one in found if one.side == "drover"]
    return 1 if any(one.double_writes or one.duplicates or one.error for one in ours) else 0


def _play_side(name: str, arguments: argparse.Namespace, file: Path) -> None:
    """All rounds of one side that are not in the file yet, the faults in turn."""
    side: Side | None = None
    for fault, number in _open_rounds(name, arguments, file):
        for tries_left in reversed(range(TRIES)):
            side = side or _built(name, arguments.out)
            result = _played(side, fault, number)
            if result.error:
                side = None  # what a broken round left behind must not be the next one's fault
            if not result.error or not tries_left:
                _append(file, result)
            print(_sentence(result), flush=True)
            if not result.error:
                break
    for lab in LABS:
        remove_lab(lab)


def _append(file: Path, result: Result) -> None:
    """JSON knows no infinity: `lost_all` says it."""
    kept = msgspec.structs.replace(result, lost_s=None) if result.lost_all else result
    with file.open("ab") as output:
        output.write(msgspec.json.encode(kept) + b"\n")


def _open_rounds(name: str, arguments: argparse.Namespace, file: Path) -> Iterator[tuple[str, int]]:
    done = {(one.fault, one.number) for one in results(file) if one.side == name and not one.error}
    rounds = arguments.rounds if name != "swarm" else min(arguments.rounds, arguments.default_rounds)
    for number in range(rounds):
        for fault in arguments.faults:
            if (fault, number) not in done and (name == "drover" or fault in ON_SWARM):
                yield fault, number


def _built(name: str, out: Path) -> Side:
    print(f"making the lab of {name}", flush=True)
    side: Side = DroverSide(out) if name == "drover" else SwarmSide(out, tuned=name == "swarm-tuned")
    side.build()
    return side


def _played(side: Side, fault: str, number: int) -> Result:
    try:
        return play(side, fault, number)
    except Exception as error:
        make_whole(side)
        return Result(side=side.name, fault=fault, number=number, error=f"{type(error).__name__}: {error}")


def results(file: Path) -> list[Result]:
    """The last result of each round; one that was played again replaces the one that broke off."""
    if not file.exists():
        return []
    found = [msgspec.json.decode(line, type=Result) for line in file.read_bytes().splitlines() if line.strip()]
    return list({(one.side, one.fault, one.number): one for one in found}.values())


def table(found: Sequence[Result]) -> str:
    """One row per fault and side: recovery in seconds (least / median / 95 % / most), and what must be 0."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for one in found:
        groups.setdefault((one.fault, one.side), []).append(one)
    order = sorted(groups, key=lambda key: (list(BREAK).index(key[0]), key[1]))
    rows = [_row(fault, side, groups[fault, side]) for fault, side in order]
    return columns(rows) if rows else "nothing was played"


def verdicts(found: Sequence[Result]) -> str:
    """The budgets, each with what was measured: `met` or `missed`; what was not played is not judged."""
    lines = []
    for fault, allowed_s in MEDIAN_S.items():
        for thing in ("db", "web"):
            ours = _recoveries(found, fault, "drover", thing)
            tuned = [] if fault in NO_PEER else _recoveries(found, fault, "swarm-tuned", "db")
            if ours:
                lines.append(_verdict(f"{fault}: {thing}, median", percentile(ours, 0.5), allowed_s))
                lines.append(_verdict(f"{fault}: {thing}, 95 %", percentile(ours, 0.95), allowed_s + TAIL_S))
            if ours and tuned:
                ratio = percentile(ours, 0.5) / percentile(tuned, 0.5)
                lines.append(_verdict(f"{fault}: {thing}, median over tuned Swarm's", ratio, OVER_SWARM, "x"))
    silent = [one.silence_s["db"] for one in found if (one.side, one.fault) == ("drover", "shutdown") and not one.error]
    if silent:
        lines.append(_verdict("shutdown: longest silence, median", percentile(silent, 0.5), HANDED_OVER_S))
    return "\n".join(lines)


def _recoveries(found: Sequence[Result], fault: str, side: str, thing: str) -> list[float]:
    played = [one for one in found if (one.fault, one.side) == (fault, side) and not one.error]
    return [one.recovery_s[thing] for one in played if thing in one.recovery_s]


def _verdict(what: str, measured: float, allowed: float, unit: str = " s") -> str:
    return f"{'met   ' if measured <= allowed else 'MISSED'}  {what}: {measured:.1f}{unit} (<= {allowed:g}{unit})"


def _row(fault: str, side: str, group: Sequence[Result]) -> dict[str, str]:
    played = [one for one in group if not one.error]
    lost = [one.lost_s for one in played if one.lost_s is not None and not one.lost_all]
    all_lost = sum(one.lost_all for one in played)
    return {
        "fault": fault,
        "side": side,
        "rounds": str(len(played)),
        "db answers elsewhere, s": line([one.recovery_s["db"] for one in played if "db" in one.recovery_s]),
        "web": line([one.recovery_s["web"] for one in played if "web" in one.recovery_s]),
        "longest silence, s": line([one.silence_s["db"] for one in played if "db" in one.silence_s]),
        "double writes": str(sum(one.double_writes for one in played)),
        "duplicate holders": str(sum(one.duplicates for one in played)),
        "after a thaw": str(sum(one.after_thaw for one in played)) if fault == "freeze" else "-",
        "writes lost, s": f"ALL, {all_lost} times" if all_lost else line(lost),
        "not played": str(len(group) - len(played)),
    }


def _sentence(result: Result) -> str:
    if result.error:
        return f"{result.side} {result.fault} {result.number}: NOT PLAYED: {result.error}"
    figures = ", ".join(f"{thing} {figure:.2f} s" for thing, figure in result.recovery_s.items())
    bad = f"{result.double_writes} double writes, {result.duplicates} duplicate holders"
    return f"{result.side} {result.fault} {result.number} ({result.victim}): {figures}; {bad}; took {result.took_s} s"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="of each fault (default 10)")
    parser.add_argument("--default-rounds", type=int, default=3, help="of Swarm as it comes, which is slow (default 3)")
    parser.add_argument("--faults", type=_names, default=tuple(BREAK), help=f"of {', '.join(BREAK)}")
    parser.add_argument("--sides", type=_names, default=("drover", "swarm-tuned", "swarm"), help="whom to break")
    parser.add_argument("--out", type=Path, default=ROOT / "out/faults", help="where results and traces go")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    sys.exit(main())
