"""What happens in each round, drawn from a seed: pure, so that a round that broke something can be played again.

A round is one fault on one of the hosts that may suffer, held for a while and then mended; in some rounds a planned
move of a stateful container begins just before it.

    fault        done to the host                                    mended by
    power        everything on it is killed, its link silent first   booting it with its disk
    cable        its link is pulled                                  plugging it in
    pair         it and one other host do not hear each other        healing
    freeze       all its processes stop, its containers too          thawing
    agent        its daemon is killed                                starting it
    hang         its daemon is stopped (SIGSTOP)                     SIGCONT
    engine       its engine is killed                                starting it
    silent       its engine is stopped (SIGSTOP): nothing answers    SIGCONT
    one-way      what one other host sends does not reach it         taking the rule away
    store        its member of the store is killed                   the daemon, by itself
    full         the disk of its volumes is filled up                removing what fills it
    slow         that disk stands still most of the time             nothing
    deaf         the store is not heard for moments, and then has    nothing
                 forgotten what it said
    none         nothing: only the move                              nothing
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

FAULTS = (
    "power",
    "cable",
    "pair",
    "freeze",
    "agent",
    "hang",
    "engine",
    "silent",
    "one-way",
    "store",
    "full",
    "slow",
    "deaf",
    "none",
)
WITH_PEER = ("pair", "one-way")
MOVE_SHARE = 0.4
LONGEST_HOLD_S = 9.0
LONGEST_DELAY_S = 2.5


class Round(msgspec.Struct, frozen=True):
    """`moved`, `target`: the container that is moved just before the fault, and where to (empty: none); the fault comes
    `delay_s` after the move's begin and is mended after `hold_s`. `peer`: the other of a pair, or who is unheard."""

    number: int
    fault: str
    host: str
    hold_s: float
    peer: str = ""
    moved: str = ""
    target: str = ""
    delay_s: float = 0.0

    def __str__(self) -> str:
        move = f"{self.moved} moves to {self.target}, after {self.delay_s:.1f} s " if self.moved else ""
        peer = f" and {self.peer}" if self.peer else ""
        return f"round {self.number}: {move}{self.fault} at {self.host}{peer} for {self.hold_s:.1f} s"


def draw(seed: int, number: int, hosts: Sequence[str], movable: Sequence[str]) -> Round:
    """Round `number` of the run `seed`: the same for the same four arguments, whatever was drawn before."""
    dice = random.Random(f"{seed}/{number}")
    fault = dice.choice(FAULTS)
    host = dice.choice(hosts)
    others = [one for one in hosts if one != host]
    moves = fault == "none" or dice.random() < MOVE_SHARE
    return Round(
        number=number,
        fault=fault,
        host=host,
        hold_s=0.0 if fault == "none" else dice.uniform(0.5, LONGEST_HOLD_S),
        peer=dice.choice(others) if fault in WITH_PEER else "",
        moved=dice.choice(movable) if moves else "",
        target=dice.choice(hosts) if moves else "",
        delay_s=dice.uniform(0.0, LONGEST_DELAY_S) if moves else 0.0,
    )
